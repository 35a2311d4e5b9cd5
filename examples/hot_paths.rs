//! Runs one of the hottest paths so many times and prints how many microseconds a call took:
//! `hot_paths <path> <times>`; without arguments it names the paths. Under `valgrind
//! --tool=cachegrind` it counts their instructions, which other load does not change.

mod paths;

use std::time::Instant;

use paths::{PATHS, Paths};

/// Persons whose deletion can be asked for.
const PERSONS: u32 = 2_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(wanted), Some(times)) = (arguments.next(), arguments.next()) else {
        for (name, _) in PATHS {
            println!("{name}");
        }
        return;
    };
    let (_, run) = PATHS.iter().find(|(name, _)| *name == wanted).expect("a path of that name");
    let times: u32 = times.parse().expect("a number of times");
    let mut paths = Paths::new(PERSONS);
    let started = Instant::now();
    for _ in 0..times {
        run(&mut paths);
    }
    println!("{:.1}", started.elapsed().as_secs_f64() * 1e6 / f64::from(times.max(1)));
}
