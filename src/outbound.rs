//! Asking other machines over HTTP(S): the only place that does.

use std::time::Duration;

use axum::http::{HeaderValue, Request, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use secrecy::{ExposeSecret as _, SecretString};

const TIMEOUT: Duration = Duration::from_secs(30);

/// More than any bundle of 256 audit entries takes.
const BODY_BYTES_MAX: usize = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("{0} is no address, or the API key no header")]
    Request(String, #[source] axum::http::Error),
    #[error("{0} cannot be reached, or broke off")]
    Failed(String, #[source] Box<dyn std::error::Error + Send + Sync>),
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

/// Speaks HTTP/1.1; certificates are checked against Mozilla's roots. No redirect is followed.
#[derive(Clone)]
pub struct Outbound {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    api_key: Option<SecretString>,
}

impl Outbound {
    /// The key goes along with every request, as a bearer token.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(api_key: Option<SecretString>) -> Result<Self, OutboundError> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
            .map_err(OutboundError::Tls)?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), api_key })
    }

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
            None => Request::get(uri).body(Full::default()),
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
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect();
        let body = body.await.map_err(failed)?.to_bytes().to_vec();
        Ok(Answer { is_success, status, content_type, body })
    }
}
