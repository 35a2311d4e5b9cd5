//! Deadlines: how many requests are near theirs, and a warning before one is missed.

use std::time::Duration;

use metrics::{counter, gauge};
use tracing::warn;

use super::Worker;
use crate::{domain::model::Model, store::StoreError};

impl Worker {
    /// # Errors
    /// When the ledger cannot be used.
    pub(super) async fn watch_deadlines(&self, model: &Model) -> Result<(), StoreError> {
        let now = self.now();
        let soon = now.plus(Duration::from_hours(model.policy.warn_before_hours.into()));
        let deadlines = self.store.deadlines(model.id, soon, now).await?;
        let name = model.name.to_string();
        gauge!("forgetd_deletion_requests_near_due", "model" => name.clone())
            .set(deadlines.near as f64);
        gauge!("forgetd_deletion_requests_overdue", "model" => name).set(deadlines.missed as f64);
        if deadlines.unwarned > 0 {
            let requests = self.store.warn_of_deadlines(model.id, soon, now).await?;
            warn!(model = %model.name, requests, "deletion requests are near their deadline");
            counter!("forgetd_deadline_warnings_total").increment(requests);
        }
        Ok(())
    }
}
