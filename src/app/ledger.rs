//! Opening what is durable: the data folder, the database, the blobs and the keys.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    audit::note::{KeyError, KeyKind, Signer, VerifierKey},
    clock::Ids,
    domain::identity::{Digest, ServiceKey},
    notary::Witness,
    store::{BlobError, Blobs, Store, StoreError},
};

use super::config::{AuditConfig, LedgerConfig, WitnessConfig};

/// Everything durable, open and at the current schema.
pub struct Ledger {
    pub store: Store,
    pub blobs: Blobs,
    pub service_key: ServiceKey,
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the data folder {path} cannot be used")]
    Folder { path: PathBuf, source: io::Error },
    #[error("the key file {path} cannot be used")]
    KeyFile { path: PathBuf, source: io::Error },
    #[error("the key in {origin} must be 64 hexadecimal digits (32 bytes)")]
    Key { origin: String },
    #[error("`audit.origin` cannot be the audit log's name")]
    Origin(#[source] KeyError),
    #[error("`audit.witnesses` holds {key:?}, which is no witness's verifier key")]
    Witness { key: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

impl Ledger {
    /// Opens the ledger, and makes what a first start lacks.
    ///
    /// # Errors
    /// When a part cannot be opened; says which.
    pub async fn open(config: &LedgerConfig) -> Result<Self, LedgerError> {
        let folder = make_folder(&config.data_dir)?;
        let service_key = match &config.service_key {
            Some(secret) => parse_key(secret.expose_secret(), "ledger.service_key")?,
            None => key_from_file(&folder.join("service-key"))?,
        };
        let service_key = ServiceKey::new(service_key);
        let blobs = if let Some(url) = &config.blobs_url {
            Blobs::open(url)?
        } else {
            let folder = make_folder(&folder.join("blobs"))?;
            Blobs::open(&format!("file://{}", folder.display()))?
        };
        let store = Store::open(database_url(config, &folder).expose_secret()).await?;
        store.migrate().await?;
        Ok(Self { store, blobs, service_key })
    }
}

/// Who signs the audit log's checkpoints. Without a name in the configuration the log is called
/// after its key, so that no two logs share one by accident.
///
/// # Errors
/// When there is no key and none can be made, or the name cannot be one.
pub fn log_signer(audit: &AuditConfig, ledger: &LedgerConfig) -> Result<Signer, LedgerError> {
    let secret = match &audit.signing_key {
        Some(secret) => parse_key(secret.expose_secret(), "audit.signing_key")?,
        None => key_from_file(&make_folder(&ledger.data_dir)?.join("audit-key"))?,
    };
    let signer = |name: &str| Signer::new(name, &secret).map_err(LedgerError::Origin);
    match &audit.origin {
        Some(origin) => signer(origin),
        None => signer(&format!("forgetd/{}", hex::encode(signer("forgetd")?.verifier_key().id()))),
    }
}

/// # Errors
/// When a key is none of a witness.
pub fn witnesses(audit: &AuditConfig) -> Result<Vec<Witness>, LedgerError> {
    let witness = |configured: &WitnessConfig| {
        let key = configured.key.parse::<VerifierKey>().ok();
        let key = key.filter(|key| key.kind() == KeyKind::Witness);
        let key = key.ok_or_else(|| LedgerError::Witness { key: configured.key.clone() })?;
        Ok(Witness { url: configured.url.clone(), key })
    };
    audit.witnesses.iter().map(witness).collect()
}

fn database_url(config: &LedgerConfig, folder: &Path) -> SecretString {
    config
        .database_url
        .clone()
        .unwrap_or_else(|| format!("sqlite://{}", folder.join("forgetd.sqlite").display()).into())
}

/// Readable by its owner only: it holds features and the key to the pseudonyms.
fn make_folder(path: &Path) -> Result<PathBuf, LedgerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| path.canonicalize())
        .map_err(|source| LedgerError::Folder { path: path.to_owned(), source })
}

fn key_from_file(path: &Path) -> Result<[u8; 32], LedgerError> {
    let failed = |source| LedgerError::KeyFile { path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(text) => parse_key(text.trim(), &path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let bytes = Ids::system().bytes();
            // Made under another name first, so that a crash leaves a whole key or none.
            let draft = path.with_extension("draft");
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)
                .map_err(failed)?;
            writeln!(file, "{}", hex::encode(bytes)).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            fs::rename(&draft, path).map_err(failed)?;
            Ok(bytes)
        }
        Err(error) => Err(failed(error)),
    }
}

fn parse_key(text: &str, origin: &str) -> Result<[u8; 32], LedgerError> {
    let bytes: Digest = text.parse().map_err(|_| LedgerError::Key { origin: origin.to_owned() })?;
    Ok(*bytes.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service-key");
        let first = key_from_file(&path).unwrap();
        assert_eq!(key_from_file(&path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_key_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service-key");
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(key_from_file(&path), Err(LedgerError::Key { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
    }

    #[test]
    fn a_log_without_a_name_is_called_after_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = LedgerConfig { data_dir: folder.path().to_owned(), ..LedgerConfig::default() };
        let signer = log_signer(&AuditConfig::default(), &ledger).unwrap();
        assert_eq!(signer.name().len(), "forgetd/".len() + 8);
        let again = log_signer(&AuditConfig::default(), &ledger).unwrap();
        assert_eq!(again.verifier_key(), signer.verifier_key());
        let audit = AuditConfig { origin: Some("a b".into()), ..AuditConfig::default() };
        assert!(matches!(log_signer(&audit, &ledger), Err(LedgerError::Origin(_))));
    }
}
