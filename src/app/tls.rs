//! TLS by rustls: a listener whose handshakes hold nobody up, a certificate that can be exchanged
//! while it serves, and a client that knows it.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::serve::Listener;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::domain::chain::Chain;

use super::config::TlsConfig;

/// A client that takes longer is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections whose handshake is done and which nobody has taken yet.
const WAITING_MAX: usize = 64;

/// After `accept` failed for want of something (descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the PEM file {path} cannot be read")]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("the certificate and the key cannot be used together")]
    Unusable(#[from] rustls::Error),
}

/// The certificate that handshakes show.
#[derive(Debug)]
pub(super) struct Certificate {
    config: TlsConfig,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    pub(super) fn load(config: &TlsConfig) -> Result<Arc<Self>, TlsError> {
        let current = ArcSwap::from_pointee(read(config)?);
        Ok(Arc::new(Self { config: config.clone(), current }))
    }

    /// From the same files. One that cannot be used is refused, and the one before stays.
    pub(super) fn reload(&self) {
        match read(&self.config) {
            Ok(renewed) => {
                self.current.store(Arc::new(renewed));
                info!("the certificate was read anew");
            }
            Err(error) => {
                warn!(error = %Chain(&error), "the new certificate cannot be used; the old one stays");
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(config: &TlsConfig) -> Result<CertifiedKey, TlsError> {
    let (certificate, key) = (&config.certificate, &config.key);
    let chain = read_chain(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    Ok(CertifiedKey::from_der(chain, key, &ring::default_provider())?)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path);
    chain.and_then(Iterator::collect).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(rustls::pki_types::pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::Pem { path, source }
}

/// Hands out connections whose handshake is done.
pub(super) struct TlsListener {
    address: SocketAddr,
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    _accepting: AbortOnDropHandle<()>,
}

impl TlsListener {
    pub(super) fn start(
        listener: TcpListener,
        address: SocketAddr,
        certificate: Arc<Certificate>,
    ) -> Result<Self, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (sender, connections) = mpsc::channel(WAITING_MAX);
        let accepting = accept(listener, TlsAcceptor::from(Arc::new(config)), sender);
        let accepting = AbortOnDropHandle::new(tokio::spawn(accepting));
        Ok(Self { address, connections, _accepting: accepting })
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        super::send_at_once(&stream);
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // The receiver goes when the service stops accepting.
                Ok(Ok(stream)) => drop(sender.send((stream, peer)).await),
                Ok(Err(error)) => debug!(%error, "a handshake failed"),
                Err(_) => debug!("a handshake took too long"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The accepting task ends only with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// For asking the service on this machine how it is: trusts its own certificate, whatever name that
/// is for, and no other.
///
/// # Errors
/// When the certificate cannot be read.
pub fn connector(config: &TlsConfig) -> Result<TlsConnector, TlsError> {
    let own = read_chain(&config.certificate)?.into_iter().next();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { own, provider: provider() }))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct Pinned {
    own: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        found: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.own.as_deref() == Some(found.as_ref()) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
