//! The outbox: a message is claimed by one sender at a time, what came of it is recorded under the
//! claim, and what has ended is pruned.

use forgetd::{
    domain::{
        timestamp::Timestamp,
        webhook::{DisabledReason, Failure, Message, MessageState, Webhook, WebhookSecret},
    },
    store::{AuditFilter, ClaimedMessages, Delivery, Recorded},
};
use uuid::Uuid;

use super::{
    Ledger, at, new_id, on_both, race, sample_target,
    webhooks::{CLAIM, listed, with_messages},
};

on_both!(
    messages_are_claimed_by_one_at_a_time,
    a_late_record_is_fenced,
    failures_wait_and_news_goes_first,
    a_webhook_that_is_gone_is_told_nothing_more,
    a_webhook_that_nothing_reached_is_disabled,
    messages_are_listed_and_sent_again,
    old_messages_are_pruned,
);

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
async fn messages_are_claimed_by_one_at_a_time(ledger: &Ledger) {
    let webhook = with_messages(ledger, 8).await;
    let store = &ledger.store;
    assert_eq!(store.webhooks_due(at(30)).await.unwrap(), [webhook.id]);
    let claims = (0..8).map(|_| {
        let store = store.clone();
        async move {
            store.claim_messages(webhook.id, new_id(), at(30), CLAIM, 3).await.unwrap().unwrap()
        }
    });
    let mut claimed = Vec::new();
    for claim in race(claims).await {
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
    assert!(store.activate_webhook(webhook.id, at(62), None).await.unwrap());
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
    store.activate_webhook(webhook.id, at(60), None).await.unwrap();
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
    store
        .rotate_webhook(webhook.id, &WebhookSecret::new([8; 32]), at(31), at(100), None)
        .await
        .unwrap();
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
