//! Deadlines of the running service: a warning before one is missed, an extension on the record.

use std::time::Duration;

use forgetd::domain::timestamp::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    Database, Service,
    certificate::{log_key, path_of, verify, write},
    eventually, field, people,
};
use crate::receiver::{Receiver, Reply};

const DAY: Duration = Duration::from_hours(24);

/// What a metric of the model stands at.
async fn gauge(service: &Service, name: &str) -> Option<String> {
    let metrics = service.text("/metrics", "*/*").await;
    let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(people::MODEL));
    line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_near_deadline_is_warned_of_and_extended_once() {
    for database in Database::ALL {
        let receiver = Receiver::start(|_, _| Reply::Status(200)).await;
        let environment = [
            ("FORGETD_WEBHOOKS__HTTP_ALLOWED", "true"),
            ("FORGETD_WEBHOOKS__ALLOWED_NETWORKS", "[\"127.0.0.1/32\"]"),
        ];
        let service = Service::start_with(database, &environment, &[]).await;
        let _second_worker = service.beside(&["--role", "worker"]).await;
        // What waits for an administrator stays open as long as the test needs it.
        let mut policy = people::unsettled();
        policy["approval_above_share"] = json!(0.0);
        people::trained(&service, &policy).await;
        let webhook = json!({
            "name": "deadlines", "url": receiver.url(),
            "event_types": [
                "deletion_request.deadline_approaching", "deletion_request.deadline_extended",
            ],
        });
        assert_eq!(service.post("/v1/webhooks", &webhook).await.status, StatusCode::CREATED);

        let far = json!({"model": people::MODEL, "subjects": ["person-1"]});
        let far = service.post("/v1/deletion-requests", &far).await.body;
        let time = |body: &Value, name: &str| {
            field(body, name).as_str().unwrap().parse::<Timestamp>().unwrap()
        };
        let due_by = time(&far, "/received_at").plus(DAY);
        let soon = json!({
            "model": people::MODEL, "subjects": ["person-2"], "due_by": due_by,
        });
        let near = service.post("/v1/deletion-requests", &soon).await.body;
        assert_eq!(near["state"], "suspended", "{near:#}");
        let id = field(&near, "/id").as_str().unwrap();
        let told = async || receiver.received();
        let told_once = eventually("a warning is sent", told, |told| !told.is_empty()).await;
        assert_eq!(
            (&told_once[0].json()["type"], &told_once[0].json()["data"]["deletion_request"]),
            (&json!("deletion_request.deadline_approaching"), &json!(id))
        );
        let near_due = async || gauge(&service, "forgetd_deletion_requests_near_due").await;
        eventually("it is counted", near_due, |value| value.as_deref() == Some("1")).await;
        let overdue = gauge(&service, "forgetd_deletion_requests_overdue").await;
        assert_eq!(overdue.as_deref(), Some("0"));

        let extension = format!("/v1/deletion-requests/{id}/extension");
        let extend = async |due_by: Timestamp| {
            let body = json!({"due_by": due_by, "reason": "number_of_requests"});
            service.post(&extension, &body).await
        };
        for refused in [due_by, due_by.plus(DAY * 61)] {
            let refused = extend(refused).await;
            assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:#?}");
            assert_eq!(refused.body["type"], "urn:forgetd:problem:invalid-deadline");
        }
        let wordy = json!({"due_by": due_by.plus(DAY), "reason": "person-2 moved"});
        let wordy = service.post(&extension, &wordy).await;
        assert_eq!(wordy.status, StatusCode::UNPROCESSABLE_ENTITY, "no free text");
        let moved = due_by.plus(DAY * 60);
        let extended = extend(moved).await;
        assert_eq!(extended.status, StatusCode::OK, "{extended:#?}");
        assert_eq!(time(&extended.body, "/due_by"), moved);
        assert_eq!(time(&extended.body, "/first_due_by"), due_by);
        let again = extend(moved.plus(DAY)).await;
        assert_eq!(again.body["type"], "urn:forgetd:problem:extensions-exhausted");
        let told_twice = eventually("it is told", told, |told| told.len() >= 2).await;
        let data = &told_twice[1].json()["data"];
        assert_eq!(data["reason"], "number_of_requests");
        assert_eq!((time(data, "/previous_due_by"), time(data, "/due_by")), (due_by, moved));
        eventually("it is near no more", near_due, |value| value.as_deref() == Some("0")).await;

        let approval = format!("/v1/deletion-requests/{id}/approval");
        assert_eq!(service.post(&approval, &json!({})).await.status, StatusCode::OK);
        service.request_becomes(id, "completed").await;
        let late = extend(moved.plus(DAY)).await;
        assert_eq!(late.status, StatusCode::CONFLICT);
        assert_eq!(late.body["type"], "urn:forgetd:problem:not-extendable");
        assert_eq!(receiver.received().len(), 2, "each once, by two workers");
        it_is_certified(&service, id, (due_by, moved)).await;
    }
}

async fn it_is_certified(service: &Service, id: &str, (before, after): (Timestamp, Timestamp)) {
    let certificate = service.get(&path_of(id)).await.body;
    let request = field(&certificate, "/statement/request");
    assert_eq!(request["due_by"], json!(after));
    assert_eq!(field(request, "/extensions/0/previous_due_by"), &json!(before));
    assert_eq!(field(request, "/extensions/0/reason"), "number_of_requests");
    let key = log_key(service).await;
    let file = write(service, "certificate.json", &certificate.to_string());
    let file = file.to_str().unwrap();
    let verdict = verify(&[file, "--key", &key]);
    assert!(verdict.holds, "{verdict:#?}");
    let mut forged = certificate.clone();
    forged["statement"]["request"]["extensions"] = json!([]);
    let forged = write(service, "forged.json", &forged.to_string());
    let verdict = verify(&[forged.to_str().unwrap(), "--key", &key]);
    assert_eq!(verdict.failed(), ["statement.request.extensions"], "{verdict:#?}");
    let page = service.text(&path_of(id), "text/html").await;
    assert!(page.contains("Extended"), "{page}");
    let verdict = verify(&["--log", &format!("{}/audit", service.address), "--key", &key]);
    assert!(verdict.holds, "{verdict:#?}");
}
