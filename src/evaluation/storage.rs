//! Files of the output folder: whole or not there, found by what decides their content.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Serialize, de::DeserializeOwned};

use super::error::EvaluationError;
use crate::domain::identity::Digest;

/// What an evaluation leaves behind.
#[derive(Clone, Debug)]
pub struct Storage {
    folder: PathBuf,
}

impl Storage {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.folder.join(relative)
    }

    /// `<kind>/<digest of the key>.<ending>`.
    pub fn place(&self, kind: &str, key: &serde_json::Value, ending: &str) -> PathBuf {
        let digest = Digest::of(key.to_string().as_bytes()).to_string();
        self.folder.join(kind).join(&digest[..32]).with_extension(ending)
    }
}

/// `None` when there is no such file.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, EvaluationError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(EvaluationError::Input { path: path.to_owned(), source }),
    }
}

/// Whoever reads the path meanwhile, or after a crash, finds all of it or nothing.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), EvaluationError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let unique = COUNT.fetch_add(1, Ordering::Relaxed);
    let draft = path.with_extension(format!("draft-{}-{unique}", std::process::id()));
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| EvaluationError::Output { path: path.to_owned(), source })
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EvaluationError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| EvaluationError::Damaged {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EvaluationError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| EvaluationError::Output {
        path: path.to_owned(),
        source: source.into(),
    })?;
    bytes.push(b'\n');
    write(path, &bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_found_by_their_key_and_nothing_half_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::new(folder.path());
        let path = storage.place("cells", &json!({"seed": 1}), "json");
        assert_ne!(path, storage.place("cells", &json!({"seed": 2}), "json"));
        assert_eq!(read_json::<Vec<f64>>(&path).unwrap(), None);
        for value in [vec![1.5], vec![0.1, -3e-9]] {
            write_json(&path, &value).unwrap();
            assert_eq!(read_json(&path).unwrap(), Some(value));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        let error = read_json::<Vec<f64>>(&path).unwrap_err();
        assert!(matches!(error, EvaluationError::Damaged { .. }));
    }
}
