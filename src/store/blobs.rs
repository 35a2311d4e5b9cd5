//! Weights in an object store.

use std::{
    fs, io,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use futures_util::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, PutPayload, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder, local::LocalFileSystem, memory::InMemory, path::Path,
};

use uuid::Uuid;

use crate::domain::{blob_name::BlobName, identity::Digest, timestamp::Timestamp};

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("cannot open the object store at {location}: {reason}")]
    Open { location: String, reason: String },
    #[error("the object store failed to {operation} {name}")]
    Store { operation: &'static str, name: BlobName, source: Box<object_store::Error> },
    #[error("the object store failed to list its blobs")]
    List(#[source] object_store::Error),
    #[error("cannot remove from {folder} what was left half-written")]
    Unfinished { folder: PathBuf, source: io::Error },
    #[error("there is no blob {0}")]
    Missing(BlobName),
    /// What it was told to destroy would stay.
    #[error(
        "the bucket keeps older versions of its objects, so that no weights could be destroyed: \
         suspend its versioning, and delete what it has kept"
    )]
    KeepsVersions,
    /// The bytes are not what the name says: refused.
    #[error("blob {name} is corrupt: its bytes hash to {found}")]
    Corrupt { name: BlobName, found: Digest },
}

impl BlobError {
    fn store(operation: &'static str, name: BlobName, source: object_store::Error) -> Self {
        Self::Store { operation, name, source: Box::new(source) }
    }
}

/// Weights in an object store: a folder or a bucket. A blob lies under
/// `<first 2 hex digits>/<its name>`.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Empty, or ends in a slash.
    prefix: String,
    /// Where it is a folder.
    folder: Option<PathBuf>,
    /// Whether a write is answered with a version where, and only where, the bucket keeps versions.
    tells_versions: bool,
}

impl Blobs {
    /// `file:///folder`, which is created, `memory:///`, `s3://bucket/prefix`, `gs://bucket/prefix` or
    /// `az://container/prefix`. What a bucket's provider asks for, such as credentials, comes from the
    /// environment, under the names that its own tools use.
    pub fn open(url: &str) -> Result<Self, BlobError> {
        let failed = |reason: String| BlobError::Open { location: url.to_owned(), reason };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| {
            failed("a URL is needed, such as file:///var/lib/forgetd/blobs".to_owned())
        })?;
        if scheme == "file" {
            return Self::in_folder(rest).map_err(failed);
        }
        let bucket = bucket(scheme, url).map_err(|error| failed(error.to_string()))?;
        let store = bucket.ok_or_else(|| {
            failed(format!("{scheme}:// is none of file://, memory://, s3://, gs:// and az://"))
        })?;
        let prefix = rest.split_once('/').map_or("", |(_, path)| path).trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { store, prefix, folder: None, tells_versions: scheme != "gs" })
    }

    fn in_folder(path: &str) -> Result<Self, String> {
        fs::create_dir_all(path).map_err(|error| error.to_string())?;
        // Written to a temporary file and renamed; with fsync of file and folder the blob is durable
        // before the ledger names it.
        let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
        let store = Arc::new(store.with_fsync(true));
        let folder = Some(PathBuf::from(path));
        Ok(Self { store, prefix: String::new(), folder, tells_versions: true })
    }

    /// Whether the store takes blobs, gives them back and can destroy them, by trying it on one; `id`
    /// is nobody else's. A folder was looked at when it was opened.
    pub async fn check(&self, id: Uuid) -> Result<(), BlobError> {
        if self.folder.is_none() {
            let name = self.put(id, b"forgetd".to_vec()).await?;
            self.get(name).await?;
            self.remove(name).await?;
        }
        Ok(())
    }

    /// What that job made; durable when it returns.
    pub async fn put(&self, job_id: Uuid, bytes: Vec<u8>) -> Result<BlobName, BlobError> {
        let name = BlobName { digest: Digest::of(&bytes), job_id };
        let written = self
            .store
            .put(&self.path(name), PutPayload::from(bytes))
            .await
            .map_err(|source| BlobError::store("write", name, source))?;
        // What S3 writes without one, where versioning is suspended, is of the version "null".
        let keeps = self.tells_versions && written.version.is_some_and(|it| it != "null");
        if keeps { Err(BlobError::KeepsVersions) } else { Ok(name) }
    }

    /// Verified against the digest.
    pub async fn get(&self, name: BlobName) -> Result<Vec<u8>, BlobError> {
        let failed = |source| match source {
            object_store::Error::NotFound { .. } => BlobError::Missing(name),
            source => BlobError::store("read", name, source),
        };
        let bytes = self
            .store
            .get(&self.path(name))
            .await
            .map_err(failed)?
            .bytes()
            .await
            .map_err(failed)?;
        let found = Digest::of(&bytes);
        if found == name.digest {
            Ok(bytes.into())
        } else {
            Err(BlobError::Corrupt { name, found })
        }
    }

    /// Removing what is not there is fine.
    pub async fn remove(&self, name: BlobName) -> Result<(), BlobError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(BlobError::store("remove", name, source)),
        }
    }

    /// Blobs last written before `age` ago, for sweeping what a crash left
    /// unreferenced.
    pub async fn older_than(
        &self,
        age: Duration,
        now: Timestamp,
    ) -> Result<Vec<BlobName>, BlobError> {
        let prefix = (!self.prefix.is_empty()).then(|| Path::from(self.prefix.as_str()));
        let blobs: Vec<_> =
            self.store.list(prefix.as_ref()).try_collect().await.map_err(BlobError::List)?;
        let is_old = |written: Timestamp| now.since(written) > age;
        Ok(blobs
            .iter()
            .filter(|blob| is_old(Timestamp::from_micros(blob.last_modified.timestamp_micros())))
            .filter_map(|blob| blob.location.filename()?.parse().ok())
            .collect())
    }

    /// Removes what was last written before `age` ago by a process that was killed in the middle:
    /// the store of a folder writes to a file beside the blob and renames it, and lists no such
    /// file. Other stores keep nothing of a write that did not end. Returns how many there were.
    pub async fn remove_unfinished(
        &self,
        age: Duration,
        now: Timestamp,
    ) -> Result<usize, BlobError> {
        let Some(folder) = self.folder.clone() else { return Ok(0) };
        let removed = folder.clone();
        let removed =
            tokio::task::spawn_blocking(move || remove_unfinished_in(&removed, age, now)).await;
        removed
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|source| BlobError::Unfinished { folder, source })
    }

    fn path(&self, name: BlobName) -> Path {
        let name = name.to_string();
        Path::from(format!("{}{}/{name}", self.prefix, &name[..2]))
    }
}

/// A client of the bucket; `None` where the scheme is no provider's.
fn bucket(scheme: &str, url: &str) -> Result<Option<Arc<dyn ObjectStore>>, object_store::Error> {
    fn share(store: impl ObjectStore) -> Arc<dyn ObjectStore> {
        Arc::new(store)
    }
    // The clients ask the process for its TLS; it has it already if this is not the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Some(match scheme {
        "memory" => share(InMemory::new()),
        "s3" => share(AmazonS3Builder::from_env().with_url(url).build()?),
        "gs" => share(GoogleCloudStorageBuilder::from_env().with_url(url).build()?),
        "az" => share(MicrosoftAzureBuilder::from_env().with_url(url).build()?),
        _ => return Ok(None),
    }))
}

/// What stands between the name of a blob and a number, while the blob is being written.
const UNFINISHED: char = '#';

fn remove_unfinished_in(folder: &FilePath, age: Duration, now: Timestamp) -> io::Result<usize> {
    let mut removed = 0;
    for shelf in fs::read_dir(folder)? {
        let shelf = shelf?;
        if !shelf.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(shelf.path())? {
            let file = file?;
            if file.file_name().to_string_lossy().contains(UNFINISHED) {
                removed += usize::from(remove_if_old(&file, age, now)?);
            }
        }
    }
    Ok(removed)
}

/// Whether it was there and old.
fn remove_if_old(file: &fs::DirEntry, age: Duration, now: Timestamp) -> io::Result<bool> {
    let removed = file.metadata().and_then(|metadata| {
        let written = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_old = now.since(Timestamp::from_micros(0).plus(written)) > age;
        if is_old { fs::remove_file(file.path()).map(|()| true) } else { Ok(false) }
    });
    match removed {
        // It was finished meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed,
    }
}
