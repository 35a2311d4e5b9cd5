//! After completion nothing on disk holds the sample, not even sealed.

use std::time::{Duration, Instant};

use forgetd::store::StoreError;

use super::{Ledger, Raw, at, on_both, sample_key, sample_target, subject_target};

on_both!(no_file_holds_an_erased_sample);

/// By ordinal, which is the number of a sample here.
const ERASED: &str = "SELECT k.wrapped FROM data_keys k
         JOIN samples s ON s.id = k.sample_id WHERE s.ordinal IN (6, 7, 300)
     UNION ALL SELECT c.sealed FROM sample_contents c
         JOIN samples s ON s.id = c.sample_id WHERE s.ordinal IN (6, 7, 300)
     UNION ALL SELECT p.sealed FROM sample_predictions p
         JOIN samples s ON s.id = p.sample_id WHERE s.ordinal IN (6, 7, 300)";

async fn no_file_holds_an_erased_sample(ledger: &Ledger) {
    let model = ledger.trained_model("m", 400).await;
    ledger.delete(&model, vec![subject_target(6), sample_target(300)], at(20)).await;
    let erased = ledger.blobs(ERASED).await;
    assert_eq!(erased.len(), 9);
    if let Raw::Sqlite(_) = ledger.raw {
        ledger.store.purge_erased().await.unwrap();
        for text in &erased {
            assert!(!ledger.files_containing(text).is_empty(), "the search finds what is there");
        }
    }
    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    ledger.store.purge_erased().await.unwrap();
    ledger.store.purge_erased().await.unwrap();
    assert!(ledger.blobs(ERASED).await.is_empty());
    for table in [
        "SELECT COUNT(*) FROM data_keys",
        "SELECT COUNT(*) FROM sample_contents",
        "SELECT COUNT(*) FROM sample_predictions",
    ] {
        assert_eq!(ledger.integer(table).await, 401, "{table}");
    }
    if let Raw::Sqlite(_) = ledger.raw {
        for text in &erased {
            assert_eq!(ledger.files_containing(text), Vec::<String>::new());
        }
        assert!(
            !ledger.files_containing(sample_key(6).as_bytes()).is_empty(),
            "its pseudonym stays"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;

    let ledger = Ledger::on_sqlite().await;
    ledger.trained_model("m", 4).await;
    let path = ledger.url.strip_prefix("sqlite://").unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mode = std::fs::metadata(format!("{path}{suffix}")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_for_long_holds_up_the_purge_alone() {
    let ledger = Ledger::on_sqlite().await;
    let model = ledger.trained_model("m", 400).await;
    let Raw::Sqlite(pool) = &ledger.raw else { unreachable!("it was opened on SQLite") };
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("SELECT COUNT(*) FROM samples").execute(&mut *reader).await.unwrap();
    ledger.delete(&model, vec![subject_target(0)], at(20)).await;

    let purge = tokio::spawn({
        let store = ledger.store.clone();
        async move { store.purge_erased().await }
    });
    let mut written = 1;
    while !purge.is_finished() {
        let started = Instant::now();
        ledger.delete(&model, vec![subject_target(2 * written)], at(20)).await;
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        written += 1;
    }
    let error = purge.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(written > 10, "only {written} were accepted meanwhile");
    reader.rollback().await.unwrap();
    ledger.store.purge_erased().await.unwrap();
}
