//! Lists of hashed identifiers as California's DROP gives them, and identities by their hash.

use std::{path::PathBuf, process::Output};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use forgetd::domain::alias::AliasKind;
use reqwest::{Method, RequestBuilder, StatusCode, header::CONNECTION};
use serde_json::{Value, json};

use super::{
    Database, Service, eventually, field, opendsr, people,
    process::{Answer, answer, output_of},
};

pub fn email(subject: &str) -> String {
    format!("{subject}@Example.org")
}

/// The population, each with an e-mail address, and two with a phone in common.
pub fn population() -> String {
    let sample = |number: u32| {
        let split = if number < people::TRAINED { "train" } else { "holdout" };
        let mut sample = people::sample(number, split);
        let subject = people::subject_of(number);
        sample["aliases"] = json!({"email": email(&subject)});
        if ["person-8", "person-9"].contains(&subject.as_str()) {
            sample["aliases"]["phone"] = json!("+1 (415) 555-9317");
        }
        sample
    };
    people::ndjson((0..people::TRAINED + people::HELD_OUT).map(sample))
}

async fn trained(service: &Service, policy: &Value) {
    let created = service.post("/v1/models", &people::model(policy)).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
    let ingested = people::ingest(service, population()).await;
    assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
    people::train(service, "training").await;
    people::ready(service).await;
}

fn hash(kind: AliasKind, value: &str) -> String {
    BASE64_STANDARD.encode(kind.digest(value).unwrap().as_bytes())
}

fn list(hashes: &[String]) -> String {
    let lines = hashes.iter().enumerate().map(|(id, hash)| format!("w-{id},{hash}\n"));
    std::iter::once("ID,Hash\n".to_owned()).chain(lines).collect()
}

/// What `forgetd drop` printed, its report and what it left open.
struct Run {
    output: Output,
    report: String,
    open: String,
}

fn run(service: &Service, kind: &str, list: &str) -> Run {
    let path = |name: &str| service.folder().join(name);
    let paths: [PathBuf; 3] = ["list.csv", "report.csv", "open.csv"].map(path);
    std::fs::write(&paths[0], list).unwrap();
    for old in &paths[1..] {
        let _ = std::fs::remove_file(old);
    }
    let mut command = service.command();
    command.args(["drop", "--list", kind, "--file"]).arg(&paths[0]);
    command.arg("--report").arg(&paths[1]).arg("--open").arg(&paths[2]);
    let output = output_of(&mut command);
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    Run { output, report: read(&paths[1]), open: read(&paths[2]) }
}

fn assert_ran(run: &Run) {
    assert!(run.output.status.success(), "{}", String::from_utf8_lossy(&run.output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_matched_deleted_and_reported() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        trained(&service, &people::unsettled()).await;
        let gone = people::forget(&service, &["person-3"]).await;
        service.request_becomes(&gone, "completed").await;
        let of = |subject: &str| hash(AliasKind::Email, &email(subject));
        let hashes = [of("person-1"), of("nobody"), of("person-3"), of("PERSON-2")];
        let first = run(&service, "email", &list(&hashes));
        assert_ran(&first);
        assert_eq!(first.report, "Id,Status\nw-1,5\nw-2,3\n");
        let waits = "waiting for its deletion";
        assert_eq!(first.open, format!("Id,Reason\nw-0,{waits}\nw-3,{waits}\n"));

        let done = eventually(
            "all of the list is certain",
            async || run(&service, "email", &list(&hashes)).report,
            |report| report.lines().count() == 5,
        )
        .await;
        assert_eq!(done, "Id,Status\nw-0,3\nw-1,5\nw-2,3\nw-3,3\n");
        let requests = service.pages("/v1/deletion-requests").await;
        assert_eq!(requests.len(), 2, "running it again asked for nothing more: {requests:#?}");

        let shared = hash(AliasKind::Phone, "4155559317");
        let shared = run(&service, "phone", &list(&[shared, hash(AliasKind::Phone, "123")]));
        assert_ran(&shared);
        assert_eq!(shared.report, "Id,Status\nw-1,5\n");
        assert_eq!(shared.open, "Id,Reason\nw-0,shared by several subjects\n");
        assert!(!service.log().contains("Example.org"));

        // Whoever was deleted does not come back under another name.
        let mut sample = people::sample(0, "train");
        sample["sample_id"] = json!("new");
        sample["subject_id"] = json!("somebody-else");
        sample["aliases"] = json!({"email": email("person-1")});
        let refused = people::ingest(&service, people::ndjson([sample].into_iter())).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{refused:#?}");
        assert_eq!(field(&refused.body, "/line"), 1);
    }
}

async fn post_list(service: &Service, query: &str, key: Option<&str>, list: String) -> Answer {
    let request = service.request(Method::POST, &format!("/v1/drop-lists?{query}"));
    let request = key.into_iter().fold(request, RequestBuilder::bearer_auth);
    answer(request.header("content-type", "text/csv").body(list)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_by_rest_is_the_same_as_by_the_command_line() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        trained(&service, &people::unsettled()).await;
        let of = |subject: &str| hash(AliasKind::Email, &email(subject));
        let hashes = list(&[of("person-1"), of("nobody"), of("person-2")]);
        let first = post_list(&service, "list=email", None, hashes.clone()).await;
        assert_eq!(first.status, StatusCode::OK, "{first:#?}");
        assert_eq!(first.body["report"], json!([{"id": "w-1", "status": 5}]));
        let waits = "waiting for its deletion";
        let open = json!([{"id": "w-0", "reason": waits}, {"id": "w-2", "reason": waits}]);
        assert_eq!(first.body["open"], open);
        let done = eventually(
            "all of the list is certain",
            async || post_list(&service, "list=email", None, hashes.clone()).await.body,
            |body| body["open"] == json!([]),
        )
        .await;
        let answers = json!([
            {"id": "w-0", "status": 3}, {"id": "w-1", "status": 5}, {"id": "w-2", "status": 3},
        ]);
        assert_eq!(done["report"], answers);
        assert_eq!(service.pages("/v1/deletion-requests").await.len(), 1, "asked for once");
        let csv = service.request(Method::POST, "/v1/drop-lists?list=email");
        let csv = csv.header("content-type", "text/csv").header("accept", "text/csv");
        let csv = csv.body(hashes.clone()).send().await.unwrap();
        assert!(csv.headers()["content-type"].to_str().unwrap().starts_with("text/csv"));
        assert_eq!(csv.text().await.unwrap(), "Id,Status\nw-0,3\nw-1,5\nw-2,3\n");
        assert_eq!(run(&service, "email", &hashes).report, "Id,Status\nw-0,3\nw-1,5\nw-2,3\n");
        let shared = list(&[hash(AliasKind::Phone, "4155559317")]);
        let query = format!("list=phone&model={}", people::MODEL);
        let shared = post_list(&service, &query, None, shared).await;
        assert_eq!(shared.body["open"][0]["reason"], "shared by several subjects");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_by_rest_needs_a_scope_and_is_refused_whole() {
    let service = Service::start(Database::Sqlite).await;
    trained(&service, &people::unsettled()).await;
    let good = list(&[hash(AliasKind::Email, &email("person-1"))]);
    for (query, body, status) in [
        ("list=fax", good.clone(), StatusCode::BAD_REQUEST),
        ("", good.clone(), StatusCode::BAD_REQUEST),
        ("list=email&model=none", good.clone(), StatusCode::NOT_FOUND),
        ("list=email", "x".repeat(5 << 20), StatusCode::PAYLOAD_TOO_LARGE),
        ("list=email", "ID\n1\n".into(), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let refused = post_list(&service, query, None, body).await;
        assert_eq!(refused.status, status, "{query} {:#}", refused.body);
        // The rest of the body was not read, and would stand before the next request.
        let closes = refused.headers.get(CONNECTION).is_some_and(|value| value == "close");
        assert_eq!(closes, status == StatusCode::PAYLOAD_TOO_LARGE, "{query}");
    }
    let broken = format!("{good}w-1,person-1@example.org\n");
    let broken = post_list(&service, "list=email", None, broken).await;
    assert_eq!(broken.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!((&broken.body["line"], &broken.body["column"]), (&json!(3), &json!("Hash")));
    assert!(!broken.body.to_string().contains("person-1"), "{:#}", broken.body);
    let typed = service.post("/v1/drop-lists?list=email", &json!({})).await;
    assert_eq!(typed.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(service.pages("/v1/deletion-requests").await.is_empty());

    let key = |scope: &str| {
        let body = json!({"name": scope, "scopes": [scope], "samples_per_day": 1});
        let made = service.request(Method::POST, "/v1/api-keys").json(&body);
        async move { field(&answer(made).await.body, "/secret").as_str().unwrap().to_owned() }
    };
    let (deleting, auditing) = (key("delete").await, key("audit").await);
    let mut service = service;
    service.kill();
    service.restart().await;
    for (key, status) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some(auditing.as_str()), StatusCode::FORBIDDEN),
        // Three samples, and it may have one deleted a day.
        (Some(deleting.as_str()), StatusCode::TOO_MANY_REQUESTS),
    ] {
        let refused = post_list(&service, "list=email", key, good.clone()).await;
        assert_eq!(refused.status, status, "{:#}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_list_names_its_line_and_changes_nothing() {
    let service = Service::start(Database::Sqlite).await;
    trained(&service, &people::unsettled()).await;
    let good = hash(AliasKind::Email, &email("person-1"));
    let broken = run(&service, "email", &list(&[good, "person-1@example.org".into()]));
    assert!(!broken.output.status.success());
    let said = String::from_utf8_lossy(&broken.output.stderr).into_owned();
    assert!(said.contains("line 3") && said.contains("Hash"), "{said}");
    assert!(!said.contains("person-1"), "{said}");
    assert_eq!(broken.report, "");
    assert!(service.pages("/v1/deletion-requests").await.is_empty());
    let other = run(&service, "fax", &list(&[]));
    assert!(String::from_utf8_lossy(&other.output.stderr).contains("name_vin"));
    let nothing = run(&service, "ndz", &list(&[]));
    assert_ran(&nothing);
    assert_eq!(nothing.report, "Id,Status\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_refuses_is_exempted() {
    let service = Service::start(Database::Sqlite).await;
    let mut policy = people::unsettled();
    policy["approval_above_share"] = json!(0.001);
    trained(&service, &policy).await;
    let list = list(&[hash(AliasKind::Email, &email("person-1"))]);
    for _ in 0..2 {
        let suspended = run(&service, "email", &list);
        assert_ran(&suspended);
        assert_eq!(suspended.report, "Id,Status\n");
    }
    let requests = service.pages("/v1/deletion-requests").await;
    assert_eq!(requests.len(), 1, "one waits for its approval already");
    let id = requests[0]["id"].as_str().unwrap();
    let refused = service.post(&format!("/v1/deletion-requests/{id}/refusal"), &json!({})).await;
    assert_eq!(refused.status, StatusCode::OK, "{refused:#?}");
    assert_eq!(run(&service, "email", &list).report, "Id,Status\nw-0,2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn opendsr_names_subjects_by_their_aliases() {
    for database in Database::ALL {
        let service = opendsr::start_with_aliases(database).await;
        trained(&service, &people::unsettled()).await;
        let discovery = service.get("/opendsr/v2/discovery").await.body;
        assert_eq!(
            discovery["supported_identities"],
            json!([
                {"identity_type": "controller_customer_id", "identity_format": "raw"},
                {"identity_type": "email", "identity_format": "raw"},
                {"identity_type": "email", "identity_format": "sha256"},
            ])
        );
        let digest = AliasKind::Email.digest(&email("person-2")).unwrap().to_string();
        let cases = [
            ("a7551968-d5d6-44b2-9831-815ac9017798", "raw", email("person-1"), 3),
            ("b7551968-d5d6-44b2-9831-815ac9017798", "sha256", digest, 3),
            ("c7551968-d5d6-44b2-9831-815ac9017798", "raw", email("nobody"), 0),
        ];
        for (id, format, value, samples) in cases {
            let created = post(&service, id, format, &value).await;
            assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
            let path = format!("/opendsr/v2/requests/{id}");
            let done = eventually(
                "the subject request is completed",
                async || service.get(&path).await.body,
                |body| body["request_status"] == "completed",
            )
            .await;
            assert_eq!(done["results_count"], samples, "{done:#}");
        }
        let refused = post(&service, "d7551968-d5d6-44b2-9831-815ac9017798", "raw", "person").await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(!refused.body.to_string().contains("person"), "{:#}", refused.body);
    }
}

async fn post(service: &Service, id: &str, format: &str, value: &str) -> Answer {
    let mut body = opendsr::erasure(id, &[value]);
    body["subject_identities"][0]["identity_type"] = json!("email");
    body["subject_identities"][0]["identity_format"] = json!(format);
    answer(service.request(Method::POST, "/opendsr/v2/requests").json(&body)).await
}
