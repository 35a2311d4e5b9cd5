//! A network spec as a Burn module.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::layer::{Conv2d, Flatten, Layer, Linear, MaxPool2d, Relu};
use super::parameters::{Parameter, Parameters};
use crate::domain::network::{LayerSpec, NetworkError, NetworkSpec};

/// A network with its weights on a device.
#[derive(Module, Debug)]
pub struct Network {
    pub(super) layers: Vec<Layer>,
    #[module(skip)]
    spec: NetworkSpec,
    #[module(skip)]
    classes: usize,
}

impl Network {
    /// New weights, every one uniform in `±1/sqrt(fan_in)`: what `PyTorch`'s linear and
    /// convolution layers start with. They derive from the seed alone, so that trainings in
    /// parallel threads do not disturb each other.
    ///
    /// # Errors
    /// When the spec's layers do not fit each other.
    pub fn init(spec: &NetworkSpec, seed: u64, device: &Device) -> Result<Self, NetworkError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bound = 0.0;
        let parameters = Parameters::of(spec, |_, shape| {
            // A bias comes after its weight, and has the weight's fan-in.
            if let [_, rest @ ..] = shape
                && !rest.is_empty()
            {
                bound = (rest.iter().product::<usize>() as f32).sqrt().recip();
            }
            let count = shape.iter().product();
            (0..count).map(|_| bound * symmetric_unit(rng.next_u32())).collect()
        })?;
        Self::build(spec, &parameters, device)
    }

    /// Puts `parameters`, which were made for `spec`, on the device.
    pub(super) fn build(
        spec: &NetworkSpec,
        parameters: &Parameters,
        device: &Device,
    ) -> Result<Self, NetworkError> {
        let shapes = spec.shapes()?;
        let mut tensors = parameters.tensors.iter();
        let mut weights = || {
            let mut next = || tensors.next().expect("parameters were made for the spec");
            (next(), next())
        };
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (layer, input) in spec.layers.iter().zip(&shapes) {
            layers.push(match layer {
                LayerSpec::Conv2d(spec) => {
                    let (weight, bias) = weights();
                    let (weight, bias) = (upload(weight, device), upload(bias, device));
                    let input = image(input);
                    Layer::Conv2d(Conv2d { weight, bias, spec: spec.clone(), input })
                }
                LayerSpec::Linear(_) => {
                    let (weight, bias) = weights();
                    let (weight, bias) = (upload(weight, device), upload(bias, device));
                    Layer::Linear(Linear { weight, bias })
                }
                LayerSpec::Relu => Layer::Relu(Relu),
                LayerSpec::MaxPool2d(window) => {
                    Layer::MaxPool2d(MaxPool2d { window: *window, input: image(input) })
                }
                LayerSpec::Flatten => Layer::Flatten(Flatten),
            });
        }
        let classes = shapes.last().map_or(0, |shape| shape.iter().product());
        Ok(Self { layers, spec: spec.clone(), classes })
    }

    /// A network like this one with other weights; `parameters` were made for its spec.
    ///
    /// # Panics
    /// When they were not.
    #[must_use]
    pub fn with_parameters(&self, parameters: &Parameters) -> Self {
        Self::build(&self.spec, parameters, &self.device())
            .expect("the spec of an existing network is sound")
    }

    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Width of the output.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Where the weights are; the CPU's plain device for a network without any.
    pub fn device(&self) -> Device {
        self.devices().into_iter().next().unwrap_or_else(Device::flex)
    }

    /// `[batch, width]` to logits `[batch, classes]`.
    ///
    /// On a network that records gradients, a forward pass without a backward pass leaks: use a
    /// plain one to predict.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.layers.iter().fold(x, |x, layer| layer.forward(x))
    }

    /// The weights in host memory.
    pub fn parameters(&self) -> Parameters {
        struct Reader(Vec<Vec<f32>>);
        impl ModuleVisitor for Reader {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.push(read(param.val()));
            }
        }
        let mut reader = Reader(Vec::new());
        self.visit(&mut reader);
        self.named(reader.0)
    }

    /// Gives each tensor, in the order in which the module is visited, its name and shape.
    pub(super) fn named(&self, tensors: Vec<Vec<f32>>) -> Parameters {
        let mut tensors = tensors.into_iter();
        Parameters::of(&self.spec, |_, _| tensors.next().unwrap_or_default())
            .expect("the spec of an existing network is sound")
    }
}

/// A tensor's numbers, row-major.
pub(super) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("tensors of a CPU device are 32-bit floats")
}

/// 24 random bits as a float in `[-1, 1)`.
fn symmetric_unit(bits: u32) -> f32 {
    (bits >> 8) as f32 / (1_u32 << 23) as f32 - 1.0
}

fn image(shape: &[usize]) -> [usize; 3] {
    <[usize; 3]>::try_from(shape).expect("the spec's check lets image layers see images only")
}

fn upload<const D: usize>(parameter: &Parameter, device: &Device) -> Param<Tensor<D>> {
    let data = TensorData::new(parameter.values.clone(), parameter.shape.clone());
    Param::from_tensor(Tensor::from_data(data, device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{
        fixture::{Fixture, devices, lenet},
        gradient::{Batch, mean_cross_entropy_gradient},
    };

    #[test]
    fn logits_match_pytorch() {
        let expected = Fixture::tensor("batch", "forget.logits");
        for device in devices() {
            let network = Fixture::network("weights-before", &device);
            let data = TensorData::new(Fixture::examples("forget").gather(&all(32)), [32, 3072]);
            let logits = read(network.forward(Tensor::from_data(data, &device)));
            assert_eq!(logits.len(), expected.len());
            for (found, expected) in logits.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected} on {device:?}");
            }
        }
    }

    #[test]
    fn losses_match_pytorch() {
        for device in devices() {
            let network = Fixture::network("weights-before", &device);
            for part in ["forget", "retain"] {
                let examples = Fixture::examples(part);
                let rows = all(examples.len());
                let batch = Batch::of_labels(&examples, &rows, 10, &device.clone().autodiff());
                let loss = mean_cross_entropy_gradient(&network, &batch).loss;
                let expected = f64::from(Fixture::tensor("batch", &format!("loss.{part}"))[0]);
                assert!((loss - expected).abs() < 1e-5 * expected.abs(), "{loss} {expected}");
            }
        }
    }

    #[test]
    fn first_weights_derive_from_the_seed_and_fill_their_range() {
        for device in devices() {
            let make = |seed| Network::init(&lenet(), seed, &device).unwrap().parameters();
            assert_eq!(make(3), make(3));
            assert_ne!(make(3), make(4));
            let parameters = make(3);
            for (name, fan_in) in [("0.weight", 75.0), ("0.bias", 75.0), ("7.weight", 400.0)] {
                let bound = 1.0 / f32::sqrt(fan_in);
                let values = &parameters.get(name).unwrap().values;
                let largest = values.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                assert!(largest <= bound && largest > 0.3 * bound, "{name}: {largest}");
            }
        }
    }

    fn all(rows: usize) -> Vec<usize> {
        (0..rows).collect()
    }
}
