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
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use secrecy::{ExposeSecret as _, SecretString};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use url::Url;

use crate::domain::timestamp::Timestamp;

use connector::{Connector, OutOfReach};
pub use reach::{AddressError, Network, NetworkError, Reach, URL_BYTES_MAX};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Connections that are kept for the next request to the same host, and for how long.
const IDLE_MAX: usize = 4;
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// More than any bundle of 256 audit entries takes.
const BODY_BYTES_MAX: usize = 32 << 20;

const USER_AGENT: &str = concat!("forgetd/", env!("CARGO_PKG_VERSION"));

const GONE: u16 = 410;

const GZIP: &str = "gzip";

#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("the address cannot be read")]
    Address(#[source] url::ParseError),
    #[error("{0} is no address, or the API key no header")]
    Request(String, #[source] axum::http::Error),
    #[error("{0} cannot be reached, or broke off")]
    Failed(String, #[source] Box<dyn Error + Send + Sync>),
    #[error(
        "{0} lies beyond where requests may go: over TLS to the Internet, and where the \
             configuration allows it besides"
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

    /// Posts JSON to an address of somebody else's choice, read as it was when it was checked. Errors
    /// name its host alone: the rest may be the receiver's secret.
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
        let url = Url::parse(address).map_err(OutboundError::Address)?;
        let host = url.host_str().unwrap_or("the address").to_owned();
        let mut request = Request::post(url.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, USER_AGENT);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(body));
        let request = request.map_err(|error| OutboundError::Request(host.clone(), error))?;
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
    // Whoever may choose an address may choose many: a connection to one is not kept.
    let idle_max = if reach.is_anywhere() { IDLE_MAX } else { 0 };
    let connector = tls.https_or_http().enable_http1().wrap_connector(Connector { reach });
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(idle_max)
        .build(connector)
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
mod tests;
