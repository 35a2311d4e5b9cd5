//! API keys: make, list, read, rotate, revoke.

use std::sync::Arc;

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
        access::{ApiKey, KeyLimits, Scope, hash_secret, secret},
        timestamp::Timestamp,
    },
    http::{
        auth::{Access, Administering, Caller},
        body::{Json, Params, Segments},
        documentation::{BadRequest, Guarded, NotFound, WithBody},
        page::{Page, PageLimit},
        problem::{Problem, Resource, Spot},
        state::State,
    },
};

const NAME_MAX: usize = 200;

/// # Errors
/// When the text can be no name for people.
pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let fits = (1..=NAME_MAX).contains(&name.chars().count());
    if fits && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let detail = format!("`name` must be 1 to {NAME_MAX} printable characters");
    Err(Problem::InvalidBody { detail, spot: Spot::default() })
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "intake", "scopes": ["delete"], "samples_per_day": 1000
}))]
pub struct NewApiKey {
    /// For people: whose key it is.
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    name: String,
    #[schema(min_items = 1, max_items = 4)]
    scopes: Vec<Scope>,
    /// Requests within a minute; each process counts its own.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000)]
    requests_per_minute: Option<u32>,
    /// Samples that its deletion requests may name within 24 hours.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    samples_per_day: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ApiKeyView {
    id: Uuid,
    name: String,
    scopes: Vec<Scope>,
    #[serde(flatten)]
    limits: KeyLimits,
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Timestamp>,
}

/// A key with its secret, which is told this once and kept only as a hash.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiKeySecret {
    #[serde(flatten)]
    key: ApiKeyView,
    #[schema(pattern = "^forgetd_[0-9a-f]{64}$")]
    secret: String,
}

impl From<ApiKey> for ApiKeyView {
    fn from(key: ApiKey) -> Self {
        let ApiKey { id, name, hash: _, scopes, limits, created_at, revoked_at } = key;
        Self { id, name, scopes, limits, created_at, revoked_at }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ApiKeyPath {
    /// Id of an API key.
    id: Uuid,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ApiKeysQuery {
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

/// Makes a key. The answer is the only one that tells its secret.
#[utoipa::path(
    post, path = "/v1/api-keys", tag = "access", operation_id = "create_api_key",
    security(("bearer" = [])), request_body = NewApiKey,
    responses(
        (status = 201, description = "Made", body = ApiKeySecret,
         headers(("Location" = String, description = "The key"))),
        WithBody, Guarded,
    )
)]
pub async fn create(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Json { value: new, .. }: Json<NewApiKey>,
) -> Result<impl IntoResponse, Problem> {
    let invalid = |detail: String| Problem::InvalidBody { detail, spot: Spot::default() };
    check_name(&new.name)?;
    if !(1..=Scope::ALL.len()).contains(&new.scopes.len()) {
        return Err(invalid(format!("`scopes` must name 1 to {}", Scope::ALL.len())));
    }
    let NewApiKey { requests_per_minute, samples_per_day, .. } = new;
    let limits = KeyLimits { requests_per_minute, samples_per_day };
    limits.validate().map_err(|error| invalid(error.to_string()))?;
    let (mut scopes, now) = (new.scopes, state.clock.now());
    scopes.sort_unstable();
    scopes.dedup();
    let secret = secret(state.ids.bytes());
    let key = ApiKey {
        id: state.ids.next(now),
        name: new.name,
        hash: hash_secret(&secret),
        scopes,
        limits,
        created_at: now,
        revoked_at: None,
    };
    state.store.create_api_key(&key, caller.api_key_id).await?;
    let location = format!("/v1/api-keys/{}", key.id);
    let made = ApiKeySecret { key: key.into(), secret };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Answer(made)))
}

/// Lists keys, oldest first, revoked ones too; never their secrets.
#[utoipa::path(
    get, path = "/v1/api-keys", tag = "access", operation_id = "list_api_keys",
    security(("bearer" = [])), params(ApiKeysQuery),
    responses((status = 200, description = "A page", body = Page<ApiKeyView>), BadRequest, Guarded)
)]
pub async fn list(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Administering>,
    Params(query): Params<ApiKeysQuery>,
) -> Result<Answer<Page<ApiKeyView>>, Problem> {
    let keys = state.store.api_keys().await?.into_iter();
    let after = query.cursor.unwrap_or(Uuid::nil());
    let limit = query.limit.with_one_more() as usize;
    let keys = keys.filter(|key| key.id > after).take(limit).collect();
    Ok(Answer(query.limit.page(keys, |key: &ApiKey| key.id.to_string(), ApiKeyView::from)))
}

/// Reads a key, but for its secret.
#[utoipa::path(
    get, path = "/v1/api-keys/{id}", tag = "access", operation_id = "read_api_key",
    security(("bearer" = [])), params(ApiKeyPath),
    responses((status = 200, description = "The key", body = ApiKeyView), NotFound, Guarded)
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Administering>,
    Segments(path): Segments<ApiKeyPath>,
) -> Result<Answer<ApiKeyView>, Problem> {
    view(&state, path.id).await.map(Answer)
}

/// Gives a key another secret, which the answer tells this once. The one before opens nothing any
/// more: here at once, on other replicas within seconds.
#[utoipa::path(
    post, path = "/v1/api-keys/{id}/rotation", tag = "access", operation_id = "rotate_api_key",
    security(("bearer" = [])), params(ApiKeyPath),
    responses((status = 200, description = "Rotated", body = ApiKeySecret), NotFound, Guarded)
)]
pub async fn rotate(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<ApiKeyPath>,
) -> Result<Answer<ApiKeySecret>, Problem> {
    let secret = secret(state.ids.bytes());
    let (hash, now) = (hash_secret(&secret), state.clock.now());
    if !state.store.rotate_api_key(path.id, hash, caller.api_key_id, now).await? {
        return Err(Problem::NotFound(Resource::ApiKey));
    }
    forget_cached(&state);
    Ok(Answer(ApiKeySecret { key: view(&state, path.id).await?, secret }))
}

/// Ends a key's life: here at once, on other replicas within seconds.
#[utoipa::path(
    delete, path = "/v1/api-keys/{id}", tag = "access", operation_id = "revoke_api_key",
    security(("bearer" = [])), params(ApiKeyPath),
    responses((status = 200, description = "Revoked", body = ApiKeyView), NotFound, Guarded)
)]
pub async fn revoke(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<ApiKeyPath>,
) -> Result<Answer<ApiKeyView>, Problem> {
    if !state.store.revoke_api_key(path.id, caller.api_key_id, state.clock.now()).await? {
        return Err(Problem::NotFound(Resource::ApiKey));
    }
    forget_cached(&state);
    view(&state, path.id).await.map(Answer)
}

async fn view(state: &State, id: Uuid) -> Result<ApiKeyView, Problem> {
    let key = state.store.api_key_by_id(id).await?;
    key.map(Into::into).ok_or(Problem::NotFound(Resource::ApiKey))
}

fn forget_cached(state: &State) {
    if let Access::Keys(cache) = &state.access {
        cache.clear();
    }
}
