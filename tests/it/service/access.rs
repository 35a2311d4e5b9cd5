//! Who may do what.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Database, Service,
    certificate::{log_key, verify},
    field, people,
    process::{Answer, answer, does_not_start, output_of},
};

/// Makes a key with these scopes; returns its id and its secret.
fn make_key(service: &Service, scopes: &str) -> (String, String) {
    let made = keys(service, &["add", "--name", "test", "--scope", scopes]);
    let (id, secret) = made.trim().split_once('\n').unwrap();
    (id.to_owned(), secret.to_owned())
}

/// What a command about keys prints.
fn keys(service: &Service, arguments: &[&str]) -> String {
    let done = output_of(service.command().arg("keys").args(arguments));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
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

        let rotated = keys(&service, &["rotate", &id]);
        let (same, secret) = rotated.trim().split_once('\n').unwrap();
        assert_eq!(same, id);
        super::eventually(
            "the key's secret is another",
            async || post(&infer, Some(&predict), &row).await.status,
            |status| *status == StatusCode::UNAUTHORIZED,
        )
        .await;
        let predict = secret.to_owned();
        assert_eq!(post(&infer, Some(&predict), &row).await.status, StatusCode::OK);

        let revoked = output_of(service.command().args(["keys", "revoke", &id]));
        assert!(revoked.status.success());
        super::eventually(
            "the revoked key is refused",
            async || post(&infer, Some(&predict), &row).await.status,
            |status| *status == StatusCode::UNAUTHORIZED,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_with_their_limits_and_never_their_secrets() {
    let service = Service::start(Database::Sqlite).await;
    let limits = ["--requests-per-minute", "60", "--samples-per-day", "100"];
    let made = ["add", "--name", "intake", "--scope", "delete", "--scope", "predict"];
    let limited = keys(&service, &[&made[..], &limits].concat());
    let (limited, secret) = limited.trim().split_once('\n').unwrap();
    let (free, _) = make_key(&service, "admin");
    keys(&service, &["revoke", &free]);

    let list = keys(&service, &["list"]);
    let [first, second] = list.lines().collect::<Vec<_>>().try_into().unwrap();
    let shown = "60 requests per minute, 100 samples per day  live  intake";
    assert!(first.starts_with(limited) && first.ends_with(shown), "{first}");
    assert!(first.contains("predict") && first.contains("delete"), "{first}");
    assert!(
        second.starts_with(&*free) && second.contains("admin  no limits  revoked "),
        "{second}"
    );
    assert!(!list.contains(secret));

    let unknown = output_of(service.command().args(["keys", "rotate", &free]));
    assert!(!unknown.status.success());
    let error = String::from_utf8(unknown.stderr).unwrap();
    assert!(error.contains("there is no live key"), "{error}");
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

/// A service that asks for keys, and the secret of one for everything.
async fn guarded(database: Database) -> (Service, String) {
    let mut service = Service::start(database).await;
    let (_, admin) = make_key(&service, "admin");
    service.kill();
    service.restart().await;
    (service, admin)
}

async fn send(service: &Service, key: &str, method: Method, path: &str, body: &Value) -> Answer {
    answer(service.request(method, path).bearer_auth(key).json(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_rotated_and_revoked_over_http() {
    for database in Database::ALL {
        let (service, admin) = guarded(database).await;
        let keys = "/v1/api-keys";
        let new = json!({"name": "auditor", "scopes": ["audit"]});
        let made = send(&service, &admin, Method::POST, keys, &new).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:#?}");
        let secret = field(&made.body, "/secret").as_str().unwrap().to_owned();
        let path = format!("{keys}/{}", field(&made.body, "/id").as_str().unwrap());
        assert_eq!(made.headers["location"], path.as_str());
        let read = async |secret: &str| {
            let request = service.request(Method::GET, "/v1/models").bearer_auth(secret);
            answer(request).await.status
        };
        assert_eq!(read(&secret).await, StatusCode::OK);
        let own = send(&service, &secret, Method::POST, keys, &new).await;
        assert_eq!(own.status, StatusCode::FORBIDDEN, "only administrators make keys");

        let (rotation, nothing) = (format!("{path}/rotation"), json!({}));
        let rotated = send(&service, &admin, Method::POST, &rotation, &nothing).await;
        assert_eq!(rotated.status, StatusCode::OK, "{rotated:#?}");
        let renewed = field(&rotated.body, "/secret").as_str().unwrap().to_owned();
        assert_ne!(renewed, secret);
        assert_eq!(read(&secret).await, StatusCode::UNAUTHORIZED, "at once");
        assert_eq!(read(&renewed).await, StatusCode::OK);

        let first = format!("{keys}?limit=1");
        let page = send(&service, &admin, Method::GET, &first, &nothing).await.body;
        assert_eq!(field(&page, "/items").as_array().unwrap().len(), 1);
        let cursor = field(&page, "/next_cursor").as_str().unwrap();
        let rest = format!("{keys}?cursor={cursor}");
        let rest = send(&service, &admin, Method::GET, &rest, &nothing).await.body;
        assert_eq!(field(&rest, "/items/0/name"), "auditor");
        assert!(!rest.to_string().contains("secret") && !rest.to_string().contains("hash"));

        let revoked = send(&service, &admin, Method::DELETE, &path, &nothing).await;
        assert!(field(&revoked.body, "/revoked_at").is_string(), "{revoked:#?}");
        assert_eq!(read(&renewed).await, StatusCode::UNAUTHORIZED, "at once");
        let again = send(&service, &admin, Method::DELETE, &path, &nothing).await;
        assert_eq!(again.status, StatusCode::NOT_FOUND);
        for bad in [
            json!({"name": "", "scopes": ["audit"]}),
            json!({"name": "x", "scopes": []}),
            json!({"name": "x\u{0}", "scopes": ["audit"]}),
            json!({"name": "x", "scopes": ["audit", "audit", "audit", "audit", "audit"]}),
            json!({"name": "x", "scopes": ["audit"], "requests_per_minute": 0}),
        ] {
            let refused = send(&service, &admin, Method::POST, keys, &bad).await;
            assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_by_which_key_a_model_was_made_fed_and_trained() {
    for database in Database::ALL {
        let (service, admin) = guarded(database).await;
        let new = json!({"name": "platform", "scopes": ["admin"]});
        let made = send(&service, &admin, Method::POST, "/v1/api-keys", &new).await;
        let (id, key) = (field(&made.body, "/id"), field(&made.body, "/secret").as_str().unwrap());

        let mut model = people::model(&people::unsettled());
        model["recipe"]["epochs"] = json!(1_000);
        let created = send(&service, key, Method::POST, "/v1/models", &model).await;
        assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
        let of_model = |rest: &str| format!("/v1/models/{}/{rest}", people::MODEL);
        let samples = service.request(Method::POST, &of_model("samples")).bearer_auth(key);
        let samples = samples.header("content-type", "application/x-ndjson");
        let ingested = answer(samples.body(people::population())).await;
        assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
        let (runs, nothing) = (of_model("training-runs"), json!({}));
        let queued = send(&service, key, Method::POST, &runs, &nothing).await;
        let run = format!("{runs}/{}", field(&queued.body, "/id").as_str().unwrap());
        let cancelled = send(&service, key, Method::DELETE, &run, &nothing).await;
        assert!(cancelled.status.is_success(), "{cancelled:#?}");

        let page = send(&service, key, Method::GET, "/v1/audit/events?limit=200", &nothing).await;
        let entries = field(&page.body, "/items").as_array().unwrap().iter();
        let entries: Vec<Value> = entries
            .map(|event| serde_json::from_str(event["entry"].as_str().unwrap()).unwrap())
            .collect();
        for kind in ["model.created", "samples.ingested", "training.queued", "job.cancel_requested"]
        {
            let told: Vec<_> = entries.iter().filter(|entry| entry["kind"] == kind).collect();
            assert_eq!(told.len(), 1, "{kind}: {entries:#?}");
            assert_eq!(&told[0]["details"]["by"], id, "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_asks_too_fast_is_told_when_to_come_back() {
    let (service, admin) = guarded(Database::Sqlite).await;
    let new = json!({
        "name": "eager", "scopes": ["audit"], "requests_per_minute": 12
    });
    let made = send(&service, &admin, Method::POST, "/v1/api-keys", &new).await;
    let secret = field(&made.body, "/secret").as_str().unwrap().to_owned();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let asked = send(&service, &secret, Method::GET, "/v1/models", &json!({})).await;
        if asked.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(asked.body["type"], "urn:forgetd:problem:too-fast");
            let wait: u64 = asked.headers["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..=5).contains(&wait), "{wait}");
        }
        statuses.push(asked.status);
    }
    assert_eq!(statuses[..2], [StatusCode::OK; 2], "ten seconds' worth at once");
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    let other = send(&service, &admin, Method::GET, "/v1/models", &json!({})).await;
    assert_eq!(other.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_and_an_administrator_bound_what_one_key_deletes() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        let mut policy = people::unsettled();
        policy["approval_above_share"] = json!(0.1);
        people::trained(&service, &policy).await;
        let (_, admin) = make_key(&service, "admin");
        service.kill();
        service.restart().await;
        let new = json!({
            "name": "intake", "scopes": ["delete"], "samples_per_day": 60
        });
        let made = send(&service, &admin, Method::POST, "/v1/api-keys", &new).await;
        let intake = field(&made.body, "/secret").as_str().unwrap().to_owned();
        let forget = async |persons: std::ops::Range<u32>| {
            let subjects: Vec<_> = persons.map(|person| format!("person-{person}")).collect();
            let body = json!({"model": people::MODEL, "subjects": subjects});
            send(&service, &intake, Method::POST, "/v1/deletion-requests", &body).await
        };
        // Three samples a person: 30 of 240 are more than a tenth.
        let suspended = forget(0..10).await;
        assert_eq!(suspended.status, StatusCode::ACCEPTED, "{suspended:#?}");
        assert_eq!(suspended.body["state"], "suspended");
        let path = format!("/v1/deletion-requests/{}", suspended.body["id"].as_str().unwrap());
        let approval = format!("{path}/approval");
        let own = send(&service, &intake, Method::POST, &approval, &json!({})).await;
        assert_eq!(own.status, StatusCode::FORBIDDEN);
        let approved = send(&service, &admin, Method::POST, &approval, &json!({})).await;
        assert_eq!(approved.body["state"], "queued", "{approved:#?}");
        super::eventually(
            "the approved request is served",
            async || send(&service, &intake, Method::GET, &path, &json!({})).await.body,
            |body| body["state"] == "completed",
        )
        .await;
        let again = send(&service, &admin, Method::POST, &approval, &json!({})).await;
        assert_eq!(again.status, StatusCode::CONFLICT);
        let certificate = format!("{path}/certificate");
        let certificate = send(&service, &admin, Method::GET, &certificate, &json!({})).await;
        assert_eq!(certificate.status, StatusCode::OK, "{certificate:#?}");
        let request = field(&certificate.body, "/statement/request");
        assert_eq!(request["received_at"], suspended.body["received_at"]);
        assert_eq!(request["samples"], 30);

        let refusable = forget(10..19).await;
        let refusal = refusable.body["id"].as_str().unwrap();
        let refusal = format!("/v1/deletion-requests/{refusal}/refusal");
        let refused = send(&service, &admin, Method::POST, &refusal, &json!({})).await;
        assert_eq!(refused.body["state"], "rejected", "{refused:#?}");
        assert_eq!(refused.body["targets"][0]["rejection"], "refused");
        let (log, key) = (format!("{}/audit", service.address), log_key(&service).await);
        let verdict = verify(&["--log", &log, "--key", &key, "--api-key", &admin]);
        assert!(verdict.holds, "{verdict:#?}");

        // 30 are used, a refused request uses none.
        assert_eq!(forget(20..26).await.status, StatusCode::ACCEPTED);
        let exceeded = forget(30..36).await;
        assert_eq!(exceeded.status, StatusCode::TOO_MANY_REQUESTS, "{exceeded:#?}");
        assert_eq!(exceeded.body["type"], "urn:forgetd:problem:quota-exceeded");
        let wait: u64 = exceeded.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((80_000..=86_400).contains(&wait), "{wait}");
        assert_eq!(forget(30..34).await.status, StatusCode::ACCEPTED);
    }
}

#[test]
fn without_keys_it_serves_on_loopback_only() {
    let text = does_not_start("0.0.0.0:0", &[]);
    assert!(text.contains("loopback") && text.contains("keys add"), "{text}");
}
