//! After completion nothing on disk holds the sample.

use super::{Ledger, Raw, at, features_of, on_both, sample_key, sample_target, subject_target};

on_both!(no_file_holds_an_erased_sample);

async fn no_file_holds_an_erased_sample(ledger: &Ledger) {
    let model = ledger.trained_model("m", 400).await;
    ledger.delete(&model, vec![subject_target(6), sample_target(300)], at(20)).await;
    if let Raw::Sqlite(_) = ledger.raw {
        ledger.store.purge_erased().await.unwrap();
        assert!(
            !ledger.files_containing(&features_of(6)).is_empty(),
            "the search finds what is there"
        );
    }
    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    ledger.store.purge_erased().await.unwrap();
    ledger.store.purge_erased().await.unwrap();
    let erased = [6, 7, 300];
    match &ledger.raw {
        Raw::Sqlite(_) => {
            for number in erased {
                let none: Vec<String> = Vec::new();
                assert_eq!(ledger.files_containing(&features_of(number)), none);
            }
            assert!(!ledger.files_containing(&features_of(8)).is_empty());
            assert!(
                !ledger.files_containing(sample_key(6).as_bytes()).is_empty(),
                "its pseudonym stays"
            );
        }
        Raw::Postgres(_) => {
            let dead = "SELECT COUNT(*) FROM sample_contents";
            assert_eq!(ledger.integer(dead).await, 401);
            let all = "SELECT encode(features, 'escape') FROM sample_contents";
            let rows = ledger.rows(all).await;
            for number in erased {
                let text = String::from_utf8(features_of(number)).unwrap();
                assert!(rows.iter().all(|row| !row.contains(&text)));
            }
            let text = String::from_utf8(features_of(8)).unwrap();
            assert!(rows.iter().any(|row| row.contains(&text)));
        }
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
