//! Webhooks: who is told what, and that it is written with what it tells of.

use std::time::Duration;

use forgetd::{
    clock::Ids,
    domain::{
        job::JobKind,
        sealing::MasterKey,
        version::Cause,
        webhook::{EventType, Message, MessageState, Webhook, WebhookSecret, WebhookSettings},
    },
    store::{AuditFilter, Keyring, Signing, Store, StoreError},
};
use serde_json::Value;

use super::{
    Ledger, MASTER, at, keyring, new_deletion, new_id, on_both, publication, sample_target,
};

on_both!(
    every_state_is_told_once,
    what_is_undone_is_not_told,
    a_webhook_is_told_what_it_chose,
    webhooks_are_made_changed_and_removed,
    secrets_are_sealed_and_change_keys_with_the_ledger,
);

pub const CLAIM: Duration = Duration::from_secs(30);

pub fn settings() -> WebhookSettings {
    WebhookSettings {
        name: "case management".into(),
        url: "https://hooks.example.org/".into(),
        event_types: None,
        models: None,
    }
}

pub async fn webhook(store: &Store, settings: WebhookSettings) -> Webhook {
    let webhook = Webhook {
        id: new_id(),
        settings,
        created_at: at(0),
        previous_secret_until: None,
        delivered_at: None,
        disabled: None,
    };
    assert!(store.create_webhook(&webhook, &WebhookSecret::new([7; 32]), 100, None).await.unwrap());
    webhook
}

pub async fn listed(ledger: &Ledger, webhook: &Webhook) -> Vec<Message> {
    let mut messages = ledger.store.messages(webhook.id, None, None, 1_000).await.unwrap();
    messages.reverse();
    messages
}

/// The types of all messages to the webhook, oldest first.
async fn told(ledger: &Ledger, webhook: &Webhook) -> Vec<EventType> {
    listed(ledger, webhook).await.iter().map(|message| message.event_type).collect()
}

/// A webhook and some messages to it, of requests that were received.
pub async fn with_messages(ledger: &Ledger, count: u64) -> Webhook {
    let model = ledger.trained_model("m", 8).await;
    let webhook = webhook(&ledger.store, settings()).await;
    for number in 0..count {
        ledger.delete(&model, vec![sample_target(number)], at(20)).await;
    }
    webhook
}

async fn every_state_is_told_once(ledger: &Ledger) {
    use EventType::{
        Cancelled, Completed, Failed, Queued, Rejected, Settled, Suspended, Unlearning,
        VersionPublished,
    };
    let webhook = webhook(&ledger.store, settings()).await;
    let model = ledger.trained_model("m", 8).await;
    let id = ledger.delete(&model, vec![sample_target(0)], at(19)).await;
    let claimed = ledger.claim(at(20)).await.unwrap();
    let unlearned = publication(&claimed, at(21), Cause::Unlearned, Some(1));
    ledger.store.publish(&unlearned).await.unwrap();
    for _ in 0..2 {
        ledger.store.complete_propagated(at(22)).await.unwrap();
    }
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(23), None).await.unwrap();
    let settlement = ledger.claim(at(23)).await.unwrap();
    ledger.publish_exact(&settlement, at(23)).await;

    let unknown = new_deletion(&model, vec![sample_target(99)], at(24));
    ledger.accept(&unknown).await;
    let cancelled = ledger.delete(&model, vec![sample_target(1)], at(25)).await;
    ledger.store.cancel_deletion(cancelled, at(26), None).await.unwrap();
    let mut large = new_deletion(&model, vec![sample_target(2), sample_target(3)], at(27));
    large.approval_above_share = Some(0.1);
    ledger.accept(&large).await;
    ledger.store.refuse_deletion(large.id, None, at(28)).await.unwrap();
    ledger.delete(&model, vec![sample_target(4)], at(29)).await;
    let claimed = ledger.claim(at(30)).await.unwrap();
    ledger.store.fail_attempt(&claimed.lease, at(31), "why", None).await.unwrap();

    let expected = [
        VersionPublished,
        Queued,
        Unlearning,
        VersionPublished,
        Completed,
        VersionPublished,
        Settled,
        Rejected,
        Queued,
        Cancelled,
        Suspended,
        Rejected,
        Queued,
        Unlearning,
        Failed,
    ];
    assert_eq!(told(ledger, &webhook).await, expected);
    let messages = listed(ledger, &webhook).await;
    let completed: Value = serde_json::from_str(&messages[4].payload).unwrap();
    assert_eq!(
        completed,
        serde_json::json!({
            "type": "deletion_request.completed",
            "timestamp": at(22),
            "data": {
                "model": "m", "deletion_request": id, "samples": 1,
                "excluded_from_epoch": 2, "guarantee": "approximate",
            },
        })
    );
    // Not even pseudonyms of those who are forgotten are told.
    for message in &messages {
        for number in 0..8 {
            assert!(!message.payload.contains(&super::sample_key(number).to_string()));
        }
        assert_eq!(message.state, MessageState::Pending);
    }
}

async fn what_is_undone_is_not_told(ledger: &Ledger) {
    let model = ledger.trained_model("m", 8).await;
    let webhook = webhook(&ledger.store, settings()).await;
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let claimed = ledger.claim(at(21)).await.unwrap();
    let before = told(ledger, &webhook).await;
    assert_eq!(before, [EventType::Queued, EventType::Unlearning]);
    // A publication whose parent is another version is fenced, after much of it was written.
    let stale = publication(&claimed, at(22), Cause::Unlearned, Some(7));
    assert!(matches!(ledger.store.publish(&stale).await, Err(StoreError::Fenced { .. })));
    // And so is one whose very last statement breaks.
    let same = new_deletion(&model, vec![sample_target(1)], at(22));
    ledger.accept(&same).await;
    assert!(ledger.store.accept_deletion(&same, 100).await.is_err(), "its id is taken");
    assert_eq!(told(ledger, &webhook).await.len(), before.len() + 1);
    let events = "SELECT COUNT(*) FROM audit_events WHERE kind = 'deletion.received'";
    assert_eq!(ledger.integer(events).await, 2, "leaf and message come and stay away together");
}

async fn a_webhook_is_told_what_it_chose(ledger: &Ledger) {
    let (one, two) = (ledger.trained_model("one", 8).await, ledger.trained_model("two", 8).await);
    let store = &ledger.store;
    let some_types = WebhookSettings {
        event_types: Some(vec![EventType::Cancelled, EventType::Rejected]),
        ..settings()
    };
    let some_types = webhook(store, some_types).await;
    let some_models = WebhookSettings { models: Some(vec![two.name.clone()]), ..settings() };
    let some_models = webhook(store, some_models).await;
    for model in [&one, &two] {
        let id = ledger.delete(model, vec![sample_target(0)], at(20)).await;
        store.cancel_deletion(id, at(21), None).await.unwrap();
    }
    assert_eq!(told(ledger, &some_types).await, [EventType::Cancelled; 2]);
    assert_eq!(told(ledger, &some_models).await, [EventType::Queued, EventType::Cancelled]);
    let read = store.webhook(some_models.id).await.unwrap().unwrap();
    assert_eq!(read, some_models);
}

async fn webhooks_are_made_changed_and_removed(ledger: &Ledger) {
    let (store, by) = (&ledger.store, Some(new_id()));
    let second = webhook(store, settings()).await;
    let first = Webhook { id: new_id(), ..second.clone() };
    let secret = WebhookSecret::new([7; 32]);
    assert!(store.create_webhook(&first, &secret, 2, by).await.unwrap());
    let third = Webhook { id: new_id(), ..second.clone() };
    assert!(!store.create_webhook(&third, &secret, 2, by).await.unwrap(), "there are two already");
    let list = async |after, limit| {
        let page = store.webhooks(after, limit).await.unwrap();
        page.iter().map(|webhook| webhook.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 1).await, [second.id]);
    assert_eq!(list(Some(second.id), 9).await, [first.id]);

    let changed = WebhookSettings { url: "https://other.example.org/".into(), ..settings() };
    assert!(store.change_webhook(first.id, &changed, at(5), by).await.unwrap());
    assert_eq!(store.webhook(first.id).await.unwrap().unwrap().settings, changed);
    assert!(store.activate_webhook(first.id, at(6), by).await.unwrap(), "it is active anyway");
    assert!(store.rotate_webhook(first.id, &secret, at(7), at(70), by).await.unwrap());

    let model = ledger.trained_model("m", 8).await;
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    assert!(store.remove_webhook(first.id, at(21), by).await.unwrap());
    assert_eq!(store.webhook(first.id).await.unwrap(), None);
    assert!(listed(ledger, &first).await.is_empty() && !listed(ledger, &second).await.is_empty());
    for is_there in [
        store.change_webhook(first.id, &changed, at(22), by).await.unwrap(),
        store.activate_webhook(first.id, at(22), by).await.unwrap(),
        store.rotate_webhook(first.id, &secret, at(22), at(70), by).await.unwrap(),
        store.remove_webhook(first.id, at(22), by).await.unwrap(),
    ] {
        assert!(!is_there);
    }

    let filter = AuditFilter { about: Some(first.id), ..AuditFilter::default() };
    let events = store.audit_events(&filter, 0, 100).await.unwrap();
    let entries: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(&event.entry).unwrap()).collect();
    let kinds: Vec<_> = entries.iter().map(|entry| entry["kind"].clone()).collect();
    let expected = ["webhook.created", "webhook.changed", "webhook.rotated", "webhook.removed"];
    assert_eq!(kinds, expected);
    assert!(
        entries.iter().all(|entry| entry["details"]["by"] == serde_json::json!(by)),
        "{entries:#?}"
    );
    assert!(events.iter().all(|event| !event.entry.contains("example.org")), "no free text");
}

async fn secrets_are_sealed_and_change_keys_with_the_ledger(ledger: &Ledger) {
    const NEXT: [u8; 32] = [10; 32];
    let webhook = with_messages(ledger, 1).await;
    let store = &ledger.store;
    store
        .rotate_webhook(webhook.id, &WebhookSecret::new([8; 32]), at(31), at(90), None)
        .await
        .unwrap();
    let exposed = async |store: &Store, now| {
        let claim = store.claim_messages(webhook.id, new_id(), now, CLAIM, 1).await.unwrap();
        let Signing::Webhook(secrets) = claim.unwrap().signing else { panic!("it is a webhook") };
        secrets.iter().map(WebhookSecret::expose).collect::<Vec<_>>()
    };
    let secrets = exposed(store, at(40)).await;
    assert_eq!(secrets.len(), 2, "both sign for a while");
    assert_eq!(exposed(store, at(90)).await, secrets[..1]);
    let columns = "SELECT secret FROM webhooks UNION ALL SELECT previous_secret FROM webhooks";
    let before = ledger.blobs(columns).await;
    for known in [[7; 32], [8; 32]] {
        assert!(before.iter().all(|sealed| !sealed.windows(32).any(|window| window == known)));
    }

    let master = |bytes| MasterKey::new(&bytes);
    let both = Keyring::new(master(NEXT), Some(master(MASTER)), Ids::system());
    let both = Store::open(&ledger.url, both).await.unwrap();
    both.migrate().await.unwrap();
    both.adopt_master_key(at(50)).await.unwrap();
    let another = WebhookSecret::new([9; 32]);
    let late = store.rotate_webhook(webhook.id, &another, at(51), at(90), None).await;
    assert!(matches!(late, Err(StoreError::OtherMasterKey { .. })), "the replaced key");
    let mut after = None;
    loop {
        after = both.rewrap_data_keys(after, at(51)).await.unwrap();
        if after.is_none() {
            break;
        }
    }
    both.close().await;
    let renewed = ledger.blobs(columns).await;
    assert!(renewed.iter().all(|sealed| !before.contains(sealed)));
    let next = Store::open(&ledger.url, keyring(NEXT)).await.unwrap();
    next.migrate().await.unwrap();
    assert_eq!(exposed(&next, at(60)).await, secrets);
    next.close().await;
    let replaced = store.claim_messages(webhook.id, new_id(), at(60), CLAIM, 1).await;
    assert!(matches!(replaced.map(drop), Err(StoreError::Damaged { .. })));
}
