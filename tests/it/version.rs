//! What a certificate says of the program can be checked against a checkout.

use std::process::Command;

/// As `build.rs` and SECURITY.md say.
const DIGEST: &str =
    "find src migrations Cargo.lock -type f | LC_ALL=C sort | xargs sha256sum | sha256sum";

#[test]
fn the_version_names_the_sources() {
    let done = Command::new("sh")
        .args(["-c", DIGEST])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let digest = String::from_utf8(done.stdout).unwrap();
    let (version, source) = forgetd::domain::program::VERSION.split_once('+').unwrap();
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert_eq!(source, &digest[..16]);
}
