//! How often a model is retrained for requests, so that a flood of them does not force endless retraining.

use std::time::Duration;

use crate::{
    domain::{model::Model, timestamp::Timestamp},
    store::{Claimed, StoreError},
};

use super::Worker;

const DAY: Duration = Duration::from_hours(24);

/// A retraining waits for no budget once this part of the time that the policy grants is left.
const LEAD: u32 = 4;

/// From when on a deadline waits for no budget.
pub(super) fn pressing_from(deadline: Timestamp, due_within: Duration) -> Timestamp {
    deadline.minus(due_within / LEAD)
}

impl Worker {
    /// When the policy allows another retraining, if it does not do so now.
    pub(super) async fn budget_spent_until(
        &self,
        model: &Model,
    ) -> Result<Option<Timestamp>, StoreError> {
        let Some(most) = model.policy.settlement.per_day_max else { return Ok(None) };
        let since = self.now().minus(DAY);
        let last = self.store.retrainings(model.id, since, most).await?;
        let is_spent = last.len() >= most as usize;
        Ok(last.last().filter(|_| is_spent).map(|at| at.plus(DAY)))
    }

    /// Until when a batch that has to be retrained waits for the budget, if it does.
    pub(super) async fn waits_for_budget(
        &self,
        claimed: &Claimed,
    ) -> Result<Option<Timestamp>, StoreError> {
        let due_within = claimed.model.policy.due_within();
        let Some(spent_until) = self.budget_spent_until(&claimed.model).await? else {
            return Ok(None);
        };
        let deadline = self.store.batch_deadline(claimed.job.id, due_within).await?;
        let pressing = deadline.map(|deadline| pressing_from(deadline, due_within));
        let until = pressing.map_or(spent_until, |pressing| spent_until.min(pressing));
        Ok(Some(until).filter(|until| *until > self.now()))
    }
}
