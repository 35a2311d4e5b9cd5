//! The command line on files of a real person's shape.

use std::{fmt::Write as _, process::Output};

use serde_json::Value;

use super::{Database, Service, people, process::output_of};

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// The population as CSV; the subject's id serves as the sample's.
fn table(numbers: std::ops::Range<u32>) -> String {
    let mut csv = String::from("person,age,hours,work,label\n");
    for number in numbers {
        let row: Value = people::row(number);
        let word = |name: &str| row[name].as_str().unwrap().to_owned();
        writeln!(
            csv,
            "person-{number},{},{},{},{}",
            row["age"],
            row["hours"],
            word("work"),
            word("label")
        )
        .unwrap();
    }
    csv
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_train_serve_and_forget_a_table() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        service.terminate();
        assert!(service.ended().await.success());

        let file = service.folder().join("people.csv");
        let ingest = |split: &str| {
            let mut command = service.command();
            command.args(["ingest", "--model", people::MODEL, "--subject", "person"]).args([
                "--split",
                split,
                "--recipe",
                r#"{"epochs": 5, "folds": 2}"#,
                "--file",
            ]);
            output_of(command.arg(&file))
        };
        std::fs::write(&file, table(0..200)).unwrap();
        let done = ingest("train");
        assert!(done.status.success(), "{}", text(&done));
        assert!(text(&done).contains("200 training samples"), "{}", text(&done));
        let again = ingest("train");
        assert!(!again.status.success() && text(&again).contains("sample 1 "), "{}", text(&again));
        std::fs::write(&file, table(200..260)).unwrap();
        let done = ingest("holdout");
        assert!(text(&done).contains("60 hold-out samples"), "{}", text(&done));

        let trained = output_of(service.command().args(["train", "--model", people::MODEL]));
        assert!(trained.status.success(), "{}", text(&trained));
        assert!(text(&trained).contains("version 1 of 200 samples"), "{}", text(&trained));

        service.restart().await;
        people::ready(&service).await;
        let id = people::forget(&service, &["person-42"]).await;
        service.request_becomes(&id, "completed").await;
        assert_eq!(people::predict(&service, 42).await.body["model_version"], "2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_the_master_key_closes_older_copies() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let rotate =
            |service: &Service| output_of(service.command().args(["master-key", "rotate"]));
        let early = rotate(&service);
        assert!(!early.status.success() && text(&early).contains("in use"), "{}", text(&early));
        service.terminate();
        assert!(service.ended().await.success());
        let data = service.folder().join("data");
        let replaced = std::fs::read(data.join("master-key")).unwrap();
        let done = rotate(&service);
        assert!(done.status.success(), "{}", text(&done));
        assert_ne!(std::fs::read(data.join("master-key")).unwrap(), replaced);
        assert!(!data.join("master-key-previous").exists());

        service.restart().await;
        people::ready(&service).await;
        let id = people::forget(&service, &["person-7"]).await;
        service.request_becomes(&id, "completed").await;
        let kinds: Vec<_> = service.pages("/v1/audit/events").await;
        let recorded =
            |kind: &str| kinds.iter().any(|event| event["entry"].as_str().unwrap().contains(kind));
        assert!(recorded("master_key.adopted") && recorded("master_key.rotated"));
        service.terminate();
        assert!(service.ended().await.success());

        std::fs::write(data.join("master-key"), replaced).unwrap();
        let refused = output_of(service.command().args(["train", "--model", people::MODEL]));
        assert!(!refused.status.success(), "the replaced key opens nothing");
        assert!(text(&refused).contains("master key"), "{}", text(&refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_key_of_the_configuration_is_rotated_beside_the_service() {
    const CURRENT: &str = "FORGETD_LEDGER__MASTER_KEY";
    const PREVIOUS: &str = "FORGETD_LEDGER__PREVIOUS_MASTER_KEY";
    let (old, new) = ("3".repeat(64), "4".repeat(64));
    for database in Database::ALL {
        let mut service = Service::start_with(database, &[(CURRENT, &old)], &[]).await;
        people::trained(&service, &people::unsettled()).await;
        assert!(!service.folder().join("data/master-key").exists());
        let rotate = ["master-key", "rotate"];
        let alone = output_of(service.command().env(CURRENT, &new).args(rotate));
        assert!(!alone.status.success(), "{}", text(&alone));
        assert!(text(&alone).contains("previous_master_key"), "{}", text(&alone));

        service.terminate();
        assert!(service.ended().await.success());
        service.set_variable(CURRENT, &new);
        service.set_variable(PREVIOUS, &old);
        service.restart().await;
        people::ready(&service).await;
        let done = output_of(service.command().args(rotate));
        assert!(done.status.success(), "{}", text(&done));
        let id = people::forget(&service, &["person-7"]).await;
        service.request_becomes(&id, "completed").await;
        service.terminate();
        assert!(service.ended().await.success());

        let train = |key: &str| {
            let mut command = service.command();
            command.env_remove(PREVIOUS).env(CURRENT, key);
            output_of(command.args(["train", "--model", people::MODEL]))
        };
        let refused = train(&old);
        assert!(!refused.status.success(), "the replaced key opens nothing");
        assert!(text(&refused).contains("master key"), "{}", text(&refused));
        let trained = train(&new);
        assert!(trained.status.success(), "{}", text(&trained));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_whose_service_key_was_lost_is_not_opened_with_a_new_one() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        service.terminate();
        assert!(service.ended().await.success());
        let file = service.folder().join("data/service-key");
        let own = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let train = || output_of(service.command().args(["train", "--model", people::MODEL]));
        let refused = train();
        assert!(!refused.status.success(), "{}", text(&refused));
        for named in ["service key", "ledger.service_key", "file service-key"] {
            assert!(text(&refused).contains(named), "{}", text(&refused));
        }

        std::fs::write(&file, own).unwrap();
        service.restart().await;
        let id = people::forget(&service, &["person-1"]).await;
        service.request_becomes(&id, "completed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_there_is_named() {
    let service = Service::start(Database::Sqlite).await;
    let refused = output_of(service.command().args(["train", "--model", "nothing"]));
    assert!(!refused.status.success());
    assert!(text(&refused).contains("nothing"), "{}", text(&refused));
}
