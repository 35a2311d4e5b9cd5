//! Products with the Gauss-Newton matrix of the mean cross entropy, which is never written down.

use burn::module::Module as _;
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData, activation};

use super::gradient::to_parameters;
use super::network::{Network, read};
use super::parameters::Parameters;
use crate::domain::examples::Examples;

/// `G v` with `G = mean over the rows of J' H J`: J the logits' derivative by the weights, H their
/// cross entropy's second derivative, `diag(p) - p p'` (Schraudolph 2002). For a network without
/// hidden layers G is the Hessian.
///
/// One forward pass carries `J v`, one backward pass `J'`.
pub fn gauss_newton_product(
    network: &Network,
    examples: &Examples,
    rows: &[usize],
    direction: &Parameters,
) -> Parameters {
    let data = TensorData::new(examples.gather(rows), [rows.len(), examples.width()]);
    let towards = network.with_parameters(direction);
    let inputs = Tensor::<2>::from_data(data.clone(), &network.device());
    let x = network.forward_dual(&towards, inputs);
    let probabilities = activation::softmax(x.value, 1);
    let derivative = x.derivative.unwrap_or_else(|| probabilities.zeros_like());
    let mean = (probabilities.clone() * derivative.clone()).sum_dim(1);
    let pulled = read(probabilities * (derivative - mean));

    let device = network.device().autodiff();
    let pulled = TensorData::new(pulled, [rows.len(), network.classes()]);
    let pulled = Tensor::<2>::from_data(pulled, &device);
    let recording = network.clone().train();
    let logits = recording.forward(Tensor::from_data(data, &device));
    let gradients = (logits * pulled).sum().div_scalar(rows.len() as f32).backward();
    to_parameters(&recording, GradientsParams::from_grads(gradients, &recording))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::network::{LayerSpec, NetworkSpec};
    use crate::nn::{
        fixture::{devices, digits, mlp},
        gradient::{Batch, mean_cross_entropy_gradient},
    };

    #[test]
    fn is_the_hessian_of_a_logistic_network() {
        let examples = digits(30, 1);
        let rows: Vec<usize> = (0..30).collect();
        let spec = NetworkSpec { input: vec![64], layers: vec![LayerSpec::Linear(10)] };
        for device in devices() {
            let network = Network::init(&spec, 1, &device).unwrap();
            let direction = Network::init(&spec, 2, &device).unwrap().parameters();
            let found = gauss_newton_product(&network, &examples, &rows, &direction);
            let batch = Batch::of_labels(&examples, &rows, 10, &device.clone().autodiff());
            let gradient_at = |step| {
                let mut moved = network.parameters();
                moved.add_scaled(step, &direction);
                mean_cross_entropy_gradient(&network.with_parameters(&moved), &batch).parameters
            };
            let mut expected = gradient_at(1e-2);
            expected.add_scaled(-1.0, &gradient_at(-1e-2));
            expected.scale(1.0 / 2e-2);
            let size = expected.norm();
            expected.add_scaled(-1.0, &found);
            assert!(expected.norm() < 1e-2 * size, "{} {size}", expected.norm());
        }
    }

    #[test]
    fn is_symmetric_and_never_negative() {
        let examples = digits(20, 1);
        let rows: Vec<usize> = (0..20).collect();
        let spec = mlp(&examples, 8);
        for device in devices() {
            let network = Network::init(&spec, 1, &device).unwrap();
            let [u, v] =
                [2, 3].map(|seed| Network::init(&spec, seed, &device).unwrap().parameters());
            let product = |v: &Parameters| gauss_newton_product(&network, &examples, &rows, v);
            let (uv, vu) = (u.dot(&product(&v)), v.dot(&product(&u)));
            assert!((uv - vu).abs() < 1e-4 * uv.abs().max(1e-3), "{uv} {vu}");
            assert!(u.dot(&product(&u)) > 0.0);
        }
    }
}
