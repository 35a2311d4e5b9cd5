//! The audit log over HTTP, as stock clients read it, and a whole log audited: one that was cut,
//! rewritten or forked is refused.

use std::{io::Read as _, path::Path};

use flate2::read::GzDecoder;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};

use super::{
    Database, Service,
    certificate::{log_key, verify, write},
    people,
    process::{names_somebody, output_of},
};

/// Requests for persons nobody knows: each is one entry of the log.
async fn fill(service: &Service, entries: usize) {
    let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
    for number in 0..entries {
        people::forget(service, &[&format!("nobody-{number}")]).await;
    }
}

async fn raw(service: &Service, path: &str) -> (StatusCode, String, String, Vec<u8>) {
    let answer = service.request(Method::GET, path).send().await.unwrap();
    let header = |name: &str| {
        answer.headers().get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let (kind, caching) = (header("content-type"), header("cache-control"));
    (answer.status(), kind, caching, answer.bytes().await.unwrap().to_vec())
}

/// Changes the ledger behind the service's back.
async fn execute(service: &Service, statements: &[&str]) {
    let url = service.database_url();
    for statement in statements {
        let statement = AssertSqlSafe((*statement).to_owned());
        if url.starts_with("sqlite:") {
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            connection.execute(statement).await.unwrap();
            connection.close().await.unwrap();
        } else {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            connection.execute(statement).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_are_served_as_the_specification_says() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        fill(&service, 300).await;
        let (status, ..) = raw(&service, "/audit/tile/0/000").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "no checkpoint was signed over it");
        let (status, kind, caching, note) = raw(&service, "/audit/checkpoint").await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, "text/plain; charset=utf-8"));
        assert_eq!(caching, "public, max-age=1");
        let note = String::from_utf8(note).unwrap();
        let key = log_key(&service).await;
        let lines: Vec<_> = note.lines().collect();
        let origin = key.split('+').next().unwrap();
        // The key, the model, and the requests.
        assert_eq!((lines[0], lines[1], lines[3]), (origin, "302", ""));
        assert!(lines[4].starts_with(&format!("\u{2014} {origin} ")), "{note}");

        for (path, bytes) in [
            ("0/000", Some(256 * 32)),
            ("0/001.p/46", Some(46 * 32)),
            ("0/000.p/255", Some(255 * 32)),
            ("1/000.p/1", Some(32)),
            ("0/001.p/47", None),
            ("0/001", None),
            ("0/002.p/1", None),
            ("1/000", None),
            ("1/000.p/2", None),
            ("2/000.p/1", None),
            ("64/000", None),
            ("0/000.p/256", None),
            ("0/0", None),
            ("0/x000/000", None),
            ("0/", None),
        ] {
            let (status, kind, caching, body) = raw(&service, &format!("/audit/tile/{path}")).await;
            if let Some(bytes) = bytes {
                assert_eq!((status, body.len()), (StatusCode::OK, bytes), "{path}");
                assert_eq!(kind, "application/octet-stream");
                assert!(caching.contains("immutable"), "{path}: {caching}");
            } else {
                assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
                assert_eq!(caching, "no-store", "it may be there later");
            }
        }
        let (status, _, caching, bundle) = raw(&service, "/audit/tile/entries/001.p/46").await;
        assert_eq!((status, caching.contains("private")), (StatusCode::OK, true));
        let events = service.get("/v1/audit/events?cursor=256&limit=1").await.body;
        let entry = events["items"][0]["entry"].as_str().unwrap();
        assert_eq!(bundle[..2], u16::try_from(entry.len()).unwrap().to_be_bytes());
        assert_eq!(bundle[2..2 + entry.len()], *entry.as_bytes());
        let asked = service.request(Method::GET, "/audit/tile/entries/001.p/46");
        let answer = asked.header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(answer.headers()["content-encoding"], "gzip");
        let compressed = answer.bytes().await.unwrap();
        assert!(compressed.len() < bundle.len() / 2, "{} {}", compressed.len(), bundle.len());
        let mut decompressed = Vec::new();
        GzDecoder::new(&compressed[..]).read_to_end(&mut decompressed).unwrap();
        assert_eq!(decompressed, bundle);
        let (status, ..) = raw(&service, "/audit/tile/entries/001.p/47").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_everybody_reads_hashes_but_not_entries() {
    let mut service = Service::start(Database::Sqlite).await;
    service.terminate();
    assert!(service.ended().await.success());
    let add = ["keys", "add", "--name", "a", "--scope", "audit"];
    let made = output_of(service.command().args(add));
    let secret = String::from_utf8(made.stdout).unwrap().lines().last().unwrap().to_owned();
    service.restart().await;
    let (status, ..) = raw(&service, "/audit/checkpoint").await;
    assert_eq!(status, StatusCode::OK);
    let (status, ..) = raw(&service, "/audit/tile/0/000.p/1").await;
    assert_eq!(status, StatusCode::OK);
    let (status, ..) = raw(&service, "/audit/tile/entries/000.p/1").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (log, key) = (format!("{}/audit", service.address), log_key(&service).await);
    let refused = verify(&["--log", &log, "--key", &key]);
    assert!(!refused.holds && refused.output.contains("401"), "{}", refused.output);
    let verdict = verify(&["--log", &log, "--key", &key, "--api-key", &secret]);
    assert!(verdict.holds, "{}", verdict.output);

    let open = [("FORGETD_AUDIT__ENTRIES_PUBLIC", "true")];
    let open = Service::start_with(Database::Sqlite, &open, &[]).await;
    open.text("/audit/checkpoint", "*/*").await;
    let (status, _, caching, _) = raw(&open, "/audit/tile/entries/000.p/1").await;
    assert_eq!((status, caching.contains("public")), (StatusCode::OK, true));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_or_rewritten_is_refused() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        fill(&service, 260).await;
        let key = log_key(&service).await;
        let kept = service.folder().join("kept");
        let log = format!("{}/audit", service.address);
        let verdict = verify(&["--log", &log, "--key", &key, "--save", text(&kept)]);
        assert!(verdict.holds, "{}", verdict.output);
        people::forget(&service, &["nobody-more"]).await;
        let since = ["--key", &key, "--since", text(&kept)];
        let verdict = verify(&[&["--log", &log], since.as_slice()].concat());
        assert!(verdict.holds && verdict.output.contains("from 262 to 263"), "{}", verdict.output);

        // An entry is changed where it lies: the tree that was signed has another.
        let changed = "UPDATE audit_events SET entry = replace(entry, 'deletion.rejected',
             'deletion.cancelled') WHERE idx = 100";
        execute(&service, &[changed]).await;
        let verdict = verify(&["--log", &log, "--key", &key]);
        let failed = verdict.failed();
        assert!(failed.contains(&"tiles") && failed.contains(&"root"), "{}", verdict.output);
        assert!(verdict.output.contains("hash 100 "), "{}", verdict.output);
        let back = "UPDATE audit_events SET entry = replace(entry, 'deletion.cancelled',
             'deletion.rejected') WHERE idx = 100";
        execute(&service, &[back]).await;
        assert!(verify(&["--log", &log, "--key", &key]).holds);

        // Its operator cuts the log and lets it be signed anew: only an older checkpoint shows it.
        service.terminate();
        assert!(service.ended().await.success());
        execute(
            &service,
            &[
                "DELETE FROM audit_cosignatures",
                "DELETE FROM audit_checkpoints",
                "DELETE FROM audit_nodes",
                "DELETE FROM audit_events WHERE idx >= 261",
                "UPDATE audit_head SET next_idx = 261",
            ],
        )
        .await;
        service.restart().await;
        let log = format!("{}/audit", service.address);
        assert!(verify(&["--log", &log, "--key", &key]).holds, "by itself it looks whole");
        let verdict = verify(&[&["--log", &log], since.as_slice()].concat());
        assert_eq!(verdict.failed(), ["consistency"], "{}", verdict.output);
        assert!(verdict.output.contains("cut"), "{}", verdict.output);
        // It grows beyond the old size, by other entries.
        for number in 0..3 {
            people::forget(&service, &[&format!("nobody-else-{number}")]).await;
        }
        let verdict = verify(&[&["--log", &log], since.as_slice()].concat());
        assert_eq!(verdict.failed(), ["consistency"], "{}", verdict.output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_forks_of_one_log_are_told_apart() {
    for database in Database::ALL {
        let secret = "5".repeat(64);
        let log = [
            ("FORGETD_AUDIT__SIGNING_KEY", secret.as_str()),
            ("FORGETD_AUDIT__ORIGIN", "log.example/forgetd"),
        ];
        let (one, other) = tokio::join!(
            Service::start_with(database, &log, &[]),
            Service::start_with(database, &log, &[])
        );
        fill(&one, 3).await;
        fill(&other, 5).await;
        let key = log_key(&one).await;
        assert_eq!(key, log_key(&other).await);
        assert!(key.starts_with("log.example/forgetd+"), "{key}");
        let checkpoint = write(&one, "one", &one.text("/audit/checkpoint", "*/*").await);
        for (service, holds) in [(&one, true), (&other, false)] {
            let log = format!("{}/audit", service.address);
            let verdict = verify(&["--log", &log, "--key", &key, "--since", text(&checkpoint)]);
            assert_eq!(verdict.holds, holds, "{}", verdict.output);
            assert!(holds || verdict.failed() == ["consistency"], "{}", verdict.output);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_another_key_does_not_start() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        service.terminate();
        assert!(service.ended().await.success());
        let other = "6".repeat(64);
        let start = |command: &[&str]| {
            let mut process = service.command();
            output_of(process.env("FORGETD_AUDIT__SIGNING_KEY", &other).args(command))
        };
        let refused = start(&["serve", "--listen", "127.0.0.1:0"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("adopt-log-key"), "{said}");
        let adopted = start(&["keys", "adopt-log-key"]);
        assert!(adopted.status.success(), "{adopted:?}");
        let refused = output_of(service.command().args(["serve", "--listen", "127.0.0.1:0"]));
        assert!(!refused.status.success(), "the key before is not the log's any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_no_person() {
    for database in Database::ALL {
        names_no_person(&Service::start(database).await).await;
    }
}

async fn names_no_person(service: &Service) {
    people::trained(service, &people::unsettled()).await;
    let id = people::forget(service, &["person-3"]).await;
    service.request_becomes(&id, "completed").await;
    let lift = json!({"kind": "subject", "id": "person-3"});
    let path = format!("/v1/models/{}/tombstones/lift", people::MODEL);
    let lifted = service.post(&path, &lift).await;
    assert!(lifted.status.is_success(), "{lifted:#?}");
    let events = service.pages("/v1/audit/events").await;
    let kinds: Vec<_> = events
        .iter()
        .map(|event| {
            let entry = event["entry"].as_str().unwrap();
            assert!(!names_somebody(entry), "{entry}");
            let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
            entry["kind"].as_str().unwrap().to_owned()
        })
        .collect();
    for kind in [
        "log_key.adopted",
        "model.created",
        "samples.ingested",
        "training.queued",
        "version.published",
        "deletion.received",
        "deletion.batched",
        "batch.published",
        "deletion.completed",
        "tombstone.lifted",
    ] {
        assert!(kinds.iter().any(|it| it == kind), "no {kind} in {kinds:?}");
    }
    let certificate = service.get(&super::certificate::path_of(&id)).await.body;
    let lifted = super::field(&certificate, "/statement/tombstones_lifted/0/kind");
    assert_eq!(lifted, "subject");
}
