//! OpenDSR as the configuration sets it up: its certificate, its key, and whom identities name.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::Uri;

use crate::{
    http::OpenDsr,
    intake::{
        identity::opendsr_alias,
        processor::{Processor, ProcessorError},
    },
};

use super::{
    config::OpenDsrConfig,
    naming::{NamingConfigError, naming},
};

#[derive(Debug, thiserror::Error)]
pub enum OpenDsrError {
    #[error("`opendsr.url` is {0:?}, but must be a scheme and a domain, https://example.org")]
    Url(String),
    #[error("`opendsr.subjects` and `opendsr.aliases` cannot be used")]
    Naming(#[from] NamingConfigError),
    #[error("the PEM file {path} cannot be read")]
    File { path: PathBuf, source: io::Error },
    #[error("`opendsr.certificate` and `opendsr.key` cannot sign for `opendsr.url`")]
    Processor(#[from] ProcessorError),
}

/// # Errors
/// When a file cannot be read, or address, certificate and key do not fit.
pub(super) fn facade(config: &OpenDsrConfig) -> Result<Arc<OpenDsr>, OpenDsrError> {
    let invalid = || OpenDsrError::Url(config.url.clone());
    let url: Uri = config.url.parse().map_err(|_| invalid())?;
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none();
    let (Some("http" | "https"), Some(domain), true) = (url.scheme_str(), url.host(), is_bare)
    else {
        return Err(invalid());
    };
    let naming = naming(&config.subjects, &config.aliases, opendsr_alias)?;
    let processor = Processor::new(domain, &read(&config.certificate)?, &read(&config.key)?)?;
    Ok(Arc::new(OpenDsr { processor, url: config.url.trim_end_matches('/').to_owned(), naming }))
}

fn read(path: &Path) -> Result<String, OpenDsrError> {
    fs::read_to_string(path).map_err(|source| OpenDsrError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_a_scheme_and_the_certificates_domain() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/opendsr");
        let configured = |url: &str, aliases: &[&str]| {
            facade(&OpenDsrConfig {
                url: url.into(),
                certificate: fixtures.join("processor.crt"),
                key: fixtures.join("processor.key"),
                subjects: Vec::new(),
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            })
        };
        let with = |url: &str| configured(url, &["email"]);
        assert_eq!(with("https://forgetd.test/").unwrap().url, "https://forgetd.test");
        assert_eq!(with("http://forgetd.test:8080").unwrap().url, "http://forgetd.test:8080");
        for url in ["forgetd.test", "ftp://forgetd.test", "https://forgetd.test/a", "https://"] {
            assert!(matches!(with(url), Err(OpenDsrError::Url(_))), "{url}");
        }
        assert!(matches!(with("https://example.org"), Err(OpenDsrError::Processor(_))));
        let without = configured("https://forgetd.test", &[]);
        assert!(matches!(without, Err(OpenDsrError::Naming(NamingConfigError::Nobody))));
        let unknown = configured("https://forgetd.test", &["ios_vendor_id"]);
        assert!(matches!(unknown, Err(OpenDsrError::Naming(NamingConfigError::Alias(_)))));
    }
}
