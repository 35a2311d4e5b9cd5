//! Training runs and settlements: start, watch, cancel. Batches of deletions can be watched here
//! too, under the id that their requests name.

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
        job::{Job, JobKind, JobState},
        timestamp::Timestamp,
        watch::Progress,
    },
    http::{
        auth::{Administering, Auditing, Caller},
        body::{OptionalJson, Params, Segments},
        documentation::{BadRequest, Conflict, Guarded, NotFound, WithBody},
        models::ModelPath,
        page::{Page, PageLimit},
        problem::{Problem, Resource},
        state::State,
    },
    store::{CancelJob, Enqueued},
};

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewTrainingRun {
    kind: RunKind,
}

/// What callers may start.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// Over all samples that are there.
    #[default]
    Training,
    /// The same, to make every deletion so far exact.
    Settlement,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TrainingRun {
    id: Uuid,
    kind: JobKind,
    state: JobState,
    /// How often it was claimed by a worker.
    attempts: u32,
    /// How often it stepped aside for a deletion.
    preemptions: u32,
    /// The epoch that it published.
    epoch: Option<u64>,
    progress: Option<Progress>,
    /// Why it failed, or why its last attempt did.
    reason: Option<String>,
    cancel_requested: bool,
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
}

impl From<Job> for TrainingRun {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            state: job.state,
            attempts: job.attempts,
            preemptions: job.preemptions,
            epoch: job.epoch,
            progress: job.progress,
            reason: job.reason,
            cancel_requested: job.cancel_requested,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct RunPath {
    /// Name of a model.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$", example = "digits")]
    model: String,
    /// Id of a run.
    id: Uuid,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RunsQuery {
    #[param(inline)]
    kind: Option<JobKind>,
    /// `next_cursor` of the page before.
    cursor: Option<Uuid>,
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: PageLimit,
}

/// Queues a training run or a settlement.
#[utoipa::path(
    post, path = "/v1/models/{model}/training-runs", tag = "models",
    operation_id = "start_training_run", security(("bearer" = [])), params(ModelPath),
    request_body = Option<NewTrainingRun>,
    responses(
        (status = 202, description = "Queued", body = TrainingRun,
         headers(("Location" = String, description = "The run"))),
        NotFound, Conflict, WithBody, Guarded,
    )
)]
pub async fn start(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<ModelPath>,
    OptionalJson(new): OptionalJson<Option<NewTrainingRun>>,
) -> Result<impl IntoResponse, Problem> {
    let model = state.model(&path.model).await?;
    let kind = match new.unwrap_or_default().kind {
        RunKind::Training => JobKind::Training,
        RunKind::Settlement => JobKind::Settlement,
    };
    let now = state.clock.now();
    let id = state.ids.next(now);
    match state.store.enqueue_job(id, model.id, kind, now, caller.api_key_id).await? {
        Enqueued::Already(job) => {
            Err(Problem::TrainingRunActive { kind: kind.as_str(), id: job.id })
        }
        Enqueued::Queued(job) => {
            let location = format!("/v1/models/{}/training-runs/{}", model.name, job.id);
            let headers = [(header::LOCATION, location)];
            Ok((StatusCode::ACCEPTED, headers, Answer(TrainingRun::from(job))))
        }
    }
}

/// Lists runs and batches, newest first.
#[utoipa::path(
    get, path = "/v1/models/{model}/training-runs", tag = "models",
    operation_id = "list_training_runs", security(("bearer" = [])),
    params(ModelPath, RunsQuery),
    responses(
        (status = 200, description = "A page", body = Page<TrainingRun>),
        BadRequest, NotFound, Guarded,
    )
)]
pub async fn list(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Segments(path): Segments<ModelPath>,
    Params(query): Params<RunsQuery>,
) -> Result<Answer<Page<TrainingRun>>, Problem> {
    let model = state.model(&path.model).await?;
    let limit = query.limit.with_one_more();
    let jobs = state.store.jobs(model.id, query.kind, query.cursor, limit).await?;
    Ok(Answer(query.limit.page(jobs, |job| job.id.to_string(), TrainingRun::from)))
}

/// Reads a run, with its progress.
#[utoipa::path(
    get, path = "/v1/models/{model}/training-runs/{id}", tag = "models",
    operation_id = "read_training_run", security(("bearer" = [])), params(RunPath),
    responses((status = 200, description = "The run", body = TrainingRun), NotFound, Guarded)
)]
pub async fn read(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Segments(path): Segments<RunPath>,
) -> Result<Answer<TrainingRun>, Problem> {
    run(&state, &path).await.map(|job| Answer(job.into()))
}

/// Cancels a run: at once while queued, at its next step while running.
#[utoipa::path(
    delete, path = "/v1/models/{model}/training-runs/{id}", tag = "models",
    operation_id = "cancel_training_run", security(("bearer" = [])), params(RunPath),
    responses(
        (status = 200, description = "Cancelled", body = TrainingRun),
        (status = 202, description = "It stops at its next step", body = TrainingRun),
        NotFound, Conflict, Guarded,
    )
)]
pub async fn cancel(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<RunPath>,
) -> Result<impl IntoResponse, Problem> {
    let job = run(&state, &path).await?;
    let cancelled = state.store.cancel_job(job.id, state.clock.now(), caller.api_key_id).await?;
    let status = match cancelled {
        CancelJob::Cancelled => StatusCode::OK,
        CancelJob::Requested => StatusCode::ACCEPTED,
        CancelJob::Refused(state) => return Err(Problem::TrainingRunEnded { state }),
        CancelJob::Unknown => return Err(Problem::NotFound(Resource::TrainingRun)),
    };
    Ok((status, Answer(TrainingRun::from(run(&state, &path).await?))))
}

async fn run(state: &State, path: &RunPath) -> Result<Job, Problem> {
    let model = state.model(&path.model).await?;
    let job = state.store.job(path.id).await?;
    job.filter(|job| job.model_id == model.id).ok_or(Problem::NotFound(Resource::TrainingRun))
}
