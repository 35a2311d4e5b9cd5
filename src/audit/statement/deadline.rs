//! By when a request had to be done, as its leaves have it one after the other.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{StatementError, Story, agree, read};
use crate::domain::{audit::AuditKind, deletion::ExtensionReason, timestamp::Timestamp};

/// An administrator's act that moved the deadline back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadlineExtension {
    pub extended_at: Timestamp,
    pub previous_due_by: Timestamp,
    pub due_by: Timestamp,
    pub reason: ExtensionReason,
}

#[derive(Deserialize)]
struct Entered {
    due_by: Timestamp,
}

#[derive(Deserialize)]
struct Extended {
    due_by: Timestamp,
    previous_due_by: Timestamp,
    reason: ExtensionReason,
}

impl Story<'_> {
    /// The last deadline, and how it came to be that one.
    pub(super) fn deadline(&self) -> Result<(Timestamp, Vec<DeadlineExtension>), StatementError> {
        let (mut present, mut extensions) = (None, Vec::new());
        for leaf in self.leaves {
            match leaf.kind {
                // Received is what was suspended before, too, once it is approved.
                AuditKind::DeletionSuspended | AuditKind::DeletionReceived => {
                    let due_by = read::<Entered>(leaf)?.due_by;
                    let fits = present.is_none_or(|present| present == due_by);
                    agree(fits, "another deadline")?;
                    present = Some(due_by);
                }
                AuditKind::DeadlineExtended => {
                    let Extended { due_by, previous_due_by, reason } = read(leaf)?;
                    let goes_on = present == Some(previous_due_by) && due_by > previous_due_by;
                    agree(goes_on, "an extension of another deadline")?;
                    present = Some(due_by);
                    let extended_at = leaf.occurred_at;
                    extensions.push(DeadlineExtension {
                        extended_at,
                        previous_due_by,
                        due_by,
                        reason,
                    });
                }
                _ => {}
            }
        }
        Ok((present.ok_or(StatementError::Missing("deletion.received"))?, extensions))
    }
}
