//! An orderly end: what runs is finished or given back.

use reqwest::StatusCode;
use serde_json::json;

use super::{Database, Service, eventually, people};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains() {
    for database in Database::ALL {
        let environment = [("FORGETD_HTTP__DRAIN_DELAY_S", "2")];
        let mut service = Service::start_with(database, &environment, &[]).await;
        people::trained(&service, &people::unsettled()).await;

        service.terminate();
        eventually(
            "readiness goes",
            async || service.get("/v2/health/ready").await.status,
            |status| *status == StatusCode::SERVICE_UNAVAILABLE,
        )
        .await;
        let answer = people::predict(&service, 1).await;
        assert_eq!(answer.status, StatusCode::OK, "requests in flight are still answered");
        assert!(service.ended().await.success());

        service.restart().await;
        people::ready(&service).await;
        assert_eq!(people::predict(&service, 1).await.body["model_version"], "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_given_back_and_taken_up_again() {
    for database in Database::ALL {
        // A lease so long that only giving it back lets the next process start in time.
        let environment = [("FORGETD_WORKER__LEASE_S", "3000")];
        let mut service = Service::start_with(database, &environment, &[]).await;
        let mut long = people::model(&people::unsettled());
        long["recipe"]["epochs"] = json!(10_000);
        assert_eq!(service.post("/v1/models", &long).await.status, StatusCode::CREATED);
        people::ingest(&service, people::population()).await;
        let runs = format!("/v1/models/{}/training-runs", people::MODEL);
        let queued = service.post(&runs, &json!({})).await.body;
        let run = format!("{runs}/{}", queued["id"].as_str().unwrap());
        let running = async |service: &Service| {
            eventually(
                "the run is worked on",
                async || service.get(&run).await.body,
                |body| body["state"] == "running",
            )
            .await
        };
        running(&service).await;
        service.terminate();
        assert!(service.ended().await.success());
        service.restart().await;
        let again = running(&service).await;
        assert_eq!(again["attempts"], 1, "what was given back unharmed counts as no attempt");

        let cancelled = service.delete(&run).await;
        assert!(cancelled.status.is_success(), "{cancelled:#?}");
        eventually(
            "the run is cancelled",
            async || service.get(&run).await.body,
            |body| body["state"] == "cancelled",
        )
        .await;
    }
}
