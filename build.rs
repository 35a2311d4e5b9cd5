//! Fingerprint of the code that decides results: `forgetd evaluate` keeps trained models and
//! measured figures between runs, and may use them again only where the same code made them.
//!
//! Says also that migrations are part of the program, which Cargo cannot know of new ones.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rustc-env=FORGETD_RESULTS_CODE={}", fingerprint()?);
    Ok(())
}

/// Of the code, and of which dependencies it is compiled with.
fn fingerprint() -> io::Result<String> {
    let mut paths = vec![PathBuf::from("Cargo.lock")];
    println!("cargo:rerun-if-changed=Cargo.lock");
    for folder in ["src/nn", "src/unlearning", "src/evaluation"] {
        println!("cargo:rerun-if-changed={folder}");
        paths.extend(sources(Path::new(folder))?);
    }
    paths.sort();
    let mut hasher = DefaultHasher::new();
    for path in paths {
        path.hash(&mut hasher);
        fs::read(&path)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// What is drawn and written from figures decides none of them.
fn sources(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.ends_with("evaluation/report") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
