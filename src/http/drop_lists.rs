//! Consumer deletion lists of California's DROP.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Request, State as FromState},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    broker::{Broker, BrokerError, Outcome},
    dataset::{
        csv::hashed_list::{self, Entry},
        raw_sample::ReadError,
    },
    domain::alias::AliasKind,
    http::{
        auth::{Caller, Deleting},
        body::{self, Params},
        documentation::{Guarded, NotFound, WithBody},
        problem::Problem,
        samples::spot,
        state::State,
    },
};

const CSV: &str = "text/csv";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DropListQuery {
    /// Which identifiers the list names.
    #[param(value_type = String, pattern = "^(email|phone|maid|ctvid|ndz|name_vin)$")]
    list: AliasKind,
    /// Name of the model to delete from; every model when absent.
    model: Option<String>,
}

/// What can be said of the entries, in the order of the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct DropReport {
    /// Those about which all is certain, as DROP takes them back.
    report: Vec<DropAnswer>,
    /// The others: post the same list again later.
    open: Vec<DropOpen>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DropAnswer {
    /// The entry's, as the list has it.
    id: String,
    /// 2 exempted, 3 deleted, 5 not found.
    status: u8,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DropOpen {
    id: String,
    /// It waits for its deletion, or several subjects have the identifier.
    reason: &'static str,
}

/// Asks for the deletion of whom the list names and nobody has asked for yet, and reports what is
/// certain by now. Nothing of the list is kept: the same list again goes on where this one ended.
///
/// As JSON; where the caller accepts `text/csv`, as the report alone, `Id,Status`.
#[utoipa::path(
    post, path = "/v1/drop-lists", tag = "deletion-requests", operation_id = "run_drop_list",
    security(("bearer" = [])), params(DropListQuery),
    request_body(content = String, content_type = "text/csv", description = "The list as DROP \
        gives it, with the columns `ID` and `Hash`, each hash SHA-256 in base64"),
    responses(
        (status = 200, description = "What can be said of the list", content(
            (DropReport = "application/json"), (String = "text/csv"),
        )),
        NotFound, WithBody, Guarded,
    )
)]
pub async fn run(
    FromState(state): FromState<Arc<State>>,
    caller: Caller<Deleting>,
    Params(query): Params<DropListQuery>,
    request: Request,
) -> Result<Response, Problem> {
    if body::media_type(request.headers()).as_deref() != Some(CSV) {
        return Err(Problem::UnsupportedMediaType { expected: CSV });
    }
    let is_csv = accepts_csv(request.headers());
    let models = match &query.model {
        Some(name) => vec![state.model(name).await?],
        None => state.store.all_models().await?,
    };
    let list = body::buffered(request, &state, state.limits.body_bytes).await?;
    // Read whole before anything is asked for: a broken list changes nothing.
    let entries = tokio::task::spawn_blocking(move || read(&list));
    let entries = entries.await.map_err(|error| Problem::internal(&error))??;
    let broker = Broker {
        store: state.store.clone(),
        service_key: Arc::clone(&state.service_key),
        clock: state.clock.clone(),
        ids: state.ids.clone(),
        list: query.list,
        models,
        api_key_id: caller.api_key_id,
        queue_limit: state.limits.queued_deletions,
    };
    let outcomes = broker.outcomes(&entries).await?;
    let report = DropReport::new(entries, outcomes);
    let mut response = if is_csv {
        ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], report.csv()?).into_response()
    } else {
        Answer(report).into_response()
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_name(header::ACCEPT));
    Ok(response)
}

fn read(list: &Bytes) -> Result<Vec<Entry>, Problem> {
    let entries = hashed_list::entries(&list[..]);
    let entries = entries.and_then(Iterator::collect::<Result<_, ReadError>>);
    entries.map_err(|error| Problem::InvalidBody { detail: error.to_string(), spot: spot(&error) })
}

fn accepts_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let ranges = accept.unwrap_or_default().split(',');
    let mut essences = ranges.map(|range| range.split(';').next().unwrap_or_default().trim());
    essences.any(|essence| essence.eq_ignore_ascii_case(CSV))
}

impl DropReport {
    fn new(entries: Vec<Entry>, outcomes: Vec<Outcome>) -> Self {
        let (mut report, mut open) = (Vec::new(), Vec::new());
        for (Entry { id, .. }, outcome) in entries.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Certain(status) => report.push(DropAnswer { id, status: status.code() }),
                Outcome::Waiting | Outcome::Shared => {
                    open.push(DropOpen { id, reason: outcome.describe() });
                }
            }
        }
        Self { report, open }
    }

    fn csv(&self) -> Result<Vec<u8>, Problem> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut written = writer.write_record(["Id", "Status"]);
        for DropAnswer { id, status } in &self.report {
            written = written.and_then(|()| writer.write_record([id, &status.to_string()]));
        }
        written.map_err(|error| Problem::internal(&error))?;
        writer.into_inner().map_err(|error| Problem::internal(&error))
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Store(error) => error.into(),
            BrokerError::QueueFull { limit } => Self::QueueFull { limit },
            BrokerError::QuotaExceeded(excess) => Self::QuotaExceeded(excess),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_for_those_who_ask_for_it() {
        let csv = |accept: &str| {
            accepts_csv(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]))
        };
        assert!(csv("text/csv") && csv("application/json;q=0.5, Text/CSV; charset=utf-8"));
        assert!(!csv("*/*") && !csv("application/json"));
        assert!(!accepts_csv(&HeaderMap::new()));
    }
}
