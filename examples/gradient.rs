//! Times one training step's loss and gradient, batch 256: `gradient <mlp|lenet5> <repeats>`.
//! Prints the median in microseconds; `scripts/bench.sh` sets it against `PyTorch`'s.

use std::time::Instant;

use burn::tensor::Device;
use forgetd::{
    domain::{
        examples::{Examples, Values},
        network::Architecture,
    },
    nn::{
        gradient::{Batch, mean_cross_entropy_gradient},
        network::Network,
    },
};
use serde_json::json;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: u16 = 256;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (architecture, shape) = match arguments.next().as_deref() {
        Some("mlp") => (json!({"preset": "mlp", "hidden": [256]}), vec![784]),
        Some("lenet5") => (json!({"preset": "lenet5"}), vec![3, 32, 32]),
        _ => panic!("say mlp or lenet5"),
    };
    let repeats: usize = arguments.next().and_then(|it| it.parse().ok()).expect("a count");
    let architecture: Architecture = serde_json::from_value(architecture).expect("a preset");
    let spec = architecture.resolve(&shape, 10).expect("a preset fits its shape");
    let width: usize = shape.iter().product();
    let examples = Examples {
        shape,
        values: Values::Bytes {
            bytes: (0..=255).cycle().take(usize::from(ROWS) * width).collect(),
            scale: 255.0,
        },
        labels: (0..u32::from(ROWS)).map(|row| row % 10).collect(),
        ordinals: (0..i64::from(ROWS)).collect(),
    };
    let rows: Vec<usize> = (0..usize::from(ROWS)).collect();
    let network = Network::init(&spec, 1, &Device::flex()).expect("a sound spec");
    let batch = Batch::of_labels(&examples, &rows, 10, &Device::flex().autodiff());
    let mut micros: Vec<_> = (0..repeats)
        .map(|_| {
            let started = Instant::now();
            let gradient = mean_cross_entropy_gradient(&network, &batch);
            assert!(gradient.loss.is_finite());
            started.elapsed().as_micros()
        })
        .collect();
    micros.sort_unstable();
    println!("{}", micros[repeats / 2]);
}
