//! The composition root: from a configuration to a running service, and its orderly end.

mod background;
pub mod config;
mod connections;
mod drp;
mod key_file;
mod ledger;
mod naming;
mod opendsr;
mod roles;
pub mod telemetry;
pub mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::ValueEnum;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock::{Clock, Ids},
    http::{self, Access, Draining, Limits, Rates, State},
    notary::{Notary, NotaryError, Witnessing},
    outbound::{Outbound, OutboundError},
    serving::{executor::Executor, registry::Registry},
    store::{BlobError, Store, StoreError},
};

use background::Background;
use config::Config;
use connections::Bounds;
pub use drp::DrpError;
pub use key_file::KeyError;
pub use ledger::{KeyLock, Ledger, LedgerError, log_signer};
pub use naming::NamingConfigError;
pub use opendsr::OpenDsrError;
pub use roles::worker;
use tls::{Certificate, TlsError};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Answers predictions, takes requests.
    Api,
    /// Trains, unlearns, settles.
    Worker,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Api, Self::Worker];
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(
        "there are no API keys, so that everybody may do everything: without keys forgetd serves \
         on loopback only, not on {0}. Make a key with `forgetd keys add`"
    )]
    Open(SocketAddr),
    #[error("threads cannot be started")]
    Threads(#[source] io::Error),
    #[error("TLS cannot be offered")]
    Tls(#[from] TlsError),
    #[error("the signal to read the certificate anew cannot be listened for")]
    Signal(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("weights cannot be kept")]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Notary(#[from] NotaryError),
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error("OpenDSR cannot be offered")]
    OpenDsr(#[from] OpenDsrError),
    #[error("the Data Rights Protocol cannot be offered")]
    Drp(#[from] DrpError),
}

/// A running service.
pub struct App {
    address: SocketAddr,
    store: Store,
    draining: Draining,
    drain_delay: Duration,
    drain_timeout: Duration,
    accepting: CancellationToken,
    server: JoinHandle<()>,
    following: CancellationToken,
    replica: Option<JoinHandle<()>>,
    witnessing: Option<JoinHandle<()>>,
    working: CancellationToken,
    worker: Option<JoinHandle<()>>,
    messenger: Option<JoinHandle<()>>,
    _background: Background,
    _key_lock: KeyLock,
}

impl App {
    /// Listens, follows the ledger and works, as the roles say.
    ///
    /// # Errors
    /// When the address cannot be had, or would be open to everybody.
    pub async fn start(
        config: &Config,
        ledger: Ledger,
        roles: &[Role],
        metrics: PrometheusHandle,
    ) -> Result<Self, AppError> {
        let (clock, ids) = (Clock::system(), Ids::system());
        if roles.contains(&Role::Worker) {
            ledger.blobs.check(ids.next(clock.now())).await?;
        }
        let access = access(config, &ledger.store).await?;
        let signer = log_signer(&config.audit, &config.ledger)?;
        let notary = Notary::open(ledger.store.clone(), signer, clock.clone()).await?;
        let notary = Arc::new(notary);
        let witnesses = ledger::witnesses(&config.audit)?;
        let opendsr = config.opendsr.as_ref().map(opendsr::facade).transpose()?;
        let drp = config.drp.as_ref().map(drp::facade).transpose()?;
        let listen = config.http.listen;
        let failed = |source| AppError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;

        let background = Background::start().map_err(AppError::Threads)?;
        let working = CancellationToken::new();
        let worker = if roles.contains(&Role::Worker) {
            let worker =
                worker(config, &ledger, clock.clone(), ids.clone()).map_err(AppError::Threads)?;
            let working = working.clone();
            Some(background.spawn(async move { worker.run(working).await }))
        } else {
            None
        };

        let messenger = if roles.contains(&Role::Worker) {
            let messenger = roles::messenger(config, &ledger, &clock, &ids, opendsr.as_deref())?;
            Some(background.spawn(messenger.run(working.clone())))
        } else {
            None
        };

        let registry = Arc::new(Registry::new(clock.clone()));
        let following = CancellationToken::new();
        let replica = if roles.contains(&Role::Api) {
            let replica = roles::replica(config, &ledger, &registry, &clock, &ids);
            let following = following.clone();
            Some(background.spawn(async move { replica.run(following).await }))
        } else {
            None
        };

        // Witnesses are asked as long as the ledger is followed, by who answers for the log.
        let witnessing = if roles.contains(&Role::Api) && !witnesses.is_empty() {
            let witnessing = Witnessing::new(notary.clone(), Outbound::new(None)?, witnesses);
            Some(background.spawn(witnessing.run(following.clone())))
        } else {
            None
        };

        let draining = Draining::default();
        let state = Arc::new(State {
            store: ledger.store.clone(),
            notary,
            registry,
            executor: Executor::start(config.serving.threads, config.serving.queue_max)
                .map_err(AppError::Threads)?,
            clock,
            ids,
            service_key: ledger.service_key,
            access,
            rates: Rates::default(),
            webhooks_reach: config.webhooks.reach.reach(),
            callbacks_reach: config.callbacks.reach(),
            is_tls: config.http.tls.is_some(),
            limits: limits(config),
            opendsr,
            drp,
            metrics: Some(metrics),
            draining: draining.clone(),
        });
        info!(%address, ?roles, device = ?config.serving.device, "started");
        let accepting = CancellationToken::new();
        let tls = if let Some(tls) = &config.http.tls {
            let certificate = Certificate::load(tls)?;
            reload_on_hangup(certificate.clone()).map_err(AppError::Signal)?;
            Some(tls::acceptor(certificate)?)
        } else {
            None
        };
        let (router, bounds) = (http::router(state), Bounds::of(&config.http));
        let server = connections::serve(listener, tls, router, bounds, accepting.clone());
        let server = tokio::spawn(server);
        Ok(Self {
            address,
            store: ledger.store,
            draining,
            drain_delay: Duration::from_secs(config.http.drain_delay_s),
            drain_timeout: Duration::from_secs(config.http.drain_timeout_s),
            accepting,
            server,
            following,
            replica,
            witnessing,
            working,
            worker,
            messenger,
            _background: background,
            _key_lock: ledger.key_lock,
        })
    }

    /// Where it answers; the port is the one that was given when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then ends in order: readiness goes, the worker gives its lease back,
    /// requests in flight finish, and last the ledger hears that this replica is gone.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        stop.await;
        info!("stopping");
        self.draining.begin();
        self.working.cancel();
        tokio::time::sleep(self.drain_delay).await;
        self.accepting.cancel();
        within(self.drain_timeout, "requests in flight", self.server).await;
        if let Some(worker) = self.worker {
            within(self.drain_timeout, "the worker", worker).await;
        }
        if let Some(messenger) = self.messenger {
            within(self.drain_timeout, "delivering to webhooks", messenger).await;
        }
        self.following.cancel();
        if let Some(replica) = self.replica {
            within(self.drain_timeout, "the replica", replica).await;
        }
        if let Some(witnessing) = self.witnessing {
            within(self.drain_timeout, "asking witnesses", witnessing).await;
        }
        self.store.close().await;
        info!("stopped");
    }
}

/// For as long as the process runs.
fn reload_on_hangup(certificate: Arc<Certificate>) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            certificate.reload();
        }
    });
    Ok(())
}

/// Waits for a part to end, but not for ever.
async fn within<T>(patience: Duration, part: &str, task: JoinHandle<T>) {
    if tokio::time::timeout(patience, task).await.is_err() {
        warn!(part, seconds = patience.as_secs(), "did not end in time; going on without it");
    }
}

/// Keys are asked for as soon as there are any; without, only loopback may ask.
async fn access(config: &Config, store: &Store) -> Result<Access, AppError> {
    let keys = store.api_keys().await?;
    if keys.iter().any(|key| key.revoked_at.is_none()) {
        return Ok(Access::with_keys());
    }
    if !config.http.listen.ip().is_loopback() {
        return Err(AppError::Open(config.http.listen));
    }
    warn!("there are no API keys: everybody on this machine may do everything");
    Ok(Access::Open)
}

fn limits(config: &Config) -> Limits {
    let timeout = Duration::from_secs(config.http.request_timeout_s);
    Limits {
        body_bytes: config.http.body_bytes_max,
        samples_bytes: config.http.ingestion_bytes_max,
        queued_deletions: config.http.deletion_queue_max,
        body_timeout: timeout,
        request_timeout: timeout,
        entries_public: config.audit.entries_public,
    }
}

/// Resolves at SIGTERM or SIGINT.
///
/// # Errors
/// When the signals cannot be listened for.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
