//! Keys in files of the data folder: 64 hexadecimal digits, readable by their owner only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
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
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    make(path).map_err(|error| failed(path, error))?;
    read(path)?.ok_or_else(|| failed(path, ErrorKind::NotFound.into()))
}

fn read(path: &Path) -> Result<Option<Key>, KeyError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, &path.display().to_string()).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

/// Puts a new key where there is none. Of several processes that do so at once, one is first, and its
/// key is the key of all.
fn make(path: &Path) -> io::Result<()> {
    let draft = draft(path, &new_key())?;
    match fs::hard_link(&draft, path) {
        Ok(()) => tidy(path),
        // Another process was first, which may have removed this draft too.
        Err(error) if [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&error.kind()) => {
            tidy(path)
        }
        Err(error) => {
            fs::remove_file(draft)?;
            Err(error)
        }
    }
}

/// Puts a key in the file's place.
fn replace(path: &Path, key: &Key) -> Result<(), KeyError> {
    draft(path, key)
        .and_then(|draft| fs::rename(draft, path))
        .and_then(|()| tidy(path))
        .map_err(|error| failed(path, error))
}

fn new_key() -> Key {
    SecretBox::new(Box::new(Ids::system().bytes()))
}

/// The key under a name of its own, so that a crash leaves a whole key in its place, or none.
fn draft(path: &Path, key: &Key) -> io::Result<PathBuf> {
    let draft = path.with_extension(format!("{}.draft", Ids::system().token()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(file, "{}", hex::encode(key.expose_secret()))?;
    file.sync_all()?;
    Ok(draft)
}

/// Once a key is in its place, its drafts go: this process's, those of others that come too late, and
/// those that a crash has left.
fn tidy(path: &Path) -> io::Result<()> {
    let Some((folder, name)) = path.parent().zip(path.file_stem()) else { return Ok(()) };
    for entry in fs::read_dir(folder)? {
        let other = entry?.path();
        let is_draft = other.extension().is_some_and(|ending| ending == "draft");
        if is_draft && other.file_prefix() == Some(name) {
            match fs::remove_file(other) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
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
            replace(&previous, &current)?;
            replace(&path, &new_key())?;
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
    use std::{os::unix::fs::PermissionsExt, sync::Barrier, thread};

    use super::*;

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
    fn processes_that_start_together_have_one_key() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("service-key");
            fs::write(path.with_extension("left-by-a-crash.draft"), "").unwrap();
            let together = Barrier::new(8);
            let start = || {
                together.wait();
                bytes(&configured(None, "service_key", &path).unwrap())
            };
            let keys: Vec<_> = thread::scope(|scope| {
                let started: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                started.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let kept = bytes(&configured(None, "service_key", &path).unwrap());
            assert_eq!(keys, [kept; 8]);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        }
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
        let copy = folder.path().join("master-key.left-by-a-crash.draft");
        fs::hard_link(folder.path().join("master-key"), &copy).unwrap();

        MasterKeyFile::renew(folder.path()).unwrap();
        let new = MasterKeyFile::open(folder.path()).unwrap();
        assert_eq!(bytes(new.previous.as_ref().unwrap()), known);
        let renewed = bytes(&new.current);
        assert_ne!(renewed, known);
        assert!(!copy.exists(), "what is replaced has no copy but the previous one");
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
