//! A problem as a response.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{MEDIA_TYPE, Problem};

/// Another form of a problem's response, with those of its `headers` that matter in any form.
pub fn keep_headers(mut response: Response, headers: &HeaderMap) -> Response {
    for name in [header::ALLOW, header::CONNECTION, header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = self.details();
        let body = serde_json::to_vec(&details).unwrap_or_default();
        let mut response =
            (self.status(), [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = details.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self, Self::BodyTooLarge { .. } | Self::BodyTooSlow) {
            // The rest of the body stays unread: the connection carries no other request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // For the layers: what is logged and counted, and the other form that /v2 wants.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Resource;

    #[test]
    fn what_passes_says_when_to_try_again_and_what_does_not_is_silent() {
        for problem in [Problem::Busy, Problem::QueueFull { limit: 1 }, Problem::StoreUnavailable] {
            let response = problem.into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
        let response = Problem::NotFound(Resource::Model).into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
    }

    #[test]
    fn a_missing_key_is_asked_for() {
        let response = Problem::Unauthenticated.into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
