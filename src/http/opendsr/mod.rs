//! OpenDSR 2.0: requests of data controllers, in the specification's own shapes. One request there is
//! one deletion request here for each model that its identities may name a subject of.
//!
//! Every answer, an error too, is signed over its body (`answer.rs`).

mod answer;
mod request;

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json as Answer,
    extract::State as FromState,
    http::{StatusCode, header},
    response::IntoResponse,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

pub use self::answer::{OpenDsrError, error_form, signed};
use self::{
    answer::{
        OpenDsrCancellation, OpenDsrDiscovery, OpenDsrProgress, OpenDsrReceipt, SupportedIdentity,
    },
    request::OpenDsrRequest,
};
use crate::{
    http::{
        auth::{Caller, Deleting, Watching},
        body::{Json, Segments},
        documentation::{GuardedOpenDsr, OpenDsrFails, PublicOpenDsr},
        intake::{Incoming, take_in},
        problem::{Problem, Resource},
        state::State,
    },
    intake::{
        identity::{Naming, NamingError},
        processor::Processor,
    },
    store::{Intake, IntakeCancellation, Origin, Requester},
};

/// Below which the façade lies.
pub const PATH: &str = "/opendsr/v2";

const CERTIFICATE: &str = "/opendsr/v2/certificate.pem";

/// The façade as the configuration sets it up.
pub struct OpenDsr {
    pub processor: Processor,
    /// Scheme and authority under which controllers reach it.
    pub url: String,
    pub naming: Naming,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct SubjectRequestPath {
    /// `subject_request_id` of the request.
    id: Uuid,
}

/// What is supported, and where the certificate is that answers are signed with.
#[utoipa::path(
    get, path = "/opendsr/v2/discovery", tag = "opendsr", operation_id = "discover_opendsr",
    responses((status = 200, description = "What is supported", body = OpenDsrDiscovery), PublicOpenDsr)
)]
pub async fn discovery(
    FromState(state): FromState<Arc<State>>,
) -> Result<Answer<OpenDsrDiscovery>, Problem> {
    let opendsr = configured(&state)?;
    let Naming { subjects, aliases } = &opendsr.naming;
    let names = subjects.iter().map(|subject| (subject.identity_type.as_str(), "raw"));
    let aliases = aliases.iter();
    let aliases = aliases.flat_map(|(name, _)| [(name.as_str(), "raw"), (name.as_str(), "sha256")]);
    let supported: BTreeSet<_> = names.chain(aliases).collect();
    let supported = supported.into_iter().map(SupportedIdentity::new).collect();
    let processor_certificate = format!("{}{CERTIFICATE}", opendsr.url);
    Ok(Answer(OpenDsrDiscovery::new(supported, processor_certificate)))
}

/// The certificate that answers are signed with, and those that lead to its issuer.
#[utoipa::path(
    get, path = "/opendsr/v2/certificate.pem", tag = "opendsr",
    operation_id = "read_opendsr_certificate",
    responses(
        (status = 200, description = "PEM", body = String, content_type = "application/x-pem-file"),
        PublicOpenDsr,
    )
)]
pub async fn certificate(
    FromState(state): FromState<Arc<State>>,
) -> Result<impl IntoResponse, Problem> {
    let certificate = configured(&state)?.processor.certificate().to_owned();
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], certificate))
}

/// Asks to erase a data subject. Durable when it is answered; the same request again is the same
/// request.
#[utoipa::path(
    post, path = "/opendsr/v2/requests", tag = "opendsr", operation_id = "create_subject_request",
    security(("bearer" = [])), request_body = OpenDsrRequest,
    responses(
        (status = 201, description = "Durable", body = OpenDsrReceipt),
        OpenDsrFails<400>, OpenDsrFails<404>, GuardedOpenDsr,
    )
)]
pub async fn create(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Deleting>,
    Json { value: request, bytes }: Json<OpenDsrRequest>,
) -> Result<impl IntoResponse, Problem> {
    let opendsr = configured(&state)?;
    let asked = request.read(&state.callbacks_reach)?;
    let named = opendsr.naming.named(&asked.identities).map_err(|error| {
        Problem::InvalidSubjectRequest(match error {
            NamingError::Nobody => format!("{error}; /opendsr/v2/discovery lists them"),
            NamingError::Value { expected } => format!("an `identity_value` must be {expected}"),
        })
    })?;
    let incoming = Incoming {
        id: asked.id,
        body: &bytes,
        origin: Origin::Controller { api_key_id: caller.api_key_id },
        requester: caller.api_key_id.map(Requester::ApiKey),
        received_at: state.clock.now(),
        latest: asked.latest,
        named,
        callbacks: asked.callbacks.iter().map(String::as_str).collect(),
    };
    let intake = take_in(&state, incoming).await?.ok_or_else(|| {
        Problem::InvalidSubjectRequest("`subject_request_id` came before with another body".into())
    })?;
    let receipt = OpenDsrReceipt::new(&intake, BASE64_STANDARD.encode(&bytes));
    Ok((StatusCode::CREATED, Answer(receipt)))
}

/// Reads where a request stands.
#[utoipa::path(
    get, path = "/opendsr/v2/requests/{id}", tag = "opendsr",
    operation_id = "read_subject_request", security(("bearer" = [])), params(SubjectRequestPath),
    responses(
        (status = 200, description = "Where it stands", body = OpenDsrProgress),
        OpenDsrFails<404>, GuardedOpenDsr,
    )
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Watching>,
    Segments(path): Segments<SubjectRequestPath>,
) -> Result<Answer<OpenDsrProgress>, Problem> {
    let opendsr = configured(&state)?;
    let intake = find(&state, path.id).await?;
    Ok(Answer(OpenDsrProgress::new(&intake, opendsr.processor.domain())))
}

/// Withdraws a request while it is pending.
#[utoipa::path(
    delete, path = "/opendsr/v2/requests/{id}", tag = "opendsr",
    operation_id = "cancel_subject_request", security(("bearer" = [])), params(SubjectRequestPath),
    responses(
        (status = 202, description = "OpenDsrCancellation", body = OpenDsrCancellation),
        OpenDsrFails<400>, OpenDsrFails<404>, GuardedOpenDsr,
    )
)]
pub async fn cancel(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Deleting>,
    Segments(path): Segments<SubjectRequestPath>,
) -> Result<impl IntoResponse, Problem> {
    configured(&state)?;
    find(&state, path.id).await?;
    let received_at = state.clock.now();
    match state.store.cancel_intake(path.id, received_at, caller.api_key_id).await? {
        IntakeCancellation::Cancelled => {
            let intake = find(&state, path.id).await?;
            Ok((StatusCode::ACCEPTED, Answer(OpenDsrCancellation::new(&intake, received_at))))
        }
        IntakeCancellation::NotPending(status) => Err(Problem::InvalidSubjectRequest(format!(
            "the request is {status}; only pending requests can be cancelled"
        ))),
        IntakeCancellation::NothingOwn => Err(Problem::InvalidSubjectRequest(
            "an earlier request erases the subject, and this one cannot cancel that".into(),
        )),
        IntakeCancellation::Unknown => Err(Problem::NotFound(Resource::SubjectRequest)),
    }
}

fn configured(state: &State) -> Result<&OpenDsr, Problem> {
    state.opendsr.as_deref().ok_or(Problem::OpenDsrOff)
}

async fn find(state: &State, id: Uuid) -> Result<Intake, Problem> {
    let intake = state.store.intake(id).await?;
    let is_ours = |intake: &Intake| matches!(intake.origin, Origin::Controller { .. });
    intake.filter(is_ours).ok_or(Problem::NotFound(Resource::SubjectRequest))
}
