//! Long work tells how far it is and asks whether to go on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far long work has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What is being done, e.g. `training` or `out-of-fold 2/5`.
    pub stage: String,
    pub done: u64,
    pub total: u64,
}

/// Watches long work from outside; called between steps, on the thread that works.
pub trait Watch: Sync {
    fn progressed(&self, progress: &Progress);

    /// Once true, the work stops at its next step with an error and leaves nothing behind.
    fn is_cancelled(&self) -> bool;
}

/// Watches nothing and never cancels.
pub struct Unwatched;

impl Watch for Unwatched {
    fn progressed(&self, _: &Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
