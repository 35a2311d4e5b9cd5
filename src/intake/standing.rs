//! Where a deletion request stands, and what that is called elsewhere: the one table, which
//! docs/intake.md shows and a test compares.
//!
//! Sources: OpenDSR 2.0, section 8; the California Privacy Protection Agency's technical
//! specifications of DROP, 1.2.0, status codes; Data Rights Protocol 0.9.4, section 3.02.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    domain::deletion::{DeletionState, Guarantee, Rejection, TargetOutcome},
    intake::drp::{DrpReason, DrpStatus},
};

/// Where one deletion request stands, as far as others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Suspended,
    Queued,
    Unlearning,
    Completed(Guarantee),
    Failed,
    Rejected(Rejection),
    Cancelled,
}

/// A status of OpenDSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OpenDsrStatus {
    Pending,
    InProgress,
    Completed,
    Cancelled,
}

/// A status code of DROP that forgetd can stand for. It never reports `4`, opted out: it sells
/// nothing that one could opt out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropStatus {
    Exempted,
    Deleted,
    NotFound,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    pub opendsr: OpenDsrStatus,
    /// Absent while there is nothing to report.
    pub drop: Option<DropStatus>,
    pub drp: DrpStatus,
}

impl Standing {
    pub const ALL: [Self; 11] = [
        Self::Suspended,
        Self::Queued,
        Self::Unlearning,
        Self::Completed(Guarantee::Approximate),
        Self::Completed(Guarantee::Exact),
        Self::Failed,
        Self::Rejected(Rejection::UnknownSubject),
        Self::Rejected(Rejection::UnknownSample),
        Self::Rejected(Rejection::AlreadyDeleted),
        Self::Rejected(Rejection::Refused),
        Self::Cancelled,
    ];

    /// A rejected request stands as that target of it does of which there is most to say: refused,
    /// or else deleted by another request, or else unknown.
    pub fn of(
        state: DeletionState,
        guarantee: Option<Guarantee>,
        targets: impl IntoIterator<Item = TargetOutcome>,
    ) -> Self {
        match state {
            DeletionState::Suspended => Self::Suspended,
            DeletionState::Queued => Self::Queued,
            DeletionState::Unlearning => Self::Unlearning,
            DeletionState::Completed => {
                Self::Completed(guarantee.unwrap_or(Guarantee::Approximate))
            }
            DeletionState::Failed => Self::Failed,
            DeletionState::Cancelled => Self::Cancelled,
            DeletionState::Rejected => {
                let rejections = targets.into_iter().filter_map(|target| target.rejection);
                let most = rejections.max_by_key(|rejection| match rejection {
                    Rejection::Refused => 2,
                    Rejection::AlreadyDeleted => 1,
                    Rejection::UnknownSubject | Rejection::UnknownSample => 0,
                });
                Self::Rejected(most.unwrap_or(Rejection::UnknownSubject))
            }
        }
    }

    pub const fn translation(self) -> Translation {
        use OpenDsrStatus::{Cancelled, Completed, InProgress, Pending};
        let (opendsr, code, rights) = match self {
            Self::Suspended | Self::Queued => (Pending, None, DrpStatus::InProgress),
            Self::Unlearning => (InProgress, None, DrpStatus::InProgress),
            // Nothing of the subject is left either way; the earlier request of one that was
            // deleted already is asked for itself as long as it is open.
            Self::Completed(Guarantee::Approximate | Guarantee::Exact)
            | Self::Rejected(Rejection::AlreadyDeleted) => {
                (Completed, Some(DropStatus::Deleted), DrpStatus::Fulfilled)
            }
            Self::Rejected(Rejection::UnknownSubject | Rejection::UnknownSample) => {
                (Completed, Some(DropStatus::NotFound), DrpStatus::Denied(DrpReason::NoMatch))
            }
            // OpenDSR has no word for a request that was not fulfilled; completed would be untrue.
            Self::Failed => (Cancelled, None, DrpStatus::Denied(DrpReason::Other)),
            Self::Rejected(Rejection::Refused) => (
                Cancelled,
                Some(DropStatus::Exempted),
                DrpStatus::Denied(DrpReason::ClaimNotCovered),
            ),
            Self::Cancelled => (Cancelled, None, DrpStatus::Revoked),
        };
        Translation { opendsr, drop: code, drp: rights }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspended => f.write_str(DeletionState::Suspended.as_str()),
            Self::Queued => f.write_str(DeletionState::Queued.as_str()),
            Self::Unlearning => f.write_str(DeletionState::Unlearning.as_str()),
            Self::Completed(guarantee) => {
                write!(f, "{} {}", DeletionState::Completed, guarantee.as_str())
            }
            Self::Failed => f.write_str(DeletionState::Failed.as_str()),
            Self::Rejected(why) => write!(f, "{} {}", DeletionState::Rejected, why.as_str()),
            Self::Cancelled => f.write_str(DeletionState::Cancelled.as_str()),
        }
    }
}

impl OpenDsrStatus {
    /// Whether nothing more will happen.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Of one request there that is served by several here. It is completed only when all of them
    /// are, and pending, so that it can be cancelled, only while none of them has deleted anything.
    pub fn of_all(standings: impl IntoIterator<Item = Standing>) -> Self {
        let (mut waits, mut runs, mut ended, mut failed) = (false, false, false, false);
        for standing in standings {
            match standing.translation().opendsr {
                Self::Pending => waits = true,
                Self::InProgress => runs = true,
                Self::Completed => ended |= matches!(standing, Standing::Completed(_)),
                Self::Cancelled => failed = true,
            }
        }
        match (waits, runs, failed) {
            (_, true, _) => Self::InProgress,
            (true, false, _) if ended => Self::InProgress,
            (true, false, _) => Self::Pending,
            (false, false, true) => Self::Cancelled,
            (false, false, false) => Self::Completed,
        }
    }
}

impl fmt::Display for OpenDsrStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl DropStatus {
    pub const fn code(self) -> u8 {
        match self {
            Self::Exempted => 2,
            Self::Deleted => 3,
            Self::NotFound => 5,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Exempted => "exempted",
            Self::Deleted => "deleted",
            Self::NotFound => "not found",
        }
    }
}

impl fmt::Display for DropStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{deletion::TargetKind, identity::Pseudonym};

    /// The table as docs/intake.md has it.
    fn markdown() -> String {
        let row = |standing: Standing| {
            let Translation { opendsr, drop: code, drp } = standing.translation();
            let code = code.map_or("-".to_owned(), |code| code.to_string());
            format!("| {standing} | {opendsr} | {code} | {drp} |\n")
        };
        Standing::ALL.into_iter().map(row).collect()
    }

    #[test]
    fn the_documents_table_is_the_codes() {
        let document = include_str!("../../docs/intake.md").replace('`', "");
        let table = markdown();
        assert!(document.contains(&table), "docs/intake.md lacks this table:\n{table}");
    }

    #[test]
    fn nothing_is_called_deleted_or_completed_that_is_not() {
        for standing in Standing::ALL {
            let Translation { opendsr, drop: code, drp } = standing.translation();
            let nothing_left = matches!(
                standing,
                Standing::Completed(_)
                    | Standing::Rejected(
                        Rejection::UnknownSubject
                            | Rejection::UnknownSample
                            | Rejection::AlreadyDeleted
                    )
            );
            assert_eq!(opendsr == OpenDsrStatus::Completed, nothing_left, "{standing}");
            assert!(code != Some(DropStatus::Deleted) || nothing_left, "{standing}");
            assert!(drp != DrpStatus::Fulfilled || nothing_left, "{standing}");
        }
    }

    #[test]
    fn only_what_we_can_cancel_is_pending() {
        let cancellable = |standing| matches!(standing, Standing::Suspended | Standing::Queued);
        for standing in Standing::ALL {
            let pending = standing.translation().opendsr == OpenDsrStatus::Pending;
            assert_eq!(pending, cancellable(standing), "{standing}");
        }
    }

    #[test]
    fn a_request_ends_in_every_protocol_at_the_same_time() {
        for standing in Standing::ALL {
            let Translation { opendsr, drp, .. } = standing.translation();
            assert_eq!(opendsr.is_final(), drp != DrpStatus::InProgress, "{standing}");
        }
    }

    #[test]
    fn a_rejected_request_stands_as_its_weightiest_target() {
        use Rejection::{AlreadyDeleted, Refused, UnknownSample, UnknownSubject};
        let target = |rejection| TargetOutcome {
            kind: TargetKind::Subject,
            key: Pseudonym::from_bytes([0; 32]),
            samples: 0,
            rejection: Some(rejection),
        };
        let of = |rejections: &[Rejection]| {
            let targets = rejections.iter().map(|rejection| target(*rejection));
            Standing::of(DeletionState::Rejected, None, targets)
        };
        assert_eq!(of(&[UnknownSubject, AlreadyDeleted]), Standing::Rejected(AlreadyDeleted));
        assert_eq!(of(&[Refused, AlreadyDeleted]), Standing::Rejected(Refused));
        assert_eq!(of(&[UnknownSample]), Standing::Rejected(UnknownSample));
    }

    #[test]
    fn several_requests_are_completed_together_or_not_at_all() {
        use OpenDsrStatus::{Cancelled, Completed, InProgress, Pending};
        let done = Standing::Completed(Guarantee::Approximate);
        let nobody = Standing::Rejected(Rejection::UnknownSubject);
        for (standings, status) in [
            (&[][..], Completed),
            (&[nobody], Completed),
            (&[done, nobody], Completed),
            (&[Standing::Queued, nobody], Pending),
            (&[Standing::Queued, Standing::Suspended], Pending),
            (&[Standing::Queued, done], InProgress),
            (&[Standing::Queued, Standing::Unlearning], InProgress),
            (&[Standing::Queued, Standing::Failed], Pending),
            (&[done, Standing::Failed], Cancelled),
            (&[nobody, Standing::Rejected(Rejection::Refused)], Cancelled),
        ] {
            assert_eq!(OpenDsrStatus::of_all(standings.iter().copied()), status, "{standings:?}");
        }
    }
}
