//! OpenDSR 2.0, as a data controller sees it; signatures are verified by openssl.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Value, json};

use super::{Database, Service, eventually, field, people};
use crate::receiver::{Receiver, Reply};

const ID: &str = "a7551968-d5d6-44b2-9831-815ac9017798";
const OTHER: &str = "b7551968-d5d6-44b2-9831-815ac9017798";
const REQUESTS: &str = "/opendsr/v2/requests";

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/opendsr");
    folder.join(name).display().to_string()
}

/// With the façade on; a customer's id is a subject's.
async fn start(database: Database, arguments: &[&str]) -> Service {
    start_configured(database, &[], arguments).await
}

/// With e-mail addresses as aliases besides.
pub async fn start_with_aliases(database: Database) -> Service {
    start_configured(database, &[("FORGETD_OPENDSR__ALIASES", "[\"email\"]")], &[]).await
}

async fn start_configured(
    database: Database,
    more: &[(&str, &str)],
    arguments: &[&str],
) -> Service {
    let (certificate, key) = (fixture("processor.crt"), fixture("processor.key"));
    let environment = [
        ("FORGETD_OPENDSR__URL", "https://forgetd.test"),
        ("FORGETD_OPENDSR__CERTIFICATE", certificate.as_str()),
        ("FORGETD_OPENDSR__KEY", key.as_str()),
    ];
    Service::start_with(database, &[&environment, more].concat(), arguments).await
}

pub fn erasure(id: &str, subjects: &[&str]) -> Value {
    let identity = |subject: &&str| {
        json!({
            "identity_type": "controller_customer_id",
            "identity_value": subject,
            "identity_format": "raw",
        })
    };
    json!({
        "regulation": "gdpr",
        "subject_request_id": id,
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-01T00:00:00Z",
        "subject_identities": subjects.iter().map(identity).collect::<Vec<_>>(),
        "api_version": "2.0",
    })
}

/// The answer, whose signature must be one of the certificate's that discovery names.
async fn ask(
    service: &Service,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> (StatusCode, HeaderMap, Value) {
    let mut request = service.request(method, path);
    if let Some(body) = body {
        request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(headers["x-opendsr-processor-domain"], "forgetd.test");
    let signature = BASE64_STANDARD.decode(&headers["x-opendsr-signature"]).unwrap();
    assert!(verifies(&service.folder().join("certificate.pem"), &bytes, &signature), "{path}");
    (status, headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Fetches the certificate to where `ask` looks for it.
async fn fetch_certificate(service: &Service) {
    let discovery = service.get("/opendsr/v2/discovery").await.body;
    assert_eq!(discovery["api_version"], "2.0");
    assert_eq!(discovery["supported_subject_request_types"], json!(["erasure"]));
    let supported = json!([
        {"identity_type": "controller_customer_id", "identity_format": "raw"},
    ]);
    assert_eq!(discovery["supported_identities"], supported);
    let address = field(&discovery, "/processor_certificate").as_str().unwrap();
    let path = address.strip_prefix("https://forgetd.test").unwrap();
    let certificate = service.text(path, "*/*").await;
    std::fs::write(service.folder().join("certificate.pem"), certificate).unwrap();
}

/// Whether `openssl dgst` finds the signature right.
fn verifies(certificate: &Path, body: &[u8], signature: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let [public, signed, said] = ["key.pub", "signature", "body"].map(|it| folder.path().join(it));
    let arguments = ["x509", "-pubkey", "-noout", "-in"];
    let key = Command::new("openssl").args(arguments).arg(certificate).output().unwrap();
    assert!(key.status.success());
    std::fs::write(&public, key.stdout).unwrap();
    std::fs::write(&signed, signature).unwrap();
    std::fs::write(&said, body).unwrap();
    Command::new("openssl")
        .args(["dgst", "-sha256", "-verify"])
        .arg(public)
        .arg("-signature")
        .args([signed, said])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

async fn status(service: &Service, id: &str) -> Value {
    let (status, _, body) = ask(service, Method::GET, &format!("{REQUESTS}/{id}"), None).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    body
}

async fn becomes(service: &Service, id: &str, wanted: &str) -> Value {
    eventually(
        &format!("subject request {id} becomes {wanted}"),
        async || status(service, id).await,
        |body| body["request_status"] == wanted,
    )
    .await
}

/// A second model of the same people.
async fn another_model(service: &Service) {
    let mut other = people::model(&people::unsettled());
    other["name"] = json!("other");
    assert_eq!(service.post("/v1/models", &other).await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_completed_and_every_answer_is_signed() {
    for database in Database::ALL {
        let service = start(database, &[]).await;
        people::trained(&service, &people::unsettled()).await;
        another_model(&service).await;
        fetch_certificate(&service).await;
        let body = erasure(ID, &["person-1", "person-2"]);
        let (created, _, receipt) = ask(&service, Method::POST, REQUESTS, Some(&body)).await;
        assert_eq!(created, StatusCode::CREATED, "{receipt:#}");
        assert_eq!(receipt["subject_request_id"], ID);
        let encoded = field(&receipt, "/encoded_request").as_str().unwrap();
        assert_eq!(BASE64_STANDARD.decode(encoded).unwrap(), body.to_string().as_bytes());
        assert_eq!(receipt["expected_completion_time"], "2026-12-01T00:00:00Z");

        let done = becomes(&service, ID, "completed").await;
        assert_eq!(done["results_count"], 6, "three samples each");
        let served = field(&done, "/extensions/forgetd.test/deletion_requests");
        let served = served.as_array().unwrap();
        assert_eq!(served.len(), 2, "one for each model: {served:?}");
        let of = |model: &str| served.iter().find(|it| it["model"] == model).unwrap();
        assert_eq!(of(people::MODEL)["state"], "completed");
        assert_eq!(of("other")["state"], "rejected", "it knows nobody");
        let id = of(people::MODEL)["id"].as_str().unwrap();
        let certificate = service.get(&format!("/v1/deletion-requests/{id}/certificate")).await;
        assert_eq!(certificate.status, StatusCode::OK, "{certificate:#?}");

        // The same again is the same request, also once it is done; another body is not.
        let (again, _, repeated) = ask(&service, Method::POST, REQUESTS, Some(&body)).await;
        assert_eq!(again, StatusCode::CREATED);
        assert_eq!(repeated, receipt);
        let changed = erasure(ID, &["person-3"]);
        let (refused, _, error) = ask(&service, Method::POST, REQUESTS, Some(&changed)).await;
        assert_eq!(refused, StatusCode::BAD_REQUEST);
        assert_eq!(field(&error, "/error/code"), 400);
        let late = format!("{REQUESTS}/{ID}");
        let (refused, _, error) = ask(&service, Method::DELETE, &late, None).await;
        assert_eq!(refused, StatusCode::BAD_REQUEST, "{error:#}");
        assert!(error.to_string().contains("completed"), "{error:#}");

        // Somebody unknown, and somebody who is gone already: there is nothing of them.
        for (id, subject) in
            [(OTHER, "nobody"), ("c7551968-d5d6-44b2-9831-815ac9017798", "person-1")]
        {
            let body = erasure(id, &[subject]);
            let (created, _, _) = ask(&service, Method::POST, REQUESTS, Some(&body)).await;
            assert_eq!(created, StatusCode::CREATED);
            let done = status(&service, id).await;
            assert_eq!(
                (&done["request_status"], &done["results_count"]),
                (&json!("completed"), &json!(0))
            );
        }
        assert!(!service.log().contains("person-1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_can_be_cancelled_and_an_earlier_request_is_waited_for() {
    for database in Database::ALL {
        // Nobody works on what is queued.
        let service = start(database, &["--role", "api"]).await;
        let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
        assert_eq!(created.status, StatusCode::CREATED);
        people::ingest(&service, people::population()).await;
        fetch_certificate(&service).await;
        let earlier = people::forget(&service, &["person-1"]).await;
        for (id, subject) in [(ID, "person-1"), (OTHER, "person-2")] {
            let body = erasure(id, &[subject]);
            let (created, _, error) = ask(&service, Method::POST, REQUESTS, Some(&body)).await;
            assert_eq!(created, StatusCode::CREATED, "{error:#}");
            assert_eq!(status(&service, id).await["request_status"], "pending");
        }
        let cancel =
            async |id: &str| ask(&service, Method::DELETE, &format!("{REQUESTS}/{id}"), None).await;
        let (refused, _, error) = cancel(ID).await;
        assert_eq!(refused, StatusCode::BAD_REQUEST, "the earlier request is another's: {error:#}");
        let (cancelled, _, body) = cancel(OTHER).await;
        assert_eq!(cancelled, StatusCode::ACCEPTED, "{body:#}");
        assert_eq!(body["subject_request_id"], OTHER);
        assert_eq!(status(&service, OTHER).await["request_status"], "cancelled");
        assert_eq!(cancel(OTHER).await.0, StatusCode::BAD_REQUEST);
        let withdrawn = service.delete(&format!("/v1/deletion-requests/{earlier}")).await;
        assert_eq!(withdrawn.status, StatusCode::OK);
        assert_eq!(
            status(&service, ID).await["request_status"],
            "cancelled",
            "what it counted on does not come"
        );
    }
}

/// Callbacks may go to loopback's first address, webhooks to its second.
const CALLBACKS: [(&str, &str); 4] = [
    ("FORGETD_CALLBACKS__HTTP_ALLOWED", "true"),
    ("FORGETD_CALLBACKS__ALLOWED_NETWORKS", "[\"127.0.0.1/32\"]"),
    ("FORGETD_WEBHOOKS__ALLOWED_NETWORKS", "[\"127.0.0.2/32\"]"),
    ("FORGETD_WEBHOOKS__TIMEOUT_S", "2"),
];

fn with_callback(mut body: Value, url: &str) -> Value {
    body["status_callback_urls"] = json!([url]);
    body
}

/// The statuses that were told, in their order; each must be signed and about this request.
async fn told(service: &Service, receiver: &Receiver, id: &str, count: usize) -> Vec<String> {
    let all = async || {
        let all = receiver.received().into_iter();
        all.filter(|it| it.json()["subject_request_id"] == id).collect::<Vec<_>>()
    };
    let told = eventually("the callbacks come", all, |received| received.len() >= count).await;
    let certificate = service.folder().join("certificate.pem");
    let statuses = told.iter().map(|it| {
        let signature = BASE64_STANDARD.decode(&it.processor_signature).unwrap();
        assert!(verifies(&certificate, it.body.as_bytes(), &signature), "{it:#?}");
        assert!(it.signature.is_empty() && !it.body.contains("person-"), "{it:#?}");
        let body = it.json();
        assert_eq!(body["status_callback_url"], receiver.url());
        assert!(field(&body, "/controller_id").is_string(), "{body:#}");
        assert!(field(&body, "/expected_completion_time").is_string(), "{body:#}");
        body["request_status"].as_str().unwrap().to_owned()
    });
    statuses.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_status_is_called_back_and_signed() {
    for database in Database::ALL {
        // The first attempt fails, and is made again.
        let receiver =
            Receiver::start(|nth, _| Reply::Status(if nth == 0 { 500 } else { 200 })).await;
        let service = start_configured(database, &CALLBACKS, &[]).await;
        people::trained(&service, &people::unsettled()).await;
        fetch_certificate(&service).await;
        for id in [OTHER, OTHER] {
            let body = with_callback(erasure(id, &["nobody"]), &receiver.url());
            let (created, _, error) = ask(&service, Method::POST, REQUESTS, Some(&body)).await;
            assert_eq!(created, StatusCode::CREATED, "{error:#}");
        }
        assert_eq!(told(&service, &receiver, OTHER, 2).await, ["completed", "completed"]);

        let body = with_callback(erasure(ID, &["person-1"]), &receiver.url());
        let (created, _, error) = ask(&service, Method::POST, REQUESTS, Some(&body)).await;
        assert_eq!(created, StatusCode::CREATED, "{error:#}");
        becomes(&service, ID, "completed").await;
        assert_eq!(told(&service, &receiver, ID, 2).await, ["in_progress", "completed"]);
        assert!(!service.log().contains(&receiver.url()), "an address may be a secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_is_called_back_by_another_process_and_addresses_have_a_reach() {
    for database in Database::ALL {
        let receiver = Receiver::start(|_, _| Reply::Status(200)).await;
        // Nobody works, nor calls back.
        let service = start_configured(database, &CALLBACKS, &["--role", "api"]).await;
        let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
        assert_eq!(created.status, StatusCode::CREATED);
        people::ingest(&service, people::population()).await;
        fetch_certificate(&service).await;
        for url in ["https://10.0.0.1/", "http://127.0.0.2/person-1", "ftp://example.org/"] {
            let body = with_callback(erasure(ID, &["person-1"]), url);
            let (refused, _, error) = ask(&service, Method::POST, REQUESTS, Some(&body)).await;
            assert_eq!(refused, StatusCode::BAD_REQUEST, "{url}");
            assert!(!error.to_string().contains("person-1"), "{error:#}");
        }
        let body = with_callback(erasure(ID, &["person-1"]), &receiver.url());
        let (created, _, error) = ask(&service, Method::POST, REQUESTS, Some(&body)).await;
        assert_eq!(created, StatusCode::CREATED, "{error:#}");
        let path = format!("{REQUESTS}/{ID}");
        let (cancelled, _, _) = ask(&service, Method::DELETE, &path, None).await;
        assert_eq!(cancelled, StatusCode::ACCEPTED);
        assert!(receiver.received().is_empty());
        let worker = service.beside(&["--role", "worker"]).await;
        assert_eq!(told(&service, &receiver, ID, 1).await, ["cancelled"]);
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_specifications_form_and_repeat_no_identity() {
    let service = start(Database::Sqlite, &[]).await;
    fetch_certificate(&service).await;
    let mut refusals = Vec::new();
    for kind in ["access", "portability", "person-1"] {
        let mut body = erasure(ID, &["person-1"]);
        body["subject_request_type"] = json!(kind);
        refusals.push(ask(&service, Method::POST, REQUESTS, Some(&body)).await);
    }
    let mut hashed = erasure(ID, &["person-1"]);
    hashed["subject_identities"][0]["identity_format"] = json!("sha256");
    refusals.push(ask(&service, Method::POST, REQUESTS, Some(&hashed)).await);
    let mut number = erasure(ID, &["person-1"]);
    number["subject_identities"][0]["identity_value"] = json!(17_171_717);
    refusals.push(ask(&service, Method::POST, REQUESTS, Some(&number)).await);
    refusals.push(ask(&service, Method::POST, REQUESTS, Some(&json!({}))).await);
    for (status, headers, body) in &refusals {
        assert_eq!(*status, StatusCode::BAD_REQUEST, "{body:#}");
        assert!(headers[CONTENT_TYPE].to_str().unwrap().starts_with("application/json"));
        assert_eq!(field(body, "/error/code"), 400);
        assert!(field(body, "/error/errors/0/message").is_string());
        let text = body.to_string();
        assert!(!text.contains("person-1") && !text.contains("17171717"), "{text}");
    }
    let (unknown, _, body) = ask(&service, Method::GET, &format!("{REQUESTS}/{ID}"), None).await;
    assert_eq!((unknown, field(&body, "/error/code")), (StatusCode::NOT_FOUND, &json!(404)));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_every_path_says_that_it_is_off() {
    let service = Service::start(Database::Sqlite).await;
    for path in ["/opendsr/v2/discovery", "/opendsr/v2/certificate.pem"] {
        let answer = service.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(field(&answer.body, "/error/errors/0/reason"), "opendsr-off");
        assert!(!answer.headers.contains_key("x-opendsr-signature"));
    }
    let answer = service.post(REQUESTS, &erasure(ID, &["person-1"])).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}
