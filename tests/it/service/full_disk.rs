//! A small file system fills up below a running service: what it cannot keep whole it refuses, and it
//! goes on once there is room.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::{
    Database, Service,
    faults::{an_attempt_fails, assert_problem, audit_entries, post_deletion, recovers},
    field,
    lifecycle::the_old_weights_are_destroyed,
    people::{self, MODEL},
};

/// A small disk of its own; gone with the test.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` where this user may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=0700", "forgetd-test"])
            .arg(folder.path())
            .status()
            .unwrap();
        mounted.success().then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            let block = vec![0; size];
            let error = loop {
                if let Err(error) = file.write_all(&block) {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the process that has files open on it is dropped later.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Runs a test of this binary where its user is root: in a user and a mount namespace of its own.
fn run_as_namespaced_root(test: &str) {
    let ran = Command::new("unshare")
        .args(["--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(NAMESPACED, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success() && output.contains("1 passed"),
        "this test fills a small file system of its own, which root may mount, or anybody in a \
         user namespace where the system allows those (sysctl user.max_user_namespaces): {output}"
    );
}

/// Set in the process that [`run_as_namespaced_root`] starts.
const NAMESPACED: &str = "FORGETD_TEST_NAMESPACED";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_keeps_nothing_by_halves() {
    let Some(disk) = Disk::mount() else {
        assert!(std::env::var_os(NAMESPACED).is_none(), "even in its namespace it may not mount");
        return run_as_namespaced_root(
            "service::full_disk::a_full_disk_refuses_writes_and_keeps_nothing_by_halves",
        );
    };
    let database = format!("sqlite://{}", disk.path().join("ledger.db").display());
    let blobs = format!("file://{}", disk.path().display());
    let environment = [
        ("FORGETD_LEDGER__DATABASE_URL", database.as_str()),
        ("FORGETD_LEDGER__BLOBS_URL", blobs.as_str()),
        ("FORGETD_WORKER__LEASE_S", "1"),
    ];
    let service = Service::start_with(Database::Sqlite, &environment, &[]).await;
    people::trained(&service, &people::unsettled()).await;
    // Its completion empties the log, so that the next write must find room for it.
    let first = people::forget(&service, &["person-0"]).await;
    service.request_becomes(&first, "completed").await;
    the_old_weights_are_destroyed(&service).await;

    let entries = audit_entries(&service).await;
    disk.fill();
    assert_problem(&post_deletion(&service, "person-1").await);
    let ingested =
        people::ingest(&service, people::ndjson([people::sample(900, "train")].into_iter()));
    assert_problem(&ingested.await);
    let requests = service.pages("/v1/deletion-requests").await;
    assert_eq!(requests.len(), 1, "only the one from before: {requests:#?}");
    assert_eq!(audit_entries(&service).await, entries);
    let question = json!({"subjects": ["person-1"]});
    let lineage = service.post(&format!("/v1/models/{MODEL}/lineage"), &question).await.body;
    assert!(field(&lineage, "/targets/0/samples/0/deleted_at").is_null(), "{lineage:#}");

    disk.empty();
    recovers(&service, "person-1").await;

    // Full under a batch: neither its weights nor its failure can be written.
    service.hold_at("batch.judged");
    let second = people::forget(&service, &["person-2"]).await;
    service.reaches("batch.judged").await;
    let before = people::causes(&service).await;
    disk.fill();
    service.let_pass("batch.judged");
    an_attempt_fails(&service).await;
    assert_eq!(people::causes(&service).await, before);
    disk.empty();
    service.request_becomes(&second, "completed").await;
}
