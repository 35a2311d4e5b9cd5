//! `forgetd verify --replay`: a certified version's weights come out again where what they were
//! made from is still there, and where it is not, that is said.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};

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
    service.terminate();
    service.ended().await;
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&service.folder().join("data"), copy.path());
    service.restart().await;
    people::ready(&service).await;
    let id = people::forget(&service, &["person-7", "person-11"]).await;
    service.request_becomes(&id, "completed").await;
    let certificate = certificate(&service, &id).await;
    let (key, file) = (log_key(&service).await, certificate.to_str().unwrap().to_owned());
    let from_copy = || {
        let data_dir = copy.path().to_str().unwrap();
        super::certificate::verify(&[&file, "--replay", "--key", &key, "--data-dir", data_dir])
    };
    let verdict = from_copy();
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
    let verdict = from_copy();
    assert_eq!(verdict.failed(), ["replay"], "{}", verdict.output);
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
