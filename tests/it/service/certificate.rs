//! A certificate of deletion: what it states, that it is verified offline, and that every forgery
//! is refused by name.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use forgetd::domain::audit::canonical;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Database, Service, eventually, field, people, process::output_of};

/// What `forgetd verify` said.
#[derive(Debug)]
pub struct Verdict {
    pub holds: bool,
    pub output: String,
}

impl Verdict {
    pub fn of(command: &mut Command) -> Self {
        let done = output_of(command);
        let (out, err) = (&done.stdout, &done.stderr);
        let output = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
        Self { holds: done.status.success(), output }
    }

    /// The statements that failed.
    pub fn failed(&self) -> Vec<&str> {
        let failed = self.output.lines().filter_map(|line| line.strip_prefix("FAILED  "));
        failed.map(|line| line.split(": ").next().unwrap()).collect()
    }
}

/// `forgetd verify`, in an empty folder: nothing of a service is at hand.
pub fn verify(arguments: &[&str]) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forgetd"));
    let verdict = Verdict::of(command.current_dir(folder.path()).arg("verify").args(arguments));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "verifying leaves nothing behind");
    verdict
}

pub async fn log_key(service: &Service) -> String {
    service.text("/audit/public-key", "*/*").await.trim().to_owned()
}

pub fn path_of(id: &str) -> String {
    format!("/v1/deletion-requests/{id}/certificate")
}

pub fn write(service: &Service, name: &str, text: &str) -> PathBuf {
    let path = service.folder().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_request_has_a_certificate_that_holds() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let nobody = service.get(&path_of("01a20a1f-7314-763c-aa7e-509c364430dc")).await;
        assert_eq!(nobody.status, StatusCode::NOT_FOUND, "{nobody:#?}");
        let rejected = people::forget(&service, &["nobody"]).await;
        let refused = service.get(&path_of(&rejected)).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{refused:#?}");
        assert_eq!(refused.body["type"], "urn:forgetd:problem:not-certifiable");

        let id = people::forget(&service, &["person-0", "nobody"]).await;
        service.request_becomes(&id, "completed").await;
        let older = service.text("/audit/checkpoint", "*/*").await;
        let size = older.lines().nth(1).unwrap();
        let answer = service.get(&path_of(&id)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:#?}");
        let certificate = answer.body;
        it_says_what_was_done(&service, &certificate, &id).await;

        let key = log_key(&service).await;
        let file = write(&service, "certificate.json", &certificate.to_string());
        let verdict = verify(&[text(&file), "--key", &key]);
        assert!(verdict.holds, "{}", verdict.output);
        the_page_and_the_proof_are_there_too(&service, &id, &key).await;

        // Settled, it says so, and that the log only grew meanwhile.
        people::train(&service, "settlement").await;
        eventually(
            "the request is settled",
            async || service.get(&format!("/v1/deletion-requests/{id}")).await.body,
            |request| request["guarantee"] == "exact",
        )
        .await;
        let path = format!("{}?since={size}", path_of(&id));
        let settled = service.get(&path).await.body;
        assert_eq!(field(&settled, "/statement/guarantee"), "exact");
        assert_eq!(field(&settled, "/statement/settlement/version/cause"), "settled");
        let settled_file = write(&service, "settled.json", &settled.to_string());
        let older_file = write(&service, "older", &older);
        let since = ["--key", &key, "--checkpoint", text(&older_file)];
        let verdict = verify(&[&[text(&settled_file)], since.as_slice()].concat());
        assert!(verdict.holds && verdict.output.contains("only grew"), "{}", verdict.output);
        let plain = service.get(&path_of(&id)).await.body.to_string();
        let plain = write(&service, "plain.json", &plain);
        let verdict = verify(&[&[text(&plain)], since.as_slice()].concat());
        assert_eq!(verdict.failed(), ["consistency"], "{}", verdict.output);
        let beyond = service.get(&format!("{}?since=9999", path_of(&id))).await;
        assert_eq!(beyond.status, StatusCode::BAD_REQUEST, "{beyond:#?}");
    }
}

async fn it_says_what_was_done(service: &Service, certificate: &Value, id: &str) {
    let statement = field(certificate, "/statement");
    assert_eq!(field(statement, "/guarantee"), "approximate");
    assert_eq!(field(statement, "/request/id"), id);
    assert_eq!(field(statement, "/request/model"), people::MODEL);
    assert_eq!(field(statement, "/request/samples"), people::SAMPLES_EACH);
    assert_eq!(field(statement, "/request/targets/1/rejection"), "unknown_subject");
    assert!(field(statement, "/version/method/seed").is_u64(), "{statement:#}");
    assert!(field(statement, "/version/method/parameters").is_object(), "{statement:#}");
    assert_eq!(field(statement, "/version/forgetd"), forgetd::domain::program::VERSION);
    let request = service.get(&format!("/v1/deletion-requests/{id}")).await.body;
    // In the log 1.0 is 1.
    assert_eq!(canonical(field(statement, "/batch/evidence")), canonical(&request["evidence"]));
    assert_eq!(field(statement, "/request/targets"), &request["targets"]);
    assert_eq!(field(statement, "/completion/completed_at"), &request["completed_at"]);
    for (epoch, weights) in [(1, "weights_before"), (2, "weights_after")] {
        let path = format!("/v1/models/{}/versions/{epoch}", people::MODEL);
        let version = service.get(&path).await.body;
        assert_eq!(statement["version"][weights], version["weights"]);
    }
    let limits = field(certificate, "/does_not_show").as_array().unwrap();
    assert!(limits.len() > 4 && limits[1].as_str().unwrap().contains("approximate"));
    let text = certificate.to_string();
    assert!(!text.contains("person-0") && !text.contains("nobody"), "an identifier is in it");
}

async fn the_page_and_the_proof_are_there_too(service: &Service, id: &str, key: &str) {
    let page = service.text(&path_of(id), "text/html,*/*;q=0.8").await;
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for part in [id, "Certificate of deletion", "Weights before", "does not show", key] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    let proof = service.text(&path_of(id), "text/plain").await;
    let file = write(service, "completed.tlog-proof", &proof);
    let verdict = verify(&[text(&file), "--key", key]);
    assert!(verdict.holds, "{}", verdict.output);
    let file = write(service, "other.tlog-proof", &proof.replacen("\nindex ", "\nindex 1", 1));
    assert!(!verify(&[text(&file), "--key", key]).holds);
}

/// What was changed, how, and the statements that must fail for it.
type Forgery = (&'static str, fn(&mut Value), &'static [&'static str]);

const FORGERIES: &[Forgery] = &[
    ("a proof's hash", |c| flip(&mut c["leaves"][0]["proof"][0]), &["inclusion of leaf"]),
    ("a shorter proof", |c| drop(array(&mut c["leaves"][1]["proof"]).pop()), &["inclusion"]),
    ("a longer proof", |c| repeat(&mut c["leaves"][1]["proof"]), &["inclusion of leaf"]),
    (
        "swapped leaves",
        |c| {
            let entry = c["leaves"][0]["entry"].clone();
            c["leaves"][0]["entry"] = std::mem::replace(&mut c["leaves"][1]["entry"], entry);
        },
        &["inclusion of leaf"],
    ),
    ("another place", |c| add_one(&mut c["leaves"][0]["index"]), &["inclusion of leaf"]),
    ("an entry's text", |c| edit(&mut c["leaves"][0]["entry"], "people", "peoplE"), &["inclusion"]),
    ("an entry's form", |c| edit(&mut c["leaves"][0]["entry"], ":", ": "), &["canonical form"]),
    ("a leaf left out", |c| drop(array(&mut c["leaves"]).pop()), &["statement"]),
    ("leaves in another order", |c| array(&mut c["leaves"]).reverse(), &["statement"]),
    ("a leaf twice", |c| repeat(&mut c["leaves"]), &["statement"]),
    (
        "samples",
        |c| add_one(&mut c["statement"]["request"]["samples"]),
        &["statement.request.samples"],
    ),
    (
        "erased samples",
        |c| add_one(&mut c["statement"]["batch"]["samples_erased"]),
        &["statement.batch.samples_erased"],
    ),
    ("a target", |c| flip(&mut c["statement"]["request"]["targets"][0]["key"]), &["statement"]),
    (
        "a target's samples",
        |c| add_one(&mut c["statement"]["request"]["targets"][0]["samples"]),
        &["statement"],
    ),
    ("a target more", |c| repeat(&mut c["statement"]["request"]["targets"]), &["statement"]),
    (
        "weights",
        |c| flip(&mut c["statement"]["version"]["weights_after"]),
        &["statement.version.weights_after"],
    ),
    (
        "a seed",
        |c| add_one(&mut c["statement"]["version"]["method"]["seed"]),
        &["statement.version.method.seed"],
    ),
    (
        "evidence",
        |c| c["statement"]["batch"]["evidence"]["verdict"] = json!("passed!"),
        &["statement.batch.evidence.verdict"],
    ),
    ("the guarantee", |c| c["statement"]["guarantee"] = json!("exact"), &["statement.guarantee"]),
    (
        "a time",
        |c| c["statement"]["completion"]["completed_at"] = json!("2020-01-01T00:00:00Z"),
        &["statement.completion.completed_at"],
    ),
    (
        "a settlement out of nowhere",
        |c| {
            let version = c["statement"]["version"].clone();
            c["statement"]["settlement"] =
                json!({"settled_at": "2026-01-01T00:00:00Z", "version": version});
        },
        &["statement.settlement"],
    ),
    ("the limits", |c| drop(array(&mut c["does_not_show"]).pop()), &["does_not_show"]),
    ("the text proof", |c| edit(&mut c["tlog_proof"], "index ", "index 1"), &["tlog_proof"]),
    (
        "the checkpoint's size",
        |c| {
            let size = c["checkpoint"].as_str().unwrap().lines().nth(1).unwrap().to_owned();
            edit(&mut c["checkpoint"], &format!("\n{size}\n"), &format!("\n1{size}\n"));
        },
        &["signature"],
    ),
    (
        "the signature",
        |c| c["checkpoint"] = json!(c["checkpoint"].as_str().unwrap().trim_end()),
        &["signature"],
    ),
    (
        "a figure of its own",
        |c| c["statement"]["version"]["metrics"]["audited"] = json!(true),
        &["statement.version.metrics"],
    ),
    ("a statement of its own", |c| c["statement"]["certified"] = json!(true), &["form"]),
    ("the format", |c| c["format"] = json!("forgetd-certificate/2"), &["form"]),
];

fn array(value: &mut Value) -> &mut Vec<Value> {
    value.as_array_mut().unwrap()
}

fn repeat(value: &mut Value) {
    let last = array(value).last().unwrap().clone();
    array(value).push(last);
}

/// Changes the first digit of a hash.
fn flip(value: &mut Value) {
    let hash = value.as_str().unwrap();
    let first = if hash.starts_with('0') { '1' } else { '0' };
    *value = json!(format!("{first}{}", &hash[1..]));
}

fn add_one(value: &mut Value) {
    *value = json!(value.as_u64().unwrap() + 1);
}

fn edit(value: &mut Value, from: &str, to: &str) {
    let text = value.as_str().unwrap();
    assert!(text.contains(from), "{text}");
    *value = json!(text.replacen(from, to, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_forgery_is_refused_by_name() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let id = people::forget(&service, &["person-7"]).await;
        service.request_becomes(&id, "completed").await;
        let certificate = service.get(&path_of(&id)).await.body;
        let key = log_key(&service).await;
        for (what, forge, expected) in FORGERIES {
            let mut forged = certificate.clone();
            forge(&mut forged);
            assert_ne!(forged, certificate, "{what}");
            let file = write(&service, "forged.json", &forged.to_string());
            let verdict = verify(&[text(&file), "--key", &key]);
            let named = |name: &&str| verdict.failed().iter().any(|it| it.starts_with(*name));
            assert!(!verdict.holds && expected.iter().all(named), "{what}: {}", verdict.output);
        }
        another_key_is_refused(&service, &certificate, &key).await;
    }
}

async fn another_key_is_refused(service: &Service, certificate: &Value, key: &str) {
    let file = write(service, "certificate.json", &certificate.to_string());
    // Another service's log, under the same name.
    let origin = key.split('+').next().unwrap();
    let other =
        Service::start_with(Database::Sqlite, &[("FORGETD_AUDIT__ORIGIN", origin)], &[]).await;
    let other_key = log_key(&other).await;
    assert_ne!(other_key, key);
    let verdict = verify(&[text(&file), "--key", &other_key]);
    assert_eq!(verdict.failed(), ["signature"], "{}", verdict.output);
    // A witness that has not cosigned.
    let witness = "witness.example/w+54610131+BO1JKMYo0cLG6ukDOJBZlWEpWSc6XGP5NjbBRhSshzfR";
    let refused = verify(&[text(&file), "--key", key, "--witness", witness]);
    assert!(!refused.holds, "{}", refused.output);
    let refused = verify(&[text(&file), "--key", "no key"]);
    assert!(!refused.holds && refused.output.contains("no key"), "{}", refused.output);
}
