//! A ledger is opened with the service key of its pseudonyms only.

use forgetd::{domain::identity::ServiceKey, store::StoreError};

use super::{Ledger, on_both, race};

on_both!(another_service_key_is_refused, one_of_two_first_keys_is_the_ledgers);

async fn another_service_key_is_refused(ledger: &Ledger) {
    let [own, other] = [[7; 32], [8; 32]].map(|key| ServiceKey::new(key).key_fingerprint());
    ledger.store.check_service_key(own).await.unwrap();
    let refused = ledger.store.check_service_key(other).await;
    assert!(matches!(refused, Err(StoreError::OtherServiceKey { .. })), "{refused:?}");
    ledger.of_another_process().await.check_service_key(own).await.unwrap();
    assert_eq!(ledger.blobs("SELECT fingerprint FROM service_key").await, [own.as_bytes()]);
}

async fn one_of_two_first_keys_is_the_ledgers(ledger: &Ledger) {
    let mut racers = Vec::new();
    for key in 1..=8 {
        let (store, fingerprint) =
            (ledger.of_another_process().await, ServiceKey::new([key; 32]).key_fingerprint());
        racers.push(async move { store.check_service_key(fingerprint).await });
    }
    let checked = race(racers).await;
    assert_eq!(checked.iter().filter(|checked| checked.is_ok()).count(), 1, "{checked:?}");
}
