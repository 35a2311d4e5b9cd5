//! Who and what is refused, and how.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use serde_json::json;
use tower::ServiceExt as _;

use super::{Access, Service, problem, service};
use crate::{
    domain::{
        access::{ApiKey, KeyLimits, Scope, hash_secret},
        timestamp::Timestamp,
    },
    http::{
        layers,
        problem::{MEDIA_TYPE, Problem},
    },
};

#[tokio::test]
async fn what_http_itself_refuses_is_a_problem_too() {
    let service = service(Access::Open).await;
    service.create_model().await;
    assert_eq!(problem(&service.get("/nowhere").await), (404, "unknown-route"));
    let wrong = service.delete("/v1/models").await;
    assert_eq!(problem(&wrong), (405, "method-not-allowed"));
    assert!(wrong.headers[header::ALLOW].to_str().unwrap().contains("POST"));
    let text = service.post_as("/v1/models", "text/plain", "{}").await;
    assert_eq!(problem(&text), (415, "unsupported-media-type"));
    let large = service.post_as("/v1/models", "application/json", "x".repeat(2 << 20)).await;
    assert_eq!(problem(&large), (413, "body-too-large"));
    for query in ["limit=0", "limit=x", "cursor=x", "other=1"] {
        let reply = service.get(&format!("/v1/models?{query}")).await;
        assert_eq!(problem(&reply), (400, "invalid-query"), "{query}");
    }
    let broken = "person,label,x,y\np-9,a,0,1\np-8,a,0,one\n";
    let reply =
        service.post_as("/v1/models/pairs/samples?subject=person", "text/csv", broken).await;
    assert_eq!(problem(&reply), (422, "invalid-samples"));
    assert_eq!((&reply.body["line"], &reply.body["column"]), (&json!(3), &json!("y")));
    assert_eq!(service.get("/v1/models/pairs").await.body["samples"]["train"], 2);
    let reply = service.get("/v2/nowhere").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert!(reply.body["error"].is_string());
    let reply = service.get("/v1/models").await;
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(reply.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(reply.headers[header::X_FRAME_OPTIONS], "DENY");
    assert_eq!(reply.headers[header::REFERRER_POLICY], "no-referrer");
    let policy = &reply.headers[header::CONTENT_SECURITY_POLICY];
    assert_eq!(policy, "default-src 'none'; frame-ancestors 'none'");
    assert!(!reply.headers.contains_key(header::STRICT_TRANSPORT_SECURITY), "it is plain HTTP");
    assert!(reply.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn without_keys_no_name_but_this_machines_is_answered() {
    let open = service(Access::Open).await;
    let ask = async |service: &Service, path: &str, name: &str, value: &str| {
        let request = Request::get(path).header(name, value).body(Body::empty()).unwrap();
        service.send(request).await
    };
    for path in ["/v1/models", "/metrics", "/audit/checkpoint", "/nowhere"] {
        for (name, value) in [("host", "rebound.example"), ("origin", "https://page.example")] {
            assert_eq!(problem(&ask(&open, path, name, value).await), (403, "not-local"), "{path}");
        }
    }
    let refused = ask(&open, "/v2/health/live", "host", "rebound.example").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.body["error"].as_str().unwrap().contains("forgetd keys add"));
    assert_eq!(ask(&open, "/v1/models", "host", "localhost:8080").await.status, StatusCode::OK);

    let guarded = service(Access::with_keys()).await;
    let asked = ask(&guarded, "/v1/models", "host", "forgetd.example").await;
    assert_eq!(problem(&asked), (401, "unauthenticated"));
}

#[tokio::test]
async fn keys_do_what_their_scopes_say() {
    let service = service(Access::with_keys()).await;
    let ids = &service.state.ids;
    for (secret, scope) in [("p", Scope::Predict), ("d", Scope::Delete), ("r", Scope::Admin)] {
        let key = ApiKey {
            id: ids.next(Timestamp::from_micros(0)),
            name: secret.into(),
            hash: hash_secret(secret),
            scopes: vec![scope],
            limits: KeyLimits::default(),
            created_at: Timestamp::from_micros(0),
            revoked_at: None,
        };
        service.state.store.create_api_key(&key, None).await.unwrap();
    }
    let get = async |path: &str, secret: &str| {
        let request = Request::get(path).header("Authorization", format!("Bearer {secret}"));
        service.send(request.body(Body::empty()).unwrap()).await
    };
    let nobody = service.get("/v1/models").await;
    assert_eq!(problem(&nobody), (401, "unauthenticated"));
    assert_eq!(nobody.headers[header::WWW_AUTHENTICATE], "Bearer");
    assert_eq!(problem(&get("/v1/models", "guess").await), (401, "unauthenticated"));
    assert_eq!(problem(&get("/v1/models", "p").await), (403, "forbidden"));
    assert_eq!(get("/v1/models", "r").await.status, StatusCode::OK);
    assert_eq!(get("/v1/deletion-requests", "d").await.status, StatusCode::OK);
    assert_eq!(get("/v2", "p").await.status, StatusCode::OK);
    let forbidden = get("/v2", "d").await;
    assert_eq!(forbidden.status, StatusCode::FORBIDDEN);
    assert!(forbidden.body["error"].is_string());
    assert_eq!(service.get("/v2/health/live").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let panics = axum::Router::new()
        .route("/", axum::routing::get(async || -> Result<(), Problem> { panic!("on purpose") }))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(layers::panicked));
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = panics.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
}
