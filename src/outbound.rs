//! Asking other machines over HTTP(S): the only place that does.

mod connector;
mod reach;

use std::{
    error::Error,
    io::{self, Read as _},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, builderstates::WantsSchemes};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use secrecy::{ExposeSecret as _, SecretString};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use crate::domain::timestamp::Timestamp;

use connector::{Connector, OutOfReach};
pub use reach::{AddressError, Network, NetworkError, Reach, URL_BYTES_MAX};

const TIMEOUT: Duration = Duration::from_secs(30);

/// More than any bundle of 256 audit entries takes.
const BODY_BYTES_MAX: usize = 32 << 20;

const USER_AGENT: &str = concat!("forgetd/", env!("CARGO_PKG_VERSION"));

const GONE: u16 = 410;

const GZIP: &str = "gzip";

#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("{0} is no address, or the API key no header")]
    Request(String, #[source] axum::http::Error),
    #[error("{0} cannot be reached, or broke off")]
    Failed(String, #[source] Box<dyn Error + Send + Sync>),
    #[error(
        "{0} lies beyond where requests may go: it has no address on the Internet, nor one that \
             the configuration allows besides"
    )]
    OutOfReach(String),
    #[error("{0} was not answered in time")]
    TooSlow(String),
    #[error("{address} was answered {status}")]
    Refused { address: String, status: String },
}

/// An answer, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    pub is_success: bool,
    /// Number and words, such as `404 Not Found`.
    pub status: String,
    /// As the header has it; empty without one.
    pub content_type: String,
    pub body: Vec<u8>,
}

/// What was answered to a delivery; nobody reads its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub status: u16,
    pub is_success: bool,
    /// The receiver wants to hear nothing more.
    pub is_gone: bool,
    pub retry_after: Option<RetryAfter>,
}

/// When to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    Pause(Duration),
    At(Timestamp),
}

/// Speaks HTTP/1.1; certificates are checked against Mozilla's roots. No redirect is followed.
#[derive(Clone)]
pub struct Outbound {
    client: HttpsClient,
    api_key: Option<SecretString>,
}

impl Outbound {
    /// The key goes along with every request, as a bearer token.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(api_key: Option<SecretString>) -> Result<Self, OutboundError> {
        Ok(Self { client: client(Reach::anywhere())?, api_key })
    }

    /// Sends requests no further than the reach.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn within(reach: Reach) -> Result<Self, OutboundError> {
        Ok(Self { client: client(reach)?, api_key: None })
    }

    /// Accepts gzip.
    ///
    /// # Errors
    /// When there is no answer, or one that is no success.
    pub async fn get(&self, address: &str) -> Result<Vec<u8>, OutboundError> {
        let answer = self.ask(address, None).await?;
        if answer.is_success {
            Ok(answer.body)
        } else {
            let (address, status) = (address.to_owned(), answer.status);
            Err(OutboundError::Refused { address, status })
        }
    }

    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, address: &str, body: String) -> Result<Answer, OutboundError> {
        self.ask(address, Some(body)).await
    }

    /// Posts JSON to an address of somebody else's choice. Errors name its host alone: the rest may
    /// be the receiver's secret.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn deliver(
        &self,
        address: &str,
        headers: &[(HeaderName, String)],
        body: String,
        patience: Duration,
    ) -> Result<Receipt, OutboundError> {
        let uri = Uri::try_from(address);
        let host = uri.as_ref().ok().and_then(Uri::host).unwrap_or("the address").to_owned();
        let unfit = |source| OutboundError::Request(host.clone(), source);
        let mut request = Request::post(uri.map_err(|error| unfit(error.into()))?)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, USER_AGENT);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(body)).map_err(unfit)?;
        let response = match tokio::time::timeout(patience, self.client.request(request)).await {
            Err(_) => return Err(OutboundError::TooSlow(host)),
            Ok(Err(error)) if is_out_of_reach(&error) => {
                return Err(OutboundError::OutOfReach(host));
            }
            Ok(Err(error)) => return Err(OutboundError::Failed(host, error.into())),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        Ok(Receipt {
            status: status.as_u16(),
            is_success: status.is_success(),
            is_gone: status == GONE,
            retry_after: retry_after(response.headers()),
        })
    }

    async fn ask(&self, address: &str, body: Option<String>) -> Result<Answer, OutboundError> {
        let asked = tokio::time::timeout(TIMEOUT, self.ask_patiently(address, body)).await;
        asked.unwrap_or_else(|_| Err(OutboundError::TooSlow(address.to_owned())))
    }

    async fn ask_patiently(
        &self,
        address: &str,
        body: Option<String>,
    ) -> Result<Answer, OutboundError> {
        let unfit = |source| OutboundError::Request(address.to_owned(), source);
        let failed = |source| OutboundError::Failed(address.to_owned(), source);
        let uri = Uri::try_from(address).map_err(|error| unfit(error.into()))?;
        let mut request = match body {
            None => Request::get(uri).header(header::ACCEPT_ENCODING, GZIP).body(Full::default()),
            Some(body) => Request::post(uri).body(Full::from(body)),
        }
        .map_err(unfit)?;
        if let Some(key) = &self.api_key {
            let value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()));
            let mut value = value.map_err(|error| unfit(error.into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let response = self.client.request(request).await.map_err(|error| failed(error.into()))?;
        let (is_success, status) = (response.status().is_success(), response.status().to_string());
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|it| it.to_str().ok()).unwrap_or_default();
        let content_type = content_type.to_owned();
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        let is_compressed = encoding.is_some_and(|it| it == GZIP);
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect();
        let body = body.await.map_err(failed)?.to_bytes().to_vec();
        let body = if is_compressed {
            decompressed(&body).map_err(|error| failed(error.into()))?
        } else {
            body
        };
        Ok(Answer { is_success, status, content_type, body })
    }
}

type HttpsClient = Client<HttpsConnector<Connector>, Full<Bytes>>;

fn client(reach: Reach) -> Result<HttpsClient, OutboundError> {
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
        .map_err(OutboundError::Tls)?;
    Ok(client_over(reach, tls))
}

fn client_over(reach: Reach, tls: HttpsConnectorBuilder<WantsSchemes>) -> HttpsClient {
    let connector = tls.https_or_http().enable_http1().wrap_connector(Connector { reach });
    Client::builder(TokioExecutor::new()).build(connector)
}

/// # Errors
/// When it is no gzip, or of more than `BODY_BYTES_MAX`.
fn decompressed(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    GzDecoder::new(body).take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut whole)?;
    if whole.len() > BODY_BYTES_MAX {
        return Err(io::Error::other("the body is too large"));
    }
    Ok(whole)
}

fn is_out_of_reach(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    causes.any(<dyn Error>::is::<OutOfReach>)
}

/// RFC 9110, section 10.2.3: seconds, or a date; what is neither is not there.
fn retry_after(headers: &HeaderMap) -> Option<RetryAfter> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(RetryAfter::Pause(Duration::from_secs(seconds)));
    }
    let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    let micros = i64::try_from(date.unix_timestamp_nanos() / 1_000).ok()?;
    Some(RetryAfter::At(Timestamp::from_micros(micros)))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, sync::Arc};

    use rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers each TLS connection on loopback with 204; returns its address.
    async fn tls_receiver() -> String {
        let certificate = include_bytes!("../tests/fixtures/tls/receiver.crt");
        let key = include_bytes!("../tests/fixtures/tls/receiver.key");
        let chain = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key).unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}/hooks", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Who does not trust it breaks off.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4_096];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"POST /hooks HTTP/1.1\r\n"));
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        address
    }

    async fn deliver(client: HttpsClient, address: &str) -> Result<Receipt, OutboundError> {
        let outbound = Outbound { client, api_key: None };
        outbound.deliver(address, &[], "{}".into(), TIMEOUT).await
    }

    #[tokio::test]
    async fn a_certificate_is_checked_within_the_reach() {
        let address = tls_receiver().await;
        let loopback = || Reach::internet(false, &["127.0.0.1".parse().unwrap()], &[]);
        let authority = include_bytes!("../tests/fixtures/tls/authority.crt");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
        let trusting = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let trusting = || HttpsConnectorBuilder::new().with_tls_config(trusting.clone());

        let told = deliver(client_over(loopback(), trusting()), &address).await.unwrap();
        assert_eq!((told.status, told.is_success), (204, true));
        let stranger = deliver(client(loopback()).unwrap(), &address).await;
        assert!(matches!(stranger, Err(OutboundError::Failed(..))), "{stranger:?}");
        let beyond = Reach::internet(false, &[], &[]);
        let beyond = deliver(client_over(beyond, trusting()), &address).await;
        assert!(matches!(beyond, Err(OutboundError::OutOfReach(_))), "{beyond:?}");
    }

    #[test]
    fn what_is_compressed_is_read_up_to_a_limit() {
        let compressed = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(decompressed(&compressed(b"entries")).unwrap(), b"entries");
        assert!(decompressed(b"entries").is_err());
        let bomb = compressed(&vec![0; BODY_BYTES_MAX + 1]);
        assert!(bomb.len() < BODY_BYTES_MAX / 100);
        assert!(decompressed(&bomb).unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |value: &str| {
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]))
        };
        assert_eq!(read("120"), Some(RetryAfter::Pause(Duration::from_mins(2))));
        let date: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(RetryAfter::At(date)));
        for odd in ["", "-1", "1.5", "soon"] {
            assert_eq!(read(odd), None, "{odd}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
