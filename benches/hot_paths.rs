//! Times the hottest paths; `scripts/check-hot-paths.py` counts their instructions.

#[path = "../examples/paths/mod.rs"]
mod paths;

use criterion::{Criterion, criterion_group, criterion_main};
use paths::{PATHS, Paths};

/// Persons whose deletion can be asked for: more than a run of Criterion asks for.
const PERSONS: u32 = 100_000;

fn hot_paths(criterion: &mut Criterion) {
    let mut paths = Paths::new(PERSONS);
    for (name, run) in PATHS {
        criterion.bench_function(name, |bencher| bencher.iter(|| run(&mut paths)));
    }
}

criterion_group!(benches, hot_paths);
criterion_main!(benches);
