//! Lets what was deleted come in again, where its person wants that.

use std::sync::Arc;

use axum::{extract::State as FromState, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    domain::deletion::TargetKind,
    http::{
        auth::{Administering, Caller},
        body::{Json, Segments},
        documentation::{Guarded, NotFound, WithBody},
        models::ModelPath,
        problem::{Problem, Resource, Spot},
        state::State,
        targets::{self, identifier_schema},
    },
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"kind": "subject", "id": "writer-017"}))]
pub struct Tombstone {
    kind: TargetKind,
    #[schema(schema_with = identifier_schema)]
    id: String,
}

/// Lifts a tombstone, so that the deleted sample or subject can be ingested again.
#[utoipa::path(
    post, path = "/v1/models/{model}/tombstones/lift", tag = "models",
    operation_id = "lift_tombstone", security(("bearer" = [])), params(ModelPath),
    request_body = Tombstone,
    responses((status = 204, description = "Lifted"), NotFound, WithBody, Guarded)
)]
pub async fn lift(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<ModelPath>,
    Json { value: tombstone, .. }: Json<Tombstone>,
) -> Result<StatusCode, Problem> {
    let model = state.model(&path.model).await?;
    if !targets::is_identifier(&tombstone.id) {
        return Err(Problem::InvalidBody {
            detail: format!("`id` must be 1 to {} bytes", targets::IDENTIFIER_MAX),
            spot: Spot::default(),
        });
    }
    let target = targets::target(&state.service_key, model.id, tombstone.kind, &tombstone.id);
    let (by, now) = (caller.api_key_id, state.clock.now());
    if state.store.lift_tombstone(model.id, target, by, now).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::NotFound(Resource::Tombstone))
    }
}
