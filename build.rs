//! Fingerprints of the code that decides results: `forgetd evaluate` keeps trained models and
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
    let training = ["src/nn"];
    let figures = ["src/nn", "src/unlearning", "src/evaluation"];
    println!("cargo:rustc-env=FORGETD_TRAINING_CODE={}", fingerprint(&training)?);
    println!("cargo:rustc-env=FORGETD_FIGURES_CODE={}", fingerprint(&figures)?);
    Ok(())
}

fn fingerprint(folders: &[&str]) -> io::Result<String> {
    let mut hasher = DefaultHasher::new();
    for folder in folders {
        println!("cargo:rerun-if-changed={folder}");
        let mut paths = sources(Path::new(folder))?;
        paths.sort();
        for path in paths {
            path.hash(&mut hasher);
            fs::read(&path)?.hash(&mut hasher);
        }
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
