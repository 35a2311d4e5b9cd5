//! `forgetd verify --replay`: a certified version's weights come out again where what they were
//! made from is still there, and where it is not, that is said.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::StatusCode;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use tempfile::TempDir;

use super::{
    Database, Service,
    certificate::{Verdict, log_key, path_of, write},
    people,
};
use crate::postgres;

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
async fn a_batch_that_was_retrained_comes_out_again() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        let mut policy = people::unsettled();
        policy["method"] = json!("retrain");
        people::trained(&service, &policy).await;
        let id = people::forget(&service, &["person-0"]).await;
        service.request_becomes(&id, "completed").await;
        let certificate = certificate(&service, &id).await;
        let verdict = replay(&service, &certificate, &[]).await;
        assert!(verdict.holds, "{}", verdict.output);
        assert!(verdict.output.contains("replay: version 2, of 237 samples"), "{}", verdict.output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_comes_out_again_from_a_copy_of_the_ledger_from_before() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let copy = Copy::of(&mut service).await;
        // The draw of all others has the same ordinals when their order is turned around.
        let id = people::forget(&service, &["person-7", "person-72"]).await;
        service.request_becomes(&id, "completed").await;
        let certificate = certificate(&service, &id).await;
        let verdict = copy.replay(&service, &certificate).await;
        assert!(verdict.holds, "{}", verdict.output);
        assert!(verdict.output.contains("replay: version 2, of 234 samples"), "{}", verdict.output);

        // Other samples than the record's give other weights. Two of them alone might be rows of which
        // the network is certain, which are hardly ever drawn.
        let (aside, last) = (1_000_000, people::TRAINED - 1);
        for sql in [
            format!("UPDATE samples SET ordinal = ordinal + {aside} WHERE ordinal <= {last}"),
            format!(
                "UPDATE samples SET ordinal = {aside} + {last} - ordinal WHERE ordinal >= {aside}"
            ),
        ] {
            copy.execute(sql).await;
        }
        let verdict = copy.replay(&service, &certificate).await;
        assert_eq!(verdict.failed(), ["replay"], "{}", verdict.output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_comes_out_again_whatever_came_in_since_and_is_open_where_it_draws_others() {
    let mut service = Service::start(Database::Sqlite).await;
    let mut policy = people::unsettled();
    policy["method_parameters"] = json!({"retained_rows_max": 64});
    people::trained(&service, &policy).await;
    let copy = Copy::of(&mut service).await;
    let later = (1_000..1_300).map(|number| people::sample(number, "train"));
    assert_eq!(people::ingest(&service, people::ndjson(later)).await.status, StatusCode::CREATED);
    let first = people::forget(&service, &["person-7"]).await;
    service.request_becomes(&first, "completed").await;
    let of_first = certificate(&service, &first).await;
    let verdict = copy.replay(&service, &of_first).await;
    assert!(verdict.holds, "{}", verdict.output);

    // Nobody has trained on them, so that no version tells that they are gone.
    let copy = Copy::of(&mut service).await;
    let held_out = people::forget(&service, &[&people::subject_of(people::TRAINED)]).await;
    service.request_becomes(&held_out, "completed").await;
    let second = people::forget(&service, &["person-8"]).await;
    service.request_becomes(&second, "completed").await;
    let of_second = certificate(&service, &second).await;
    let verdict = copy.replay(&service, &of_second).await;
    let why = "the record does not say that the update drew the same samples";
    assert!(!verdict.holds && verdict.failed().is_empty(), "{}", verdict.output);
    assert!(verdict.output.contains(why), "{}", verdict.output);
}

/// The ledger and the blobs of a service as they were.
struct Copy {
    data: TempDir,
    database_url: String,
}

impl Copy {
    async fn of(service: &mut Service) -> Self {
        service.terminate();
        service.ended().await;
        let data = tempfile::tempdir().unwrap();
        copy_folder(&service.folder().join("data"), data.path());
        let database_url = match service.postgres_url() {
            Some(url) => postgres::copy_of(url).await,
            None => format!("sqlite://{}", data.path().join("forgetd.sqlite").display()),
        };
        service.restart().await;
        people::ready(service).await;
        Self { data, database_url }
    }

    async fn replay(&self, service: &Service, certificate: &Path) -> Verdict {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forgetd"));
        let key = log_key(service).await;
        command.arg("verify").arg(certificate).args(["--replay", "--key", &key, "--data-dir"]);
        command.arg(self.data.path());
        Verdict::of(command.env("FORGETD_LEDGER__DATABASE_URL", &self.database_url))
    }

    async fn execute(&self, sql: String) {
        let sql = AssertSqlSafe(sql);
        if self.database_url.starts_with("postgres:") {
            PgConnection::connect(&self.database_url).await.unwrap().execute(sql).await.unwrap();
        } else {
            let mut ledger = SqliteConnection::connect(&self.database_url).await.unwrap();
            ledger.execute(sql).await.unwrap();
            ledger.close().await.unwrap();
        }
    }
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
