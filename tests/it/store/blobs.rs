//! Blobs are found by their digest, verified, and removed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use forgetd::{
    clock::Clock,
    domain::{blob_name::BlobName, identity::Digest},
    store::{BlobError, Blobs},
};

use super::new_id;

#[tokio::test]
async fn blobs_come_back_as_they_went_in() {
    let folder = tempfile::tempdir().unwrap();
    come_back_as_they_went_in(&format!("file://{}", folder.path().join("blobs").display())).await;
    come_back_as_they_went_in("memory:///").await;
}

/// Of a store in which nothing is.
pub async fn come_back_as_they_went_in(url: &str) {
    let blobs = Blobs::open(url).unwrap();
    let job_id = new_id();
    let blob = blobs.put(job_id, b"weights".to_vec()).await.unwrap();
    assert_eq!(blob, BlobName { digest: Digest::of(b"weights"), job_id });
    assert_eq!(blobs.put(job_id, b"weights".to_vec()).await.unwrap(), blob);
    assert_eq!(blobs.get(blob).await.unwrap(), b"weights");
    let written = Clock::system().now();
    let later = written.plus(Duration::from_mins(1));
    let age = Duration::from_secs(30);
    assert_eq!(blobs.older_than(age, later).await.unwrap(), [blob]);
    assert!(blobs.older_than(age, written).await.unwrap().is_empty());
    blobs.remove(blob).await.unwrap();
    blobs.remove(blob).await.unwrap();
    let gone = blobs.get(blob).await;
    assert!(matches!(gone, Err(BlobError::Missing(missing)) if missing == blob));
}

#[tokio::test]
async fn equal_weights_of_two_jobs_are_two_blobs() {
    let blobs = Blobs::open("memory:///").unwrap();
    let first = blobs.put(new_id(), b"weights".to_vec()).await.unwrap();
    let second = blobs.put(new_id(), b"weights".to_vec()).await.unwrap();
    blobs.remove(first).await.unwrap();
    assert_eq!(blobs.get(second).await.unwrap(), b"weights");
}

#[tokio::test]
async fn a_corrupt_blob_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
    let blob = blobs.put(new_id(), b"weights".to_vec()).await.unwrap();
    std::fs::write(path(folder.path(), blob), b"wEights").unwrap();
    let corrupt = blobs.get(blob).await;
    assert!(matches!(corrupt, Err(BlobError::Corrupt { name, .. }) if name == blob));
}

fn path(folder: &Path, blob: BlobName) -> PathBuf {
    let name = blob.to_string();
    folder.join(&name[..2]).join(name)
}

#[tokio::test]
async fn what_was_left_half_written_is_removed_once_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
    let blob = blobs.put(new_id(), b"weights".to_vec()).await.unwrap();
    let left = PathBuf::from(format!("{}#1", path(folder.path(), blob).display()));
    std::fs::write(&left, b"weig").unwrap();
    let (written, age) = (Clock::system().now(), Duration::from_secs(30));
    assert_eq!(blobs.remove_unfinished(age, written).await.unwrap(), 0, "it may be at it still");
    assert!(left.exists());
    let later = written.plus(Duration::from_mins(1));
    assert_eq!(blobs.remove_unfinished(age, later).await.unwrap(), 1);
    assert!(!left.exists());
    assert_eq!(blobs.get(blob).await.unwrap(), b"weights");
    let elsewhere = Blobs::open("memory:///").unwrap();
    assert_eq!(elsewhere.remove_unfinished(age, later).await.unwrap(), 0);
}

#[test]
fn unknown_places_say_why() {
    for url in ["blobs", "ftp://host/x", "file:///proc/nope/blobs"] {
        assert!(matches!(Blobs::open(url), Err(BlobError::Open { .. })), "{url}");
    }
}
