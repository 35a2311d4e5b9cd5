//! Who may do what.

use std::process::Stdio;

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Database, Service, people, process::answer};

/// Makes a key with these scopes; returns its id and its secret.
fn make_key(service: &Service, scopes: &str) -> (String, String) {
    let made = service
        .command()
        .args(["keys", "add", "--name", "test", "--scope", scopes])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8(made.stdout).unwrap();
    let mut lines = text.lines().map(str::to_owned);
    (lines.next().unwrap(), lines.next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_what_its_scopes_say_and_nothing_else() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let (id, predict) = make_key(&service, "predict");
        let (_, delete) = make_key(&service, "delete");
        service.kill();
        service.restart().await;
        people_ready(&service, &predict).await;

        let infer = format!("/v2/models/{}/infer", people::MODEL);
        let post = |path: &str, key: Option<&str>, body: &serde_json::Value| {
            let request = service.request(Method::POST, path).json(body);
            answer(match key {
                Some(key) => request.bearer_auth(key),
                None => request,
            })
        };
        let row = people::prediction(0);
        let without = post(&infer, None, &row).await;
        assert_eq!(without.status, StatusCode::UNAUTHORIZED, "{without:#?}");
        assert!(without.headers.contains_key("www-authenticate"));
        assert_eq!(
            post(&infer, Some("forgetd_wrong"), &row).await.status,
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(post(&infer, Some(&predict), &row).await.status, StatusCode::OK);
        assert_eq!(post(&infer, Some(&delete), &row).await.status, StatusCode::FORBIDDEN);
        let deletion = json!({"model": people::MODEL, "subjects": ["person-1"]});
        let requests = "/v1/deletion-requests";
        assert_eq!(post(requests, Some(&predict), &deletion).await.status, StatusCode::FORBIDDEN);
        assert_eq!(post(requests, Some(&delete), &deletion).await.status, StatusCode::ACCEPTED);

        let revoked = service.command().args(["keys", "revoke", &id]).output().unwrap();
        assert!(revoked.status.success());
        super::eventually(
            "the revoked key is refused",
            async || post(&infer, Some(&predict), &row).await.status,
            |status| *status == StatusCode::UNAUTHORIZED,
        )
        .await;
    }
}

async fn people_ready(service: &Service, key: &str) {
    let path = format!("/v2/models/{}/ready", people::MODEL);
    super::eventually(
        "the model is ready",
        async || answer(service.request(Method::GET, &path).bearer_auth(key)).await.status,
        |status| *status == StatusCode::OK,
    )
    .await;
}

#[test]
fn without_keys_it_serves_on_loopback_only() {
    let folder = tempfile::tempdir().unwrap();
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_forgetd"))
        .args(["serve", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("loopback") && text.contains("keys add"), "{text}");
}
