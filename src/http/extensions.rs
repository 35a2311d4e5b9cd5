//! An administrator's extension of a deletion request's deadline.

use std::sync::Arc;

use axum::{Json as Answer, extract::State as FromState};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    domain::{
        deletion::{ExtensionReason, NewDeadline},
        timestamp::Timestamp,
    },
    http::{
        auth::{Administering, Caller},
        body::{Json, Segments},
        deletion_requests::{DeletionPath, DeletionRequestDetails, details},
        documentation::{Conflict, Guarded, NotFound, WithBody},
        problem::{Problem, Resource},
        state::State,
    },
    store::Extension,
};

/// How far to move the deadline, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewExtension, example = json!({
    "due_by": "2027-01-23T18:00:00Z", "reason": "number_of_requests"
}))]
pub struct ChosenExtension {
    /// After the present deadline, and no later than the model's policy allows.
    due_by: Timestamp,
    reason: ExtensionReason,
}

/// Moves the deadline of an open deletion request back. The person has to be told of it, and why,
/// before the present deadline (GDPR Art. 12(3)).
#[utoipa::path(
    post, path = "/v1/deletion-requests/{id}/extension", tag = "deletion-requests",
    operation_id = "extend_deletion_request", security(("bearer" = [])), params(DeletionPath),
    request_body = ChosenExtension,
    responses(
        (status = 200, description = "Extended", body = DeletionRequestDetails),
        NotFound, Conflict, WithBody, Guarded,
    )
)]
pub async fn extend(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<DeletionPath>,
    Json { value: chosen, .. }: Json<ChosenExtension>,
) -> Result<Answer<DeletionRequestDetails>, Problem> {
    let ChosenExtension { due_by, reason } = chosen;
    let (new, now) = (NewDeadline { due_by, reason }, state.clock.now());
    match state.store.extend_deadline(path.id, &new, caller.api_key_id, now).await? {
        Extension::Extended => details(&state, path.id).await.map(Answer),
        Extension::NotOpen(state) => Err(Problem::NotExtendable { state }),
        Extension::Missed { due_by } => Err(Problem::DeadlineMissed { due_by }),
        Extension::Exhausted { limit } => Err(Problem::ExtensionsExhausted { limit }),
        Extension::OutOfRange { due_by, latest } => {
            Err(Problem::InvalidDeadline { due_by, latest })
        }
        Extension::Unknown => Err(Problem::NotFound(Resource::DeletionRequest)),
    }
}
