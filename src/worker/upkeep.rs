//! What any worker may do at any time, twice without harm: completing what every replica has
//! reached, watching deadlines, calling for settlements, and destroying weights.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    domain::{
        chain::Chain,
        job::{JobKind, JobState},
        model::{Model, SettlementPolicy},
        timestamp::Timestamp,
    },
    store::{Enqueued, StoreError, Unsettled},
};

use super::{Worker, budget::pressing_from, destruction::Leftovers};

/// Signals come in bursts: what nobody waits for is done this long after the first of one.
const PAUSE: Duration = Duration::from_millis(20);

/// Models or versions that are read at once.
const PAGE: u32 = 100;

/// A settlement that failed for good is called for again after this long.
const FAILED_PAUSE: Duration = Duration::from_hours(1);

impl Worker {
    /// Completes after each signal, and tends the rest a little later; both each `poll_interval`
    /// without one, until `shutdown`.
    pub(super) async fn keep_up(&self, shutdown: &CancellationToken) {
        let mut wakeups = self.store.wakeups();
        let mut sweeps = tokio::time::interval(self.options.sweep_interval);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = Leftovers::default();
        let mut tending_at = Instant::now();
        while !shutdown.is_cancelled() {
            let started = Instant::now();
            let is_time = started >= tending_at;
            if is_time {
                tending_at = started + self.options.poll_interval;
            }
            // What holds up one holds up nothing of the other.
            if let Err(error) = self.complete().await {
                warn!(error = %Chain(&error), "completions are put off: the ledger cannot be used now");
            }
            if is_time && let Err(error) = self.tend(&mut left).await {
                warn!(error = %Chain(&error), "upkeep is put off: the ledger cannot be used now");
            }
            if is_time || left.are_predictions_stale {
                self.remove_stale_predictions(&mut left).await;
            }
            // In a flood of signals it takes half of a connection's time at most.
            tokio::time::sleep(started.elapsed().min(PAUSE)).await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = wakeups.next() => tending_at = tending_at.min(Instant::now() + PAUSE),
                () = tokio::time::sleep_until(tending_at) => {}
                () = tokio::time::sleep(PAUSE), if left.are_predictions_stale => {}
                _ = sweeps.tick() => {
                    if let Err(error) = self.sweep_orphans(&mut left).await {
                        warn!(error = %Chain(&error), "orphaned blobs were not swept");
                    }
                }
            }
        }
    }

    /// # Errors
    /// When the ledger cannot be used; it is tried again at the next pass.
    async fn complete(&self) -> Result<(), StoreError> {
        let completed = self.store.complete_propagated(self.now()).await?;
        for id in &completed {
            info!(deletion_request_id = %id, "completed");
        }
        metrics::counter!("forgetd_deletions_completed_total").increment(completed.len() as u64);
        Ok(())
    }

    /// # Errors
    /// When the ledger cannot be used; everything is tried again at the next pass.
    async fn tend(&self, left: &mut Leftovers) -> Result<(), StoreError> {
        self.tend_models().await?;
        metrics::gauge!("forgetd_deletion_queue_depth").set(self.store.queue_depth().await? as f64);
        self.destroy_superseded(left).await
    }

    async fn tend_models(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let models = self.store.models(after, PAGE).await?;
            let Some(last) = models.last() else { return Ok(()) };
            after = Some(last.id);
            for model in &models {
                self.call_for_settlement(model).await?;
                self.watch_deadlines(model).await?;
            }
        }
    }

    async fn call_for_settlement(&self, model: &Model) -> Result<(), StoreError> {
        let due_within = model.policy.due_within();
        let Some(unsettled) = self.store.unsettled(model.id, due_within).await? else {
            return Ok(());
        };
        let policy = &model.policy.settlement;
        let dropped = match policy.after_accuracy_drop {
            Some(_) => self.accuracy_drop(model.id).await?,
            None => None,
        };
        if !is_due(policy, &unsettled, dropped, self.now()) {
            return Ok(());
        }
        let is_pressing = self.now() >= pressing_from(unsettled.deadline, due_within);
        if !is_pressing && self.budget_spent_until(model).await?.is_some() {
            return Ok(());
        }
        if self.failed_lately(model.id).await? {
            return Ok(());
        }
        let id = self.ids.next(self.now());
        let queued = self.store.enqueue_settlement_due(id, model.id, self.now()).await?;
        if matches!(queued, Some(Enqueued::Queued(_))) {
            info!(model = %model.name, requests = unsettled.requests, "a settlement is due");
        }
        Ok(())
    }

    /// Whether the last settlement failed for good less than `FAILED_PAUSE` ago.
    async fn failed_lately(&self, model_id: Uuid) -> Result<bool, StoreError> {
        let last = self.store.jobs(model_id, Some(JobKind::Settlement), None, 1).await?;
        Ok(last.first().is_some_and(|job| {
            job.state == JobState::Failed
                && job.finished_at.is_none_or(|at| self.now().since(at) < FAILED_PAUSE)
        }))
    }

    async fn accuracy_drop(&self, model_id: Uuid) -> Result<Option<f64>, StoreError> {
        let current = self.store.current_version(model_id).await?;
        Ok(current.and_then(|version| version.metrics.accuracy_drop()))
    }
}

fn is_due(
    policy: &SettlementPolicy,
    unsettled: &Unsettled,
    accuracy_drop: Option<f64>,
    now: Timestamp,
) -> bool {
    let by_count =
        policy.after_requests.is_some_and(|limit| unsettled.requests >= u64::from(limit));
    let by_age = policy
        .after_age_s
        .is_some_and(|limit| now.since(unsettled.oldest) >= Duration::from_secs(limit));
    let by_drift = match (policy.after_accuracy_drop, accuracy_drop) {
        (Some(limit), Some(dropped)) => dropped > limit,
        (None, _) | (_, None) => false,
    };
    by_count || by_age || by_drift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_limit_is_reached_first_makes_a_settlement_due() {
        let policy = SettlementPolicy {
            after_requests: Some(3),
            after_age_s: Some(60),
            after_accuracy_drop: Some(0.02),
            per_day_max: None,
            preemptions_max: 3,
        };
        let start = Timestamp::from_micros(0);
        let after = |requests| Unsettled { requests, oldest: start, deadline: start };
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        assert!(!is_due(&policy, &after(2), Some(0.02), at(59)));
        assert!(is_due(&policy, &after(3), None, at(0)));
        assert!(is_due(&policy, &after(1), None, at(60)));
        assert!(is_due(&policy, &after(1), Some(0.021), at(0)));
        let never = SettlementPolicy {
            after_requests: None,
            after_age_s: None,
            after_accuracy_drop: None,
            per_day_max: None,
            preemptions_max: 3,
        };
        assert!(!is_due(&never, &after(1_000), Some(0.9), at(1_000_000)));
    }
}
