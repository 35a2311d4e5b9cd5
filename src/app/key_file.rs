//! Keys in files of the data folder: 64 hexadecimal digits, readable by their owner only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretBox, SecretString};

use crate::{clock::Ids, domain::identity::Digest};

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key file {path} cannot be used")]
    File { path: PathBuf, source: io::Error },
    #[error("the key in {origin} must be 64 hexadecimal digits (32 bytes)")]
    Text { origin: String },
    #[error(
        "the master key in {0} is in use: stop every forgetd process of this data folder first"
    )]
    InUse(PathBuf),
}

pub(super) type Key = SecretBox<[u8; 32]>;

/// The configuration's, or else the file's, which is made where there is none.
pub(super) fn configured(
    secret: Option<&SecretString>,
    name: &str,
    path: &Path,
) -> Result<Key, KeyError> {
    match secret {
        Some(secret) => parse(secret.expose_secret(), name),
        None => read_or_make(path),
    }
}

pub(super) fn parse(text: &str, origin: &str) -> Result<Key, KeyError> {
    let bytes: Digest =
        text.trim().parse().map_err(|_| KeyError::Text { origin: origin.to_owned() })?;
    Ok(SecretBox::new(Box::new(*bytes.as_bytes())))
}

fn read_or_make(path: &Path) -> Result<Key, KeyError> {
    match read(path)? {
        Some(key) => Ok(key),
        None => make(path),
    }
}

fn read(path: &Path) -> Result<Option<Key>, KeyError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, &path.display().to_string()).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

/// Puts a new key in the file's place.
fn make(path: &Path) -> Result<Key, KeyError> {
    let key: Key = SecretBox::new(Box::new(Ids::system().bytes()));
    write(path, &key).map_err(|error| failed(path, error))?;
    Ok(key)
}

/// Under another name first, so that a crash leaves a whole key or none.
fn write(path: &Path, key: &Key) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    writeln!(file, "{}", hex::encode(key.expose_secret()))?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn failed(path: &Path, source: io::Error) -> KeyError {
    KeyError::File { path: path.to_owned(), source }
}

/// The master key of a data folder. Whoever holds this has a share of the file's lock; a rotation
/// wants all of it, so that no process goes on with the replaced key.
pub(super) struct MasterKeyFile {
    pub(super) current: Key,
    /// Of a rotation that has not ended.
    pub(super) previous: Option<Key>,
    pub(super) lock: File,
}

impl MasterKeyFile {
    pub(super) fn open(folder: &Path) -> Result<Self, KeyError> {
        let (path, previous) = paths(folder);
        read_or_make(&path)?;
        let lock = File::open(&path).map_err(|error| failed(&path, error))?;
        lock.try_lock_shared().map_err(|error| busy(&path, error))?;
        // Read only now: what is locked stays.
        let current = read_or_make(&path)?;
        Ok(Self { current, previous: read(&previous)?, lock })
    }

    /// Sets the key aside as the previous one and makes a new one, unless a rotation that was
    /// interrupted has done so.
    pub(super) fn renew(folder: &Path) -> Result<(), KeyError> {
        let (path, previous) = paths(folder);
        let current = read_or_make(&path)?;
        let lock = File::open(&path).map_err(|error| failed(&path, error))?;
        lock.try_lock().map_err(|error| busy(&path, error))?;
        let aside = read(&previous)?;
        let is_renewed =
            aside.is_some_and(|aside| aside.expose_secret() != current.expose_secret());
        if !is_renewed {
            write(&previous, &current).map_err(|error| failed(&previous, error))?;
            make(&path)?;
        }
        Ok(())
    }

    /// Once nothing is wrapped under it any more.
    pub(super) fn destroy_previous(folder: &Path) -> Result<(), KeyError> {
        let (_, previous) = paths(folder);
        fs::remove_file(&previous)
            .and_then(|()| sync_folder(&previous))
            .map_err(|error| failed(&previous, error))
    }
}

/// The current and the previous key's.
fn paths(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("master-key"), folder.join("master-key-previous"))
}

fn busy(path: &Path, error: fs::TryLockError) -> KeyError {
    match error {
        fs::TryLockError::WouldBlock => KeyError::InUse(path.to_owned()),
        fs::TryLockError::Error(source) => failed(path, source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn bytes(key: &Key) -> [u8; 32] {
        *key.expose_secret()
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service-key");
        let first = configured(None, "service_key", &path).unwrap();
        assert_eq!(bytes(&configured(None, "service_key", &path).unwrap()), bytes(&first));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_key_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service-key");
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(configured(None, "service_key", &path), Err(KeyError::Text { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
    }

    #[test]
    fn a_master_key_is_renewed_by_nobody_else_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let old = MasterKeyFile::open(folder.path()).unwrap();
        let beside = MasterKeyFile::open(folder.path()).unwrap();
        assert_eq!(bytes(&beside.current), bytes(&old.current));
        assert!(matches!(MasterKeyFile::renew(folder.path()), Err(KeyError::InUse(_))));
        drop(beside);
        let known = bytes(&old.current);
        drop(old);

        MasterKeyFile::renew(folder.path()).unwrap();
        let new = MasterKeyFile::open(folder.path()).unwrap();
        assert_eq!(bytes(new.previous.as_ref().unwrap()), known);
        let renewed = bytes(&new.current);
        assert_ne!(renewed, known);
        drop(new);
        // A second attempt, after a crash, goes on with the same two.
        MasterKeyFile::renew(folder.path()).unwrap();
        let again = MasterKeyFile::open(folder.path()).unwrap();
        assert_eq!(bytes(&again.current), renewed);
        assert_eq!(bytes(again.previous.as_ref().unwrap()), known);
        MasterKeyFile::destroy_previous(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
