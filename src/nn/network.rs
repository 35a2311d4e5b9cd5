//! A network spec as a Burn module.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::layer::{
    Conv2d, Dual, Flatten, GlobalAvgPool2d, GroupNorm, Layer, Linear, MaxPool2d, Relu, Residual,
    forward, forward_dual,
};
use super::parameters::{Parameter, Parameters};
use crate::domain::network::{LayerSpec, NetworkError, NetworkSpec, shapes};

/// Matrices of fewer outputs are as fast by rows.
const NARROW: usize = 16;

/// A network with its weights on a device.
#[derive(Module, Debug)]
pub struct Network {
    layers: Vec<Layer>,
    #[module(skip)]
    spec: NetworkSpec,
    #[module(skip)]
    classes: usize,
}

impl Network {
    /// New weights as `PyTorch`'s layers start with: every one uniform in `±1/sqrt(fan_in)`, but
    /// for a normalisation's, which are 1, and its biases, which are 0. They derive from the seed
    /// alone, so that trainings in parallel threads do not disturb each other.
    ///
    /// # Errors
    /// When the spec's layers do not fit each other.
    pub fn init(spec: &NetworkSpec, seed: u64, device: &Device) -> Result<Self, NetworkError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bound = None;
        let parameters = Parameters::of(spec, |name, shape| {
            let is_weight = name.ends_with("weight");
            if is_weight {
                // A bias comes after its weight, and has the weight's fan-in.
                let fan_in = shape[1..].iter().product::<usize>() as f32;
                bound = (shape.len() > 1).then(|| fan_in.sqrt().recip());
            }
            let count = shape.iter().product();
            match bound {
                Some(bound) => (0..count).map(|_| bound * symmetric_unit(rng.next_u32())).collect(),
                None => vec![if is_weight { 1.0 } else { 0.0 }; count],
            }
        })?;
        Self::build(spec, &parameters, device)
    }

    /// Puts `parameters`, which were made for `spec`, on the device.
    pub(super) fn build(
        spec: &NetworkSpec,
        parameters: &Parameters,
        device: &Device,
    ) -> Result<Self, NetworkError> {
        let classes = spec.shapes()?.last().map_or(0, |shape| shape.iter().product());
        let mut builder = Builder { tensors: parameters.tensors.iter(), device };
        let layers = builder.layers(&spec.layers, &spec.input)?;
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

    /// The same network to predict few rows at a time: the matrices of linear layers lie in memory
    /// by columns, as their products read them, which otherwise lay them out anew each time.
    #[must_use]
    pub fn for_few_rows(self) -> Self {
        struct ByColumns;
        impl ModuleMapper for ByColumns {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                if D != 2 || param.shape()[0] < NARROW {
                    return param;
                }
                param.map(|matrix| {
                    let device = matrix.device();
                    Tensor::from_data(matrix.transpose().into_data(), &device).transpose()
                })
            }
        }
        self.map(&mut ByColumns)
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
        forward(&self.layers, x)
    }

    /// Forward-mode derivative: what changes in the logits when the weights move along `direction`,
    /// a network of the same spec.
    pub(super) fn forward_dual(&self, direction: &Self, x: Tensor<2>) -> Dual {
        forward_dual(&self.layers, &direction.layers, Dual { value: x, derivative: None })
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

/// Turns specs into layers, which take their weights from `tensors` in turn.
struct Builder<'a> {
    tensors: std::slice::Iter<'a, Parameter>,
    device: &'a Device,
}

impl Builder<'_> {
    fn layers(
        &mut self,
        layers: &[LayerSpec],
        input: &[usize],
    ) -> Result<Vec<Layer>, NetworkError> {
        let shapes = shapes(layers, input)?;
        layers.iter().zip(&shapes).map(|(layer, input)| self.layer(layer, input)).collect()
    }

    fn layer(&mut self, layer: &LayerSpec, input: &[usize]) -> Result<Layer, NetworkError> {
        Ok(match layer {
            LayerSpec::Conv2d(spec) => {
                let (weight, bias) = (self.take(), self.take());
                let input = image(input);
                Layer::Conv2d(Conv2d { weight, bias, spec: spec.clone(), input })
            }
            LayerSpec::Linear(_) => {
                Layer::Linear(Linear { weight: self.take(), bias: self.take() })
            }
            LayerSpec::GroupNorm(groups) => {
                let (weight, bias) = (self.take(), self.take());
                Layer::GroupNorm(GroupNorm { weight, bias, groups: *groups })
            }
            LayerSpec::Relu => Layer::Relu(Relu),
            LayerSpec::MaxPool2d(window) => {
                Layer::MaxPool2d(MaxPool2d { window: *window, input: image(input) })
            }
            LayerSpec::GlobalAvgPool2d => {
                let [channels, ..] = image(input);
                Layer::GlobalAvgPool2d(GlobalAvgPool2d { channels })
            }
            LayerSpec::Residual(residual) => {
                let body = self.layers(&residual.body, input)?;
                let shortcut = self.layers(&residual.shortcut, input)?;
                Layer::Residual(Residual { body, shortcut })
            }
            LayerSpec::Flatten => Layer::Flatten(Flatten),
        })
    }

    fn take<const D: usize>(&mut self) -> Param<Tensor<D>> {
        let parameter = self.tensors.next().expect("parameters were made for the spec");
        let data = TensorData::new(parameter.values.clone(), parameter.shape.clone());
        Param::from_tensor(Tensor::from_data(data, self.device))
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

#[cfg(test)]
mod tests {
    use burn::optim::GradientsParams;

    use super::*;
    use crate::domain::network::Architecture;
    use crate::nn::{
        fixture::{Fixture, deep, devices, lenet, noise, resnet, small_images},
        gradient::{Batch, mean_cross_entropy_gradient, to_parameters},
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
    fn the_order_in_memory_changes_nothing() {
        let rows = Fixture::examples("forget").gather(&all(3));
        for device in devices() {
            let network = Fixture::network("weights-before", &device);
            let logits = |network: &Network| {
                let data = TensorData::new(rows.clone(), [3, 3072]);
                read(network.forward(Tensor::from_data(data, &device)))
            };
            let (expected, parameters) = (logits(&network), network.parameters());
            let network = network.for_few_rows();
            assert_eq!(network.parameters(), parameters);
            for (found, expected) in logits(&network).iter().zip(&expected) {
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

    #[test]
    fn normalisations_begin_as_such() {
        let parameters = Network::init(&resnet(), 1, &Device::flex()).unwrap().parameters();
        let all = |name: &str, value: f32| {
            let values = &parameters.get(name).unwrap().values;
            values.iter().all(|it| it.to_bits() == value.to_bits())
        };
        for layer in ["1", "3.body.1", "7.shortcut.1"] {
            assert!(all(&format!("{layer}.weight"), 1.0) && all(&format!("{layer}.bias"), 0.0));
        }
        let after = parameters.get("3.body.3.bias").unwrap();
        assert!(after.norm() > 0.0 && after.values.iter().all(|it| it.abs() <= 1.0 / 6.0));
    }

    /// With J the logits' derivative by the weights: what it makes of a direction v, forward, times
    /// p is v times what its transpose makes of p, backward.
    #[test]
    fn derivatives_agree_forward_and_backward() {
        let examples = small_images(6, 1);
        let inputs = TensorData::new(examples.gather(&all(6)), [6, 64]);
        let pull: Vec<f32> = (0..60_u8).map(|it| f32::from(it % 7) - 3.0).collect();
        for (spec, device) in [deep("resnet18"), deep("vgg19")]
            .iter()
            .flat_map(|spec| devices().into_iter().map(move |device| (spec, device)))
        {
            let mut weights = Network::init(spec, 1, &device).unwrap().parameters();
            weights.add_scaled(0.2, &noise(spec, 1));
            let network = Network::build(spec, &weights, &device).unwrap();
            let direction = noise(spec, 2);
            let towards = network.with_parameters(&direction);
            let x = network.forward_dual(&towards, Tensor::from_data(inputs.clone(), &device));
            let derivative = read(x.derivative.unwrap());
            let forward: f64 =
                derivative.iter().zip(&pull).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();

            let recording = network.clone().train();
            let device = device.autodiff();
            let logits = recording.forward(Tensor::from_data(inputs.clone(), &device));
            assert_eq!(read(logits.clone()), read(x.value));
            let pull = Tensor::<2>::from_data(TensorData::new(pull.clone(), [6, 10]), &device);
            let gradients = (logits * pull).sum().backward();
            let gradients = GradientsParams::from_grads(gradients, &recording);
            let backward = to_parameters(&recording, gradients).dot(&direction);
            assert!((forward / backward - 1.0).abs() < 1e-3, "{forward} {backward}");
        }
    }

    #[test]
    fn the_published_sizes_predict() {
        let preset = serde_json::json!({"preset": "resnet18"});
        let preset: Architecture = serde_json::from_value(preset).unwrap();
        let spec = preset.resolve(&[3, 32, 32], 10).unwrap();
        let network = Network::init(&spec, 1, &Device::flex()).unwrap();
        let rows = TensorData::new(Fixture::examples("forget").gather(&all(2)), [2, 3072]);
        let logits = read(network.forward(Tensor::from_data(rows, &Device::flex())));
        assert!(logits.len() == 20 && logits.iter().all(|logit| logit.is_finite()));
        assert_ne!(logits[..10], logits[10..]);
    }

    fn all(rows: usize) -> Vec<usize> {
        (0..rows).collect()
    }
}
