//! Delivering to webhooks inside the test, with a clock of its own and a receiver on loopback, over
//! each database.

use std::time::Duration;

use forgetd::{
    clock::{Clock, Ids},
    domain::{
        identity::Digest,
        webhook::{DisabledReason, Failure, Message, MessageState, Webhook, WebhookSettings},
    },
    outbound::{Network, Outbound, Reach},
    store::{NewCallback, NewIntake, Origin},
    webhooks::{Messenger, MessengerOptions, Outbounds},
};
use reqwest::header;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    receiver::{Receiver, Reply},
    service::eventually,
    store::{
        Ledger, Raw, at, new_deletion, new_id, on_both, sample_target, subject_target,
        webhooks::{settings, webhook},
    },
};

on_both!(
    a_message_is_given_up_after_three_days,
    a_receiver_says_when_to_come_again,
    a_silent_receiver_holds_up_nobody_else,
    callbacks_have_a_reach_of_their_own,
    nothing_goes_beyond_the_reach,
    redirects_are_not_followed,
    several_processes_deliver_each_message_once,
    all_that_is_old_is_removed_though_it_be_much,
);

const HOUR: Duration = Duration::from_hours(1);

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Callbacks go to the Internet only.
    fn start(ledger: &Ledger, clock: &Clock, reach: Reach) -> Self {
        Self::start_with_callbacks(ledger, clock, reach, Reach::internet(true, &[], &[]))
    }

    fn start_with_callbacks(
        ledger: &Ledger,
        clock: &Clock,
        reach: Reach,
        callbacks: Reach,
    ) -> Self {
        let options = MessengerOptions {
            timeout: Duration::from_secs(5),
            retention: HOUR * 24 * 30,
            poll_interval: Duration::from_millis(50),
        };
        let outbounds = Outbounds {
            webhooks: Outbound::within(reach).unwrap(),
            callbacks: Outbound::within(callbacks).unwrap(),
        };
        let messenger = Messenger::new(
            ledger.store.clone(),
            outbounds,
            clock.clone(),
            Ids::system(),
            options,
            None,
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(messenger.run(stop.clone()));
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn loopback() -> Reach {
    Reach::internet(true, &["127.0.0.0/8".parse::<Network>().unwrap()], &[])
}

async fn at_url(ledger: &Ledger, url: String) -> Webhook {
    webhook(&ledger.store, WebhookSettings { url, ..settings() }).await
}

/// A webhook at this address that is told of one request.
async fn told(ledger: &Ledger, url: String) -> Webhook {
    let model = ledger.trained_model("m", 8).await;
    let webhook = at_url(ledger, url).await;
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    webhook
}

async fn message(ledger: &Ledger, webhook: &Webhook) -> Message {
    let messages = ledger.store.messages(webhook.id, None, None, 9).await.unwrap();
    let [message] = messages.try_into().unwrap();
    message
}

async fn message_becomes(
    ledger: &Ledger,
    webhook: &Webhook,
    fits: impl Fn(&Message) -> bool,
) -> Message {
    eventually("the message gets on", async || message(ledger, webhook).await, fits).await
}

async fn a_message_is_given_up_after_three_days(ledger: &Ledger) {
    let receiver = Receiver::start(|_, _| Reply::Status(500)).await;
    let clock = Clock::manual(at(30));
    let webhook = told(ledger, receiver.url()).await;
    let running = Running::start(ledger, &clock, loopback());
    for attempt in 1..=9 {
        let failed = message_becomes(ledger, &webhook, |it| it.attempts == attempt).await;
        assert_eq!((failed.state, failed.last_status), (MessageState::Pending, Some(500)));
        let next = failed.next_attempt_at.unwrap();
        assert!(next > clock.now());
        clock.set(next);
    }
    let ended = message_becomes(ledger, &webhook, |it| it.attempts == 10).await;
    assert_eq!((ended.state, ended.next_attempt_at), (MessageState::GivenUp, None));
    assert!(clock.now().since(at(30)) > HOUR * 75);
    let read = ledger.store.webhook(webhook.id).await.unwrap().unwrap();
    assert_eq!(read.disabled.unwrap().reason, DisabledReason::Unreachable);
    let told = receiver.received();
    assert_eq!(told.len(), 10);
    assert!(told.iter().all(|it| it.id == ended.id.to_string() && it.body == ended.payload));
    let times: Vec<i64> = told.iter().map(|it| it.timestamp.parse().unwrap()).collect();
    assert!(times.is_sorted() && times[0] < times[9], "signed anew each time: {times:?}");

    receiver.answer(|_, _| Reply::Status(200));
    ledger.store.activate_webhook(webhook.id, clock.now(), None).await.unwrap();
    ledger.store.redeliver_message(webhook.id, ended.id).await.unwrap();
    let delivered =
        message_becomes(ledger, &webhook, |it| it.state == MessageState::Delivered).await;
    assert_eq!((delivered.attempts, delivered.last_failure), (1, None));
    running.end().await;
}

async fn a_receiver_says_when_to_come_again(ledger: &Ledger) {
    let busy = |_: usize, _: &_| Reply::With(503, header::RETRY_AFTER, "7200".into());
    let receiver = Receiver::start(busy).await;
    let clock = Clock::manual(at(30));
    let webhook = told(ledger, receiver.url()).await;
    let running = Running::start(ledger, &clock, loopback());
    let failed = message_becomes(ledger, &webhook, |it| it.attempts == 1).await;
    assert_eq!(failed.next_attempt_at, Some(at(30).plus(HOUR * 2)));
    running.end().await;
}

async fn a_silent_receiver_holds_up_nobody_else(ledger: &Ledger) {
    let silent = Receiver::start(|_, _| Reply::Silence).await;
    let prompt = Receiver::start(|_, _| Reply::Status(204)).await;
    let clock = Clock::manual(at(30));
    let waiting = told(ledger, silent.url()).await;
    let running = Running::start(ledger, &clock, loopback());
    eventually("it is asked", async || silent.received().len(), |asked| *asked > 0).await;
    let served = at_url(ledger, prompt.url()).await;
    let model = ledger.store.model(&"m".parse().unwrap()).await.unwrap().unwrap();
    for number in 1..8 {
        ledger.delete(&model, vec![sample_target(number)], at(31)).await;
    }
    eventually("all are told", async || prompt.received().len(), |told| *told == 7).await;
    assert_eq!(silent.received().len(), 1, "its own messages wait for its first");
    let messages = ledger.store.messages(waiting.id, Some(MessageState::Pending), None, 9);
    assert_eq!(messages.await.unwrap().len(), 8);
    let delivered = async || {
        let state = Some(MessageState::Delivered);
        ledger.store.messages(served.id, state, None, 9).await.unwrap().len()
    };
    eventually("all are recorded", delivered, |delivered| *delivered == 7).await;
    let failed = async || {
        let messages = ledger.store.messages(waiting.id, None, None, 9).await.unwrap();
        messages.last().unwrap().last_failure
    };
    eventually("it is given up on", failed, |failure| *failure == Some(Failure::TimedOut)).await;
    running.end().await;
}

async fn nothing_goes_beyond_the_reach(ledger: &Ledger) {
    let receiver = Receiver::start(|_, _| Reply::Status(200)).await;
    let clock = Clock::manual(at(30));
    let port = receiver.address.port();
    let model = ledger.trained_model("m", 8).await;
    // The resolver says 127.0.0.1 or ::1 to the name; the literals come from before the
    // configuration changed, or from a resolver's point of view.
    let hosts = ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"];
    let mut webhooks = Vec::new();
    for host in hosts {
        webhooks.push(at_url(ledger, format!("http://{host}:{port}/")).await);
    }
    ledger.delete(&model, vec![sample_target(0)], at(20)).await;
    let running = Running::start(ledger, &clock, Reach::internet(true, &[], &[]));
    for webhook in &webhooks {
        let refused = message_becomes(ledger, webhook, |it| it.attempts == 1).await;
        assert_eq!(refused.last_failure, Some(Failure::OutOfReach), "{}", webhook.settings.url);
        assert_eq!((refused.state, refused.last_status), (MessageState::Pending, None));
    }
    running.end().await;
    assert!(receiver.received().is_empty());

    // Allowed by its name, the first is reached.
    clock.advance(HOUR);
    let running =
        Running::start(ledger, &clock, Reach::internet(true, &[], &["localhost".to_owned()]));
    message_becomes(ledger, &webhooks[0], |it| it.state == MessageState::Delivered).await;
    running.end().await;
    assert_eq!(receiver.received().len(), 1);
}

async fn callbacks_have_a_reach_of_their_own(ledger: &Ledger) {
    let receiver = Receiver::start(|_, _| Reply::Status(200)).await;
    let clock = Clock::manual(at(30));
    let model = ledger.trained_model("m", 8).await;
    at_url(ledger, receiver.url()).await;
    let new = NewIntake {
        id: new_id(),
        body: Digest::of(b"body"),
        origin: Origin::Agent { agent_id: "AGENT".into(), request_id: None },
        received_at: at(20),
        due_by: at(90),
        deletions: vec![new_deletion(&model, vec![subject_target(0)], at(20))],
        callbacks: vec![NewCallback { id: new_id(), url: receiver.url() }],
    };
    ledger.store.accept_intake(&new, 100).await.unwrap();
    ledger.store.cancel_intake(new.id, at(21), None).await.unwrap();
    let running = Running::start(ledger, &clock, loopback());
    let of_callback = async || {
        let messages = ledger.store.messages(new.callbacks[0].id, None, None, 9).await.unwrap();
        messages[0].last_failure
    };
    eventually("it fails", of_callback, |it| *it == Some(Failure::OutOfReach)).await;
    let told = async || receiver.received().len();
    eventually("the webhook is told", told, |told| *told == 2).await;
    running.end().await;

    // Callbacks may go there, webhooks may not.
    clock.advance(HOUR);
    let running =
        Running::start_with_callbacks(ledger, &clock, Reach::internet(true, &[], &[]), loopback());
    eventually("the agent is told", told, |told| *told == 3).await;
    running.end().await;
    assert!(receiver.received()[2].signature.is_empty(), "nobody signs for an agent");
}

async fn redirects_are_not_followed(ledger: &Ledger) {
    let elsewhere = |_: usize, _: &_| Reply::With(307, header::LOCATION, "/elsewhere".into());
    let receiver = Receiver::start(elsewhere).await;
    let clock = Clock::manual(at(30));
    let webhook = told(ledger, receiver.url()).await;
    let running = Running::start(ledger, &clock, loopback());
    let refused = message_becomes(ledger, &webhook, |it| it.attempts == 1).await;
    assert_eq!((refused.last_failure, refused.last_status), (Some(Failure::Refused), Some(307)));
    running.end().await;
    let paths: Vec<_> = receiver.received().into_iter().map(|it| it.path).collect();
    assert_eq!(paths, ["/hooks"]);
}

async fn several_processes_deliver_each_message_once(ledger: &Ledger) {
    let receiver = Receiver::start(|_, _| Reply::Status(200)).await;
    let clock = Clock::manual(at(30));
    let model = ledger.trained_model("m", 400).await;
    let webhook = at_url(ledger, receiver.url()).await;
    let running: Vec<_> = (0..3).map(|_| Running::start(ledger, &clock, loopback())).collect();
    for number in 0..200 {
        ledger.delete(&model, vec![sample_target(number)], at(30)).await;
    }
    let delivered = async || {
        let state = Some(MessageState::Delivered);
        ledger.store.messages(webhook.id, state, None, 1_000).await.unwrap().len()
    };
    eventually("all are delivered", delivered, |delivered| *delivered == 200).await;
    for running in running {
        running.end().await;
    }
    let mut ids: Vec<_> = receiver.received().into_iter().map(|it| it.id).collect();
    assert_eq!(ids.len(), 200, "no process died, so nothing is told twice");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

/// It takes three passes, which lie ten minutes apart otherwise.
async fn all_that_is_old_is_removed_though_it_be_much(ledger: &Ledger) {
    let sql = match &ledger.raw {
        Raw::Sqlite(_) => {
            "INSERT INTO webhook_messages (id, webhook_id, event_type, payload, state, attempts,
                 not_before, created_at, ended_at)
             SELECT randomblob(16), randomblob(16), 'model.trained', '', 'delivered', 1, 0, 0, 0
             FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000)
                 SELECT i FROM n)"
        }
        Raw::Postgres(_) => {
            "INSERT INTO webhook_messages (id, webhook_id, event_type, payload, state, attempts,
                 not_before, created_at, ended_at)
             SELECT gen_random_uuid(), gen_random_uuid(), 'model.trained', '', 'delivered', 1, 0,
                 0, 0
             FROM generate_series(1, 25000)"
        }
    };
    ledger.execute(sql).await;
    let running = Running::start(ledger, &Clock::manual(at(30)), loopback());
    let left = async || ledger.integer("SELECT COUNT(*) FROM webhook_messages").await;
    eventually("nothing old is left", left, |left| *left == 0).await;
    running.end().await;
}
