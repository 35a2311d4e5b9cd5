//! Webhooks: delivers what the outbox holds, at least once.
//!
//! Callbacks of intakes are served likewise: they have a place in the outbox like a webhook's.
//!
//! Each webhook with messages that are due is served by a round of its own, at most one at a time
//! in this process: a slow receiver holds up nobody but itself. What a process had claimed when it
//! died is due again once its claim has ended.

mod delivery;
mod schedule;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use metrics::{counter, gauge};
use tokio::{
    task::{Id, JoinSet},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    clock::{Clock, Ids},
    domain::{chain::Chain, webhook::Message},
    intake::processor::Processor,
    outbound::Outbound,
    store::{ClaimedMessages, PRUNED_MAX, Recorded, Store, StoreError},
};

/// Messages that a round delivers at the same time.
const ROUND: u32 = 8;

/// Webhooks that a process serves at the same time.
const ROUNDS_MAX: usize = 128;

/// Callbacks among them: whoever brings intakes chooses their addresses, and must not keep webhooks
/// from being served.
const CALLBACK_ROUNDS_MAX: usize = 64;

/// Beyond the time that a receiver has: for connecting, and for the ledger.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);

/// Signals come in bursts; between two looks at the outbox lies at least this.
const PAUSE: Duration = Duration::from_millis(20);

const PRUNE_INTERVAL: Duration = Duration::from_mins(10);

/// While more is old than one pass removes. Others want to write meanwhile.
const PRUNE_PAUSE: Duration = Duration::from_secs(1);

/// See the configuration's `[webhooks]`.
#[derive(Clone, Copy, Debug)]
pub struct MessengerOptions {
    /// How long a receiver has to answer.
    pub timeout: Duration,
    /// How long messages are kept that were delivered or given up.
    pub retention: Duration,
    /// The longest time until a message is noticed without a signal.
    pub poll_interval: Duration,
}

/// Ways out, each with a reach of its own: administrators choose where webhooks are, and whoever
/// brings intakes where callbacks are.
pub struct Outbounds {
    pub webhooks: Outbound,
    pub callbacks: Outbound,
}

pub struct Messenger {
    store: Store,
    outbounds: Outbounds,
    clock: Clock,
    ids: Ids,
    options: MessengerOptions,
    /// Signs controllers' callbacks; they wait where there is none.
    processor: Option<Processor>,
}

impl Messenger {
    pub fn new(
        store: Store,
        outbounds: Outbounds,
        clock: Clock,
        ids: Ids,
        options: MessengerOptions,
        processor: Option<Processor>,
    ) -> Self {
        Self { store, outbounds, clock, ids, options, processor }
    }

    /// Delivers until `shutdown`; then waits for the attempts under way.
    pub async fn run(self, shutdown: CancellationToken) {
        let messenger = Arc::new(self);
        let mut wakeups = messenger.store.wakeups();
        let mut prunes = interval(PRUNE_INTERVAL);
        prunes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut polls = interval(messenger.options.poll_interval);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = Rounds::default();
        while !shutdown.is_cancelled() {
            if let Err(error) = messenger.begin_rounds(&mut rounds).await {
                warn!(error = %Chain(&error), "messages wait: the ledger cannot be used now");
            }
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = wakeups.next() => {}
                () = rounds.ended() => {}
                _ = polls.tick() => messenger.measure().await,
                _ = prunes.tick() => {
                    if messenger.prune().await {
                        prunes.reset_after(PRUNE_PAUSE);
                    }
                }
            }
        }
        rounds.all_ended().await;
    }

    /// # Errors
    /// When the ledger cannot be used.
    async fn begin_rounds(self: &Arc<Self>, rounds: &mut Rounds) -> Result<(), StoreError> {
        for webhook_id in self.store.webhooks_due(self.clock.now()).await? {
            if rounds.may_begin(webhook_id) {
                let messenger = self.clone();
                rounds.begin(webhook_id, async move { messenger.round(webhook_id, ROUND).await });
            }
        }
        let room = CALLBACK_ROUNDS_MAX.saturating_sub(rounds.callbacks.len());
        let (limit, can_sign) = (u32::try_from(room).unwrap_or(u32::MAX), self.processor.is_some());
        for callback_id in self.store.callbacks_due(self.clock.now(), can_sign, limit).await? {
            if rounds.may_begin(callback_id) {
                let messenger = self.clone();
                // One at a time: statuses come in their order as long as they come through.
                let round = async move { messenger.round(callback_id, 1).await };
                rounds.begin(callback_id, round);
                rounds.callbacks.insert(callback_id);
            }
        }
        Ok(())
    }

    /// At each poll rather than at each signal: counting takes longer the more messages wait.
    async fn measure(&self) {
        let counts = async {
            Ok::<_, StoreError>((
                self.store.outbox_depth().await?,
                self.store.disabled_webhooks().await?,
            ))
        };
        match counts.await {
            Ok((pending, disabled)) => {
                gauge!("forgetd_webhook_messages_pending").set(pending as f64);
                gauge!("forgetd_webhooks_disabled").set(disabled as f64);
            }
            Err(error) => warn!(error = %Chain(&error), "waiting messages were not counted"),
        }
    }

    /// Claims so many of the webhook's next messages and attempts each once.
    async fn round(&self, webhook_id: Uuid, messages: u32) {
        // Attempts end well within the claim, however slow the receiver.
        let (token, duration) = (self.ids.token(), self.options.timeout * 2 + CLAIM_MARGIN);
        let now = self.clock.now();
        match self.store.claim_messages(webhook_id, token, now, duration, messages).await {
            Ok(Some(claimed)) => {
                let attempts = claimed.messages.iter().map(|message| self.serve(&claimed, message));
                join_all(attempts).await;
            }
            Ok(None) => {}
            Err(error) => {
                warn!(%webhook_id, error = %Chain(&error), "no messages could be claimed");
                // The next round is not to fail the same way at once.
                tokio::time::sleep(self.options.poll_interval).await;
            }
        }
    }

    async fn serve(&self, claimed: &ClaimedMessages, message: &Message) {
        let delivery = self.attempt(claimed, message).await;
        let now = self.clock.now();
        let (id, webhook_id) = (message.id, claimed.webhook_id);
        match self.store.record_delivery(id, claimed.token, &delivery, now).await {
            Ok(Recorded::Done | Recorded::Fenced) => {}
            Ok(Recorded::Disabled(reason)) => {
                let reason = reason.as_str();
                warn!(%webhook_id, reason, "a webhook is disabled: it is told nothing more");
                counter!("forgetd_webhooks_disabled_total", "reason" => reason).increment(1);
            }
            Err(error) => {
                let error = Chain(&error);
                warn!(%webhook_id, message_id = %id, %error, "an attempt could not be recorded");
            }
        }
    }

    /// Whether there may be more to remove.
    async fn prune(&self) -> bool {
        let now = self.clock.now();
        match self.store.prune_outbox(now.minus(self.options.retention), now).await {
            Ok(0) => false,
            Ok(messages) => {
                info!(messages, "removed old messages");
                messages >= PRUNED_MAX.into()
            }
            Err(error) => {
                warn!(error = %Chain(&error), "old messages were not removed");
                false
            }
        }
    }
}

/// The rounds under way, one at most for each webhook.
#[derive(Default)]
struct Rounds {
    tasks: JoinSet<()>,
    webhooks: HashMap<Id, Uuid>,
    busy: HashSet<Uuid>,
    /// Those of them that are callbacks.
    callbacks: HashSet<Uuid>,
}

impl Rounds {
    fn may_begin(&self, webhook_id: Uuid) -> bool {
        self.tasks.len() < ROUNDS_MAX && !self.busy.contains(&webhook_id)
    }

    fn begin(&mut self, webhook_id: Uuid, round: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(round);
        self.webhooks.insert(task.id(), webhook_id);
        self.busy.insert(webhook_id);
    }

    /// Waits for the end of one; for ever while there is none.
    async fn ended(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => {
                warn!(%error, "a round of deliveries panicked");
                error.id()
            }
        };
        if let Some(webhook_id) = self.webhooks.remove(&id) {
            self.busy.remove(&webhook_id);
            self.callbacks.remove(&webhook_id);
        }
    }

    async fn all_ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
