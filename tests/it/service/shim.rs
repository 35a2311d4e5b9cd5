//! Faults of the machine below forgetd, from one moment to the next: `shim.c` stands between it and
//! the C library. Only for processes on this machine, whose compiler for C built `SQLite` too.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::NamedTempFile;

/// What may be wrong, in the order of `struct faults` in `shim.c`; 0 is as it should be.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Whether no file beside the weights reaches the disk for certain.
    LedgerSyncFails,
    /// Whether no weights do.
    WeightsSyncFails,
    /// Whether the disk below the weights is full: it takes a part of each write, then no more.
    WeightsDiskIsFull,
    /// Whether the data folder's file system has gone read-only.
    IsReadOnly,
    /// How long opening or syncing weights takes.
    WeightsDelayMs,
    /// How far the calendar has jumped, either way.
    CalendarOffsetS,
}

/// The control of one service's faults.
pub struct Shim(NamedTempFile);

impl Shim {
    pub fn new() -> Self {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(4_096).unwrap();
        Self(file)
    }

    /// What a service must be started with.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        let control = self.0.path().to_str().unwrap();
        [("LD_PRELOAD", library().to_str().unwrap()), ("FORGETD_TEST_FAULTS", control)]
    }

    /// From now on.
    pub fn set(&self, fault: Fault, value: i64) {
        let file: &File = self.0.as_file();
        file.write_all_at(&value.to_ne_bytes(), fault as u64 * 8).unwrap();
    }
}

/// Compiled once for this process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = NamedTempFile::new_in(folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/service/shim.c");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let done = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([made.path().as_os_str(), source.as_os_str(), "-ldl".as_ref()])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // Whole at once: other processes may run the same tests.
        let path = folder.join("shim.so");
        made.persist(&path).unwrap();
        path
    })
}
