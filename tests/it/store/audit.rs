//! The audit log stays dense and true, whoever writes at the same time.

use forgetd::{
    domain::{
        access::{ApiKey, KeyLimits, Scope, hash_secret},
        audit::leaf_hash,
        job::JobKind,
    },
    store::AuditFilter,
};

use super::{Ledger, at, new_id, on_both, race, sample_target};

on_both!(
    indices_are_dense_under_concurrent_writers,
    every_step_of_a_deletion_leaves_its_leaf,
    keys_are_found_by_hash_until_revoked,
);

async fn indices_are_dense_under_concurrent_writers(ledger: &Ledger) {
    let mut models = Vec::new();
    for number in 0..4 {
        models.push(ledger.trained_model(&format!("m{number}"), 16).await);
    }
    let writers = (0..16_u64).map(|writer| {
        let (store, model) =
            (ledger.store.clone(), models[usize::try_from(writer % 4).unwrap()].clone());
        async move {
            for round in 0..4 {
                let target = vec![sample_target(writer / 4 + round * 4)];
                let new = super::new_deletion(&model, target, at(20));
                store.accept_deletion(&new, 1_000).await.unwrap();
                store.cancel_deletion(new.id, at(21), None).await.unwrap();
                store
                    .enqueue_job(new_id(), model.id, JobKind::Settlement, at(22), None)
                    .await
                    .unwrap();
            }
        }
    });
    race(writers).await;
    let events = ledger.store.audit_events(&AuditFilter::default(), 0, 10_000).await.unwrap();
    // Per model: created, ingested, queued, published; a settlement queued once.
    assert_eq!(events.len(), 4 * 5 + 16 * 4 * 2);
    for (index, event) in (0..).zip(&events) {
        assert_eq!(event.index, index);
        assert_eq!(event.leaf_hash, leaf_hash(event.entry.as_bytes()));
    }
    let page = ledger.store.audit_events(&AuditFilter::default(), 7, 3).await.unwrap();
    assert_eq!(page, events[7..10]);
}

async fn every_step_of_a_deletion_leaves_its_leaf(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let id = ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    ledger.unlearn(at(21)).await;
    ledger.store.complete_propagated(at(22)).await.unwrap();
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(23), None).await.unwrap();
    let settlement = ledger.claim(at(24)).await.unwrap();
    ledger.publish_exact(&settlement, at(25)).await;
    let kinds = async |filter: AuditFilter| {
        let events = ledger.store.audit_events(&filter, 0, 100).await.unwrap();
        let kind = |entry: &str| {
            let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
            entry["kind"].as_str().unwrap().to_owned()
        };
        events.iter().map(|event| kind(&event.entry)).collect::<Vec<_>>()
    };
    let steps = ["deletion.received", "deletion.batched", "deletion.completed", "deletion.settled"];
    let of_request = AuditFilter { about: Some(id), model_id: None };
    assert_eq!(kinds(of_request).await, steps);
    let of_both = AuditFilter { about: Some(id), model_id: Some(model.id) };
    assert_eq!(kinds(of_both).await, steps);
    let of_model = AuditFilter { about: None, model_id: Some(model.id) };
    assert_eq!(kinds(of_model).await.len(), 12);
    let of_another = AuditFilter { about: Some(id), model_id: Some(new_id()) };
    assert!(kinds(of_another).await.is_empty());
}

async fn keys_are_found_by_hash_until_revoked(ledger: &Ledger) {
    let key = ApiKey {
        id: new_id(),
        name: "ci".into(),
        hash: hash_secret("secret"),
        scopes: vec![Scope::Delete, Scope::Audit],
        limits: KeyLimits::default(),
        created_at: at(1),
        revoked_at: None,
    };
    let store = &ledger.store;
    store.create_api_key(&key, None).await.unwrap();
    assert_eq!(store.api_key(key.hash).await.unwrap(), Some(key.clone()));
    assert_eq!(store.api_key(hash_secret("guess")).await.unwrap(), None);
    assert!(store.revoke_api_key(key.id, None, at(2)).await.unwrap());
    assert!(!store.revoke_api_key(key.id, None, at(3)).await.unwrap());
    assert_eq!(store.api_key(key.hash).await.unwrap(), None);
    let revoked = ApiKey { revoked_at: Some(at(2)), ..key };
    assert_eq!(store.api_keys().await.unwrap(), [revoked]);
}
