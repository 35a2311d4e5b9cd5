//! Bodies, queries and paths, read strictly; what does not fit is a problem.

use std::sync::Arc;

use axum::{
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::{HeaderMap, header, request::Parts},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::{
    domain::misfit,
    http::{
        problem::{Problem, Resource, Spot},
        state::State,
    },
};

/// A JSON body, and its bytes as they came.
pub struct Json<T> {
    pub value: T,
    pub bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<Arc<State>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, Problem> {
        if media_type(request.headers()).as_deref() != Some("application/json") {
            return Err(Problem::UnsupportedMediaType { expected: "application/json" });
        }
        let bytes = buffered(request, state, state.limits.body_bytes).await?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

/// A body of plain text; its content type may be left out.
pub struct Text(pub Bytes);

impl FromRequest<Arc<State>> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, Problem> {
        if media_type(request.headers()).is_some_and(|it| it != "text/plain") {
            return Err(Problem::UnsupportedMediaType { expected: "text/plain" });
        }
        buffered(request, state, state.limits.body_bytes).await.map(Self)
    }
}

/// A JSON body that may be left out.
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<State>> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, Problem> {
        let media_type = media_type(request.headers());
        let bytes = buffered(request, state, state.limits.body_bytes).await?;
        match media_type.as_deref() {
            _ if bytes.is_empty() => Ok(Self(T::default())),
            Some("application/json") => parse(&bytes).map(Self),
            _ => Err(Problem::UnsupportedMediaType { expected: "application/json" }),
        }
    }
}

/// # Errors
/// Names the place where the JSON ends to be JSON, or to be a `T`, and what was expected there. What
/// the body says is not repeated.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let spot = Spot {
            line: Some(error.line() as u64).filter(|line| *line > 0),
            column: Some(error.column()).filter(|column| *column > 0).map(|c| c.to_string()),
        };
        let detail = misfit::without_content(&error);
        match error.classify() {
            Category::Data => Problem::InvalidBody { detail, spot },
            Category::Syntax | Category::Eof | Category::Io => {
                Problem::InvalidJson { detail, spot }
            }
        }
    })
}

/// The whole body, at most `limit_bytes`.
pub async fn buffered(
    mut request: Request,
    state: &State,
    limit_bytes: usize,
) -> Result<Bytes, Problem> {
    DefaultBodyLimit::max(limit_bytes).apply(&mut request);
    let bytes = Bytes::from_request(request, &());
    match tokio::time::timeout(state.limits.body_timeout, bytes).await {
        Err(_) => Err(Problem::BodyTooSlow),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
            Err(Problem::BodyTooLarge { limit_bytes })
        }
        Ok(Err(_)) => Err(Problem::BodyIncomplete),
    }
}

/// The content type without its parameters, in lower case.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default();
    Some(essence.trim().to_ascii_lowercase())
}

/// The query; unknown parameters are refused where `T` refuses them.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<State>> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<State>) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(query)| Self(query))
            .map_err(|rejection| Problem::InvalidQuery(root(&rejection)))
    }
}

/// Parts of the path; what cannot be one names nothing that exists.
pub struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<State>> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(segments)| Self(segments))
            .map_err(|_| Problem::NotFound(Resource::Route))
    }
}

/// What the innermost error says, without what the query does.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    misfit::without_content(&error)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Body {
        number: u8,
    }

    #[test]
    fn broken_json_and_wrong_json_are_different_problems() {
        let problem = |json: &str| parse::<Body>(json.as_bytes()).unwrap_err();
        assert!(matches!(problem("{"), Problem::InvalidJson { .. }));
        assert!(matches!(problem(""), Problem::InvalidJson { .. }));
        for wrong in ["{}", "[]", "{\n\"number\": 256}", r#"{"number": 1, "more": 2}"#] {
            assert!(matches!(problem(wrong), Problem::InvalidBody { .. }), "{wrong}");
        }
        let Problem::InvalidBody { spot, .. } = problem("{\n\"number\": 256}") else {
            panic!("asserted above")
        };
        assert_eq!(spot.line, Some(2));
    }

    #[test]
    fn what_does_not_fit_is_placed_and_not_repeated() {
        for body in [r#"{"number": "alice@example.org"}"#, r#"{"alice@example.org": 1}"#] {
            let details = parse::<Body>(body.as_bytes()).unwrap_err().details();
            assert!(details.line.is_some() && details.column.is_some(), "{body}");
            assert!(details.detail.contains("expected"), "{}", details.detail);
            assert!(!details.detail.contains("alice"), "{}", details.detail);
        }
        let query = "/?alice%40example.org=1".parse().unwrap();
        let rejection = Query::<Body>::try_from_uri(&query).unwrap_err();
        assert_eq!(root(&rejection), "unknown field, expected `number`");
    }

    #[test]
    fn parameters_of_the_content_type_do_not_count() {
        let value = "Application/JSON; charset=utf-8".parse().unwrap();
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value)]);
        assert_eq!(media_type(&headers).as_deref(), Some("application/json"));
    }
}
