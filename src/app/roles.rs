//! What the roles of a process are made of.

use std::{io, sync::Arc, time::Duration};

use super::{Ledger, config::Config};
use crate::{
    clock::{Clock, Ids},
    http::OpenDsr,
    outbound::{Outbound, OutboundError},
    serving::{
        registry::Registry,
        replica::{Replica, Reported},
    },
    unlearning,
    webhooks::{Messenger, MessengerOptions, Outbounds},
    worker::{Worker, WorkerOptions},
};

/// A worker as the configuration describes it.
///
/// # Errors
/// When its threads cannot be started.
pub fn worker(config: &Config, ledger: &Ledger, clock: Clock, ids: Ids) -> io::Result<Worker> {
    let options = WorkerOptions {
        lease_duration: Duration::from_secs(config.worker.lease_s),
        poll_interval: Duration::from_secs(config.worker.poll_s),
        attempts_max: config.worker.attempts_max,
        sweep_interval: Duration::from_secs(config.worker.sweep_s),
        orphan_age: Duration::from_secs(config.worker.orphan_age_s),
        reserve_bytes_max: config.worker.reserve_bytes_max,
        threads: config.worker.threads,
        device: config.serving.device,
        method_by_name: unlearning::by_name,
    };
    let (store, blobs) = (ledger.store.clone(), ledger.blobs.clone());
    Worker::new(store, blobs, ledger.service_key.clone(), clock, ids, options)
}

/// Follows the ledger and fills the registry.
pub(super) fn replica(
    config: &Config,
    ledger: &Ledger,
    registry: &Arc<Registry>,
    clock: &Clock,
    ids: &Ids,
) -> Replica {
    Replica {
        id: ids.next(clock.now()),
        store: ledger.store.clone(),
        blobs: ledger.blobs.clone(),
        registry: registry.clone(),
        clock: clock.clone(),
        device: config.serving.device.device(),
        lease_duration: Duration::from_secs(config.serving.lease_s),
        poll_interval: Duration::from_secs(config.serving.poll_s),
        reported: Reported::default(),
    }
}

/// Delivers what the outbox holds.
///
/// # Errors
/// When TLS cannot be set up.
pub(super) fn messenger(
    config: &Config,
    ledger: &Ledger,
    clock: &Clock,
    ids: &Ids,
    opendsr: Option<&OpenDsr>,
) -> Result<Messenger, OutboundError> {
    let outbounds = Outbounds {
        webhooks: Outbound::within(config.webhooks.reach.reach())?,
        callbacks: Outbound::within(config.callbacks.reach())?,
    };
    let options = MessengerOptions {
        timeout: Duration::from_secs(config.webhooks.timeout_s),
        retention: Duration::from_secs(config.webhooks.retention_days * 24 * 3600),
        poll_interval: Duration::from_secs(config.worker.poll_s),
    };
    let processor = opendsr.map(|opendsr| opendsr.processor.clone());
    let (store, clock, ids) = (ledger.store.clone(), clock.clone(), ids.clone());
    Ok(Messenger::new(store, outbounds, clock, ids, options, processor))
}
