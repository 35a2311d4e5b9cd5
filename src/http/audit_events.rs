//! The audit log, in order.

use std::sync::Arc;

use axum::{Json as Answer, extract::State as FromState};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{audit::AuditEvent, identity::Digest},
    http::{
        auth::{Auditing, Caller},
        body::Params,
        documentation::{BadRequest, Guarded, NotFound},
        page::{self, Page, PageLimit},
        problem::Problem,
        state::State,
    },
    store::AuditFilter,
};

#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEventView {
    /// Index of the leaf, from 0, without gaps.
    index: u64,
    /// RFC 6962 leaf hash of `entry`.
    leaf_hash: Digest,
    /// Canonical JSON (RFC 8785): exactly these bytes were hashed.
    entry: String,
}

impl From<AuditEvent> for AuditEventView {
    fn from(event: AuditEvent) -> Self {
        let AuditEvent { index, leaf_hash, entry } = event;
        Self { index, leaf_hash, entry }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Name of a model.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
    model: Option<String>,
    /// Id of the model, deletion request, run, batch or API key that an entry is about.
    about: Option<Uuid>,
    /// Index to start from; `next_cursor` of the page before.
    #[param(minimum = 0, maximum = 9_223_372_036_854_775_807_i64)]
    cursor: Option<u64>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

/// Lists the audit log, oldest first.
#[utoipa::path(
    get, path = "/v1/audit/events", tag = "audit", operation_id = "list_audit_events",
    security(("bearer" = [])), params(EventsQuery),
    responses(
        (status = 200, description = "A page", body = Page<AuditEventView>),
        BadRequest, NotFound, Guarded,
    )
)]
pub async fn list(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Params(query): Params<EventsQuery>,
) -> Result<Answer<Page<AuditEventView>>, Problem> {
    let model_id = match &query.model {
        Some(name) => Some(state.model(name).await?.id),
        None => None,
    };
    let filter = AuditFilter { model_id, about: query.about };
    let from = page::counted(query.cursor)?.unwrap_or(0);
    let limit = query.limit.with_one_more();
    let events = state.store.audit_events(&filter, from, limit).await?;
    let after = |event: &AuditEvent| (event.index + 1).to_string();
    Ok(Answer(query.limit.page(events, after, AuditEventView::from)))
}
