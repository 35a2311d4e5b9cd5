//! The Data Rights Protocol 0.9.4, as a Covered Business: Authorized Agents exercise people's right
//! to deletion. What they send is signed (`intake/drp/message.rs`); who they are says a token, for
//! which they ask by a signed message too.

mod agent;
mod answer;
mod request;

use std::sync::Arc;

use axum::{Json as Answer, extract::State as FromState};
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

pub use self::answer::{DrpError, error_form};
use self::{agent::KnownAgent, request::Exercise};
use crate::{
    domain::access::{hash_secret, secret},
    http::{
        body::{Segments, Text},
        documentation::{DrpFails, GuardedDrp, WithMessage},
        intake::{Incoming, take_in},
        problem::{Problem, Resource},
        state::State,
    },
    intake::{
        drp::{Agent, DrpState, ExerciseStatus, Trust},
        identity::{Naming, NamingError},
    },
    store::{Intake, IntakeCancellation, NewAgentToken, Origin, Requester},
};

/// Below which the façade lies.
pub const PATH: &str = "/drp/v1";

/// The façade as the configuration sets it up.
pub struct Drp {
    pub trust: Trust,
    pub naming: Naming,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AgentPath {
    /// Id of an Authorized Agent.
    agent_id: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct RightsRequestPath {
    /// `request_id` of the request.
    id: Uuid,
}

/// What the agent shows from now on; a token from before opens nothing any more.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AgentToken {
    agent_id: String,
    #[schema(pattern = "^forgetd_[0-9a-f]{64}$")]
    token: String,
}

/// The token is this agent's. There is nothing else to say.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentInformation {}

/// Gives an agent a token, in the place of the one that it had. The body is signed by the agent,
/// and issued later than the one before; what is wrong with it is said by 403 without a body.
#[utoipa::path(
    post, path = "/drp/v1/agent/{agent_id}", tag = "drp", operation_id = "set_up_agent",
    params(AgentPath),
    request_body(content = String, content_type = "text/plain", description = "Base64 of the \
        signature (64 bytes) and the JSON object that it is over: `agent-id`, `business-id`, \
        `issued-at`, `expires-at` and `drp.version`"),
    responses(
        (status = 200, description = "The token", body = AgentToken),
        (status = 403, description = "The message is not accepted"),
        DrpFails<404>, DrpFails<408>, DrpFails<413>, DrpFails<415>, DrpFails<500>, DrpFails<503>,
    )
)]
pub async fn set_up(
    FromState(state): FromState<Arc<State>>,
    Segments(path): Segments<AgentPath>,
    Text(text): Text,
) -> Result<Answer<AgentToken>, Problem> {
    let drp = configured(&state)?;
    let agent = drp.trust.agent(&path.agent_id).ok_or(Problem::AgentRefused)?;
    // The agent is told nothing of it, but those who look after it on either side need to know.
    let refused = |why: String| {
        info!(agent = agent.id(), why, "the set-up of an agent is refused");
        Problem::AgentRefused
    };
    let now = state.clock.now();
    let message = drp.trust.open_set_up(agent, &text, now);
    let message = message.map_err(|error| refused(error.to_string()))?;
    request::check_version(&message.fields).map_err(|problem| refused(problem.detail().into()))?;
    let token = secret(state.ids.bytes());
    let new = NewAgentToken {
        agent_id: agent.id().to_owned(),
        hash: hash_secret(&token),
        asked_at: message.issued_at,
        issued_at: now,
    };
    if !state.store.issue_agent_token(&new).await? {
        return Err(refused("`issued-at` is not later than that of the last set-up".into()));
    }
    Ok(Answer(AgentToken { agent_id: new.agent_id, token }))
}

/// Tells whether the token is still this agent's.
#[utoipa::path(
    get, path = "/drp/v1/agent/{agent_id}", tag = "drp", operation_id = "check_agent",
    security(("agent" = [])), params(AgentPath),
    responses(
        (status = 200, description = "It is", body = AgentInformation),
        DrpFails<404>, GuardedDrp,
    )
)]
pub async fn check(
    caller: Result<KnownAgent, Problem>,
    Segments(path): Segments<AgentPath>,
) -> Result<Answer<AgentInformation>, Problem> {
    match caller {
        Ok(KnownAgent(agent)) if agent.id() == path.agent_id => Ok(Answer(AgentInformation {})),
        Ok(_) | Err(Problem::UnknownAgentToken) => Err(Problem::NotTheAgent),
        Err(problem) => Err(problem),
    }
}

/// Exercises somebody's right to deletion. Durable when it is answered; the same message again, and
/// another one with the same `agent-request-id` that asks for the same, is the same request.
#[utoipa::path(
    post, path = "/drp/v1/data-rights-request", tag = "drp", operation_id = "exercise_right",
    security(("agent" = [])),
    request_body(content = String, content_type = "text/plain", description = "Base64 of the \
        signature (64 bytes) and the JSON object that it is over, as section 2.01 of the \
        specification has it; `exercise` is `deletion`"),
    responses(
        (status = 200, description = "Durable", body = ExerciseStatus),
        DrpFails<404>, DrpFails<409>, WithMessage, GuardedDrp,
    )
)]
pub async fn exercise(
    FromState(state): FromState<Arc<State>>,
    KnownAgent(agent): KnownAgent,
    Text(text): Text,
) -> Result<Answer<ExerciseStatus>, Problem> {
    let drp = configured(&state)?;
    let received_at = state.clock.now();
    let message = drp.trust.open(&agent, &text, received_at)?;
    let exercise = Exercise::read(&message.fields, &drp.naming, &state.callbacks_reach)?;
    let named = drp.naming.named(&exercise.identities).map_err(|error| {
        Problem::InvalidRightsRequest(match error {
            NamingError::Nobody => format!(
                "it names nobody: it needs one of the claims {}, verified where the specification \
                 has a flag for that",
                drp.naming.kinds().collect::<Vec<_>>().join(", ")
            ),
            NamingError::Value { expected } => format!("a claim must be {expected}"),
        })
    })?;
    let content = request::content(&message.fields);
    let incoming = Incoming {
        id: state.service_key.agent_request(agent.id(), &exercise.key(&message)),
        body: content.as_bytes(),
        received_at,
        latest: request::latest(received_at),
        named,
        callbacks: exercise.callback.into_iter().collect(),
        origin: Origin::Agent {
            agent_id: agent.id().to_owned(),
            request_id: exercise.agent_request_id.map(str::to_owned),
        },
        requester: Some(Requester::Agent {
            id: agent.id().to_owned(),
            samples_per_day: agent.samples_per_day(),
        }),
    };
    let intake = take_in(&state, incoming).await?.ok_or(Problem::RightsRequestReused)?;
    Ok(Answer(intake.exercise_status()))
}

/// Reads where a request of the agent stands.
#[utoipa::path(
    get, path = "/drp/v1/data-rights-request/{id}", tag = "drp",
    operation_id = "read_rights_request", security(("agent" = [])), params(RightsRequestPath),
    responses(
        (status = 200, description = "Where it stands", body = ExerciseStatus),
        DrpFails<404>, GuardedDrp,
    )
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    KnownAgent(agent): KnownAgent,
    Segments(path): Segments<RightsRequestPath>,
) -> Result<Answer<ExerciseStatus>, Problem> {
    Ok(Answer(find(&state, &agent, path.id).await?.exercise_status()))
}

/// Revokes a request of the agent, as long as no worker has taken it up.
#[utoipa::path(
    delete, path = "/drp/v1/data-rights-request/{id}", tag = "drp",
    operation_id = "revoke_rights_request", security(("agent" = [])), params(RightsRequestPath),
    request_body(content = String, content_type = "text/plain", description = "Base64 of the \
        signature (64 bytes) and the JSON object that it is over; its `reason` is not kept"),
    responses(
        (status = 200, description = "Revoked", body = ExerciseStatus),
        DrpFails<404>, DrpFails<409>, WithMessage, GuardedDrp,
    )
)]
pub async fn revoke(
    FromState(state): FromState<Arc<State>>,
    KnownAgent(agent): KnownAgent,
    Segments(path): Segments<RightsRequestPath>,
    Text(text): Text,
) -> Result<Answer<ExerciseStatus>, Problem> {
    let now = state.clock.now();
    configured(&state)?.trust.open_revocation(&agent, &text, now)?;
    find(&state, &agent, path.id).await?;
    let cancellation = state.store.cancel_intake(path.id, now, None).await?;
    let status = find(&state, &agent, path.id).await?.exercise_status();
    match (cancellation, status.status) {
        (IntakeCancellation::Unknown, _) => Err(Problem::NotFound(Resource::RightsRequest)),
        // Revoking it twice revokes it once.
        (_, DrpState::Revoked) => Ok(Answer(status)),
        (IntakeCancellation::NothingOwn, _) => Err(Problem::NotRevocable(
            "earlier requests delete the same data, and this one cannot withdraw them",
        )),
        (_, DrpState::InProgress) => Err(Problem::NotRevocable("the deletion has begun")),
        (_, DrpState::Fulfilled) => Err(Problem::NotRevocable("it is fulfilled")),
        (_, DrpState::Denied) => Err(Problem::NotRevocable("it was denied")),
    }
}

fn configured(state: &State) -> Result<&Drp, Problem> {
    state.drp.as_deref().ok_or(Problem::DrpOff)
}

/// The request, which must be this agent's.
async fn find(state: &State, agent: &Agent, id: Uuid) -> Result<Intake, Problem> {
    let intake = state.store.intake(id).await?;
    let intake = intake.ok_or(Problem::NotFound(Resource::RightsRequest))?;
    match &intake.origin {
        Origin::Agent { agent_id, .. } if agent_id == agent.id() => Ok(intake),
        Origin::Agent { .. } => Err(Problem::NotTheAgent),
        Origin::Controller { .. } => Err(Problem::NotFound(Resource::RightsRequest)),
    }
}
