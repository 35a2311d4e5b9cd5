//! Times training with batches of 256, in microseconds; `scripts/bench.sh` sets it against
//! `PyTorch`'s:
//!
//! ```text
//! training step <mlp|lenet5> <repeats>     loss and gradient of one step
//! training epoch <mlp|lenet5> <repeats>    an epoch over 10,000 rows, first weights included
//! ```
//!
//! Prints the median.

use std::time::Instant;

use burn::tensor::Device;
use forgetd::{
    domain::{
        examples::{Examples, Values},
        model::Recipe,
        network::{Architecture, NetworkSpec},
        watch::Unwatched,
    },
    nn::{
        gradient::{Batch, mean_cross_entropy_gradient},
        network::Network,
        training::train,
    },
};
use serde_json::json;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_ROWS: u32 = 256;
const EPOCH_ROWS: u32 = 10_000;
const CLASSES: u32 = 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let measured = arguments.next().expect("step or epoch");
    let (architecture, shape) = match arguments.next().as_deref() {
        Some("mlp") => (json!({"preset": "mlp", "hidden": [256]}), vec![784]),
        Some("lenet5") => (json!({"preset": "lenet5"}), vec![3, 32, 32]),
        _ => panic!("say mlp or lenet5"),
    };
    let repeats: usize = arguments.next().and_then(|it| it.parse().ok()).expect("a count");
    let architecture: Architecture = serde_json::from_value(architecture).expect("a preset");
    let spec = architecture.resolve(&shape, CLASSES as usize).expect("a preset fits its shape");
    let micros = match measured.as_str() {
        "step" => step(&spec, repeats),
        "epoch" => epoch(&spec, repeats),
        _ => panic!("say step or epoch"),
    };
    println!("{micros}");
}

fn step(spec: &NetworkSpec, repeats: usize) -> u128 {
    let examples = examples(spec, BATCH_ROWS);
    let rows: Vec<usize> = (0..examples.len()).collect();
    let network = Network::init(spec, 1, &Device::flex()).expect("a sound spec");
    let batch = Batch::of_labels(&examples, &rows, CLASSES as usize, &Device::flex().autodiff());
    median_micros(repeats, || {
        let gradient = mean_cross_entropy_gradient(&network, &batch);
        assert!(gradient.loss.is_finite());
    })
}

fn epoch(spec: &NetworkSpec, repeats: usize) -> u128 {
    let examples = examples(spec, EPOCH_ROWS);
    let recipe = Recipe { epochs: 1, batch_size: BATCH_ROWS, ..Recipe::default() };
    median_micros(repeats, || {
        train(spec, &examples, &recipe, &Device::flex(), &Unwatched).expect("finite weights");
    })
}

fn examples(spec: &NetworkSpec, rows: u32) -> Examples {
    let numbers = rows as usize * spec.input.iter().product::<usize>();
    Examples {
        shape: spec.input.clone(),
        values: Values::Bytes { bytes: (0..=255).cycle().take(numbers).collect(), scale: 255.0 },
        labels: (0..rows).map(|row| row % CLASSES).collect(),
        ordinals: (0..i64::from(rows)).collect(),
    }
}

fn median_micros(repeats: usize, work: impl Fn()) -> u128 {
    let mut micros: Vec<_> = (0..repeats)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_micros()
        })
        .collect();
    micros.sort_unstable();
    micros[repeats / 2]
}
