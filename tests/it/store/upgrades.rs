//! A ledger that an earlier version wrote is brought up to date with all that it holds.

use std::path::{Path, PathBuf};

use forgetd::{
    domain::{identity::ServiceKey, version::Encoding},
    store::Store,
};
use memchr::memmem;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool, SqlitePool, migrate::Migrator, sqlite::SqliteConnectOptions};
use uuid::Uuid;

use super::{MASTER, keyring};

/// The last version before deleted samples became their own tombstones.
const BEFORE: i64 = 33;

/// A label, as the version kept it in the clear.
const WORD: &str = "somebody's own label";

/// Sample 1 was deleted, sample 2 too and its tombstone was lifted, sample 3 is queued for deletion by
/// the same request, and sample 4 is live. Sample 5 is sample 1, let in again and deleted again. Of two
/// intakes one has ended. A version answers.
fn contents(id: impl Fn(u8) -> String, key: impl Fn(u8) -> String) -> Vec<String> {
    let (model, ingestion, request, job) = (id(100), id(101), id(102), id(103));
    let mut statements = vec![
        format!(
            "INSERT INTO models (id, name, architecture, input_schema, recipe, policy, created_at,
                 current_epoch)
             VALUES ({model}, 'm', '{{}}', '{{}}', '{{}}', '{{}}', 0, 1)"
        ),
        format!(
            "INSERT INTO ingestions (id, model_id, ingested_at) VALUES ({ingestion}, {model}, 0)"
        ),
        format!(
            "INSERT INTO deletion_requests
                 (id, model_id, state, samples, attempts, not_before, received_at, due_by)
             VALUES ({request}, {model}, 'queued', 3, 0, 0, 0, 9)"
        ),
        format!(
            "INSERT INTO deletion_targets (deletion_id, position, kind, key, samples)
             VALUES ({request}, 0, 'subject', {}, 3)",
            key(50)
        ),
    ];
    statements.push(format!(
        "INSERT INTO jobs (id, model_id, kind, state, attempts, preemptions, epoch, cancel_requested,
             not_before, created_at, finished_at)
         VALUES ({job}, {model}, 'training', 'completed', 1, 0, 1, FALSE, 0, 0, 0)"
    ));
    let encoding = encoding();
    statements.push(format!(
        "INSERT INTO versions (model_id, epoch, cause, job_id, weights, network, encoder, classes,
             metrics, method, created_at)
         VALUES ({model}, 1, 'trained', {job}, {}, '{{\"input\": [4], \"layers\": []}}', '{}', '{}',
             '{{\"samples\": 4}}', '{{}}', 0)",
        key(60),
        in_sql(&encoding.encoder),
        in_sql(&json!(encoding.classes)),
    ));
    for (sample, sample_key) in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1)] {
        let (sample_id, sample_key, subject) = (id(sample), key(sample_key), key(50));
        let deletion = if sample == 4 { "NULL" } else { request.as_str() };
        let deleted = if [3, 4].contains(&sample) { "NULL" } else { "7" };
        statements.push(format!(
            "INSERT INTO samples (id, model_id, ordinal, sample_key, subject_key, split,
                 ingestion_id, deletion_id, deleted_at)
             VALUES ({sample_id}, {model}, {sample}, {sample_key}, {subject}, 'train', {ingestion},
                 {deletion}, {deleted})"
        ));
        if sample != 4 {
            statements.push(format!(
                "INSERT INTO deletion_samples (deletion_id, sample_id)
                 VALUES ({request}, {sample_id})"
            ));
        }
        statements.push(format!(
            "INSERT INTO contributions (model_id, sample_id, from_epoch)
             VALUES ({model}, {sample_id}, 1)"
        ));
        if deleted == "NULL" {
            let sealed = key(sample);
            statements.push(format!(
                "INSERT INTO sample_predictions (sample_id, sealed) VALUES ({sample_id}, {sealed})"
            ));
        }
    }
    for (intake, status) in [(110, "completed"), (111, "in_progress")] {
        let (intake, callback, body) = (id(intake), id(intake + 10), key(intake));
        statements.push(format!(
            "INSERT INTO intakes (id, body, received_at, due_by, told_status)
             VALUES ({intake}, {body}, 0, 9, '{status}')"
        ));
        statements.push(format!(
            "INSERT INTO intake_callbacks (id, intake_id, url) VALUES ({callback}, {intake}, '')"
        ));
    }
    for (kind, buried) in [("sample", 1), ("sample", 3), ("subject", 50)] {
        let key = key(buried);
        statements.push(format!(
            "INSERT INTO tombstones (model_id, kind, key, deletion_id)
             VALUES ({model}, '{kind}', {key}, {request})"
        ));
    }
    statements
}

fn encoding() -> Encoding {
    Encoding { encoder: json!({"classes": [WORD, "no"]}), classes: vec![WORD.into(), "no".into()] }
}

fn in_sql(value: &serde_json::Value) -> String {
    value.to_string().replace('\'', "''")
}

async fn earlier(folder: &str) -> Migrator {
    let mut migrator = Migrator::new(Path::new(folder)).await.unwrap();
    migrator.migrations.to_mut().retain(|migration| migration.version <= BEFORE);
    migrator
}

async fn upgrade(url: &str) {
    let store = Store::open(url, keyring(MASTER)).await.unwrap();
    store.migrate().await.unwrap();
    store.check_service_key(ServiceKey::new([7; 32]).key_fingerprint()).await.unwrap();
    let version = store.version(Uuid::from_u128(0x64), 1).await.unwrap().unwrap();
    assert_eq!(version.encoding, Some(encoding()));
    store.close().await;
}

/// Whose files hold the word.
fn holding(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        memmem::find(&bytes, WORD.as_bytes()).is_some()
    };
    files.filter(holds).collect()
}

/// What is asked of both, and what they answer.
const EXPECTED: [(&str, i64); 9] = [
    ("SELECT COUNT(*) FROM samples", 5),
    ("SELECT SUM(ordinal) FROM samples WHERE readmitted_at IS NOT NULL", 3),
    ("SELECT COUNT(*) FROM tombstones t JOIN samples s ON s.subject_key = t.subject_key", 5),
    ("SELECT COUNT(*) FROM deletion_samples d JOIN samples s ON s.id = d.sample_id", 4),
    ("SELECT COUNT(*) FROM deletion_targets t JOIN tombstones b ON b.subject_key = t.key", 1),
    ("SELECT COUNT(*) FROM contributions c JOIN samples s ON s.id = c.sample_id", 5),
    ("SELECT COUNT(*) FROM unsealed_encodings", 0),
    ("SELECT COUNT(*) FROM intake_callbacks WHERE is_final", 1),
    (
        "SELECT COUNT(*) FROM models m
             JOIN sample_predictions p ON p.set_id = m.prediction_set_id
             JOIN samples s ON s.id = p.sample_id AND s.deleted_at IS NULL",
        2,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_ledger_is_kept_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    earlier("migrations/sqlite").await.run(&pool).await.unwrap();
    for sql in contents(|id| format!("X'{id:032x}'"), |key| format!("X'{key:064x}'")) {
        sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
    assert!(!holding(folder.path()).is_empty());
    upgrade(&format!("sqlite://{}", file.display())).await;
    assert_eq!(holding(folder.path()), [] as [&Path; 0]);
    for (sql, expected) in EXPECTED {
        let found: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        assert_eq!(found, expected, "{sql}");
    }
    let broken = sqlx::query("PRAGMA foreign_key_check").fetch_all(&pool).await.unwrap();
    assert!(broken.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_ledger_is_kept_on_postgres() {
    let url = crate::postgres::fresh_database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    earlier("migrations/postgres").await.run(&pool).await.unwrap();
    for sql in contents(|id| format!("'{id:032x}'"), |key| format!("'\\x{key:064x}'")) {
        sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
    assert!(!holding(&crate::postgres::written_folder(&url).await).is_empty());
    upgrade(&url).await;
    assert_eq!(holding(&crate::postgres::written_folder(&url).await), [] as [&Path; 0]);
    for (sql, expected) in EXPECTED {
        let sql = format!("SELECT CAST(({sql}) AS BIGINT)");
        let found: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&pool).await.unwrap();
        assert_eq!(found, expected);
    }
}
