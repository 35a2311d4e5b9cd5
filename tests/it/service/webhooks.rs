//! Webhooks of the running service: made over REST, told over HTTP, never beyond their reach.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Database, Service,
    certificate::{log_key, verify},
    eventually, field, people,
    process::answer,
};
use crate::receiver::{Received, Receiver, Reply};

const WEBHOOKS: &str = "/v1/webhooks";

/// A service that may tell receivers on loopback.
async fn service(database: Database) -> Service {
    let environment = [
        ("FORGETD_WEBHOOKS__HTTP_ALLOWED", "true"),
        ("FORGETD_WEBHOOKS__ALLOWED_NETWORKS", "[\"127.0.0.1/32\"]"),
        ("FORGETD_WEBHOOKS__TIMEOUT_S", "3"),
        ("FORGETD_TELEMETRY__LOG", "debug,forgetd=trace,hyper_util=trace"),
    ];
    Service::start_with(database, &environment, &[]).await
}

/// Makes a webhook; returns its path and its secret.
async fn make(service: &Service, url: &str) -> (String, String) {
    let made = service.post(WEBHOOKS, &json!({"name": "test", "url": url})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:#?}");
    let path = made.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(path, format!("{WEBHOOKS}/{}", field(&made.body, "/id").as_str().unwrap()));
    (path, field(&made.body, "/secret").as_str().unwrap().to_owned())
}

async fn received(receiver: &Receiver, count: usize) -> Vec<Received> {
    let all = async || receiver.received();
    eventually("it is told", all, |received| received.len() >= count).await
}

/// Waits until the newest message to the webhook fits.
async fn message_becomes(service: &Service, webhook: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let path = format!("{webhook}/messages?limit=1");
    let newest = async || field(&service.get(&path).await.body, "/items/0").clone();
    eventually("the message gets on", newest, fits).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_deletion_is_told_and_signed() {
    for database in Database::ALL {
        let receiver = Receiver::start(|_, _| Reply::Status(204)).await;
        let service = service(database).await;
        people::trained(&service, &people::unsettled()).await;
        let (path, secret) = make(&service, &receiver.url()).await;
        let id = people::forget(&service, &["person-1"]).await;
        service.request_becomes(&id, "completed").await;

        let told = received(&receiver, 4).await;
        let mut types: Vec<_> = told.iter().map(|it| it.json()["type"].clone()).collect();
        types.sort_unstable_by_key(ToString::to_string);
        let expected = [
            "deletion_request.completed",
            "deletion_request.queued",
            "deletion_request.unlearning",
            "version.published",
        ];
        assert_eq!(types, expected);
        for message in &told {
            assert!(message.is_signed_with(&secret), "{message:#?}");
            assert!(!message.is_signed_with("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
            assert!(!message.body.contains("person-"), "{}", message.body);
            let of_request = message.json()["data"]["deletion_request"] == id.as_str();
            assert!(of_request || message.json()["type"] == "version.published");
            assert_eq!(message.json()["data"]["model"], people::MODEL);
        }
        let mut ids: Vec<_> = told.iter().map(|it| it.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4);

        // For a day both secrets sign.
        let rotated = service.post(&format!("{path}/rotation"), &json!({})).await;
        assert_eq!(rotated.status, StatusCode::OK, "{rotated:#?}");
        let renewed = field(&rotated.body, "/secret").as_str().unwrap();
        let message = format!("{path}/messages/{}/redelivery", ids[0]);
        let again = service.post(&message, &json!({})).await;
        assert_eq!(again.status, StatusCode::ACCEPTED, "{again:#?}");
        let told = received(&receiver, 5).await;
        assert_eq!(told[4].id, ids[0], "the same message");
        assert!(told[4].is_signed_with(renewed) && told[4].is_signed_with(&secret));

        let read = service.get(&path).await.body;
        assert!(field(&read, "/delivered_at").is_string(), "{read:#}");
        let page = service.get(WEBHOOKS).await.body;
        assert_eq!(field(&page, "/items").as_array().unwrap().len(), 1);
        assert!(!page.to_string().contains("whsec_"));
        nothing_tells(&service, &[&secret, renewed]).await;
        let (log, key) = (format!("{}/audit", service.address), log_key(&service).await);
        let verdict = verify(&["--log", &log, "--key", &key]);
        assert!(verdict.holds, "{verdict:#?}");
    }
}

/// No log line and no file of the data folder holds a secret, in whatever form.
async fn nothing_tells(service: &Service, secrets: &[&str]) {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let log = service.log();
    let metrics = service.text("/metrics", "*/*").await;
    let mut files = Vec::new();
    let mut folders = vec![service.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 3, "{files:?}");
    for secret in secrets {
        let text = secret.strip_prefix("whsec_").unwrap();
        let raw = BASE64_STANDARD.decode(text).unwrap();
        let hex = hex::encode(&raw);
        for words in [&log, &metrics] {
            assert!(!words.contains(text) && !words.contains(&hex));
        }
        for file in &files {
            let bytes = std::fs::read(file).unwrap();
            for pattern in [text.as_bytes(), &raw, hex.as_bytes()] {
                let found = memchr::memmem::find(&bytes, pattern);
                assert_eq!(found, None, "{}", file.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_receiver_is_tried_again_and_one_that_is_gone_is_left_alone() {
    for database in Database::ALL {
        let receiver = Receiver::start(|nth, _| Reply::Status(if nth == 0 { 500 } else { 200 }));
        let receiver = receiver.await;
        let service = service(database).await;
        people::trained(&service, &people::unsettled()).await;
        let body = json!({
            "name": "test", "url": receiver.url(), "event_types": ["deletion_request.rejected"],
            "models": [people::MODEL],
        });
        let made = service.post(WEBHOOKS, &body).await;
        let path = made.headers["location"].to_str().unwrap().to_owned();
        people::forget(&service, &["nobody"]).await;
        let failed = message_becomes(&service, &path, |it| it["attempts"] == 1).await;
        assert_eq!((&failed["state"], &failed["last_status"]), (&json!("pending"), &json!(500)));
        assert_eq!(failed["last_failure"], "refused");
        let delivered = message_becomes(&service, &path, |it| it["state"] == "delivered").await;
        assert_eq!((&delivered["attempts"], &delivered["last_failure"]), (&json!(2), &Value::Null));
        let told = receiver.received();
        assert_eq!((told.len(), &told[0].id), (2, &told[1].id));
        assert_eq!(told[0].json(), failed["payload"]);

        receiver.answer(|_, _| Reply::Status(410));
        people::forget(&service, &["nobody else"]).await;
        let disabled = eventually(
            "the webhook is disabled",
            async || service.get(&path).await.body,
            |webhook| webhook["disabled_at"].is_string(),
        )
        .await;
        assert_eq!(disabled["disabled_reason"], "gone");
        let metrics = service.text("/metrics", "*/*").await;
        let counted = "forgetd_webhooks_disabled_total{reason=\"gone\"} 1";
        assert!(metrics.contains(counted), "{metrics}");
        people::forget(&service, &["nobody at all"]).await;
        let messages = service.get(&format!("{path}/messages")).await.body;
        assert_eq!(field(&messages, "/items").as_array().unwrap().len(), 2, "nothing more");

        receiver.answer(|_, _| Reply::Status(200));
        let active = service.post(&format!("{path}/activation"), &json!({})).await;
        assert_eq!((active.status, &active.body["disabled_at"]), (StatusCode::OK, &Value::Null));
        people::forget(&service, &["nobody again"]).await;
        message_becomes(&service, &path, |it| it["state"] == "delivered").await;
        let events = service.pages("/v1/audit/events").await;
        for kind in ["webhook.created", "webhook.disabled", "webhook.activated"] {
            let of_kind = events.iter().filter(|it| it["entry"].as_str().unwrap().contains(kind));
            assert_eq!(of_kind.count(), 1, "{kind}");
        }

        let gone = service.delete(&path).await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT);
        assert_eq!(service.get(&path).await.status, StatusCode::NOT_FOUND);
        let messages = service.get(&format!("{path}/messages")).await;
        assert_eq!(messages.body["type"], "urn:forgetd:problem:unknown-webhook");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_was_telling_is_told_after_its_restart() {
    for database in Database::ALL {
        let receiver = Receiver::start(|_, _| Reply::Silence).await;
        let mut service = service(database).await;
        people::trained(&service, &people::unsettled()).await;
        let (path, secret) = make(&service, &receiver.url()).await;
        people::forget(&service, &["nobody"]).await;
        received(&receiver, 1).await;
        service.kill();
        receiver.answer(|_, _| Reply::Status(200));
        service.restart().await;
        let delivered = message_becomes(&service, &path, |it| it["state"] == "delivered").await;
        let told = receiver.received();
        assert!(told.iter().all(|it| it.id == delivered["id"] && it.is_signed_with(&secret)));
        assert!(told.len() >= 2, "the answer to the first was never seen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_made_within_reach_only() {
    let service = service(Database::Sqlite).await;
    for url in [
        "http://10.0.0.1/",
        "https://10.0.0.1/",
        "https://127.0.0.2/",
        "https://192.168.1.1:8443/x",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[fd00::1]/",
        "https://[fe80::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[2002:a00:1::]/",
        "https://2130706434/",
        "https://0x7f.0.0.2/",
        "https://0177.0.0.2/",
        "https://user:password@example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "example.org",
        "https://example.org/#x",
    ] {
        let refused = service.post(WEBHOOKS, &json!({"name": "test", "url": url})).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{url}: {refused:#?}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.starts_with("`url` cannot be used: "), "{url}: {detail}");
        assert!(!detail.contains("password@"), "{detail}");
    }
    for (body, status) in [
        (json!({"name": "", "url": "https://example.org/"}), 422),
        (json!({"name": "x", "url": "https://example.org/", "event_types": []}), 422),
        (json!({"name": "x", "url": "https://example.org/", "event_types": ["no.such"]}), 422),
        (json!({"name": "x", "url": "https://example.org/", "models": []}), 422),
        (json!({"name": "x", "url": "https://example.org/", "models": ["unknown"]}), 404),
        (json!({"name": "x", "url": "https://example.org/", "secret": "mine"}), 422),
    ] {
        let refused = service.post(WEBHOOKS, &body).await;
        assert_eq!(refused.status.as_u16(), status, "{body}");
    }
    let (path, _) = make(&service, "https://example.org/").await;
    let change = json!({"name": "renamed", "url": "https://10.0.0.1/"});
    let change = answer(service.request(Method::PUT, &path).json(&change)).await;
    assert_eq!(change.status, StatusCode::UNPROCESSABLE_ENTITY);
    let change = json!({"name": "renamed", "url": "https://example.org/hooks"});
    let change = answer(service.request(Method::PUT, &path).json(&change)).await;
    assert_eq!((change.status, &change.body["name"]), (StatusCode::OK, &json!("renamed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_no_message() {
    const KILLS: u32 = 10;
    for database in Database::ALL {
        // Of what it hears of for the first time it refuses a seventh: once, since a second refusal
        // would put a message off for five minutes.
        let accepted = Arc::new(Mutex::new(HashSet::new()));
        let accepting = accepted.clone();
        let heard = Mutex::new(HashSet::new());
        let receiver = Receiver::start(move |_, message| {
            let mut heard = heard.lock().unwrap();
            if heard.insert(message.id.clone()) && heard.len() % 7 == 1 {
                return Reply::Status(500);
            }
            let id = message.json()["data"]["deletion_request"].as_str().unwrap().to_owned();
            accepting.lock().unwrap().insert(id);
            Reply::Status(200)
        });
        let receiver = receiver.await;
        let mut service = service(database).await;
        people::trained(&service, &people::unsettled()).await;
        make(&service, &receiver.url()).await;
        let mut rng = ChaCha8Rng::seed_from_u64(20);
        let mut rejected = Vec::new();
        for _ in 0..KILLS {
            for _ in 0..3 {
                rejected.push(people::forget(&service, &["nobody"]).await);
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..150))).await;
            service.kill();
            service.restart().await;
        }
        // Only what was answered 200 counts as told.
        let missing = async || {
            let accepted = accepted.lock().unwrap();
            rejected.iter().filter(|id| !accepted.contains(*id)).cloned().collect::<Vec<_>>()
        };
        eventually("every request is told of", missing, Vec::is_empty).await;
    }
}

/// The service ends in time though a receiver does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_receiver_does_not_hold_up_the_end() {
    let receiver = Receiver::start(|_, _| Reply::Silence).await;
    let mut service = service(Database::Sqlite).await;
    people::trained(&service, &people::unsettled()).await;
    make(&service, &receiver.url()).await;
    people::forget(&service, &["nobody"]).await;
    received(&receiver, 1).await;
    service.terminate();
    let ended = tokio::time::timeout(Duration::from_secs(15), service.ended()).await;
    assert!(ended.expect("within the time that a receiver has").success());
}
