//! Connections of those who ask: how many at once, and how long one is kept on which nothing is asked.

#[cfg(test)]
mod tests;

use std::{
    io::{self, ErrorKind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::Request};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{Service as _, service_fn};
use tracing::{debug, info, warn};

use super::{config::HttpConfig, tls};

/// After `accept` failed for want of something (descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Bounds of what somebody can hold who has no key.
pub(super) struct Bounds {
    connections: u32,
    /// How long a request's head may take, and a connection be kept on which nothing is asked.
    head_timeout: Duration,
}

impl Bounds {
    /// As configured, but for no more connections than the process has descriptors to spare.
    pub(super) fn of(config: &HttpConfig) -> Self {
        let (configured, descriptors) = (config.connections_max, getrlimit(Resource::Nofile));
        let connections = configured.min(spared(descriptors.current));
        if connections < configured {
            info!(
                connections,
                configured, "the limit of open files allows fewer connections: raise `ulimit -n`"
            );
        }
        Self { connections, head_timeout: Duration::from_secs(config.head_timeout_s) }
    }
}

/// A quarter is left to the ledger, the blobs and those who are told.
fn spared(descriptors: Option<u64>) -> u32 {
    let spared = descriptors.map_or(u64::MAX, |all| (all - all.div_ceil(4)).max(1));
    u32::try_from(spared).unwrap_or(u32::MAX)
}

/// Until the token is cancelled and what was in flight is answered. Who comes when there is no room for
/// another connection waits for it in the system's queue.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    bounds: Bounds,
    stopping: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(bounds.connections as usize));
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            () = stopping.cancelled() => break,
        };
        let connection = Connection {
            router: router.clone(),
            head_timeout: bounds.head_timeout,
            stopping: stopping.clone(),
        };
        let tls = tls.clone();
        tokio::spawn(async move {
            connection.run(stream, tls).await;
            drop(place);
        });
    }
    drop(listener);
    // The last place is free when the last connection has ended; nobody closes the semaphore.
    let _ = room.acquire_many(bounds.connections).await;
}

/// The next connection, however long it takes.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                send_at_once(&stream);
                return stream;
            }
            Err(error) if is_gone(&error) => debug!(%error, "a connection went before it came"),
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an error is the one connection's.
fn is_gone(error: &io::Error) -> bool {
    [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset].contains(&error.kind())
}

/// An answer goes out at once, also where it does not fill a segment.
fn send_at_once(connection: &TcpStream) {
    if let Err(error) = connection.set_nodelay(true) {
        debug!(%error, "a connection may delay small answers");
    }
}

struct Connection {
    router: Router,
    head_timeout: Duration,
    stopping: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let Some(tls) = tls else { return self.serve(stream).await };
        let stream = tokio::select! {
            stream = tls::shake_hands(&tls, stream) => stream,
            () = self.stopping.cancelled() => None,
        };
        if let Some(stream) = stream {
            self.serve(stream).await;
        }
    }

    /// HTTP/1.1 or HTTP/2, as the other side begins. The connection is looked at every `head_timeout`:
    /// if nothing was asked or answered since the last look, and nothing is being worked on, it is told
    /// to end, and at the next look it is cut off; at once if nothing was ever asked. So a first head
    /// has that time, a connection that is not used ends within twice of it, and one on which an answer
    /// is not taken within thrice.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { mut router, head_timeout, stopping } = self;
        let requests = Arc::new(Requests::default());
        let counted = Arc::clone(&requests);
        let service = service_fn(move |request: Request<_>| {
            let working = Working::begin(&counted);
            let answer = router.call(request);
            async move {
                let answer = answer.await;
                drop(working);
                answer
            }
        });
        let builder = Builder::new(TokioExecutor::new());
        let service = TowerToHyperService::new(service);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let (mut is_told, mut before) = (false, requests.so_far());
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, "a connection broke off");
                    }
                    break;
                }
                () = stopping.cancelled(), if !is_told => {
                    connection.as_mut().graceful_shutdown();
                    is_told = true;
                }
                () = tokio::time::sleep(head_timeout) => {
                    let now = requests.so_far();
                    let is_quiet = now == before && now.begun == now.ended;
                    before = now;
                    if is_quiet && (is_told || now.begun == 0) {
                        debug!("a connection was cut off on which nothing is asked");
                        break;
                    }
                    if is_quiet {
                        connection.as_mut().graceful_shutdown();
                        is_told = true;
                    }
                }
            }
        }
    }
}

/// Requests of one connection.
#[derive(Default)]
struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct SoFar {
    begun: u64,
    ended: u64,
}

impl Requests {
    fn so_far(&self) -> SoFar {
        let ended = self.ended.load(Ordering::Acquire);
        SoFar { begun: self.begun.load(Ordering::Acquire), ended }
    }
}

/// While a request is worked on.
struct Working(Arc<Requests>);

impl Working {
    fn begin(requests: &Arc<Requests>) -> Self {
        requests.begun.fetch_add(1, Ordering::Release);
        Self(Arc::clone(requests))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}
