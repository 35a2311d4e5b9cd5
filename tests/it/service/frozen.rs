//! A worker is frozen past its lease, another one takes over, and the first wakes up in the middle
//! of what it did.

use std::{str::FromStr, time::Duration};

use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    Database, Service, eventually, field,
    lifecycle::epochs,
    people::{self, MODEL},
    promise::{self, Promise},
};

/// Where it is frozen: before its weights are stored, and when nothing but the publication is left.
const STEPS: [&str; 2] = ["batch.judged", "batch.stored"];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_after_its_lease_publishes_nothing() {
    for database in Database::ALL {
        let api = Service::start_with(database, &promise::ENVIRONMENT, &["--role", "api"]).await;
        let trainer = api.beside(&["--role", "worker"]).await;
        people::trained(&api, &people::unsettled()).await;
        let mut promise = Promise::of(&api).await;
        drop(trainer);
        for (person, step) in STEPS.into_iter().enumerate() {
            let frozen = api.beside(&["--role", "worker"]).await;
            api.hold_at(step);
            let id = people::forget(&api, &[&format!("person-{person}")]).await;
            api.reaches(step).await;
            frozen.signal("STOP");
            while !is_free(&api).await {
                frozen.signal("CONT");
                frozen.signal("STOP");
            }
            api.let_pass(step);

            let other = api.beside(&["--role", "worker"]).await;
            let completed = api.request_becomes(&id, "completed").await;
            let by_other = epochs(&api).await;
            frozen.signal("CONT");
            eventually(
                "the woken worker finds its lease gone",
                async || api.log(),
                |log| log.matches("the lease has passed on").count() == person + 1,
            )
            .await;
            assert_eq!(epochs(&api).await, by_other, "the frozen worker published nothing");
            let run = field(&completed, "/batch_id").as_str().unwrap();
            let run = api.get(&format!("/v1/models/{MODEL}/training-runs/{run}")).await.body;
            assert_eq!(run["attempts"], 2, "{run:#}");
            promise.accepted.push(id);
            drop((frozen, other));
        }
        // Its weights, which nobody published, are swept like any others that lie about.
        let worker = api.beside(&["--role", "worker"]).await;
        promise.is_fulfilled(&api).await;
        drop(worker);
    }
}

/// Whether nobody stopped in the middle of a transaction: on `SQLite` that would hold up everybody who
/// shares the file, which is not what is tried here. With an empty log a checkpoint has nothing to do
/// and waits for no reader, so something is written first.
async fn is_free(service: &Service) -> bool {
    if service.postgres_url().is_some() {
        return true;
    }
    let options = SqliteConnectOptions::from_str(&service.database_url()).unwrap();
    let options = options.busy_timeout(Duration::ZERO);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let written = sqlx::query("UPDATE audit_head SET next_idx = next_idx");
    let is_written = written.execute(&mut connection).await.is_ok();
    let checkpoint = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
    let row = checkpoint.fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    is_written && row.get::<i64, _>("busy") == 0
}
