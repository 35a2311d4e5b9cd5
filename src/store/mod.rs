//! The ledger: business verbs, each one transaction with its audit leaf inside.
//!
//! The verbs are written once, in the files named after what they are about. `ledger.rs` opens
//! the database and begins transactions (`transaction.rs`), `sql.rs` and `row.rs` carry a
//! statement to either database and its rows back, and `sqlite.rs` and `postgres.rs` hold what
//! differs: opening, waking others, bulk loading. What speaks of a sample is sealed (`sealing.rs`)
//! before it comes near either.
//!
//! Locks are taken in one order: a new intake, an API key (several by rising id), the master key or a
//! model's ordinals, then the model (several by rising id), then an idempotency key, an intake, a
//! webhook's message, the webhook, and the head of the audit log.

mod acceptance;
mod agents;
mod aliases;
mod approvals;
mod audit;
mod blobs;
mod callbacks;
mod certificates;
mod checkpoints;
mod claims;
mod copy;
mod deadlines;
mod deletions;
mod deliveries;
mod erasure;
mod error;
mod group_commit;
mod ingestion;
mod intakes;
mod jobs;
mod keys;
mod leases;
mod ledger;
mod lineage;
mod master_key;
mod models;
mod open_count;
mod outbox;
mod postgres;
mod predictions;
mod publication;
mod quotas;
mod replicas;
mod resolution;
mod row;
mod samples;
mod sealing;
mod service_key;
mod sql;
mod sqlite;
mod transaction;
mod versions;
mod webhooks;

pub use acceptance::{Acceptance, Idempotency, NewDeletion};
pub use agents::NewAgentToken;
pub use approvals::Decision;
pub use audit::AuditFilter;
pub use blobs::{BlobError, Blobs};
pub use certificates::DeletionRecord;
pub use checkpoints::{NewCheckpoint, PutCheckpoint, StoredCheckpoint};
pub use claims::{Claim, Claimed};
pub use deadlines::{Deadlines, Extension};
pub use deletions::{Cancellation, DeletionDetails, DeletionFilter};
pub use deliveries::{ClaimedMessages, Delivery, Recorded, Signing};
pub use error::StoreError;
pub use ingestion::{Conflict, IngestError, Ingestion, Receipt, Sealer};
pub use intakes::{Intake, IntakeCancellation, IntakeRequest, NewCallback, NewIntake, Origin};
pub use jobs::{CancelJob, Enqueued};
pub use leases::Renewal;
pub use leases::Unsettled;
pub use ledger::{Store, Wakeups};
pub use lineage::{Lineage, LineageSample};
pub use models::CreateModel;
pub use outbox::PRUNED_MAX;
pub use publication::{NewVersion, Publication};
pub use quotas::{Excess, Requester};
pub use replicas::Served;
pub use sealing::{Keyring, SealedSample};
pub use versions::Superseded;
