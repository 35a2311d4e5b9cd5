//! Connections to other machines, no further than a reach.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{Uri, uri::Scheme};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tower::Service;

use super::reach::Reach;

/// For each address of a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// None of the addresses of a host may be connected to, or not without TLS.
#[derive(Debug, thiserror::Error)]
#[error("{host} has no address that is within reach")]
pub struct OutOfReach {
    host: String,
}

/// Resolves names, leaves out addresses beyond the reach, and connects to the first that answers.
/// Literal addresses go the same way. An address may be from when the reach was another.
#[derive(Clone)]
pub struct Connector {
    pub reach: Reach,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let reach = self.reach.clone();
        Box::pin(async move {
            let stream = connect(&reach, &address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

async fn connect(reach: &Reach, address: &Uri) -> Result<TcpStream, BoxError> {
    let host = address.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_https = address.scheme() == Some(&Scheme::HTTPS);
    if !is_https && !reach.admits_http() {
        return Err(OutOfReach { host: host.to_owned() }.into());
    }
    let port = address.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let mut failed = None;
    for resolved in lookup_host((host, port)).await? {
        if !reach.admits(host, resolved.ip()) {
            continue;
        }
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(resolved)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = Some(error),
            Err(_) => failed = Some(io::ErrorKind::TimedOut.into()),
        }
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Err(OutOfReach { host: host.to_owned() }.into()),
    }
}
