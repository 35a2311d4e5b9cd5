//! After completion nothing on disk holds the sample, not even sealed.

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
