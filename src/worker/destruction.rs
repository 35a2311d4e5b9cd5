//! Destroys what nobody needs any more: weights of superseded versions, orphans, which a crash left
//! without a version, and the predictions of superseded trainings.

use std::collections::HashSet;

use futures_util::future::join_all;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    domain::{blob_name::BlobName, chain::Chain},
    fail_point,
    store::{StoreError, Superseded},
};

use super::Worker;

/// Superseded versions that one pass handles.
const PAGE: u32 = 100;

/// Predictions that one pass removes: completions wait for it.
const PREDICTIONS_PAGE: u32 = 1_000;

/// What one pass leaves to the next.
#[derive(Default)]
pub(super) struct Leftovers {
    /// The last version of a full page; the next pass begins behind it, otherwise with the first.
    page_end: Option<(Uuid, u64)>,
    /// Encodings are erased, and may still stand in the database's files.
    is_purge_due: bool,
    /// Blobs that no version named at the last sweep.
    suspects: HashSet<BlobName>,
    /// There were more predictions that no version has than a pass removes.
    pub(super) are_predictions_stale: bool,
}

impl Worker {
    /// Weights that cannot be destroyed are passed over, so that they keep nobody else's.
    ///
    /// # Errors
    /// When the ledger cannot be used.
    pub(super) async fn destroy_superseded(&self, left: &mut Leftovers) -> Result<(), StoreError> {
        let superseded = self.store.superseded(self.now(), left.page_end, PAGE).await?;
        let is_full = superseded.len() == PAGE as usize;
        left.page_end = superseded.last().filter(|_| is_full).map(|it| (it.model_id, it.epoch));
        // All at once: an object store that does not answer is waited for once.
        let removals = join_all(superseded.iter().map(|it| self.blobs.remove(it.blob))).await;
        for (Superseded { model_id, epoch, .. }, removed) in superseded.into_iter().zip(removals) {
            if let Err(error) = removed {
                warn!(error = %Chain(&error), "superseded weights could not be destroyed yet");
                continue;
            }
            fail_point::pass("superseded", "destroyed").await;
            self.store.mark_weights_removed(model_id, epoch, self.now()).await?;
            left.is_purge_due = true;
        }
        if left.is_purge_due {
            // Their encodings go from the files too.
            self.store.purge_erased().await?;
            left.is_purge_due = false;
        }
        Ok(())
    }

    /// Some of them; the next pass follows soon where there are more.
    pub(super) async fn remove_stale_predictions(&self, left: &mut Leftovers) {
        let are_left = self.store.remove_stale_predictions(PREDICTIONS_PAGE).await;
        left.are_predictions_stale = are_left.unwrap_or_else(|error| {
            warn!(error = %Chain(&error), "stale predictions are not removed yet");
            false
        });
    }

    /// Removes blobs that a crash left half-written or without a version: of the latter those that
    /// no version named at the last sweep nor at this one, nor a job that has not ended. Between two
    /// sweeps lie minutes; the object store's clock alone, which may be another than ours, must not
    /// condemn a blob.
    ///
    /// # Errors
    /// When the ledger cannot be asked whether a blob is in use.
    pub(super) async fn sweep_orphans(&self, left: &mut Leftovers) -> Result<(), StoreError> {
        match self.blobs.remove_unfinished(self.options.orphan_age, self.now()).await {
            Ok(0) => {}
            Ok(blobs) => info!(blobs, "removed what was left half-written"),
            Err(error) => warn!(error = %Chain(&error), "what was left half-written stays for now"),
        }
        let old = match self.blobs.older_than(self.options.orphan_age, self.now()).await {
            Ok(old) => old,
            Err(error) => {
                warn!(error = %Chain(&error), "the object store could not be listed");
                return Ok(());
            }
        };
        let mut unnamed = HashSet::new();
        for blob in old {
            if !self.store.is_referenced(blob).await? {
                unnamed.insert(blob);
            }
        }
        for blob in unnamed.intersection(&left.suspects) {
            match self.blobs.remove(*blob).await {
                Ok(()) => info!(%blob, "removed an orphaned blob"),
                Err(error) => warn!(error = %Chain(&error), "an orphaned blob stays for now"),
            }
        }
        left.suspects = unnamed;
        Ok(())
    }
}
