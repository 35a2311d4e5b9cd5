//! Opening what is durable: the data folder, the database, the blobs and the keys.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    audit::note::{self, KeyKind, Signer, VerifierKey},
    clock::{Clock, Ids},
    domain::{identity::ServiceKey, sealing::MasterKey},
    notary::Witness,
    store::{BlobError, Blobs, Keyring, Store, StoreError},
};

use super::{
    config::{AuditConfig, LedgerConfig, WitnessConfig},
    key_file::{self, Key, KeyError, MasterKeyFile},
};

/// Everything durable, open and at the current schema.
pub struct Ledger {
    pub store: Store,
    pub blobs: Blobs,
    pub service_key: Arc<ServiceKey>,
    pub key_lock: KeyLock,
}

/// Keeps the master key's file from being replaced while its key is in use; nothing to keep where
/// the key comes from the configuration.
pub struct KeyLock(#[expect(dead_code, reason = "held until it is dropped")] Option<File>);

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the data folder {path} cannot be used")]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(
        "a rotation needs both keys: set `ledger.master_key` to the new one and \
         `ledger.previous_master_key` to the one that it replaces, in every process"
    )]
    PreviousMasterKey,
    #[error("`audit.origin` cannot be the audit log's name")]
    Origin(#[source] note::KeyError),
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
        let service_key = key_file::configured(
            config.service_key.as_ref(),
            "ledger.service_key",
            &folder.join("service-key"),
        )?;
        let (keyring, key_lock) = keyring(config, &folder)?;
        let blobs = if let Some(url) = &config.blobs_url {
            Blobs::open(url)?
        } else {
            let folder = make_folder(&folder.join("blobs"))?;
            Blobs::open(&format!("file://{}", folder.display()))?
        };
        let store = Store::open(database_url(config, &folder).expose_secret(), keyring).await?;
        store.migrate().await?;
        let service_key = Arc::new(ServiceKey::new(*service_key.expose_secret()));
        store.check_service_key(service_key.key_fingerprint()).await?;
        Ok(Self { store, blobs, service_key, key_lock })
    }

    /// Wraps every data key under another master key: a new one in the place of the data folder's,
    /// or the configuration's in the place of its previous one. Once the replaced key is destroyed
    /// too, no older copy of the ledger opens any more. Interrupted, it may be run again.
    ///
    /// # Errors
    /// When a process still uses the data folder's key, or the configuration names no previous one.
    pub async fn rotate_master_key(
        config: &LedgerConfig,
        clock: &Clock,
    ) -> Result<(), LedgerError> {
        let folder = make_folder(&config.data_dir)?;
        let is_in_file = config.master_key.is_none();
        if is_in_file {
            MasterKeyFile::renew(&folder)?;
        } else if config.previous_master_key.is_none() {
            return Err(LedgerError::PreviousMasterKey);
        }
        let ledger = Self::open(config).await?;
        ledger.store.adopt_master_key(clock.now()).await?;
        let mut after = None;
        loop {
            after = ledger.store.rewrap_data_keys(after, clock.now()).await?;
            if after.is_none() {
                break;
            }
        }
        ledger.store.purge_erased().await?;
        ledger.store.close().await;
        if is_in_file {
            MasterKeyFile::destroy_previous(&folder)?;
        }
        Ok(())
    }
}

fn keyring(config: &LedgerConfig, folder: &Path) -> Result<(Keyring, KeyLock), LedgerError> {
    let (current, previous, lock) = if let Some(secret) = &config.master_key {
        let previous = config.previous_master_key.as_ref();
        let previous = previous
            .map(|secret| key_file::parse(secret.expose_secret(), "ledger.previous_master_key"));
        let current = key_file::parse(secret.expose_secret(), "ledger.master_key")?;
        (current, previous.transpose()?, None)
    } else {
        let file = MasterKeyFile::open(folder)?;
        (file.current, file.previous, Some(file.lock))
    };
    let master = |key: &Key| MasterKey::new(key.expose_secret());
    let keyring = Keyring::new(master(&current), previous.as_ref().map(master), Ids::system());
    Ok((keyring, KeyLock(lock)))
}

/// Who signs the audit log's checkpoints. Without a name in the configuration the log is called
/// after its key, so that no two logs share one by accident.
///
/// # Errors
/// When there is no key and none can be made, or the name cannot be one.
pub fn log_signer(audit: &AuditConfig, ledger: &LedgerConfig) -> Result<Signer, LedgerError> {
    let secret = key_file::configured(
        audit.signing_key.as_ref(),
        "audit.signing_key",
        &make_folder(&ledger.data_dir)?.join("audit-key"),
    )?;
    let signer =
        |name: &str| Signer::new(name, secret.expose_secret()).map_err(LedgerError::Origin);
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

/// Readable by its owner only: it holds the keys, and what they seal.
fn make_folder(path: &Path) -> Result<PathBuf, LedgerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| path.canonicalize())
        .map_err(|source| LedgerError::Folder { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

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
