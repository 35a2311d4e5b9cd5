//! Versions of a model, and which samples made them.

use std::sync::Arc;

use axum::{Json as Answer, extract::State as FromState};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{
        identity::{Digest, Pseudonym},
        network::NetworkSpec,
        timestamp::Timestamp,
        version::{Cause, Version, VersionMetrics},
    },
    http::{
        auth::{Auditing, Caller},
        body::{Params, Segments},
        documentation::{BadRequest, Guarded, NotFound},
        models::ModelPath,
        page::{self, Page, PageLimit},
        problem::{Problem, Resource},
        state::State,
    },
};

/// One set of weights.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// Rises by one from 1.
    epoch: u64,
    cause: Cause,
    /// The epoch that it was made from; null for the first.
    parent_epoch: Option<u64>,
    /// The run or batch that made it.
    job_id: Uuid,
    /// SHA-256 of the weights file; stays when the file is destroyed.
    weights: Digest,
    network: NetworkSpec,
    /// Labels in the order of the probabilities; none once the weights were destroyed.
    classes: Vec<String>,
    metrics: VersionMetrics,
    /// Method or recipe with every parameter and seed.
    method: serde_json::Value,
    created_at: Timestamp,
    /// When the weights of this superseded version were destroyed.
    #[schema(value_type = Option<String>, format = DateTime)]
    weights_removed_at: Option<Timestamp>,
}

impl From<Version> for VersionView {
    fn from(version: Version) -> Self {
        Self {
            epoch: version.epoch,
            cause: version.cause,
            parent_epoch: version.parent_epoch,
            job_id: version.job_id,
            weights: version.weights,
            network: version.network,
            classes: version.encoding.map_or_else(Vec::new, |it| it.classes),
            metrics: version.metrics,
            method: version.method,
            created_at: version.created_at,
            weights_removed_at: version.weights_removed_at,
        }
    }
}

/// A sample that made a version.
#[derive(Debug, Serialize, ToSchema)]
pub struct Contributor {
    id: Uuid,
    /// Pseudonym of the caller's sample id.
    key: Pseudonym,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct VersionPath {
    /// Name of a model.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$", example = "digits")]
    model: String,
    /// Epoch of a version.
    #[param(value_type = u64, minimum = 1, example = 1)]
    epoch: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VersionsQuery {
    /// `next_cursor` of the page before.
    #[param(minimum = 0, maximum = 9_223_372_036_854_775_807_i64)]
    cursor: Option<u64>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ContributorsQuery {
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

/// Lists versions, newest first.
#[utoipa::path(
    get, path = "/v1/models/{model}/versions", tag = "models", operation_id = "list_versions",
    security(("bearer" = [])), params(ModelPath, VersionsQuery),
    responses(
        (status = 200, description = "A page", body = Page<VersionView>),
        BadRequest, NotFound, Guarded,
    )
)]
pub async fn list(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Segments(path): Segments<ModelPath>,
    Params(query): Params<VersionsQuery>,
) -> Result<Answer<Page<VersionView>>, Problem> {
    let model = state.model(&path.model).await?;
    let below = page::counted(query.cursor)?;
    let versions = state.store.versions(model.id, below, query.limit.with_one_more()).await?;
    Ok(Answer(query.limit.page(versions, |version| version.epoch.to_string(), VersionView::from)))
}

/// Reads a version.
#[utoipa::path(
    get, path = "/v1/models/{model}/versions/{epoch}", tag = "models",
    operation_id = "read_version", security(("bearer" = [])), params(VersionPath),
    responses((status = 200, description = "The version", body = VersionView), NotFound, Guarded)
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Segments(path): Segments<VersionPath>,
) -> Result<Answer<VersionView>, Problem> {
    version(&state, &path).await.map(|version| Answer(version.into()))
}

/// Lists the samples that made a version, as pseudonyms.
#[utoipa::path(
    get, path = "/v1/models/{model}/versions/{epoch}/samples", tag = "models",
    operation_id = "list_contributors", security(("bearer" = [])),
    params(VersionPath, ContributorsQuery),
    responses(
        (status = 200, description = "A page", body = Page<Contributor>),
        BadRequest, NotFound, Guarded,
    )
)]
pub async fn contributors(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Segments(path): Segments<VersionPath>,
    Params(query): Params<ContributorsQuery>,
) -> Result<Answer<Page<Contributor>>, Problem> {
    let version = version(&state, &path).await?;
    let limit = query.limit.with_one_more();
    let samples =
        state.store.contributors(version.model_id, version.epoch, query.cursor, limit).await?;
    let cursor = |(id, _): &(Uuid, Pseudonym)| id.to_string();
    Ok(Answer(query.limit.page(samples, cursor, |(id, key)| Contributor { id, key })))
}

async fn version(state: &State, path: &VersionPath) -> Result<Version, Problem> {
    let model = state.model(&path.model).await?;
    let epoch = page::epoch(&path.epoch).ok_or(Problem::NotFound(Resource::Version))?;
    let version = state.store.version(model.id, epoch).await?;
    version.ok_or(Problem::NotFound(Resource::Version))
}
