//! Which problem an error of a lower floor is to a caller.

use super::Problem;
use crate::{
    domain::chain::Chain,
    intake::drp::MessageError,
    notary::NotaryError,
    serving::{executor::ServingError, registry::Unserved},
    store::StoreError,
};

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable { .. } => {
                tracing::warn!(error = %Chain(&error), "the ledger is unavailable");
                Self::StoreUnavailable
            }
            StoreError::Database { .. }
            | StoreError::Damaged { .. }
            | StoreError::Fenced { .. }
            | StoreError::OtherMasterKey { .. }
            | StoreError::OtherServiceKey { .. }
            | StoreError::Open { .. } => Self::internal(&error),
        }
    }
}

impl From<NotaryError> for Problem {
    fn from(error: NotaryError) -> Self {
        match error {
            NotaryError::Store(error) => error.into(),
            NotaryError::Overtaken => Self::StoreUnavailable,
            NotaryError::ForeignKey { .. }
            | NotaryError::Rewritten { .. }
            | NotaryError::Incomplete(_)
            | NotaryError::Tree(_)
            | NotaryError::Checkpoint(_)
            | NotaryError::Cosignature(_)
            | NotaryError::Entry(_)
            | NotaryError::Certificate(_) => Self::internal(&error),
        }
    }
}

impl From<MessageError> for Problem {
    fn from(error: MessageError) -> Self {
        Self::InvalidMessage(error)
    }
}

impl From<Unserved> for Problem {
    fn from(unserved: Unserved) -> Self {
        match unserved {
            Unserved::NotLoaded => Self::NotServed,
            Unserved::Fenced => Self::Fenced,
        }
    }
}

impl From<ServingError> for Problem {
    fn from(error: ServingError) -> Self {
        match error {
            ServingError::Busy => Self::Busy,
            ServingError::Panicked => Self::internal(&error),
            ServingError::ShutDown => Self::NotReady("the service is shutting down"),
        }
    }
}
