//! Deletion requests: post, watch, cancel.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::State as FromState,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{
        deletion::{
            DeletionRequest, DeletionState, Guarantee, Rejection, TargetKind, TargetOutcome,
        },
        identity::Pseudonym,
        model::ModelName,
        timestamp::Timestamp,
    },
    http::{
        auth::{Caller, Deleting, Watching},
        body::{Json, Params, Segments},
        documentation::{BadRequest, Conflict, Guarded, NotFound, WithBody},
        page::{Page, PageLimit},
        problem::{Problem, Resource},
        state::State,
        targets::{self, identifiers_schema, optional_time_schema},
    },
    store::{
        Acceptance, Cancellation, DeletionDetails, DeletionFilter, Idempotency, NewDeletion,
        Requester,
    },
};

/// Most subjects and samples together in one request.
pub const TARGETS_MAX: usize = 10_000;

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// What to forget: at least one subject or sample, at most 10,000 together. A `due_by` that has passed
/// counts as the moment of receipt.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "digits", "subjects": ["writer-017"]}))]
pub struct NewDeletionRequest {
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
    model: String,
    /// Persons: every sample of theirs is deleted, and none comes in again.
    #[serde(default)]
    #[schema(schema_with = identifiers_schema)]
    subjects: Vec<String>,
    /// Single samples, by the caller's ids.
    #[serde(default)]
    #[schema(schema_with = identifiers_schema)]
    samples: Vec<String>,
    /// By when it must be done; the model's policy says it where the caller does not.
    #[serde(default)]
    #[schema(schema_with = optional_time_schema)]
    due_by: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeletionRequestView {
    id: Uuid,
    model: ModelName,
    state: DeletionState,
    /// Why it is suspended, why it failed, or why the last attempt did.
    reason: Option<String>,
    /// What holds for the weights that answer now; set once completed.
    guarantee: Option<Guarantee>,
    /// How many samples it deletes.
    samples: u64,
    /// The batch that serves it; readable among the model's training runs.
    batch_id: Option<Uuid>,
    /// The first epoch without its samples.
    excluded_from_epoch: Option<u64>,
    attempts: u32,
    received_at: Timestamp,
    due_by: Timestamp,
    /// By when it was due before the deadline was extended; null where it was not.
    #[schema(value_type = Option<String>, format = DateTime)]
    first_due_by: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
    /// When it became exact.
    #[schema(value_type = Option<String>, format = DateTime)]
    settled_at: Option<Timestamp>,
}

/// A request with what became of each target, and what was measured.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletionRequestDetails {
    #[serde(flatten)]
    request: DeletionRequestView,
    targets: Vec<TargetView>,
    /// What the update was measured to do; null before.
    #[schema(value_type = Option<Object>)]
    evidence: Option<serde_json::Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TargetView {
    kind: TargetKind,
    /// Pseudonym of the subject or sample.
    key: Pseudonym,
    /// Samples found under it that this request deletes.
    samples: u64,
    /// Why nothing is deleted for it.
    rejection: Option<Rejection>,
}

impl From<(DeletionRequest, ModelName)> for DeletionRequestView {
    fn from((request, model): (DeletionRequest, ModelName)) -> Self {
        Self {
            id: request.id,
            model,
            state: request.state,
            reason: request.reason,
            guarantee: request.guarantee,
            samples: request.samples,
            batch_id: request.batch_id,
            excluded_from_epoch: request.excluded_from_epoch,
            attempts: request.attempts,
            received_at: request.received_at,
            due_by: request.due_by,
            first_due_by: request.first_due_by,
            completed_at: request.completed_at,
            settled_at: request.settled_at,
        }
    }
}

impl From<TargetOutcome> for TargetView {
    fn from(outcome: TargetOutcome) -> Self {
        let TargetOutcome { kind, key, samples, rejection } = outcome;
        Self { kind, key, samples, rejection }
    }
}

impl From<DeletionDetails> for DeletionRequestDetails {
    fn from(details: DeletionDetails) -> Self {
        Self {
            request: (details.request, details.model).into(),
            targets: details.targets.into_iter().map(TargetView::from).collect(),
            evidence: details.evidence,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct DeletionPath {
    /// Id of a deletion request.
    pub(super) id: Uuid,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeletionsQuery {
    /// Name of a model.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
    model: Option<String>,
    #[param(inline)]
    state: Option<DeletionState>,
    /// Received at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    received_from: Option<Timestamp>,
    /// Received before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    received_until: Option<Timestamp>,
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

/// Asks to forget. The request is durable when it is answered. With an `Idempotency-Key` it can
/// be repeated safely: the same body gives the same request.
#[utoipa::path(
    post, path = "/v1/deletion-requests", tag = "deletion-requests",
    operation_id = "create_deletion_request", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header,
        description = "1 to 255 visible ASCII characters, chosen by the caller",
        min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body = NewDeletionRequest,
    responses(
        (status = 202, description = "Durable; `rejected` at once if no target can be deleted, \
                                      `suspended` if an administrator must approve it",
         body = DeletionRequestDetails,
         headers(("Location" = String, description = "The request"))),
        NotFound, WithBody, Guarded,
    )
)]
pub async fn create(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Deleting>,
    headers: HeaderMap,
    Json { value: new, bytes }: Json<NewDeletionRequest>,
) -> Result<impl IntoResponse, Problem> {
    let idempotency = idempotency_key(&headers)?.map(|key| Idempotency {
        api_key_id: caller.api_key_id.unwrap_or(Uuid::nil()),
        key: state.service_key.idempotency_key(&key),
        body: state.service_key.fingerprint(&bytes),
    });
    let model = state.model(&new.model).await?;
    let named =
        targets::targets(&state.service_key, model.id, &new.subjects, &new.samples, TARGETS_MAX)?;
    let received_at = state.clock.now();
    let targets = named.into_iter().map(|(_, target)| target).collect();
    let as_usual = NewDeletion::of(state.ids.next(received_at), &model, targets, received_at);
    // Work is taken up by deadline: one that has long passed would go before everything else.
    let due_by = new.due_by.map_or(as_usual.due_by, |due_by| due_by.max(received_at));
    let requester = caller.api_key_id.map(Requester::ApiKey);
    let deletion = NewDeletion { requester, due_by, idempotency, ..as_usual };
    let limit = state.limits.queued_deletions;
    let details = match state.store.accept_deletion(&deletion, limit).await? {
        Acceptance::Accepted(details) | Acceptance::Repeated(details) => details,
        Acceptance::KeyReused => return Err(Problem::IdempotencyKeyReused),
        Acceptance::QueueFull => return Err(Problem::QueueFull { limit }),
        Acceptance::QuotaExceeded(excess) => return Err(Problem::QuotaExceeded(excess)),
    };
    let location = format!("/v1/deletion-requests/{}", details.request.id);
    let details = DeletionRequestDetails::from(details);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Answer(details)))
}

/// Lists deletion requests, newest first.
#[utoipa::path(
    get, path = "/v1/deletion-requests", tag = "deletion-requests",
    operation_id = "list_deletion_requests", security(("bearer" = [])), params(DeletionsQuery),
    responses(
        (status = 200, description = "A page", body = Page<DeletionRequestView>),
        BadRequest, NotFound, Guarded,
    )
)]
pub async fn list(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Watching>,
    Params(query): Params<DeletionsQuery>,
) -> Result<Answer<Page<DeletionRequestView>>, Problem> {
    let model_id = match &query.model {
        Some(name) => Some(state.model(name).await?.id),
        None => None,
    };
    let filter = DeletionFilter {
        model_id,
        state: query.state,
        received_from: query.received_from,
        received_until: query.received_until,
    };
    let limit = query.limit.with_one_more();
    let requests = state.store.deletions(&filter, query.cursor, limit).await?;
    let cursor = |(request, _): &(DeletionRequest, ModelName)| request.id.to_string();
    Ok(Answer(query.limit.page(requests, cursor, DeletionRequestView::from)))
}

/// Reads a deletion request: its targets, its evidence, its guarantee.
#[utoipa::path(
    get, path = "/v1/deletion-requests/{id}", tag = "deletion-requests",
    operation_id = "read_deletion_request", security(("bearer" = [])), params(DeletionPath),
    responses(
        (status = 200, description = "The request", body = DeletionRequestDetails),
        NotFound, Guarded,
    )
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Watching>,
    Segments(path): Segments<DeletionPath>,
) -> Result<Answer<DeletionRequestDetails>, Problem> {
    details(&state, path.id).await.map(Answer)
}

/// Withdraws a deletion request while it is suspended or queued, unless another request that names
/// the whole subject counts on it.
#[utoipa::path(
    delete, path = "/v1/deletion-requests/{id}", tag = "deletion-requests",
    operation_id = "cancel_deletion_request", security(("bearer" = [])), params(DeletionPath),
    responses(
        (status = 200, description = "Cancelled", body = DeletionRequestDetails),
        NotFound, Conflict, Guarded,
    )
)]
pub async fn cancel(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Deleting>,
    Segments(path): Segments<DeletionPath>,
) -> Result<Answer<DeletionRequestDetails>, Problem> {
    match state.store.cancel_deletion(path.id, state.clock.now(), caller.api_key_id).await? {
        Cancellation::Cancelled => details(&state, path.id).await.map(Answer),
        Cancellation::NotQueued(state) => Err(Problem::NotCancellable { state }),
        Cancellation::NeededByAnother => Err(Problem::NeededByAnother),
        Cancellation::Unknown => Err(Problem::NotFound(Resource::DeletionRequest)),
    }
}

pub(super) async fn details(state: &State, id: Uuid) -> Result<DeletionRequestDetails, Problem> {
    let details = state.store.deletion(id).await?;
    details.map(Into::into).ok_or(Problem::NotFound(Resource::DeletionRequest))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bytes = value.as_bytes();
    let fits = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match value.to_str() {
        Ok(key) if fits && values.next().is_none() => Ok(Some(key.to_owned())),
        _ => Err(Problem::InvalidHeader {
            name: IDEMPOTENCY_KEY,
            detail: "must be given once, as 1 to 255 visible ASCII characters".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn idempotency_keys_are_visible_and_bounded() {
        let key = |values: &[&[u8]]| {
            let name = HeaderName::from_static("idempotency-key");
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(&name, HeaderValue::from_bytes(value).unwrap());
            }
            idempotency_key(&headers)
        };
        assert_eq!(key(&[]).unwrap(), None);
        assert_eq!(key(&[b"a-1"]).unwrap().as_deref(), Some("a-1"));
        assert!(key(&[&[b'x'; 255]]).is_ok());
        for odd in [&b""[..], b"a b", &[0xe9], &[b'x'; 256]] {
            assert!(matches!(key(&[odd]), Err(Problem::InvalidHeader { .. })), "{odd:?}");
        }
        assert!(key(&[b"a", b"b"]).is_err());
    }
}
