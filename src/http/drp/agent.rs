//! Which agent asks. Its token has nothing to do with API keys: it opens this façade, and nothing
//! else.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};

use super::configured;
use crate::{
    domain::access::hash_secret,
    http::{auth::bearer, problem::Problem, rate::Client, state::State},
    intake::drp::Agent,
};

/// The agent whose token came along, as long as the configuration has it.
pub struct KnownAgent(pub Agent);

impl FromRequestParts<Arc<State>> for KnownAgent {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        let drp = configured(state)?;
        let token = bearer(&parts.headers).ok_or(Problem::NoAgentToken)?;
        let agent_id = state.store.agent_of_token(hash_secret(token)).await?;
        let agent = agent_id.and_then(|id| drp.trust.agent(&id).cloned());
        let agent = agent.ok_or(Problem::UnknownAgentToken)?;
        let client = Client::Agent(agent.id().to_owned());
        state.rates.admit(client, agent.requests_per_minute(), state.clock.monotonic())?;
        Ok(Self(agent))
    }
}
