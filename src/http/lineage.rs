//! Which versions a sample or a subject's samples made, and the first that excludes them.

use std::sync::Arc;

use axum::{Json as Answer, extract::State as FromState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    domain::{
        deletion::{Target, TargetKind},
        identity::Pseudonym,
        sample::Split,
        timestamp::Timestamp,
    },
    http::{
        auth::{Auditing, Caller},
        body::{Json, Segments},
        documentation::{Guarded, NotFound, WithBody},
        models::ModelPath,
        problem::Problem,
        state::State,
        targets::{self, traced_schema},
    },
    store::{Lineage, LineageSample},
};

/// Most subjects and samples together in one question.
pub const TARGETS_MAX: usize = 1_000;

/// Whom to trace: at least one subject or sample, at most 1,000 together. A body, so that no
/// identifier stands in a URL.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"subjects": ["writer-017"]}))]
pub struct LineageQuestion {
    #[serde(default)]
    #[schema(schema_with = traced_schema)]
    subjects: Vec<String>,
    #[serde(default)]
    #[schema(schema_with = traced_schema)]
    samples: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LineageAnswer {
    /// In the order of the question, repetitions left out; subjects come first.
    targets: Vec<TracedTarget>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TracedTarget {
    kind: TargetKind,
    /// As the question named it.
    id: String,
    /// Empty where the model knows nothing of it.
    samples: Vec<TracedSample>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TracedSample {
    /// Pseudonym of the sample's id.
    key: Pseudonym,
    split: Split,
    ingested_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
    /// First epoch that it contributed to; null if it never did.
    from_epoch: Option<u64>,
    /// First epoch that excludes it; null while it is still in.
    until_epoch: Option<u64>,
}

impl From<LineageSample> for TracedSample {
    fn from(sample: LineageSample) -> Self {
        let LineageSample { key, split, ingested_at, deleted_at, from_epoch, until_epoch } = sample;
        Self { key, split, ingested_at, deleted_at, from_epoch, until_epoch }
    }
}

/// Traces samples through the versions; without their features.
#[utoipa::path(
    post, path = "/v1/models/{model}/lineage", tag = "audit", operation_id = "trace_lineage",
    security(("bearer" = [])), params(ModelPath), request_body = LineageQuestion,
    responses(
        (status = 200, description = "What became of each", body = LineageAnswer),
        NotFound, WithBody, Guarded,
    )
)]
pub async fn trace(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Auditing>,
    Segments(path): Segments<ModelPath>,
    Json { value: question, .. }: Json<LineageQuestion>,
) -> Result<Answer<LineageAnswer>, Problem> {
    let model = state.model(&path.model).await?;
    let LineageQuestion { subjects, samples } = &question;
    let named = targets::targets(&state.service_key, model.id, subjects, samples, TARGETS_MAX)?;
    let keys: Vec<Target> = named.iter().map(|(_, target)| *target).collect();
    let mut found: std::collections::HashMap<Target, Lineage> = state
        .store
        .lineage(model.id, &keys)
        .await?
        .into_iter()
        .map(|lineage| (lineage.target, lineage))
        .collect();
    let targets = named.into_iter().map(|(id, target)| TracedTarget {
        kind: target.kind,
        id: id.to_owned(),
        samples: found
            .remove(&target)
            .map(|lineage| lineage.samples.into_iter().map(TracedSample::from).collect())
            .unwrap_or_default(),
    });
    Ok(Answer(LineageAnswer { targets: targets.collect() }))
}
