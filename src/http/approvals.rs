//! An administrator's word on suspended deletion requests.

use std::sync::Arc;

use axum::{Json as Answer, extract::State as FromState};

use crate::{
    http::{
        auth::{Administering, Caller},
        body::Segments,
        deletion_requests::{DeletionPath, DeletionRequestDetails, details},
        documentation::{Conflict, Guarded, NotFound},
        problem::{Problem, Resource},
        state::State,
    },
    store::Decision,
};

/// Lets a suspended deletion request go on.
#[utoipa::path(
    post, path = "/v1/deletion-requests/{id}/approval", tag = "deletion-requests",
    operation_id = "approve_deletion_request", security(("bearer" = [])), params(DeletionPath),
    responses(
        (status = 200, description = "Queued; `rejected` if others deleted all of it meanwhile",
         body = DeletionRequestDetails),
        NotFound, Conflict, Guarded,
    )
)]
pub async fn approve(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<DeletionPath>,
) -> Result<Answer<DeletionRequestDetails>, Problem> {
    let now = state.clock.now();
    let decision = state.store.approve_deletion(path.id, caller.api_key_id, now).await?;
    answer(&state, &path, decision).await
}

/// Rejects a suspended deletion request.
#[utoipa::path(
    post, path = "/v1/deletion-requests/{id}/refusal", tag = "deletion-requests",
    operation_id = "refuse_deletion_request", security(("bearer" = [])), params(DeletionPath),
    responses(
        (status = 200, description = "Rejected", body = DeletionRequestDetails),
        NotFound, Conflict, Guarded,
    )
)]
pub async fn refuse(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<DeletionPath>,
) -> Result<Answer<DeletionRequestDetails>, Problem> {
    let now = state.clock.now();
    let decision = state.store.refuse_deletion(path.id, caller.api_key_id, now).await?;
    answer(&state, &path, decision).await
}

async fn answer(
    state: &State,
    path: &DeletionPath,
    decision: Decision,
) -> Result<Answer<DeletionRequestDetails>, Problem> {
    match decision {
        Decision::Done => details(state, path.id).await.map(Answer),
        Decision::NotSuspended(state) => Err(Problem::NotSuspended { state }),
        Decision::Unknown => Err(Problem::NotFound(Resource::DeletionRequest)),
    }
}
