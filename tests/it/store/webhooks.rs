//! Webhooks and the outbox: what is told is written with what it tells of, claimed by one at a time
//! and recorded under the claim.

use std::time::Duration;

use forgetd::{
    clock::Ids,
    domain::{
        job::JobKind,
        sealing::MasterKey,
        timestamp::Timestamp,
        version::Cause,
        webhook::{
            DisabledReason, EventType, Failure, Message, MessageState, Webhook, WebhookSecret,
            WebhookSettings,
        },
    },
    store::{
        AuditFilter, ClaimedMessages, Delivery, Keyring, Recorded, Signing, Store, StoreError,
    },
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Ledger, MASTER, at, keyring, new_deletion, new_id, on_both, publication, sample_target,
};

on_both!(
    every_state_is_told_once,
    what_is_undone_is_not_told,
    a_webhook_is_told_what_it_chose,
    webhooks_are_made_changed_and_removed,
    messages_are_claimed_by_one_at_a_time,
    a_late_record_is_fenced,
    failures_wait_and_news_goes_first,
    a_webhook_that_is_gone_is_told_nothing_more,
    a_webhook_that_nothing_reached_is_disabled,
    messages_are_listed_and_sent_again,
    old_messages_are_pruned,
    secrets_are_sealed_and_change_keys_with_the_ledger,
);

const CLAIM: Duration = Duration::from_secs(30);

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
    assert!(store.create_webhook(&webhook, &WebhookSecret::new([7; 32]), 100).await.unwrap());
    webhook
}

async fn listed(ledger: &Ledger, webhook: &Webhook) -> Vec<Message> {
    let mut messages = ledger.store.messages(webhook.id, None, None, 1_000).await.unwrap();
    messages.reverse();
    messages
}

/// The types of all messages to the webhook, oldest first.
async fn told(ledger: &Ledger, webhook: &Webhook) -> Vec<EventType> {
    listed(ledger, webhook).await.iter().map(|message| message.event_type).collect()
}

async fn take(ledger: &Ledger, webhook: &Webhook, now: Timestamp) -> ClaimedMessages {
    let token = new_id();
    let claimed = ledger.store.claim_messages(webhook.id, token, now, CLAIM, 8).await.unwrap();
    claimed.expect("an active webhook")
}

async fn record(ledger: &Ledger, message: &Message, token: Uuid, delivery: Delivery) -> Recorded {
    ledger.store.record_delivery(message.id, token, &delivery, at(50)).await.unwrap()
}

const DELIVERED: Delivery = Delivery::Delivered { status: 204 };

fn failed(retry_at: Option<Timestamp>) -> Delivery {
    Delivery::Failed { failure: Failure::Refused, status: Some(500), retry_at }
}

/// A webhook and some messages to it, of requests that were received.
async fn with_messages(ledger: &Ledger, count: u64) -> Webhook {
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
    ledger.store.enqueue_job(new_id(), model.id, JobKind::Settlement, at(23)).await.unwrap();
    let settlement = ledger.claim(at(23)).await.unwrap();
    ledger.publish_exact(&settlement, at(23)).await;

    let unknown = new_deletion(&model, vec![sample_target(99)], at(24));
    ledger.accept(&unknown).await;
    let cancelled = ledger.delete(&model, vec![sample_target(1)], at(25)).await;
    ledger.store.cancel_deletion(cancelled, at(26)).await.unwrap();
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
        store.cancel_deletion(id, at(21)).await.unwrap();
    }
    assert_eq!(told(ledger, &some_types).await, [EventType::Cancelled; 2]);
    assert_eq!(told(ledger, &some_models).await, [EventType::Queued, EventType::Cancelled]);
    let read = store.webhook(some_models.id).await.unwrap().unwrap();
    assert_eq!(read, some_models);
}

async fn webhooks_are_made_changed_and_removed(ledger: &Ledger) {
    let store = &ledger.store;
    let first = webhook(store, settings()).await;
    let second = webhook(store, settings()).await;
    let third = Webhook { id: new_id(), ..first.clone() };
    let secret = WebhookSecret::new([7; 32]);
    assert!(!store.create_webhook(&third, &secret, 2).await.unwrap(), "there are two already");
    let list = async |after, limit| {
        let page = store.webhooks(after, limit).await.unwrap();
        page.iter().map(|webhook| webhook.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 1).await, [first.id]);
    assert_eq!(list(Some(first.id), 9).await, [second.id]);

    let changed = WebhookSettings { url: "https://other.example.org/".into(), ..settings() };
    assert!(store.change_webhook(first.id, &changed, at(5)).await.unwrap());
    assert_eq!(store.webhook(first.id).await.unwrap().unwrap().settings, changed);
    assert!(store.activate_webhook(first.id, at(6)).await.unwrap(), "it is active anyway");
    assert!(store.rotate_webhook(first.id, &secret, at(7), at(70)).await.unwrap());

    let model = ledger.trained_model("m", 8).await;
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    assert!(store.remove_webhook(first.id, at(21)).await.unwrap());
    assert_eq!(store.webhook(first.id).await.unwrap(), None);
    assert!(listed(ledger, &first).await.is_empty() && !listed(ledger, &second).await.is_empty());
    for is_there in [
        store.change_webhook(first.id, &changed, at(22)).await.unwrap(),
        store.activate_webhook(first.id, at(22)).await.unwrap(),
        store.rotate_webhook(first.id, &secret, at(22), at(70)).await.unwrap(),
        store.remove_webhook(first.id, at(22)).await.unwrap(),
    ] {
        assert!(!is_there);
    }

    let filter = AuditFilter { about: Some(first.id), ..AuditFilter::default() };
    let events = store.audit_events(&filter, 0, 100).await.unwrap();
    let kinds: Vec<_> = events
        .iter()
        .map(|event| serde_json::from_str::<Value>(&event.entry).unwrap()["kind"].clone())
        .collect();
    let expected = ["webhook.created", "webhook.changed", "webhook.rotated", "webhook.removed"];
    assert_eq!(kinds, expected);
    assert!(events.iter().all(|event| !event.entry.contains("example.org")), "no free text");
}

async fn messages_are_claimed_by_one_at_a_time(ledger: &Ledger) {
    let webhook = with_messages(ledger, 8).await;
    let store = &ledger.store;
    assert_eq!(store.webhooks_due(at(30)).await.unwrap(), [webhook.id]);
    let claims = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            store.claim_messages(webhook.id, new_id(), at(30), CLAIM, 3).await.unwrap().unwrap()
        })
    });
    let mut claimed = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        let claim = claim.await.unwrap();
        assert!(claim.messages.len() <= 3);
        assert!(claim.messages.is_sorted_by_key(|message| message.id));
        claimed.extend(claim.messages.iter().map(|message| message.id));
    }
    claimed.sort_unstable();
    let all: Vec<_> = listed(ledger, &webhook).await.iter().map(|message| message.id).collect();
    assert_eq!(claimed, all, "each by one");
    assert!(store.webhooks_due(at(31)).await.unwrap().is_empty());
    let ended = at(30).plus(CLAIM);
    assert_eq!(store.webhooks_due(ended).await.unwrap(), [webhook.id], "nobody recorded them");
}

async fn a_late_record_is_fenced(ledger: &Ledger) {
    let webhook = with_messages(ledger, 1).await;
    let late = take(ledger, &webhook, at(30)).await;
    let again = take(ledger, &webhook, at(30).plus(CLAIM)).await;
    let message = &again.messages[0];
    assert_eq!(message.id, late.messages[0].id);
    assert_eq!(record(ledger, message, late.token, failed(None)).await, Recorded::Fenced);
    assert_eq!(record(ledger, message, again.token, DELIVERED).await, Recorded::Done);
    assert_eq!(record(ledger, message, again.token, DELIVERED).await, Recorded::Fenced, "twice");
    let listed = listed(ledger, &webhook).await;
    assert_eq!((listed[0].state, listed[0].attempts), (MessageState::Delivered, 1));
    let read = ledger.store.webhook(webhook.id).await.unwrap().unwrap();
    assert_eq!(read.delivered_at, Some(at(50)));
}

async fn failures_wait_and_news_goes_first(ledger: &Ledger) {
    let webhook = with_messages(ledger, 2).await;
    let claimed = take(ledger, &webhook, at(30)).await;
    let [first, second] = claimed.messages.as_slice() else { panic!("two messages") };
    assert_eq!(record(ledger, first, claimed.token, failed(Some(at(60)))).await, Recorded::Done);
    assert_eq!(record(ledger, second, claimed.token, DELIVERED).await, Recorded::Done);
    let listed = listed(ledger, &webhook).await;
    assert_eq!(listed[0].state, MessageState::Pending);
    assert_eq!((listed[0].last_status, listed[0].attempts), (Some(500), 1));
    assert_eq!(listed[0].last_failure, Some(Failure::Refused));
    assert_eq!(listed[0].next_attempt_at, Some(at(60)));
    assert!(ledger.store.webhooks_due(at(59)).await.unwrap().is_empty());

    let model = ledger.store.model(&"m".parse().unwrap()).await.unwrap().unwrap();
    ledger.delete(&model, vec![sample_target(5)], at(61)).await;
    let token = new_id();
    let next = ledger.store.claim_messages(webhook.id, token, at(62), CLAIM, 1).await.unwrap();
    let next = next.unwrap().messages;
    assert!(next.len() == 1 && next[0].id > second.id, "what is new waits for no failure");
    let then = take(ledger, &webhook, at(62)).await.messages;
    assert_eq!((then[0].id, then[0].attempts), (first.id, 1));
}

async fn a_webhook_that_is_gone_is_told_nothing_more(ledger: &Ledger) {
    let webhook = with_messages(ledger, 2).await;
    let store = &ledger.store;
    let claimed = take(ledger, &webhook, at(30)).await;
    let gone = Delivery::Gone { status: 410 };
    let disabled = Recorded::Disabled(DisabledReason::Gone);
    assert_eq!(record(ledger, &claimed.messages[0], claimed.token, gone).await, disabled);
    let done = record(ledger, &claimed.messages[1], claimed.token, gone).await;
    assert_eq!(done, Recorded::Done, "it is disabled once");
    let read = store.webhook(webhook.id).await.unwrap().unwrap();
    assert_eq!(read.disabled.map(|it| (it.reason, it.at)), Some((DisabledReason::Gone, at(50))));
    assert_eq!(store.disabled_webhooks().await.unwrap(), 1);

    let model = store.model(&"m".parse().unwrap()).await.unwrap().unwrap();
    ledger.delete(&model, vec![sample_target(5)], at(60)).await;
    assert_eq!(listed(ledger, &webhook).await.len(), 2);
    let first = store.redeliver_message(webhook.id, claimed.messages[0].id).await.unwrap();
    assert_eq!(first.unwrap().state, MessageState::Pending);
    assert!(store.webhooks_due(at(61)).await.unwrap().is_empty());
    let claim = store.claim_messages(webhook.id, new_id(), at(61), CLAIM, 8).await.unwrap();
    assert!(claim.is_none());
    assert!(store.activate_webhook(webhook.id, at(62)).await.unwrap());
    assert_eq!(store.webhooks_due(at(63)).await.unwrap(), [webhook.id], "what waited goes on");
    let filter = AuditFilter { about: Some(webhook.id), ..AuditFilter::default() };
    let events = store.audit_events(&filter, 0, 100).await.unwrap();
    let of_kind = |kind: &str| events.iter().filter(|event| event.entry.contains(kind)).count();
    assert_eq!((of_kind("webhook.disabled"), of_kind("webhook.activated")), (1, 1));
}

async fn a_webhook_that_nothing_reached_is_disabled(ledger: &Ledger) {
    let webhook = with_messages(ledger, 3).await;
    let store = &ledger.store;
    let claimed = take(ledger, &webhook, at(30)).await;
    let [first, second, third] = claimed.messages.as_slice() else { panic!("three messages") };
    assert_eq!(record(ledger, first, claimed.token, DELIVERED).await, Recorded::Done);
    let given_up = record(ledger, second, claimed.token, failed(None)).await;
    assert_eq!(given_up, Recorded::Done, "another came through meanwhile");
    ledger.execute("UPDATE webhooks SET delivered_at = created_at").await;
    let disabled = Recorded::Disabled(DisabledReason::Unreachable);
    assert_eq!(record(ledger, third, claimed.token, failed(None)).await, disabled);
    let ended = listed(ledger, &webhook).await;
    assert_eq!(ended[2].state, MessageState::GivenUp);
    assert_eq!(ended[2].next_attempt_at, None);

    // An activation is a fresh start: a message from before it does not end it again.
    store.activate_webhook(webhook.id, at(60)).await.unwrap();
    store.redeliver_message(webhook.id, third.id).await.unwrap().unwrap();
    let claimed = take(ledger, &webhook, at(61)).await;
    let again = record(ledger, &claimed.messages[0], claimed.token, failed(None)).await;
    assert_eq!(again, Recorded::Done);
}

async fn messages_are_listed_and_sent_again(ledger: &Ledger) {
    let webhook = with_messages(ledger, 3).await;
    let store = &ledger.store;
    let claimed = take(ledger, &webhook, at(30)).await;
    record(ledger, &claimed.messages[0], claimed.token, DELIVERED).await;
    let list = async |state, before, limit| {
        let page = store.messages(webhook.id, state, before, limit).await.unwrap();
        page.iter().map(|message| message.id).collect::<Vec<_>>()
    };
    let ids: Vec<_> = claimed.messages.iter().rev().map(|message| message.id).collect();
    assert_eq!(list(None, None, 2).await, ids[..2]);
    assert_eq!(list(None, Some(ids[1]), 2).await, ids[2..]);
    assert_eq!(list(Some(MessageState::Pending), None, 9).await, ids[..2]);
    assert_eq!(list(Some(MessageState::Delivered), None, 9).await, ids[2..]);

    let again = store.redeliver_message(webhook.id, ids[2]).await.unwrap().unwrap();
    assert_eq!((again.state, again.attempts), (MessageState::Pending, 0));
    let claimed = take(ledger, &webhook, at(31)).await;
    assert_eq!(claimed.messages.iter().map(|it| it.id).collect::<Vec<_>>(), [ids[2]]);
    assert_eq!(store.redeliver_message(new_id(), ids[2]).await.unwrap(), None, "another's");
    assert_eq!(store.redeliver_message(webhook.id, new_id()).await.unwrap(), None);
}

async fn old_messages_are_pruned(ledger: &Ledger) {
    let webhook = with_messages(ledger, 3).await;
    let store = &ledger.store;
    let claimed = take(ledger, &webhook, at(30)).await;
    record(ledger, &claimed.messages[0], claimed.token, DELIVERED).await;
    record(ledger, &claimed.messages[1], claimed.token, failed(None)).await;
    store.rotate_webhook(webhook.id, &WebhookSecret::new([8; 32]), at(31), at(100)).await.unwrap();
    assert_eq!(store.prune_outbox(at(50), at(99)).await.unwrap(), 0, "they ended then");
    assert_eq!(store.prune_outbox(at(51), at(99)).await.unwrap(), 2);
    assert_eq!(listed(ledger, &webhook).await.len(), 1, "what waits stays");
    let kept = "SELECT COUNT(*) FROM webhooks WHERE previous_secret IS NOT NULL";
    assert_eq!(ledger.integer(kept).await, 1);

    ledger.execute("UPDATE webhooks SET disabled_at = 0, disabled_reason = 'gone'").await;
    assert_eq!(store.prune_outbox(at(20), at(100)).await.unwrap(), 0);
    assert_eq!(store.prune_outbox(at(21), at(100)).await.unwrap(), 1, "nobody will send it");
    assert_eq!(ledger.integer(kept).await, 0, "the secret before signs nothing more");
    assert_eq!(store.webhook(webhook.id).await.unwrap().unwrap().previous_secret_until, None);
}

async fn secrets_are_sealed_and_change_keys_with_the_ledger(ledger: &Ledger) {
    const NEXT: [u8; 32] = [10; 32];
    let webhook = with_messages(ledger, 1).await;
    let store = &ledger.store;
    store.rotate_webhook(webhook.id, &WebhookSecret::new([8; 32]), at(31), at(90)).await.unwrap();
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
    let late = store.rotate_webhook(webhook.id, &another, at(51), at(90)).await;
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
