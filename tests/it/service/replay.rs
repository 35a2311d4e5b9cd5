//! `forgetd verify --replay`: a certified version's weights come out again where what they were
//! made from is still there, and where it is not, that is said.

use std::{
    fs,
    path::{Path, PathBuf},
};

use reqwest::StatusCode;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};
use tempfile::TempDir;

use super::{
    Database, Service,
    certificate::{Verdict, log_key, path_of, write},
    people,
};

async fn certificate(service: &Service, id: &str) -> PathBuf {
    let text = service.get(&path_of(id)).await.body.to_string();
    write(service, &format!("{id}.json"), &text)
}

/// With the service's own ledger.
async fn replay(service: &Service, certificate: &Path, environment: &[(&str, &str)]) -> Verdict {
    let mut command = service.command();
    let key = log_key(service).await;
    command.arg("verify").arg(certificate).args(["--replay", "--key", &key]);
    Verdict::of(command.envs(environment.iter().copied()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_version_comes_out_again_until_one_of_its_samples_is_deleted() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let first = people::forget(&service, &["person-0"]).await;
        service.request_becomes(&first, "completed").await;
        let approximate = certificate(&service, &first).await;
        let verdict = replay(&service, &approximate, &[]).await;
        let why = "only a copy of the ledger from before, at epoch 1, can repeat it";
        assert!(!verdict.holds && verdict.failed().is_empty(), "{}", verdict.output);
        assert!(verdict.output.contains(why), "{}", verdict.output);

        people::train(&service, "settlement").await;
        let settled = certificate(&service, &first).await;
        for threads in ["1", "2"] {
            let verdict = replay(&service, &settled, &[("FORGETD_WORKER__THREADS", threads)]).await;
            assert!(verdict.holds, "{}", verdict.output);
            assert!(
                verdict.output.contains("replay: version 3, of 237 samples"),
                "{}",
                verdict.output
            );
        }

        let second = people::forget(&service, &["person-1"]).await;
        service.request_becomes(&second, "completed").await;
        let verdict = replay(&service, &settled, &[]).await;
        let why = "of the 237 samples that it was trained on 234 are left";
        assert!(!verdict.holds && verdict.failed().is_empty(), "{}", verdict.output);
        assert!(verdict.output.contains(why), "{}", verdict.output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_comes_out_again_from_a_copy_of_the_ledger_from_before() {
    let mut service = Service::start(Database::Sqlite).await;
    people::trained(&service, &people::unsettled()).await;
    let copy = copied(&mut service).await;
    // The draw of all others has the same ordinals when their order is turned around.
    let id = people::forget(&service, &["person-7", "person-72"]).await;
    service.request_becomes(&id, "completed").await;
    let certificate = certificate(&service, &id).await;
    let verdict = replay_from(&service, &copy, &certificate).await;
    assert!(verdict.holds, "{}", verdict.output);
    assert!(verdict.output.contains("replay: version 2, of 234 samples"), "{}", verdict.output);

    // Other samples than the record's give other weights. Two of them alone might be rows of which
    // the network is certain, which are hardly ever drawn.
    let url = format!("sqlite://{}", copy.path().join("forgetd.sqlite").display());
    let mut ledger = SqliteConnection::connect(&url).await.unwrap();
    let (aside, last) = (1_000_000, people::TRAINED - 1);
    for sql in [
        format!("UPDATE samples SET ordinal = ordinal + {aside} WHERE ordinal <= {last}"),
        format!("UPDATE samples SET ordinal = {aside} + {last} - ordinal WHERE ordinal >= {aside}"),
    ] {
        ledger.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    ledger.close().await.unwrap();
    let verdict = replay_from(&service, &copy, &certificate).await;
    assert_eq!(verdict.failed(), ["replay"], "{}", verdict.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_comes_out_again_whatever_came_in_since_and_is_open_where_it_draws_others() {
    let mut service = Service::start(Database::Sqlite).await;
    let mut policy = people::unsettled();
    policy["method_parameters"] = json!({"retained_rows_max": 64});
    people::trained(&service, &policy).await;
    let copy = copied(&mut service).await;
    let later = (1_000..1_300).map(|number| people::sample(number, "train"));
    assert_eq!(people::ingest(&service, people::ndjson(later)).await.status, StatusCode::CREATED);
    let first = people::forget(&service, &["person-7"]).await;
    service.request_becomes(&first, "completed").await;
    let of_first = certificate(&service, &first).await;
    let verdict = replay_from(&service, &copy, &of_first).await;
    assert!(verdict.holds, "{}", verdict.output);

    // Nobody has trained on them, so that no version tells that they are gone.
    let copy = copied(&mut service).await;
    let held_out = people::forget(&service, &[&people::subject_of(people::TRAINED)]).await;
    service.request_becomes(&held_out, "completed").await;
    let second = people::forget(&service, &["person-8"]).await;
    service.request_becomes(&second, "completed").await;
    let of_second = certificate(&service, &second).await;
    let verdict = replay_from(&service, &copy, &of_second).await;
    let why = "the record does not say that the update drew the same samples";
    assert!(!verdict.holds && verdict.failed().is_empty(), "{}", verdict.output);
    assert!(verdict.output.contains(why), "{}", verdict.output);
}

/// The ledger and the blobs as they are now.
async fn copied(service: &mut Service) -> TempDir {
    service.terminate();
    service.ended().await;
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&service.folder().join("data"), copy.path());
    service.restart().await;
    people::ready(service).await;
    copy
}

async fn replay_from(service: &Service, copy: &TempDir, certificate: &Path) -> Verdict {
    let (key, data_dir) = (log_key(service).await, copy.path().to_str().unwrap());
    let certificate = certificate.to_str().unwrap();
    super::certificate::verify(&[certificate, "--replay", "--key", &key, "--data-dir", data_dir])
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
