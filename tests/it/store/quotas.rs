//! API keys, and how many samples each requester may have deleted within a day.

use std::time::Duration;

use forgetd::{
    domain::{
        access::{ApiKey, KeyLimits, Scope, hash_secret},
        model::Model,
    },
    store::{Acceptance, Excess, Idempotency, NewDeletion, Requester},
};

use super::{
    Ledger, acceptance::idempotency, at, new_deletion, new_id, on_both, race, sample_target,
};

on_both!(
    a_key_is_found_by_its_newest_secret_until_it_is_revoked,
    a_quota_holds_for_24_hours,
    a_refusal_leaves_nothing,
    racing_requests_share_a_quota,
);

pub(super) async fn key(ledger: &Ledger, samples_per_day: u64) -> ApiKey {
    let key = ApiKey {
        id: new_id(),
        name: "intake".into(),
        hash: hash_secret(&new_id().to_string()),
        scopes: vec![Scope::Delete],
        limits: KeyLimits { requests_per_minute: Some(60), samples_per_day: Some(samples_per_day) },
        created_at: at(0),
        revoked_at: None,
    };
    ledger.store.create_api_key(&key, None).await.unwrap();
    key
}

pub(super) fn by(
    key: &ApiKey,
    model: &Model,
    numbers: std::ops::Range<u64>,
    now_s: i64,
) -> NewDeletion {
    let targets = numbers.map(sample_target).collect();
    let requester = Some(Requester::ApiKey(key.id));
    NewDeletion { requester, ..new_deletion(model, targets, at(now_s)) }
}

async fn a_key_is_found_by_its_newest_secret_until_it_is_revoked(ledger: &Ledger) {
    let (store, key) = (&ledger.store, key(ledger, 10).await);
    assert_eq!(store.api_key(key.hash).await.unwrap().as_ref(), Some(&key));
    assert_eq!(store.api_key_by_id(key.id).await.unwrap().as_ref(), Some(&key));
    let hash = hash_secret("another");
    let administrator = new_id();
    assert!(store.rotate_api_key(key.id, hash, Some(administrator), at(1)).await.unwrap());
    assert_eq!(store.api_key(key.hash).await.unwrap(), None);
    let rotated = ApiKey { hash, ..key.clone() };
    assert_eq!(store.api_key(hash).await.unwrap(), Some(rotated));
    assert!(store.revoke_api_key(key.id, Some(administrator), at(2)).await.unwrap());
    assert!(!store.revoke_api_key(key.id, None, at(2)).await.unwrap());
    assert!(!store.rotate_api_key(key.id, hash_secret("late"), None, at(3)).await.unwrap());
    assert_eq!(store.api_key(hash).await.unwrap(), None);
    let revoked = store.api_key_by_id(key.id).await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at, Some(at(2)));
    let events = store.audit_events(&forgetd::store::AuditFilter::default(), 0, 9).await.unwrap();
    for (event, kind) in events.iter().zip(["created", "rotated", "revoked"]) {
        assert!(event.entry.contains(&format!("api_key.{kind}")), "{}", event.entry);
        assert!(!event.entry.contains("intake"));
        let by = if kind == "created" { "null".to_owned() } else { format!("\"{administrator}\"") };
        assert!(event.entry.contains(&format!("\"by\":{by}")), "{}", event.entry);
    }
    assert_eq!(events.len(), 3);
}

async fn a_quota_holds_for_24_hours(ledger: &Ledger) {
    const DAY_S: i64 = 24 * 3600;
    let model = ledger.trained_model("m", 20).await;
    let (limited, free) = (key(ledger, 5).await, key(ledger, 1_000).await);
    let cancelled = ledger.accept(&by(&limited, &model, 0..3, 20)).await.request.id;
    ledger.store.cancel_deletion(cancelled, at(20), None).await.unwrap();
    ledger.accept(&by(&limited, &model, 0..3, 21)).await;
    ledger.accept(&by(&limited, &model, 100..104, 22)).await;
    let refused = ledger.store.accept_deletion(&by(&limited, &model, 3..6, 31), 100).await;
    let wait = Duration::from_secs(24 * 3600 - 10);
    let excess = Excess { samples: 3, used: 3, limit: 5, wait };
    assert_eq!(refused.unwrap(), Acceptance::QuotaExceeded(excess));
    ledger.accept(&by(&limited, &model, 3..5, 32)).await;
    ledger.accept(&by(&free, &model, 5..9, 33)).await;
    let late = by(&limited, &model, 10..13, 20 + DAY_S);
    let late = ledger.store.accept_deletion(&late, 100).await.unwrap();
    assert!(matches!(late, Acceptance::QuotaExceeded(_)), "{late:?}");
    ledger.accept(&by(&limited, &model, 10..13, 21 + DAY_S)).await;
}

async fn a_refusal_leaves_nothing(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let key = key(ledger, 2).await;
    let mut new = by(&key, &model, 0..3, 20);
    new.idempotency = Some(Idempotency { api_key_id: key.id, ..idempotency("k", b"") });
    let refused = ledger.store.accept_deletion(&new, 100).await.unwrap();
    assert!(matches!(refused, Acceptance::QuotaExceeded(_)), "{refused:?}");
    assert_eq!(ledger.store.deletion(new.id).await.unwrap(), None);
    for table in [
        "SELECT COUNT(*) FROM deletion_targets",
        "SELECT COUNT(*) FROM deletion_samples",
        "SELECT COUNT(*) FROM tombstones",
        "SELECT COUNT(*) FROM idempotency_keys",
        "SELECT COUNT(*) FROM samples WHERE deletion_id IS NOT NULL",
        "SELECT COUNT(*) FROM audit_events WHERE kind = 'deletion.received'",
    ] {
        assert_eq!(ledger.integer(table).await, 0, "{table}");
    }
    new.targets.truncate(2);
    ledger.accept(&new).await;
}

async fn racing_requests_share_a_quota(ledger: &Ledger) {
    // On models of their own, so that no other lock puts them in order.
    let mut models = Vec::new();
    for name in ["a", "b", "c", "d"] {
        models.push(ledger.trained_model(name, 8).await);
    }
    let key = key(ledger, 5).await;
    let stores = [ledger.store.clone(), ledger.of_another_process().await];
    let racers = models.iter().zip(stores.iter().cycle()).map(|(model, store)| {
        let (store, new) = (store.clone(), by(&key, model, 0..2, 20));
        async move { store.accept_deletion(&new, 100).await.unwrap() }
    });
    let answers = race(racers).await;
    assert_eq!(answers.iter().filter(|it| matches!(it, Acceptance::Accepted(_))).count(), 2);
}
