//! Two fingerprints. That of the code which decides results: `forgetd evaluate` keeps trained models and
//! measured figures between runs, and may use them again only where the same code made them. And that of
//! all sources, by which a certificate says what made a version.
//!
//! Says also that migrations are part of the program, which Cargo cannot know of new ones.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

fn main() -> io::Result<()> {
    for path in ["src", "migrations", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rustc-env=FORGETD_RESULTS_CODE={}", results_code()?);
    println!("cargo:rustc-env=FORGETD_SOURCE={}", source()?);
    Ok(())
}

/// Of the code, and of which dependencies it is compiled with. What is drawn and written from figures
/// decides none of them.
fn results_code() -> io::Result<String> {
    let mut paths = files(&["src/nn", "src/unlearning", "src/evaluation"])?;
    paths.retain(|path| !path.starts_with("src/evaluation/report"));
    fingerprint(paths)
}

/// The first 16 digits of what this prints, in a checkout:
/// `find src migrations Cargo.lock -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`
fn source() -> io::Result<String> {
    fingerprint(files(&["src", "migrations"])?)
}

/// Of these files and of Cargo.lock.
fn fingerprint(mut paths: Vec<PathBuf>) -> io::Result<String> {
    paths.push("Cargo.lock".into());
    let mut names: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
    names.sort();
    let mut lines = Sha256::new();
    for name in names {
        lines.update(format!("{}  {name}\n", hex(&Sha256::digest(fs::read(&*name)?))));
    }
    Ok(hex(&lines.finalize())[..16].to_owned())
}

fn hex(digest: &[u8]) -> String {
    let mut hex = String::new();
    for byte in digest {
        write!(hex, "{byte:02x}").expect("a string takes it all");
    }
    hex
}

fn files(folders: &[impl AsRef<Path>]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                found.extend(files(&[path])?);
            } else {
                found.push(path);
            }
        }
    }
    Ok(found)
}
