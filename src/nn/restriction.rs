//! Gradient restriction (IAU, arXiv 2507.23257): training minimises
//! `CE + alpha * sum over tensors of ||dCE/dtensor||`, so that no sample has an outsized gradient
//! when its deletion comes.
//!
//! Its gradient needs the second derivative. With `u = alpha * g_t / ||g_t||` for each tensor t,
//! the gradient of the second term is the Hessian times u, which is the gradient of the
//! directional derivative `<dCE, u>` while u stays fixed (Pearlmutter 1994). That derivative is
//! carried forward through the layers in ordinary tensor operations, and differentiated once:
//! exact, and no second backward pass through a first.

use burn::module::{Module as _, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, activation};

use super::gradient::{Batch, Gradient, mean_cross_entropy, scalar, to_parameters};
use super::network::{Network, read};

/// The restricted loss of a batch with its gradient; the batch lies on `network`'s device made
/// recording.
pub fn restricted_gradient(network: &Network, batch: &Batch, alpha: f64) -> Gradient {
    let recording = network.clone().train();
    let (loss, gradients) = restricted_backward(&recording, batch, alpha);
    Gradient { loss, parameters: to_parameters(&recording, gradients) }
}

/// As [`restricted_gradient`], for a network that records already, and leaving the gradients on
/// the device.
pub(super) fn restricted_backward(
    recording: &Network,
    batch: &Batch,
    alpha: f64,
) -> (f64, GradientsParams) {
    let gradients = GradientsParams::from_grads(batch.loss(recording).backward(), recording);
    let mut mapper = Direction { gradients, alpha, restriction: 0.0 };
    let direction = recording.clone().map(&mut mapper).train();

    let x = recording.forward_dual(&direction, batch.inputs.clone());
    let loss = mean_cross_entropy(x.value.clone(), batch.targets.clone());
    let value = scalar(&loss) + mapper.restriction;
    let total = match x.derivative {
        Some(derivative) => {
            let [rows, _] = derivative.dims();
            let slope = (activation::softmax(x.value, 1) - batch.targets.clone()) * derivative;
            loss + slope.sum() / rows as f32
        }
        None => loss,
    };
    (value, GradientsParams::from_grads(total.backward(), recording))
}

/// Turns a network into the direction u; on the plain device and without gradients of its own.
struct Direction {
    gradients: GradientsParams,
    alpha: f64,
    /// `alpha * sum ||g_t||`
    restriction: f64,
}

impl ModuleMapper for Direction {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self
            .gradients
            .remove::<D>(param.id)
            .unwrap_or_else(|| param.val().without_autodiff().zeros_like());
        let squares: f64 =
            read(gradient.clone()).iter().map(|value| f64::from(*value).powi(2)).sum();
        let norm = squares.sqrt();
        self.restriction += self.alpha * norm;
        // At length zero the norm has no slope; zero is a subgradient.
        let factor = if norm > 0.0 { self.alpha / norm } else { 0.0 };
        Param::initialized(param.id, gradient.mul_scalar(factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::network::{Conv2dSpec, LayerSpec, NetworkSpec};
    use crate::nn::{
        fixture::{Fixture, devices, images, noise, small_images},
        gradient::mean_cross_entropy_gradient,
    };

    #[test]
    fn matches_the_published_gradient() {
        let expected = Fixture::parameters("gradient-restriction-gradient");
        let examples = Fixture::examples("retain");
        let rows: Vec<usize> = (0..examples.len()).collect();
        for device in devices() {
            let network = Fixture::network("weights-before", &device);
            let batch = Batch::of_labels(&examples, &rows, 10, &device.autodiff());
            let found = restricted_gradient(&network, &batch, 0.005).parameters;
            let cosine = found.dot(&expected) / (found.norm() * expected.norm());
            assert!(cosine >= 0.999, "{cosine}");
        }
    }

    /// Smooth stretches only: a short step along the gradient must change the loss as its
    /// length says. Strides, padding and two pools in a row are in it.
    #[test]
    fn agrees_with_differences_of_the_loss() {
        let conv = |out, kernel, stride, padding| {
            LayerSpec::Conv2d(Conv2dSpec { out, kernel, stride, padding })
        };
        let spec = NetworkSpec {
            input: vec![3, 32, 32],
            layers: vec![
                conv(4, 3, 2, 1),
                LayerSpec::Relu,
                LayerSpec::MaxPool2d(3),
                conv(5, 2, 1, 0),
                LayerSpec::MaxPool2d(2),
                LayerSpec::Flatten,
                LayerSpec::Linear(10),
            ],
        };
        let examples = images(8, 3);
        for device in devices() {
            let network = Network::init(&spec, 1, &device).unwrap();
            let recording = device.clone().autodiff();
            let batch = Batch::of_labels(&examples, &[0, 1, 2, 3, 4, 5, 6, 7], 10, &recording);
            let alpha = 0.5;
            let gradient = restricted_gradient(&network, &batch, alpha);
            let plain = mean_cross_entropy_gradient(&network, &batch);
            let restriction: f64 = plain.parameters.tensors.iter().map(|t| alpha * t.norm()).sum();
            assert!((gradient.loss - plain.loss - restriction).abs() < 1e-5);

            let square = gradient.parameters.dot(&gradient.parameters);
            let at = |step: f32| {
                let mut moved = network.parameters();
                moved.add_scaled(step, &gradient.parameters);
                restricted_gradient(&network.with_parameters(&moved), &batch, alpha).loss
            };
            let slope = (at(5e-4) - at(-5e-4)) / 1e-3;
            assert!((slope / square - 1.0).abs() < 0.03, "{slope} {square} on {device:?}");
        }
    }

    /// `H u` as the difference of two gradients, u as the module's documentation has it. Without
    /// ReLU, whose edges make differences of gradients meaningless.
    #[test]
    fn agrees_with_differences_of_gradients_through_branches_and_normalisations() {
        let conv = |out: usize, kernel: usize, stride: usize| {
            let padding = kernel / 2;
            serde_json::json!(
                {"conv2d": {"out": out, "kernel": kernel, "stride": stride, "padding": padding}})
        };
        let norm = |groups: usize| serde_json::json!({"group_norm": groups});
        let spec = serde_json::json!({
            "input": [1, 8, 8],
            "layers": [
                conv(4, 3, 1),
                norm(2),
                {"residual": {"body": [conv(4, 3, 1), norm(2), conv(4, 3, 1), norm(1)]}},
                {"residual": {"body": [conv(6, 3, 2), norm(3)], "shortcut": [conv(6, 1, 2)]}},
                "global_avg_pool2d",
                "flatten",
                {"linear": 10},
            ],
        });
        let spec: NetworkSpec = serde_json::from_value(spec).unwrap();
        let examples = small_images(8, 3);
        let rows: Vec<usize> = (0..8).collect();
        for device in devices() {
            let mut weights = Network::init(&spec, 1, &device).unwrap().parameters();
            weights.add_scaled(0.3, &noise(&spec, 1));
            let network = Network::build(&spec, &weights, &device).unwrap();
            let batch = Batch::of_labels(&examples, &rows, 10, &device.clone().autodiff());
            let alpha = 0.5;
            let mut expected = mean_cross_entropy_gradient(&network, &batch).parameters;
            let mut direction = expected.clone();
            for tensor in &mut direction.tensors {
                #[expect(clippy::cast_possible_truncation, reason = "weights have 32 bits")]
                let factor = alpha / tensor.norm() as f32;
                tensor.values.iter_mut().for_each(|value| *value *= factor);
            }
            let gradient_at = |step: f32| {
                let mut moved = weights.clone();
                moved.add_scaled(step, &direction);
                mean_cross_entropy_gradient(&network.with_parameters(&moved), &batch).parameters
            };
            let plain = expected.norm();
            expected.add_scaled(0.5e3, &gradient_at(1e-3));
            expected.add_scaled(-0.5e3, &gradient_at(-1e-3));
            let size = expected.norm();
            assert!((size / plain - 1.0).abs() > 0.1, "{size} {plain}: nothing to see");
            let mut off = restricted_gradient(&network, &batch, f64::from(alpha)).parameters;
            off.add_scaled(-1.0, &expected);
            assert!(off.norm() < 5e-3 * size, "{} {size} on {device:?}", off.norm());
        }
    }
}
