//! Without API keys everybody on this machine may do everything, but not the pages that its browsers
//! show: one whose name was made to lead here (DNS rebinding), or that posts here from its own place.
//! Browsers say the names of both.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::{
    extract::Request,
    http::{HeaderName, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::http::problem::Problem;

/// Answers only what names this machine as its host, and comes from no page of another.
pub async fn only(request: Request, next: Next) -> Response {
    if is_local(&request) { next.run(request).await } else { Problem::NotLocal.into_response() }
}

/// Names that are not given, as by HTTP/1.0 and by whoever is no browser, are no other machine's.
fn is_local(request: &Request) -> bool {
    let named = |name: HeaderName| {
        request.headers().get_all(name).iter().all(|value| {
            let uri = Uri::try_from(value.as_bytes());
            uri.is_ok_and(|uri| uri.authority().is_some_and(is_here))
        })
    };
    request.uri().authority().is_none_or(is_here) && named(header::HOST) && named(header::ORIGIN)
}

/// Whether nothing but a loopback's name and perhaps a port is there.
fn is_here(authority: &Authority) -> bool {
    let host = authority.host();
    let rest = authority.as_str().strip_prefix(host);
    is_loopback(host) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// Whether a name leads to the machine that it is used on, wherever that is.
fn is_loopback(host: &str) -> bool {
    if let Some(ip) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return ip.parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback());
    }
    let host = host.to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn with(name: HeaderName, value: &str) -> bool {
        is_local(&Request::get("/v1/models").header(name, value).body(Body::empty()).unwrap())
    }

    #[test]
    fn loopback_is_called_by_these_names_only() {
        for local in [
            "localhost",
            "LocalHost:8080",
            "forgetd.localhost:1",
            "127.0.0.1",
            "127.8.9.1:8080",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(with(header::HOST, local), "{local}");
            assert!(with(header::ORIGIN, &format!("http://{local}")), "{local}");
        }
        for other in [
            "",
            "example.org",
            "example.org:8080",
            "localhost.example.org",
            "notlocalhost",
            "127.0.0.1.example.org",
            "128.0.0.1",
            "0.0.0.0:8080",
            "[::2]",
            "[::1].example.org",
            "localhost@example.org",
        ] {
            assert!(!with(header::HOST, other), "{other}");
            assert!(!with(header::ORIGIN, &format!("http://{other}")), "{other}");
        }
        assert!(!with(header::ORIGIN, "null"));
    }

    #[test]
    fn every_name_of_a_request_counts() {
        let request = |uri: &str| Request::get(uri).body(Body::empty()).unwrap();
        assert!(is_local(&request("/v1/models")), "none is given");
        assert!(is_local(&request("http://localhost:8080/v1/models")));
        assert!(!is_local(&request("http://example.org/v1/models")));
        let mut twice = request("/v1/models");
        for host in ["localhost", "example.org"] {
            twice.headers_mut().append(header::HOST, host.parse().unwrap());
        }
        assert!(!is_local(&twice));
    }
}
