//! What several tests need: the published tensors, small made-up data, and both devices.

use std::path::Path;

use burn::tensor::Device;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

use super::network::Network;
use super::parameters::Parameters;
use super::weights::from_safetensors;
use crate::domain::{
    examples::{Examples, Values},
    network::{Architecture, LayerSpec, NetworkSpec},
};

/// Tensors made with `PyTorch` from the published code; `tests/fixtures/iau-reference`.
pub struct Fixture;

impl Fixture {
    pub fn bytes(name: &str) -> Vec<u8> {
        let folder = "tests/fixtures/iau-reference/lenet5-cifar10";
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        std::fs::read(folder.join(name).with_extension("safetensors")).unwrap()
    }

    pub fn tensor(file: &str, name: &str) -> Vec<f32> {
        let bytes = Self::bytes(file);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor(name).unwrap().data();
        data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// The rows of `forget` or `retain`.
    pub fn examples(part: &str) -> Examples {
        let bytes = Self::bytes("batch");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let labels = file.tensor(&format!("{part}.y")).unwrap().data();
        let labels: Vec<u32> = labels
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)).unwrap())
            .collect();
        Examples {
            shape: vec![3, 32, 32],
            values: Values::Floats(Self::tensor("batch", &format!("{part}.x"))),
            ordinals: (0..).take(labels.len()).collect(),
            labels,
        }
    }

    pub fn parameters(name: &str) -> Parameters {
        Parameters::from_safetensors(&lenet(), &Self::bytes(name)).unwrap()
    }

    pub fn network(name: &str, device: &Device) -> Network {
        from_safetensors(&lenet(), &Self::bytes(name), device).unwrap()
    }
}

/// Every device of this build.
pub fn devices() -> Vec<Device> {
    let names = if cfg!(feature = "ndarray") { &["flex", "ndarray"][..] } else { &["flex"] };
    let kinds = names.iter().map(|name| name.parse::<super::device::DeviceKind>());
    kinds.map(|kind| kind.unwrap().device()).collect()
}

pub fn lenet() -> NetworkSpec {
    let lenet: Architecture =
        serde_json::from_value(serde_json::json!({"preset": "lenet5"})).unwrap();
    lenet.resolve(&[3, 32, 32], 10).unwrap()
}

/// A narrow resnet18 for [`small_images`]; ten classes.
pub fn resnet() -> NetworkSpec {
    deep("resnet18")
}

/// A narrow `resnet18` or `vgg19` for [`small_images`]; ten classes.
pub fn deep(preset: &str) -> NetworkSpec {
    let preset = serde_json::json!({"preset": preset, "width": 4});
    serde_json::from_value::<Architecture>(preset).unwrap().resolve(&[1, 8, 8], 10).unwrap()
}

/// One number in `[-0.5, 0.5)` for each weight and bias.
pub fn noise(spec: &NetworkSpec, seed: u64) -> Parameters {
    let mut rng = ChaCha8Rng::seed_from_u64(2_000 + seed);
    let mut number = || (rng.next_u32() >> 8) as f32 / (1_u32 << 24) as f32 - 0.5;
    Parameters::of(spec, |_, shape| (0..shape.iter().product()).map(|_| number()).collect())
        .unwrap()
}

/// One hidden layer, ten classes.
pub fn mlp(examples: &Examples, hidden: usize) -> NetworkSpec {
    let layers = vec![LayerSpec::Linear(hidden), LayerSpec::Relu, LayerSpec::Linear(10)];
    NetworkSpec { input: examples.shape.clone(), layers }
}

/// Rows of 64 bytes in ten classes: one fixed pattern a class under much noise. Different seeds
/// give different rows of the same classes.
pub fn digits(rows: usize, seed: u64) -> Examples {
    patterns(rows, seed, vec![64])
}

/// As [`digits`], of 8 bytes.
pub fn few_digits(rows: usize, seed: u64) -> Examples {
    patterns(rows, seed, vec![8])
}

/// As [`digits`], of shape `[3, 32, 32]`.
pub fn images(rows: usize, seed: u64) -> Examples {
    patterns(rows, seed, vec![3, 32, 32])
}

/// As [`digits`], of shape `[1, 8, 8]`.
pub fn small_images(rows: usize, seed: u64) -> Examples {
    patterns(rows, seed, vec![1, 8, 8])
}

fn patterns(rows: usize, seed: u64, shape: Vec<usize>) -> Examples {
    let width: usize = shape.iter().product();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let patterns: Vec<u32> = (0..10 * width).map(|_| rng.next_u32() % 130).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(1_000 + seed);
    let labels: Vec<u32> = (0..rows).map(|_| rng.next_u32() % 10).collect();
    let bytes = labels
        .iter()
        .flat_map(|label| &patterns[*label as usize * width..][..width])
        .map(|pattern| u8::try_from(pattern + rng.next_u32() % 126).unwrap())
        .collect();
    let first = i64::try_from(seed).unwrap() * 1_000_000;
    Examples {
        shape,
        values: Values::Bytes { bytes, scale: 255.0 },
        ordinals: (first..).take(rows).collect(),
        labels,
    }
}
