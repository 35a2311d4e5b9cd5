//! Deletion requests, as far as HTTP is concerned.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use serde_json::{Value, json};

use super::{Access, problem, service};

#[tokio::test]
async fn a_deletion_request_is_durable_repeatable_and_bounded() {
    let service = service(Access::Open).await;
    service.create_model().await;
    let post = async |key: &str, body: Value| {
        let request = Request::post("/v1/deletion-requests")
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", key);
        service.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    let body = json!({"model": "pairs", "subjects": ["p-1"], "samples": ["nobody"]});
    let first = post("k-1", body.clone()).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.body);
    assert_eq!(first.body["targets"][1]["rejection"], "unknown_sample");
    assert_eq!(first.body["due_by"], "2026-12-23T18:00:00Z");
    let location = first.headers[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(post("k-1", body).await.body["id"], first.body["id"]);
    let other = post("k-1", json!({"model": "pairs", "subjects": ["p-2"]})).await;
    assert_eq!(problem(&other), (422, "idempotency-key-reused"));

    let back = "person,label,x,y\np-3,a,0,1\np-1,a,0,1\n";
    let reply = service.post_as("/v1/models/pairs/samples?subject=person", "text/csv", back).await;
    assert_eq!(problem(&reply), (409, "sample-conflict"));
    assert_eq!(reply.body["line"], 3);

    let list = service.get("/v1/deletion-requests?state=queued&model=pairs").await;
    assert_eq!(list.body["items"][0]["id"], first.body["id"]);
    let cancelled = service.delete(&location).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (StatusCode::OK, &json!("cancelled")));
    assert_eq!(problem(&service.delete(&location).await), (409, "not-cancellable"));
    assert_eq!(service.get(&location).await.body["state"], "cancelled");
    let events = service.get("/v1/audit/events?limit=2").await;
    assert_eq!(events.body["next_cursor"], "2");
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_the_moment_of_receipt() {
    let service = service(Access::Open).await;
    service.create_model().await;
    for (said, due_by) in [
        ("1970-01-01T00:00:00Z", "2026-11-23T18:00:00Z"),
        ("2026-11-23T18:00:01Z", "2026-11-23T18:00:01Z"),
    ] {
        let body = json!({"model": "pairs", "subjects": ["p-1"], "due_by": said});
        let reply = service.post("/v1/deletion-requests", &body).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
        assert_eq!(reply.body["due_by"], due_by);
    }
}

#[tokio::test]
async fn deletion_requests_that_name_nothing_or_too_much_are_refused() {
    let service = service(Access::Open).await;
    service.create_model().await;
    let post = async |body: Value| service.post("/v1/deletion-requests", &body).await;
    assert_eq!(problem(&post(json!({"model": "pairs"})).await), (422, "no-targets"));
    let many: Vec<_> = (0..100_000).map(|number| number.to_string()).collect();
    let reply = post(json!({"model": "pairs", "samples": many})).await;
    assert_eq!(problem(&reply), (422, "too-many-targets"));
    assert!(reply.body["detail"].as_str().unwrap().contains("10000"));
    let unknown = post(json!({"model": "other", "samples": ["x"]})).await;
    assert_eq!(problem(&unknown), (404, "unknown-model"));
    let rejected = post(json!({"model": "pairs", "subjects": ["nobody"]})).await;
    assert_eq!(rejected.body["state"], "rejected");
    let broken = post(json!({"model": "pairs", "subject": ["p-1"]})).await;
    assert_eq!(problem(&broken), (422, "invalid-body"));
}
