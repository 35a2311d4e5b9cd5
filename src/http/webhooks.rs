//! Webhooks: make, list, read, change, rotate, activate, remove.

use std::{sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    extract::State as FromState,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{
        model::ModelName,
        timestamp::Timestamp,
        webhook::{DisabledReason, EventType, Webhook, WebhookSecret, WebhookSettings},
    },
    http::{
        api_keys::check_name,
        auth::{Administering, Caller},
        body::{Json, Params, Segments},
        documentation::{BadRequest, Conflict, Guarded, NotFound, WithBody},
        page::{Page, PageLimit},
        problem::{Problem, Resource, Spot},
        state::State,
    },
};

const WEBHOOKS_MAX: u64 = 100;

/// Models that one webhook can name.
const MODELS_MAX: usize = 100;

/// How long the secret before a rotation signs beside the new one.
const SECRET_OVERLAP: Duration = Duration::from_hours(24);

/// What is chosen of a webhook; a change replaces all of it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWebhook, example = json!({
    "name": "case management",
    "url": "https://hooks.example.org/forgetd",
    "event_types": ["deletion_request.completed", "deletion_request.failed"]
}))]
pub struct ChosenSettings {
    /// For people: whose it is.
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    name: String,
    /// Where messages are posted to. It must begin with https:, unless the configuration allows
    /// http: too, and lie on the Internet, unless the configuration allows its network or host.
    #[schema(format = "uri", max_length = 2048, pattern = "^https?://[^ ]+$")]
    url: String,
    /// What it is told of; everything where absent.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 11)]
    event_types: Option<Vec<EventType>>,
    /// Names of the models whose events it is told; all models' where absent.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 100)]
    models: Option<Vec<String>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookView {
    id: Uuid,
    name: String,
    url: String,
    /// Null for everything.
    event_types: Option<Vec<EventType>>,
    /// Null for all models.
    models: Option<Vec<ModelName>>,
    created_at: Timestamp,
    /// Until then messages are signed with the secret before the last rotation too.
    #[schema(value_type = Option<String>, format = DateTime)]
    previous_secret_until: Option<Timestamp>,
    /// When a message was last delivered.
    #[schema(value_type = Option<String>, format = DateTime)]
    delivered_at: Option<Timestamp>,
    /// Why it is told nothing any more; null while it is.
    disabled_reason: Option<DisabledReason>,
    #[schema(value_type = Option<String>, format = DateTime)]
    disabled_at: Option<Timestamp>,
}

/// A webhook with its secret, which is told this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookWithSecret {
    #[serde(flatten)]
    webhook: WebhookView,
    /// What its messages are signed with, in the form of Standard Webhooks.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]{43}=$")]
    secret: String,
}

impl From<Webhook> for WebhookView {
    fn from(webhook: Webhook) -> Self {
        let WebhookSettings { name, url, event_types, models } = webhook.settings;
        Self {
            id: webhook.id,
            name,
            url,
            event_types,
            models,
            created_at: webhook.created_at,
            previous_secret_until: webhook.previous_secret_until,
            delivered_at: webhook.delivered_at,
            disabled_reason: webhook.disabled.map(|disabled| disabled.reason),
            disabled_at: webhook.disabled.map(|disabled| disabled.at),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct WebhookPath {
    /// Id of a webhook.
    pub(super) id: Uuid,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WebhooksQuery {
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

/// Makes a webhook. The answer is the only one that tells its secret.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", operation_id = "create_webhook",
    security(("bearer" = [])), request_body = ChosenSettings,
    responses(
        (status = 201, description = "Made", body = WebhookWithSecret,
         headers(("Location" = String, description = "The webhook"))),
        NotFound, Conflict, WithBody, Guarded,
    )
)]
pub async fn create(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Json { value: chosen, .. }: Json<ChosenSettings>,
) -> Result<impl IntoResponse, Problem> {
    let (settings, now) = (settings(&state, chosen).await?, state.clock.now());
    let secret = WebhookSecret::new(state.ids.bytes());
    let webhook = Webhook {
        id: state.ids.next(now),
        settings,
        created_at: now,
        previous_secret_until: None,
        delivered_at: None,
        disabled: None,
    };
    if !state.store.create_webhook(&webhook, &secret, WEBHOOKS_MAX, caller.api_key_id).await? {
        return Err(Problem::TooManyWebhooks { limit: WEBHOOKS_MAX });
    }
    let location = format!("/v1/webhooks/{}", webhook.id);
    let made = WebhookWithSecret { webhook: webhook.into(), secret: secret.expose() };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Answer(made)))
}

/// Lists webhooks, oldest first; never their secrets.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    security(("bearer" = [])), params(WebhooksQuery),
    responses((status = 200, description = "A page", body = Page<WebhookView>), BadRequest, Guarded)
)]
pub async fn list(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Administering>,
    Params(query): Params<WebhooksQuery>,
) -> Result<Answer<Page<WebhookView>>, Problem> {
    let webhooks = state.store.webhooks(query.cursor, query.limit.with_one_more()).await?;
    let cursor = |webhook: &Webhook| webhook.id.to_string();
    Ok(Answer(query.limit.page(webhooks, cursor, WebhookView::from)))
}

/// Reads a webhook, but for its secret.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "read_webhook",
    security(("bearer" = [])), params(WebhookPath),
    responses((status = 200, description = "The webhook", body = WebhookView), NotFound, Guarded)
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Administering>,
    Segments(path): Segments<WebhookPath>,
) -> Result<Answer<WebhookView>, Problem> {
    view(&state, path.id).await.map(Answer)
}

/// Changes a webhook. Messages on their way go to the new address; which there are does not change.
#[utoipa::path(
    put, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "change_webhook",
    security(("bearer" = [])), params(WebhookPath), request_body = ChosenSettings,
    responses(
        (status = 200, description = "Changed", body = WebhookView), NotFound, WithBody, Guarded,
    )
)]
pub async fn change(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<WebhookPath>,
    Json { value: chosen, .. }: Json<ChosenSettings>,
) -> Result<Answer<WebhookView>, Problem> {
    let (settings, now) = (settings(&state, chosen).await?, state.clock.now());
    found(state.store.change_webhook(path.id, &settings, now, caller.api_key_id).await?)?;
    view(&state, path.id).await.map(Answer)
}

/// Gives a webhook another secret, which the answer tells this once. For 24 hours messages are
/// signed with both.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/rotation", tag = "webhooks", operation_id = "rotate_webhook",
    security(("bearer" = [])), params(WebhookPath),
    responses(
        (status = 200, description = "Rotated", body = WebhookWithSecret), NotFound, Guarded,
    )
)]
pub async fn rotate(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<WebhookPath>,
) -> Result<Answer<WebhookWithSecret>, Problem> {
    let (secret, now) = (WebhookSecret::new(state.ids.bytes()), state.clock.now());
    let until = now.plus(SECRET_OVERLAP);
    found(state.store.rotate_webhook(path.id, &secret, now, until, caller.api_key_id).await?)?;
    let webhook = view(&state, path.id).await?;
    Ok(Answer(WebhookWithSecret { webhook, secret: secret.expose() }))
}

/// Tells a disabled webhook again: the messages that waited, and what happens from now on. What
/// happened meanwhile it is not told.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/activation", tag = "webhooks",
    operation_id = "activate_webhook", security(("bearer" = [])), params(WebhookPath),
    responses((status = 200, description = "Active", body = WebhookView), NotFound, Guarded)
)]
pub async fn activate(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<WebhookPath>,
) -> Result<Answer<WebhookView>, Problem> {
    found(state.store.activate_webhook(path.id, state.clock.now(), caller.api_key_id).await?)?;
    view(&state, path.id).await.map(Answer)
}

/// Removes a webhook with its secret and its messages.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "remove_webhook",
    security(("bearer" = [])), params(WebhookPath),
    responses((status = 204, description = "Removed"), NotFound, Guarded)
)]
pub async fn remove(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<WebhookPath>,
) -> Result<StatusCode, Problem> {
    found(state.store.remove_webhook(path.id, state.clock.now(), caller.api_key_id).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn settings(state: &State, chosen: ChosenSettings) -> Result<WebhookSettings, Problem> {
    let invalid = |detail| Problem::InvalidBody { detail, spot: Spot::default() };
    let ChosenSettings { name, url, mut event_types, models } = chosen;
    check_name(&name)?;
    let checked = state.webhooks_reach.check(&url);
    let url = checked.map_err(|error| invalid(format!("`url` cannot be used: {error}")))?;
    if let Some(types) = &mut event_types {
        if !(1..=EventType::COUNT).contains(&types.len()) {
            return Err(invalid(format!("`event_types` must name 1 to {}", EventType::COUNT)));
        }
        types.sort_unstable();
        types.dedup();
    }
    let models = match models {
        None => None,
        Some(names) if !(1..=MODELS_MAX).contains(&names.len()) => {
            return Err(invalid(format!("`models` must name 1 to {MODELS_MAX}")));
        }
        Some(names) => {
            let mut models = Vec::with_capacity(names.len());
            for name in &names {
                models.push(state.model(name).await?.name);
            }
            models.sort_unstable();
            models.dedup();
            Some(models)
        }
    };
    Ok(WebhookSettings { name, url: url.into(), event_types, models })
}

fn found(is_there: bool) -> Result<(), Problem> {
    if is_there { Ok(()) } else { Err(Problem::NotFound(Resource::Webhook)) }
}

async fn view(state: &State, id: Uuid) -> Result<WebhookView, Problem> {
    let webhook = state.store.webhook(id).await?;
    webhook.map(Into::into).ok_or(Problem::NotFound(Resource::Webhook))
}
