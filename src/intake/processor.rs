//! OpenDSR's processor: the domain that answers, its certificate, and the signature over every answer.

use std::{fmt, sync::Arc};

use axum::http::HeaderName;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    SignatureScheme,
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::{CertifiedKey, SigningKey},
};

/// What controllers verify signatures by: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, section 8.2).
const SCHEME: SignatureScheme = SignatureScheme::RSA_PKCS1_SHA256;

const DOMAIN: HeaderName = HeaderName::from_static("x-opendsr-processor-domain");
const SIGNATURE: HeaderName = HeaderName::from_static("x-opendsr-signature");

/// Whoever answers as a domain, and can show it.
#[derive(Clone)]
pub struct Processor {
    domain: String,
    certificate: Arc<str>,
    key: Arc<dyn SigningKey>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    #[error("it is no PEM file of a certificate or a key")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("certificate and key cannot be used together")]
    Unusable(#[source] rustls::Error),
    #[error("the key is no RSA key; OpenDSR's signatures are RSA with SHA-256")]
    NotRsa,
    #[error("{0:?} is no domain")]
    Domain(String),
    #[error("the certificate is not for {domain}")]
    OtherDomain { domain: String, source: rustls::Error },
}

impl Processor {
    /// Of PEM texts: the certificate, followed by those that lead to its issuer, and its key.
    ///
    /// # Errors
    /// When they cannot be read, do not belong together, or the certificate is another domain's.
    pub fn new(domain: &str, certificate: &str, key: &str) -> Result<Self, ProcessorError> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(ProcessorError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(ProcessorError::Pem)?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(ProcessorError::Unusable)?;
        let name = ServerName::try_from(domain.to_owned())
            .map_err(|_| ProcessorError::Domain(domain.to_owned()))?;
        let parsed = certified.end_entity_cert().and_then(ParsedCertificate::try_from);
        let parsed = parsed.map_err(ProcessorError::Unusable)?;
        verify_server_name(&parsed, &name)
            .map_err(|source| ProcessorError::OtherDomain { domain: domain.to_owned(), source })?;
        if certified.key.choose_scheme(&[SCHEME]).is_none() {
            return Err(ProcessorError::NotRsa);
        }
        Ok(Self {
            domain: domain.to_owned(),
            // Written anew: a file that holds the key too must not be given out.
            certificate: certified.cert.iter().map(pem).collect::<String>().into(),
            key: certified.key.clone(),
        })
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// PEM: the certificate, then those that lead to its issuer.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Who answers with this body, and the signature over it. Takes about a millisecond: not for a
    /// thread that serves.
    ///
    /// # Errors
    /// When the key cannot sign, which `new` has ruled out as far as it can be.
    pub fn headers(&self, body: &[u8]) -> Result<[(HeaderName, String); 2], ProcessorError> {
        Ok([(DOMAIN, self.domain.clone()), (SIGNATURE, self.sign(body)?)])
    }

    /// In base64.
    fn sign(&self, body: &[u8]) -> Result<String, ProcessorError> {
        let signer = self.key.choose_scheme(&[SCHEME]).ok_or(ProcessorError::NotRsa)?;
        let signature = signer.sign(body).map_err(ProcessorError::Unusable)?;
        Ok(BASE64_STANDARD.encode(signature))
    }
}

/// RFC 7468.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (position, letter) in text.chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processor").field("domain", &self.domain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = include_str!("../../tests/fixtures/opendsr/processor.crt");
    const KEY: &str = include_str!("../../tests/fixtures/opendsr/processor.key");

    #[test]
    fn certificate_key_and_domain_must_fit() {
        assert!(Processor::new("forgetd.test", CERTIFICATE, KEY).is_ok());
        let other = Processor::new("example.org", CERTIFICATE, KEY);
        assert!(matches!(other, Err(ProcessorError::OtherDomain { .. })));
        assert!(matches!(Processor::new("a b", CERTIFICATE, KEY), Err(ProcessorError::Domain(_))));
        let elliptic = Processor::new(
            "forgetd.test",
            include_str!("../../tests/fixtures/tls/first.crt"),
            include_str!("../../tests/fixtures/tls/first.key"),
        );
        assert!(matches!(elliptic, Err(ProcessorError::NotRsa)));
        let foreign =
            Processor::new("forgetd.test", include_str!("../../tests/fixtures/tls/first.crt"), KEY);
        assert!(matches!(foreign, Err(ProcessorError::Unusable(_))));
        assert!(matches!(
            Processor::new("forgetd.test", "", KEY),
            Err(ProcessorError::Unusable(_))
        ));
        assert!(matches!(
            Processor::new("forgetd.test", CERTIFICATE, ""),
            Err(ProcessorError::Pem(_))
        ));
    }

    #[test]
    fn a_file_that_holds_the_key_too_gives_out_the_certificate_alone() {
        let both = format!("{KEY}{CERTIFICATE}");
        let processor = Processor::new("forgetd.test", &both, KEY).unwrap();
        assert_eq!(processor.certificate(), CERTIFICATE);
    }

    #[test]
    fn a_signature_is_one_of_the_certificates_key() {
        let processor = Processor::new("forgetd.test", CERTIFICATE, KEY).unwrap();
        let signature = BASE64_STANDARD.decode(processor.sign(b"body").unwrap()).unwrap();
        assert_eq!(signature.len(), 256);
        assert_eq!(processor.sign(b"body").unwrap(), processor.sign(b"body").unwrap());
        assert_ne!(processor.sign(b"other").unwrap(), processor.sign(b"body").unwrap());
        assert!(!format!("{processor:?}").contains("PRIVATE"));
    }
}
