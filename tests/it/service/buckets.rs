//! Weights in a bucket. `scripts/check-object-stores.py` starts emulators of object stores and runs these tests.

use std::time::Duration;

use forgetd::{
    clock::Clock,
    store::{BlobError, Blobs},
};

use super::{Database, Service, eventually, people, process::does_not_start, promise};
use crate::store::{blobs::come_back_as_they_went_in, new_id};

/// The URL of a bucket that nobody else uses.
fn bucket(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names no bucket"))
}

#[tokio::test]
#[ignore = "needs a bucket: scripts/check-object-stores.py"]
async fn blobs_come_back_as_they_went_in() {
    let bucket = bucket("FORGETD_TEST_BUCKET");
    for url in [format!("{bucket}/one/prefix"), format!("{bucket}/another/prefix/")] {
        come_back_as_they_went_in(&url).await;
        Blobs::open(&url).unwrap().check(new_id()).await.unwrap();
    }
    let beside = Blobs::open(&format!("{bucket}/one")).unwrap();
    beside.put(new_id(), b"weights".to_vec()).await.unwrap();
    come_back_as_they_went_in(&format!("{bucket}/one-more")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a bucket: scripts/check-object-stores.py"]
async fn a_bucket_holds_the_newest_weights_alone() {
    let url = format!("{}/service", bucket("FORGETD_TEST_BUCKET"));
    let here = [("FORGETD_LEDGER__BLOBS_URL", url.as_str())];
    let environment = [here.as_slice(), &promise::ENVIRONMENT].concat();
    let mut service = Service::start_with(Database::Sqlite, &environment, &[]).await;
    people::trained(&service, &people::unsettled()).await;
    let id = people::forget(&service, &["person-1"]).await;
    service.request_becomes(&id, "completed").await;

    // A kill leaves weights that no version has, and those of the batch that goes on.
    service.hold_at("batch.stored");
    let id = people::forget(&service, &["person-2"]).await;
    service.reaches("batch.stored").await;
    service.kill();
    service.let_pass("batch.stored");
    service.restart().await;
    service.request_becomes(&id, "completed").await;

    let blobs = Blobs::open(&url).unwrap();
    let now = Clock::system().now().plus(Duration::from_hours(1));
    let all = async || blobs.older_than(Duration::ZERO, now).await.unwrap();
    let left = eventually("older weights are destroyed", all, |blobs| blobs.len() == 1).await;
    let version = service.get(&format!("/v1/models/{}/versions", people::MODEL)).await.body;
    let weights = version["items"][0]["weights"].as_str().unwrap();
    assert_eq!(left[0].digest.to_string(), weights, "{version:#}");
    service.kill();
    service.restart().await;
    people::ready(&service).await;
}

#[tokio::test]
#[ignore = "needs a bucket: scripts/check-object-stores.py"]
async fn a_bucket_that_keeps_versions_is_refused() {
    let url = bucket("FORGETD_TEST_VERSIONED_BUCKET");
    let blobs = Blobs::open(&url).unwrap();
    let kept = blobs.put(new_id(), b"weights".to_vec()).await;
    assert!(matches!(kept, Err(BlobError::KeepsVersions)), "{kept:?}");
    let why = refused(&url);
    assert!(why.contains("versioning"), "{why}");
}

#[test]
#[ignore = "needs a bucket: scripts/check-object-stores.py"]
fn a_bucket_that_is_not_there_is_refused() {
    let why = refused("s3://nowhere");
    assert!(why.contains("NoSuchBucket"), "{why}");
}

fn refused(url: &str) -> String {
    does_not_start("127.0.0.1:0", &[("FORGETD_LEDGER__BLOBS_URL", url)])
}
