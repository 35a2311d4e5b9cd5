//! Messages to webhooks: what became of them, and sending one again.

use std::sync::Arc;

use axum::{Json as Answer, extract::State as FromState, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{
        timestamp::Timestamp,
        webhook::{EventType, Failure, Message, MessageState},
    },
    http::{
        auth::{Administering, Caller},
        body::{Params, Segments},
        documentation::{BadRequest, Guarded, NotFound},
        page::{Page, PageLimit},
        problem::{Problem, Resource},
        state::State,
        webhooks::WebhookPath,
    },
};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookMessage)]
pub struct MessageView {
    /// The header `webhook-id`; the same at each attempt.
    id: Uuid,
    event_type: EventType,
    state: MessageState,
    /// Attempts that have ended, since the message was last asked for.
    attempts: u32,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_attempt_at: Option<Timestamp>,
    /// HTTP status of the last answer; null where there was none.
    #[schema(minimum = 100, maximum = 999)]
    last_status: Option<u16>,
    /// Why the last attempt failed; null where it did not.
    last_failure: Option<Failure>,
    /// When the next attempt may begin, or is taken for lost; null once there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    created_at: Timestamp,
    /// The body, as it is sent.
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
}

impl MessageView {
    fn of(message: Message) -> Result<Self, Problem> {
        let payload = RawValue::from_string(message.payload);
        Ok(Self {
            id: message.id,
            event_type: message.event_type,
            state: message.state,
            attempts: message.attempts,
            last_attempt_at: message.last_attempt_at,
            last_status: message.last_status,
            last_failure: message.last_failure,
            next_attempt_at: message.next_attempt_at,
            created_at: message.created_at,
            payload: payload.map_err(|error| Problem::internal(&error))?,
        })
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MessagePath {
    /// Id of a webhook.
    id: Uuid,
    /// Id of a message to it.
    message_id: Uuid,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MessagesQuery {
    #[param(inline)]
    state: Option<MessageState>,
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

/// Lists the messages to a webhook, newest first; those that ended long ago are removed.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/messages", tag = "webhooks",
    operation_id = "list_webhook_messages", security(("bearer" = [])),
    params(WebhookPath, MessagesQuery),
    responses(
        (status = 200, description = "A page", body = Page<MessageView>),
        BadRequest, NotFound, Guarded,
    )
)]
pub async fn list(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Administering>,
    Segments(path): Segments<WebhookPath>,
    Params(query): Params<MessagesQuery>,
) -> Result<Answer<Page<MessageView>>, Problem> {
    if state.store.webhook(path.id).await?.is_none() {
        return Err(Problem::NotFound(Resource::Webhook));
    }
    let limit = query.limit.with_one_more();
    let messages = state.store.messages(path.id, query.state, query.cursor, limit).await?;
    let views = messages.into_iter().map(MessageView::of).collect::<Result<Vec<_>, _>>()?;
    Ok(Answer(query.limit.page(views, |view: &MessageView| view.id.to_string(), |view| view)))
}

/// Sends a message again, whatever became of it: at once, and with all its attempts before it.
/// Where the webhook is disabled it waits for the activation.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/messages/{message_id}/redelivery", tag = "webhooks",
    operation_id = "redeliver_webhook_message", security(("bearer" = [])), params(MessagePath),
    responses(
        (status = 202, description = "On its way", body = MessageView), NotFound, Guarded,
    )
)]
pub async fn redeliver(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Administering>,
    Segments(path): Segments<MessagePath>,
) -> Result<(StatusCode, Answer<MessageView>), Problem> {
    let message = state.store.redeliver_message(path.id, path.message_id).await?;
    let message = message.ok_or(Problem::NotFound(Resource::WebhookMessage))?;
    Ok((StatusCode::ACCEPTED, Answer(MessageView::of(message)?)))
}
