//! What every handler works with; the application composes it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;

use crate::{
    clock::{Clock, Ids},
    domain::{
        identity::ServiceKey,
        model::{Model, ModelName},
    },
    http::{
        auth::Access,
        drp::Drp,
        opendsr::OpenDsr,
        problem::{Problem, Resource},
        rate::Rates,
    },
    notary::Notary,
    outbound::Reach,
    serving::{executor::Executor, registry::Registry},
    store::Store,
};

pub struct State {
    pub store: Store,
    pub notary: Arc<Notary>,
    pub registry: Arc<Registry>,
    pub executor: Executor,
    pub clock: Clock,
    pub ids: Ids,
    pub service_key: Arc<ServiceKey>,
    pub access: Access,
    pub rates: Rates,
    /// Where webhooks may be.
    pub webhooks_reach: Reach,
    /// Where callbacks may be.
    pub callbacks_reach: Reach,
    /// Answers then ask browsers to come back by TLS only.
    pub is_tls: bool,
    pub limits: Limits,
    /// Absent where it is not configured.
    pub opendsr: Option<Arc<OpenDsr>>,
    /// Absent where it is not configured.
    pub drp: Option<Arc<Drp>>,
    /// Renders `/metrics`; absent where no recorder is installed.
    pub metrics: Option<PrometheusHandle>,
    pub draining: Draining,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest JSON body.
    pub body_bytes: usize,
    /// Largest body of samples; it is held in memory.
    pub samples_bytes: usize,
    /// Most deletion requests that wait at once.
    pub queued_deletions: u64,
    /// How long a body may take to come in.
    pub body_timeout: Duration,
    /// How long a request may take in all.
    pub request_timeout: Duration,
    /// Whether the audit log's entries are for everybody.
    pub entries_public: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            samples_bytes: 256 << 20,
            queued_deletions: 10_000,
            body_timeout: Duration::from_mins(1),
            request_timeout: Duration::from_mins(2),
            entries_public: false,
        }
    }
}

/// Raised once when the process is about to end: readiness goes, everything else is still
/// answered.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl State {
    /// The model of a name out of a path or a body; what is no name is no model.
    pub(super) async fn model(&self, name: &str) -> Result<Model, Problem> {
        let name: ModelName = name.parse().map_err(|_| Problem::NotFound(Resource::Model))?;
        self.store.model(&name).await?.ok_or(Problem::NotFound(Resource::Model))
    }
}
