//! Blobs are found by their digest, verified, and removed.

use std::time::Duration;

use forgetd::{
    clock::Clock,
    domain::identity::Digest,
    store::{BlobError, Blobs},
};

#[tokio::test]
async fn blobs_come_back_as_they_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = format!("file://{}", folder.path().join("blobs").display());
    for url in [in_folder.as_str(), "memory:///"] {
        let blobs = Blobs::open(url).unwrap();
        let digest = blobs.put(b"weights".to_vec()).await.unwrap();
        assert_eq!(digest, Digest::of(b"weights"));
        assert_eq!(blobs.put(b"weights".to_vec()).await.unwrap(), digest);
        assert_eq!(blobs.get(digest).await.unwrap(), b"weights");
        let written = Clock::system().now();
        let later = written.plus(Duration::from_mins(1));
        let age = Duration::from_secs(30);
        assert_eq!(blobs.older_than(age, later).await.unwrap(), [digest]);
        assert!(blobs.older_than(age, written).await.unwrap().is_empty());
        blobs.remove(digest).await.unwrap();
        blobs.remove(digest).await.unwrap();
        let gone = blobs.get(digest).await;
        assert!(matches!(gone, Err(BlobError::Missing(missing)) if missing == digest));
    }
}

#[tokio::test]
async fn a_corrupt_blob_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
    let digest = blobs.put(b"weights".to_vec()).await.unwrap();
    let hex = digest.to_string();
    std::fs::write(folder.path().join(&hex[..2]).join(&hex), b"wEights").unwrap();
    let corrupt = blobs.get(digest).await;
    assert!(matches!(corrupt, Err(BlobError::Corrupt { expected, .. }) if expected == digest));
}

#[tokio::test]
async fn what_was_left_half_written_is_removed_once_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
    let digest = blobs.put(b"weights".to_vec()).await.unwrap();
    let hex = digest.to_string();
    let left = folder.path().join(&hex[..2]).join(format!("{hex}#1"));
    std::fs::write(&left, b"weig").unwrap();
    let (written, age) = (Clock::system().now(), Duration::from_secs(30));
    assert_eq!(blobs.remove_unfinished(age, written).await.unwrap(), 0, "it may be at it still");
    assert!(left.exists());
    let later = written.plus(Duration::from_mins(1));
    assert_eq!(blobs.remove_unfinished(age, later).await.unwrap(), 1);
    assert!(!left.exists());
    assert_eq!(blobs.get(digest).await.unwrap(), b"weights");
    let elsewhere = Blobs::open("memory:///").unwrap();
    assert_eq!(elsewhere.remove_unfinished(age, later).await.unwrap(), 0);
}

#[test]
fn unknown_places_say_why() {
    for url in ["blobs", "ftp://host/x", "file:///proc/nope/blobs"] {
        assert!(matches!(Blobs::open(url), Err(BlobError::Open { .. })), "{url}");
    }
}
