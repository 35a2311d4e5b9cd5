//! Predictions and readiness.

use axum::http::{StatusCode, header};
use serde_json::json;
use tokio::task::yield_now;

use super::{Access, LEASE, State, service};
use crate::serving::executor::fixture::gate;

#[tokio::test]
async fn the_newest_version_answers_and_says_so() {
    let service = service(Access::Open).await;
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    service.create_model().await;
    service.replica.sync().await.unwrap();
    let reply = service.infer().await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert!(reply.body["error"].as_str().unwrap().contains("no version"), "{}", reply.body);

    assert_eq!(service.publish().await, 1);
    service.replica.sync().await.unwrap();
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::OK);
    let reply = service.infer().await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    assert_eq!(reply.headers["forgetd-epoch"], "1");
    assert_eq!(reply.body["id"], "7");
    assert_eq!(reply.body["outputs"][0]["shape"], json!([1, 2]));
    let probabilities = reply.body["outputs"][0]["data"].as_array().unwrap();
    let sum: f64 = probabilities.iter().map(|value| value.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    let first = if probabilities[0].as_f64() >= probabilities[1].as_f64() { "a" } else { "b" };
    assert_eq!(reply.body["outputs"][1]["data"], json!([first]));

    assert_eq!(service.publish().await, 2);
    service.replica.sync().await.unwrap();
    let reply = service.infer().await;
    assert_eq!(reply.body["model_version"], "2");
    let old = service.get("/v2/models/pairs/versions/1").await;
    assert_eq!(old.status, StatusCode::NOT_FOUND, "superseded weights are never served");
    assert_eq!(service.get("/v2/models/pairs/versions/2").await.status, StatusCode::OK);
    let versions = service.get("/v1/models/pairs/versions?limit=1").await;
    assert_eq!(versions.body["items"][0]["epoch"], 2);
    assert_eq!(versions.body["next_cursor"], "2");
    let contributors = service.get("/v1/models/pairs/versions/2/samples").await;
    assert_eq!(contributors.body["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_corrupt_weights_file_is_refused_and_the_last_good_version_goes_on() {
    let service = service(Access::Open).await;
    service.create_model().await;
    service.publish().await;
    service.replica.sync().await.unwrap();
    assert_eq!(service.publish().await, 2);
    let version = service.get("/v1/models/pairs/versions/2").await;
    let digest = version.body["weights"].as_str().unwrap();
    let mut folders = vec![service.blobs.path().to_owned()];
    let mut spoiled = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().replace('/', "").contains(digest) {
                std::fs::write(path, b"spoiled").unwrap();
                spoiled += 1;
            }
        }
    }
    assert_eq!(spoiled, 1);
    service.replica.sync().await.unwrap();
    assert_eq!(service.infer().await.headers["forgetd-epoch"], "1");
}

#[tokio::test]
async fn a_lost_lease_and_a_drain_show_in_readiness() {
    let service = service(Access::Open).await;
    service.create_model().await;
    service.publish().await;
    service.replica.sync().await.unwrap();
    service.state.clock.advance(LEASE);
    let reply = service.infer().await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.headers[header::RETRY_AFTER], "1");
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    service.replica.sync().await.unwrap();
    assert_eq!(service.infer().await.status, StatusCode::OK);
    service.state.draining.begin();
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(service.get("/v2/health/live").await.status, StatusCode::OK);
    assert_eq!(service.infer().await.status, StatusCode::OK, "who came is still answered");
}

#[tokio::test]
async fn a_prediction_that_outlives_the_lease_is_not_answered_from_what_was_passed_over() {
    let service = service(Access::Open).await;
    let State { executor, clock, .. } = &*service.state;
    service.create_model().await;
    service.publish().await;
    service.replica.sync().await.unwrap();
    for newer in [None, Some(2)] {
        let (slow, begun, go) = gate();
        let slow = executor.predict(slow, Vec::new());
        let meanwhile = async {
            while begun.try_recv().is_err() {
                yield_now().await;
            }
            while executor.waiting() == 0 {
                yield_now().await;
            }
            clock.advance(LEASE);
            if newer.is_some() {
                assert_eq!(Some(service.publish().await), newer);
            }
            service.replica.sync().await.unwrap();
            go.send(()).unwrap();
        };
        let (_, reply, ()) = tokio::join!(slow, service.infer(), meanwhile);
        match newer {
            None => assert_eq!(reply.headers["forgetd-epoch"], "1", "nothing newer is there"),
            Some(_) => assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE),
        }
    }
    assert_eq!(service.infer().await.headers["forgetd-epoch"], "2");
}
