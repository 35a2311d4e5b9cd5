//! The fuzz targets on their seeds and on mutations of them: what a stable compiler can run in
//! seconds. `scripts/fuzz.sh` goes on where this ends.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

const MUTATIONS_OF_EACH: usize = 200;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Up to eight bytes changed, a piece left out or said twice, or the end of another seed.
fn mutate(seed: &[u8], others: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let cut = |rng: &mut ChaCha8Rng, length: usize| rng.random_range(0..=length);
    match rng.random_range(0..4) {
        0 => {
            let (a, b) = (cut(rng, bytes.len()), cut(rng, bytes.len()));
            bytes.drain(a.min(b)..a.max(b));
        }
        1 => {
            let (a, b) = (cut(rng, bytes.len()), cut(rng, bytes.len()));
            bytes.extend_from_within(a.min(b)..a.max(b));
        }
        2 => {
            let other = others.choose(rng).unwrap();
            bytes.truncate(cut(rng, bytes.len()));
            bytes.extend_from_slice(&other[cut(rng, other.len())..]);
        }
        _ => {}
    }
    if !bytes.is_empty() {
        for _ in 0..rng.random_range(0..=8) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
    }
    bytes
}

#[test]
fn no_reader_is_upset_by_broken_input() {
    for (name, target) in targets::TARGETS {
        let seeds = seeds(name);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mutations = seeds.iter().flat_map(|seed| {
            let mutations: Vec<_> =
                (0..MUTATIONS_OF_EACH).map(|_| mutate(seed, &seeds, &mut rng)).collect();
            mutations
        });
        for input in seeds.clone().into_iter().chain(mutations) {
            let done = catch_unwind(AssertUnwindSafe(|| target(&input)));
            assert!(done.is_ok(), "{name} panicked on {}", input.escape_ascii());
        }
    }
}

#[test]
fn each_target_has_its_binary_and_its_seeds() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
    let mut binaries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    binaries.sort();
    let names: Vec<_> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(binaries, names);
    for name in names {
        assert!(!seeds(name).is_empty(), "{name} has no seeds");
    }
}
