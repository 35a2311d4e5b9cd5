//! Open Inference Protocol v2: health, metadata, predictions. Errors have its form,
//! `{"error": ...}`.

mod binary;
pub mod request;
mod response;
mod tensor;
mod values;

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Request, State as FromState},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use self::{
    request::{InferenceRequest, Rows},
    response::{InferenceResponse, ModelMetadata},
};
use crate::{
    domain::model::ModelName,
    http::{
        auth::{Caller, Predicting},
        body::{self, Segments},
        documentation::{GuardedInference, NotServed, WithTensors},
        models::ModelPath,
        page,
        problem::{Problem, keep_headers},
        state::State,
    },
    serving::registry::{Held, Unserved},
};

const EPOCH: HeaderName = HeaderName::from_static("forgetd-epoch");

/// What a request's tensors may come as.
const MEDIA_TYPES: &str =
    "application/json, or application/octet-stream with Inference-Header-Content-Length";

/// An error in the protocol's form.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    error: String,
}

/// The same problem in the protocol's form; the headers that matter are kept.
pub fn error_form(problem: &Problem, headers: &HeaderMap) -> Response {
    let error = format!("{problem}: {}", problem.detail());
    keep_headers((problem.status(), Answer(ErrorBody { error })).into_response(), headers)
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    /// Extensions of the protocol.
    #[schema(inline, value_type = [String])]
    extensions: [&'static str; 1],
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Live {
    live: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    ready: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelReady {
    name: String,
    ready: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct EpochPath {
    /// Name of a model.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$", example = "digits")]
    model: String,
    /// Epoch of the version that is served; no other is.
    #[param(value_type = u64, minimum = 1, example = 1)]
    epoch: String,
}

/// For the description alone; see `binary.rs`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "headers are read where the body is")]
pub struct JsonLength {
    /// Length of the JSON object in bytes, where binary tensors follow it in the body.
    #[param(rename = "Inference-Header-Content-Length")]
    inference_header_content_length: Option<u64>,
}

/// Names the service and its version.
#[utoipa::path(
    get, path = "/v2", tag = "inference", operation_id = "read_server",
    security(("bearer" = [])),
    responses((status = 200, description = "The service", body = ServerMetadata), GuardedInference)
)]
pub async fn server(_: Caller<Predicting>) -> Answer<ServerMetadata> {
    Answer(ServerMetadata {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: [binary::EXTENSION],
    })
}

/// Whether the process runs. Needs no key.
#[utoipa::path(
    get, path = "/v2/health/live", tag = "inference", operation_id = "read_live",
    responses(
        (status = 200, description = "It runs", body = Live),
        (status = 500, description = "An internal error", body = ErrorBody),
        (status = 503, description = "It does not answer in time", body = ErrorBody),
    )
)]
pub async fn live() -> Answer<Live> {
    Answer(Live { live: true })
}

/// Whether predictions may come: some version is warm, and the process is not about to end.
/// Needs no key.
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "inference", operation_id = "read_ready",
    responses(
        (status = 200, description = "Ready", body = Ready),
        (status = 500, description = "An internal error", body = ErrorBody),
        (status = 503, description = "Not ready", body = ErrorBody,
         headers(("Retry-After" = u64, description = "Seconds after which to try again"))),
    )
)]
pub async fn ready(FromState(state): FromState<Arc<State>>) -> Result<Answer<Ready>, Problem> {
    if state.draining.has_begun() {
        Err(Problem::NotReady("the service is shutting down"))
    } else if state.registry.is_fenced() {
        Err(Problem::Fenced)
    } else if state.registry.is_empty() {
        Err(Problem::NotReady("no version of any model is loaded yet"))
    } else {
        Ok(Answer(Ready { ready: true }))
    }
}

/// Tells the inputs and outputs of a model.
#[utoipa::path(
    get, path = "/v2/models/{model}", tag = "inference", operation_id = "read_model_metadata",
    security(("bearer" = [])), params(ModelPath),
    responses(
        (status = 200, description = "The model", body = ModelMetadata),
        NotServed, GuardedInference,
    )
)]
pub async fn model(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Predicting>,
    Segments(path): Segments<ModelPath>,
) -> Result<Answer<ModelMetadata>, Problem> {
    Ok(Answer(ModelMetadata::of(&*held(&state, &path.model)?)))
}

/// Tells the inputs and outputs of a version.
#[utoipa::path(
    get, path = "/v2/models/{model}/versions/{epoch}", tag = "inference",
    operation_id = "read_version_metadata", security(("bearer" = [])), params(EpochPath),
    responses(
        (status = 200, description = "The version", body = ModelMetadata),
        NotServed, GuardedInference,
    )
)]
pub async fn version(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Predicting>,
    Segments(path): Segments<EpochPath>,
) -> Result<Answer<ModelMetadata>, Problem> {
    Ok(Answer(ModelMetadata::of(&*held_at(&state, &path)?)))
}

/// Whether a model answers.
#[utoipa::path(
    get, path = "/v2/models/{model}/ready", tag = "inference", operation_id = "read_model_ready",
    security(("bearer" = [])), params(ModelPath),
    responses(
        (status = 200, description = "It answers", body = ModelReady),
        NotServed, GuardedInference,
    )
)]
pub async fn model_ready(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Predicting>,
    Segments(path): Segments<ModelPath>,
) -> Result<Answer<ModelReady>, Problem> {
    let held = held(&state, &path.model)?;
    Ok(Answer(ModelReady { name: held.model.name.to_string(), ready: true }))
}

/// Whether a version answers.
#[utoipa::path(
    get, path = "/v2/models/{model}/versions/{epoch}/ready", tag = "inference",
    operation_id = "read_version_ready", security(("bearer" = [])), params(EpochPath),
    responses(
        (status = 200, description = "It answers", body = ModelReady),
        NotServed, GuardedInference,
    )
)]
pub async fn version_ready(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Predicting>,
    Segments(path): Segments<EpochPath>,
) -> Result<Answer<ModelReady>, Problem> {
    let held = held_at(&state, &path)?;
    Ok(Answer(ModelReady { name: held.model.name.to_string(), ready: true }))
}

/// Predicts, from the newest version. At most 1,024 rows at once.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "inference", operation_id = "infer",
    security(("bearer" = [])), params(ModelPath, JsonLength),
    request_body(
        description = "The JSON object, and after it the bytes of its binary tensors",
        content((InferenceRequest = "application/json"), (String = "application/octet-stream"))
    ),
    responses(
        (status = 200, description = "Probabilities and labels",
         content((InferenceResponse<'_> = "application/json"),
                 (String = "application/octet-stream")),
         headers(
             ("forgetd-epoch" = u64, description = "The epoch that answered"),
             ("Inference-Header-Content-Length" = u64,
              description = "Length of the JSON object, where outputs follow it as bytes"))),
        NotServed, WithTensors, GuardedInference,
    )
)]
pub async fn infer(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Predicting>,
    Segments(path): Segments<ModelPath>,
    request: Request,
) -> Result<Response, Problem> {
    // A model that is not served is told before the body is read; which version answers is
    // decided after, so that none is held while a slow body comes in.
    held(&state, &path.model)?;
    let request = tensors(&state, request).await?;
    let held = held(&state, &path.model)?;
    predict(&state, held, request).await
}

/// Predicts, if this epoch is the one that is served.
#[utoipa::path(
    post, path = "/v2/models/{model}/versions/{epoch}/infer", tag = "inference",
    operation_id = "infer_version", security(("bearer" = [])), params(EpochPath, JsonLength),
    request_body(
        description = "The JSON object, and after it the bytes of its binary tensors",
        content((InferenceRequest = "application/json"), (String = "application/octet-stream"))
    ),
    responses(
        (status = 200, description = "Probabilities and labels",
         content((InferenceResponse<'_> = "application/json"),
                 (String = "application/octet-stream")),
         headers(
             ("forgetd-epoch" = u64, description = "The epoch that answered"),
             ("Inference-Header-Content-Length" = u64,
              description = "Length of the JSON object, where outputs follow it as bytes"))),
        NotServed, WithTensors, GuardedInference,
    )
)]
pub async fn infer_version(
    FromState(state): FromState<Arc<State>>,
    _: Caller<Predicting>,
    Segments(path): Segments<EpochPath>,
    request: Request,
) -> Result<Response, Problem> {
    held_at(&state, &path)?;
    let request = tensors(&state, request).await?;
    let held = held_at(&state, &path)?;
    predict(&state, held, request).await
}

async fn tensors(state: &State, request: Request) -> Result<InferenceRequest, Problem> {
    let headers = request.headers().clone();
    let media_type = body::media_type(&headers);
    match media_type.as_deref() {
        None | Some("application/json") => {}
        Some(binary::MEDIA_TYPE) if headers.contains_key(&binary::JSON_LENGTH) => {}
        Some(binary::MEDIA_TYPE) => {
            let problem = "a binary body needs the header Inference-Header-Content-Length: how many \
                           bytes of it are JSON";
            return Err(Problem::InvalidInference(problem.into()));
        }
        Some(_) => return Err(Problem::UnsupportedMediaType { expected: MEDIA_TYPES }),
    }
    let bytes = body::buffered(request, state, state.limits.body_bytes).await?;
    let (json, binary) = binary::part(&headers, &bytes)?;
    InferenceRequest::read(json, binary).map_err(Problem::InvalidInference)
}

async fn predict(
    state: &State,
    held: Arc<Held>,
    mut request: InferenceRequest,
) -> Result<Response, Problem> {
    let outputs = request.outputs().map_err(Problem::InvalidInference)?;
    let id = request.id.take();
    let encoded = match request.into_rows(&held.model.schema).map_err(Problem::InvalidInference)? {
        Rows::Tensor(values) => held.encoder.encode_tensor(values),
        Rows::Table(rows) => held.encoder.encode_features(&rows),
    };
    let rows = encoded.map_err(|error| Problem::InvalidInference(error.to_string()))?;
    let probabilities = state.executor.predict(Arc::clone(&held) as _, rows).await?;
    state.registry.confirm(&held)?;
    let (answer, binary) = InferenceResponse::new(&held, id.as_deref(), &probabilities, outputs);
    let mut response = if binary.is_empty() {
        Answer(answer).into_response()
    } else {
        let mut body = serde_json::to_vec(&answer).map_err(|error| Problem::internal(&error))?;
        let length = HeaderValue::from(body.len());
        body.extend(binary);
        let media_type = HeaderValue::from_static(binary::MEDIA_TYPE);
        ([(header::CONTENT_TYPE, media_type), (binary::JSON_LENGTH, length)], body).into_response()
    };
    response.headers_mut().insert(EPOCH, HeaderValue::from(held.epoch));
    Ok(response)
}

fn held(state: &State, name: &str) -> Result<Arc<Held>, Problem> {
    let name: ModelName = name.parse().map_err(|_| Problem::NotServed)?;
    state.registry.get(&name).map_err(Problem::from)
}

fn held_at(state: &State, path: &EpochPath) -> Result<Arc<Held>, Problem> {
    let held = held(state, &path.model)?;
    if page::epoch(&path.epoch) == Some(held.epoch) {
        Ok(held)
    } else {
        Err(Unserved::NotLoaded.into())
    }
}
