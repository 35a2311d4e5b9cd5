//! What speaks of a sample is sealed in its place, and the master key can be changed.

use std::time::Duration;

use forgetd::{
    domain::{sample::Split, sealing::MasterKey},
    store::{AuditFilter, Keyring, Store, StoreError},
};
use memchr::memmem;

use super::{Ledger, MASTER, at, keyring, new_id, on_both, samples};

on_both!(
    no_table_holds_what_was_ingested,
    a_row_in_another_place_is_damage,
    another_master_key_is_refused,
    a_rotation_wraps_every_key_anew,
    a_rotation_waits_for_a_running_ingestion,
);

const NEXT: [u8; 32] = [10; 32];

/// A store that may rotate from the ledger's key to `NEXT`.
async fn rotating(ledger: &Ledger) -> Store {
    let master = |bytes| MasterKey::new(&bytes);
    let ids = forgetd::clock::Ids::system();
    let keyring = Keyring::new(master(NEXT), Some(master(MASTER)), ids);
    let store = Store::open(&ledger.url, keyring).await.unwrap();
    store.migrate().await.unwrap();
    store
}

async fn rewrap_all(store: &Store) {
    let mut after = None;
    loop {
        after = store.rewrap_data_keys(after, at(31)).await.unwrap();
        if after.is_none() {
            break;
        }
    }
}

async fn no_table_holds_what_was_ingested(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let sealed =
        "SELECT sealed FROM sample_contents UNION ALL SELECT sealed FROM sample_predictions";
    let sealed = ledger.blobs(sealed).await;
    assert_eq!(sealed.len(), 24);
    let predictions = [-0.5_f32, -1.0, -0.25, -1.5].map(f32::to_le_bytes).concat();
    for words in [b"features of".as_slice(), b"label ", &predictions[..8], &predictions[8..]] {
        let holds = |text: &Vec<u8>| text.windows(words.len()).any(|window| window == words);
        assert!(!sealed.iter().any(holds), "{words:?}");
    }
    let encodings = ledger.blobs("SELECT encoding FROM versions").await;
    assert_eq!(encodings.len(), 1);
    assert!(memmem::find(&encodings[0], b"label").is_none() && !encodings[0].starts_with(b"{"));
    let version = ledger.store.version(model.id, 1).await.unwrap().unwrap();
    assert_eq!(version.encoding.unwrap().classes, ["label 0", "label 1"]);
    let read = ledger.store.samples(model.id, Split::Train, -1, 100).await.unwrap();
    assert_eq!(read.len(), 8);
    assert_eq!(read[3].label, "label 1");
}

async fn a_row_in_another_place_is_damage(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    for (swap, restore) in [
        (
            "UPDATE sample_contents SET sealed = (SELECT c.sealed FROM sample_contents c
                 JOIN samples s ON s.id = c.sample_id WHERE s.ordinal = 1)
             WHERE sample_id = (SELECT id FROM samples WHERE ordinal = 0)",
            true,
        ),
        (
            "UPDATE data_keys SET wrapped = (SELECT k.wrapped FROM data_keys k
                 JOIN samples s ON s.id = k.sample_id WHERE s.ordinal = 3)
             WHERE sample_id = (SELECT id FROM samples WHERE ordinal = 2)",
            false,
        ),
    ] {
        ledger.execute(swap).await;
        let first = if restore { -1 } else { 0 };
        let read = ledger.store.samples(model.id, Split::Train, first, 100).await;
        assert!(matches!(read, Err(StoreError::Damaged { .. })), "{swap}");
    }
    let other = ledger.trained_model("n", 8).await;
    let swap = "UPDATE versions SET encoding = (SELECT v.encoding FROM versions v
             JOIN models m ON m.id = v.model_id WHERE m.name = 'm')
         WHERE model_id = (SELECT id FROM models WHERE name = 'n')";
    ledger.execute(swap).await;
    for (id, is_damaged) in [(model.id, false), (other.id, true)] {
        let read = ledger.store.current_version(id).await;
        assert_eq!(matches!(read, Err(StoreError::Damaged { .. })), is_damaged);
    }
}

async fn another_master_key_is_refused(ledger: &Ledger) {
    ledger.trained_model("m", 8).await;
    let other = Store::open(&ledger.url, keyring(NEXT)).await.unwrap();
    let refused = other.migrate().await;
    assert!(matches!(refused, Err(StoreError::OtherMasterKey { .. })), "{refused:?}");
}

async fn a_rotation_wraps_every_key_anew(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let keys = "SELECT wrapped FROM data_keys";
    let before = ledger.blobs(keys).await;
    let encoding = ledger.store.version(model.id, 1).await.unwrap().unwrap().encoding;
    let contents = ledger.store.samples(model.id, Split::Train, -1, 100).await.unwrap();
    let store = rotating(ledger).await;
    store.adopt_master_key(at(30)).await.unwrap();
    store.adopt_master_key(at(30)).await.unwrap();
    let late = ledger.store.begin_ingestion(new_id(), model.id).await.map(drop);
    assert!(matches!(late, Err(StoreError::OtherMasterKey { .. })), "under the replaced key");
    let mut ingestion = store.begin_ingestion(new_id(), model.id).await.unwrap();
    ingestion.add(&samples(50..52, 100)).await.unwrap();
    ingestion.commit(at(30), None).await.unwrap();
    rewrap_all(&store).await;
    store.close().await;

    let after = ledger.blobs(keys).await;
    assert_eq!((before.len(), after.len()), (12, 14));
    assert!(before.iter().all(|key| !after.contains(key)));
    let store = Store::open(&ledger.url, keyring(NEXT)).await.unwrap();
    store.migrate().await.unwrap();
    let read = store.samples(model.id, Split::Train, -1, 100).await.unwrap();
    assert_eq!(read.len(), 10);
    assert!(read.iter().zip(&contents).all(|(new, old)| new.features == old.features));
    assert_eq!(store.version(model.id, 1).await.unwrap().unwrap().encoding, encoding);
    let replaced = ledger.store.version(model.id, 1).await;
    assert!(matches!(replaced, Err(StoreError::Damaged { .. })), "the replaced key opens nothing");
    let replaced = ledger.store.samples(model.id, Split::Train, -1, 100).await;
    assert!(matches!(replaced, Err(StoreError::Damaged { .. })), "the replaced key opens nothing");
    let events = store.audit_events(&AuditFilter::default(), 0, 100).await.unwrap();
    for kind in ["master_key.adopted", "master_key.rotated"] {
        let count = events.iter().filter(|event| event.entry.contains(kind)).count();
        assert_eq!(count, 1, "{kind}");
    }
    store.close().await;
}

async fn a_rotation_waits_for_a_running_ingestion(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let store = rotating(ledger).await;
    let mut ingestion = ledger.store.begin_ingestion(new_id(), model.id).await.unwrap();
    ingestion.add(&samples(50..52, 100)).await.unwrap();
    let rotation = tokio::spawn({
        let store = store.clone();
        async move {
            store.adopt_master_key(at(30)).await.unwrap();
            rewrap_all(&store).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!rotation.is_finished());
    ingestion.commit(at(30), None).await.unwrap();
    rotation.await.unwrap();
    store.close().await;
    let store = Store::open(&ledger.url, keyring(NEXT)).await.unwrap();
    store.migrate().await.unwrap();
    let read = store.samples(model.id, Split::Train, -1, 100).await.unwrap();
    assert_eq!(read.len(), 10, "what came in under the replaced key was wrapped anew");
    store.close().await;
}
