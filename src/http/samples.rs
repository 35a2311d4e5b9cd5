//! Samples in, as NDJSON or CSV: all of a body or nothing.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Request, State as FromState},
    http::StatusCode,
    response::IntoResponse,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    clock::Ids,
    dataset::{
        csv::{self, Mapping},
        ndjson,
        raw_sample::{Place, RawSample, ReadError},
    },
    domain::{
        alias::AliasKind,
        identity::ServiceKey,
        model::Model,
        sample::{NewSample, Split},
        timestamp::Timestamp,
    },
    http::{
        auth::{Administering, Caller},
        body::{self, Params, Segments},
        documentation::{Conflict, Guarded, NotFound, WithBody},
        models::ModelPath,
        problem::{Problem, Spot},
        state::State,
        targets::{IDENTIFIER_MAX, is_identifier},
    },
    store::IngestError,
};

/// Samples that go to the ledger at once.
const CHUNK: usize = 1_000;

/// Longest label in bytes.
const LABEL_MAX: usize = 256;

const MEDIA_TYPES: &str = "application/x-ndjson or text/csv";

/// Which columns of a CSV file say what a sample is; NDJSON says it itself.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Columns {
    /// Column of the samples' ids. The subject's id serves without it.
    #[param(min_length = 1, max_length = 200)]
    sample_id: Option<String>,
    /// Column of the subjects' ids; `subject_id` where it is not given.
    #[param(min_length = 1, max_length = 200)]
    subject: Option<String>,
    /// Column of the labels; `label` where it is not given.
    #[param(min_length = 1, max_length = 200)]
    label: Option<String>,
    /// Column of `train` and `holdout`. Without it every sample is for training.
    #[param(min_length = 1, max_length = 200)]
    split: Option<String>,
    /// Column of e-mail addresses that subjects are also known by; as are the following.
    #[param(min_length = 1, max_length = 200)]
    email: Option<String>,
    /// Column of phone numbers.
    #[param(min_length = 1, max_length = 200)]
    phone: Option<String>,
    /// Column of mobile advertising ids.
    #[param(min_length = 1, max_length = 200)]
    maid: Option<String>,
    /// Column of ids of connected televisions.
    #[param(min_length = 1, max_length = 200)]
    ctvid: Option<String>,
    /// Column of DROP's hashes of name, date of birth and ZIP code.
    #[param(min_length = 1, max_length = 200)]
    ndz: Option<String>,
    /// Column of DROP's hashes of name and vehicle identification number.
    #[param(min_length = 1, max_length = 200)]
    name_vin: Option<String>,
}

/// What came in.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ingestion {
    id: Uuid,
    train: u64,
    holdout: u64,
}

#[derive(Clone, Copy)]
enum Format {
    Ndjson,
    Csv,
}

/// Ingests samples. A body with one broken or conflicting sample leaves nothing behind.
#[utoipa::path(
    post, path = "/v1/models/{model}/samples", tag = "models", operation_id = "ingest_samples",
    security(("bearer" = [])), params(ModelPath, Columns),
    request_body(
        description = "A line of NDJSON is an object with `subject_id`, `label`, `features` (an \
                       object with a value per column, or the tensor as an array), and at will \
                       `sample_id`, `split` and `aliases` (an object such as `{\"email\": \
                       \"p@example.org\"}`); CSV has a header line",
        content(
            (String = "application/x-ndjson"),
            (String = "text/csv"),
        )
    ),
    responses(
        (status = 201, description = "All of it came in", body = Ingestion),
        NotFound, Conflict, WithBody, Guarded,
    )
)]
pub async fn ingest(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Administering>,
    Segments(path): Segments<ModelPath>,
    Params(columns): Params<Columns>,
    request: Request,
) -> Result<impl IntoResponse, Problem> {
    let format = match body::media_type(request.headers()).as_deref() {
        Some("application/x-ndjson") => Format::Ndjson,
        Some("text/csv") => Format::Csv,
        _ => return Err(Problem::UnsupportedMediaType { expected: MEDIA_TYPES }),
    };
    let mapping = columns.mapping(format)?;
    let model = state.model(&path.model).await?;
    let body = body::buffered(request, &state, state.limits.samples_bytes).await?;
    let (model_id, now) = (model.id, state.clock.now());
    let reading = Reading {
        body: body.clone(),
        mapping,
        model,
        ids: state.ids.clone(),
        key: Arc::clone(&state.service_key),
        now,
    };
    // Read whole before the ledger is locked.
    let samples = tokio::task::spawn_blocking(move || reading.samples(format))
        .await
        .map_err(|error| Problem::internal(&error))??;

    let mut ingestion = state.store.begin_ingestion(state.ids.next(now), model_id).await?;
    for chunk in samples.chunks(CHUNK) {
        ingestion.add(chunk).await.map_err(|error| refused(error, format, &body))?;
    }
    let committed = ingestion.commit(now, caller.api_key_id).await;
    let receipt = committed.map_err(|error| refused(error, format, &body))?;
    let ingestion = Ingestion { id: receipt.id, train: receipt.train, holdout: receipt.holdout };
    Ok((StatusCode::CREATED, Answer(ingestion)))
}

impl Columns {
    fn mapping(self, format: Format) -> Result<Mapping, Problem> {
        let Self { sample_id, subject, label, split, .. } = self;
        let aliases = [self.email, self.phone, self.maid, self.ctvid, self.ndz, self.name_vin];
        let aliases = AliasKind::ALL.into_iter().zip(aliases);
        let aliases: Vec<_> =
            aliases.filter_map(|(kind, column)| column.map(|column| (kind, column))).collect();
        let any = [&sample_id, &subject, &label, &split].iter().any(|name| name.is_some());
        match format {
            Format::Ndjson if any || !aliases.is_empty() => Err(Problem::InvalidQuery(
                "columns are named for CSV only; NDJSON has fixed names".into(),
            )),
            Format::Ndjson | Format::Csv => Ok(Mapping {
                sample_id,
                subject_id: subject.unwrap_or_else(|| "subject_id".into()),
                label: label.unwrap_or_else(|| "label".into()),
                split,
                aliases,
            }),
        }
    }
}

/// A body on its way to samples, on a thread that may compute.
struct Reading {
    body: Bytes,
    mapping: Mapping,
    model: Model,
    ids: Ids,
    key: Arc<ServiceKey>,
    now: Timestamp,
}

impl Reading {
    fn samples(&self, format: Format) -> Result<Vec<NewSample>, Problem> {
        let (body, schema) = (&self.body[..], &self.model.schema);
        let admit = |(position, sample): (usize, Result<RawSample, ReadError>)| {
            self.admit(sample.map_err(|error| invalid(&error))?, || line(format, body, position))
        };
        match format {
            Format::Ndjson => ndjson::samples(body, schema).enumerate().map(admit).collect(),
            Format::Csv => {
                let samples =
                    csv::samples(body, schema, &self.mapping).map_err(|error| invalid(&error))?;
                samples.enumerate().map(admit).collect()
            }
        }
    }

    fn admit(
        &self,
        sample: RawSample,
        line: impl Fn() -> Option<u64>,
    ) -> Result<NewSample, Problem> {
        let refused = |column: &str, limit: usize| Problem::InvalidSamples {
            detail: format!("the {column} must be 1 to {limit} bytes without a NUL"),
            spot: Spot { line: line(), column: Some(column.into()) },
        };
        for (column, id) in [("sample_id", &sample.sample_id), ("subject_id", &sample.subject_id)] {
            // A longer one could not be named in a deletion request.
            if !is_identifier(id) {
                return Err(refused(column, IDENTIFIER_MAX));
            }
        }
        if !(1..=LABEL_MAX).contains(&sample.label.len()) || sample.label.contains('\0') {
            return Err(refused("label", LABEL_MAX));
        }
        let id = self.ids.next(self.now);
        Ok(sample.into_sample(id, self.model.id, &self.key, Split::Train))
    }
}

/// Line of the sample at a position, both as the readers count.
fn line(format: Format, body: &[u8], position: usize) -> Option<u64> {
    match format {
        Format::Ndjson => body
            .split(|byte| *byte == b'\n')
            .zip(1..)
            .filter(|(line, _)| !line.trim_ascii().is_empty())
            .nth(position)
            .map(|(_, number)| number),
        Format::Csv => {
            let mut reader = ::csv::ReaderBuilder::new().flexible(true).from_reader(body);
            let record = reader.byte_records().nth(position)?.ok()?;
            record.position().map(::csv::Position::line)
        }
    }
}

fn invalid(error: &ReadError) -> Problem {
    Problem::InvalidSamples { detail: error.to_string(), spot: spot(error) }
}

/// Where in a body a reader failed.
pub(super) fn spot(error: &ReadError) -> Spot {
    match error {
        ReadError::Record { place, .. } => Spot { line: number(place), column: None },
        ReadError::Cell { place, column, .. } | ReadError::Image { place, column, .. } => {
            Spot { line: number(place), column: Some(column.clone()) }
        }
        ReadError::MissingColumn { column, .. }
        | ReadError::DuplicateColumn(column)
        | ReadError::ColumnType { column, .. } => Spot { line: None, column: Some(column.clone()) },
        ReadError::Io { place, .. } | ReadError::Parquet { place, .. } => {
            Spot { line: number(place), column: None }
        }
        ReadError::Empty | ReadError::Layout(_) | ReadError::Schema(_) => Spot::default(),
    }
}

fn number(place: &Place) -> Option<u64> {
    match place {
        Place::Line(line) => Some(*line),
        Place::Row(_) => None,
    }
}

fn refused(error: IngestError, format: Format, body: &[u8]) -> Problem {
    match error {
        IngestError::Store(error) => error.into(),
        IngestError::Conflict { position, conflict, .. } => {
            let position = usize::try_from(position).ok();
            let line = position.and_then(|position| line(format, body, position));
            Problem::SampleConflict { conflict, line }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_lead_back_to_lines() {
        let ndjson = b"{}\n\n  \r\n{}\n{}";
        let lines = [0, 1, 2, 3].map(|position| line(Format::Ndjson, ndjson, position));
        assert_eq!(lines, [Some(1), Some(4), Some(5), None]);
        let csv = b"a,b\n1,\"x\ny\"\n2,z\n";
        let lines = [0, 1, 2].map(|position| line(Format::Csv, csv, position));
        assert_eq!(lines, [Some(2), Some(4), None]);
    }

    #[test]
    fn refusals_name_line_and_column() {
        let error = ReadError::Cell {
            place: Place::Line(3),
            column: "age".into(),
            expected: "a number".into(),
            found: "\"x\"".into(),
        };
        let details = invalid(&error).details();
        assert_eq!((details.status, details.line), (422, Some(3)));
        assert_eq!(details.column.as_deref(), Some("age"));
    }

    #[test]
    fn columns_are_for_csv_only() {
        let columns = |label: Option<&str>| Columns {
            sample_id: None,
            subject: None,
            label: label.map(str::to_owned),
            split: None,
            email: None,
            phone: None,
            maid: None,
            ctvid: None,
            ndz: None,
            name_vin: None,
        };
        assert!(columns(Some("y")).mapping(Format::Ndjson).is_err());
        assert!(columns(None).mapping(Format::Ndjson).is_ok());
        assert_eq!(columns(Some("y")).mapping(Format::Csv).unwrap().label, "y");
    }
}
