//! Group normalisation (Wu & He 2018, arXiv 1803.08494).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Dual, sum};

/// Added to the variance, as in `PyTorch`.
const EPSILON: f32 = 1e-5;

/// Weight and bias `[channels]`.
#[derive(Module, Debug)]
pub(in crate::nn) struct GroupNorm {
    pub weight: Param<Tensor<1>>,
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    pub groups: usize,
}

impl GroupNorm {
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (normal, _) = self.normalised(x);
        self.affine(normal)
    }

    pub fn forward_dual(&self, towards: &Self, x: Dual) -> Dual {
        let (normal, scale) = self.normalised(x.value);
        // With n the normalised numbers, s their scale and d the derivative that comes in, all less
        // its mean: `s (d - n mean(n d))`.
        let carried = x.derivative.map(|derivative| {
            let derivative = centred(derivative.reshape(normal.dims()));
            let along = (normal.clone() * derivative.clone()).mean_dim(2);
            to_rows(self.weighted((derivative - normal.clone() * along) * scale))
        });
        let moved = towards.affine(normal.clone());
        Dual { value: self.affine(normal), derivative: Some(sum(moved, carried)) }
    }

    /// The numbers of each group at mean 0 and variance 1, `[batch, groups, numbers]`, and what
    /// they were multiplied by, `[batch, groups, 1]`.
    fn normalised(&self, x: Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        let [batch, width] = x.dims();
        let x = centred(x.reshape([batch, self.groups, width / self.groups]));
        let variance = x.clone().square().mean_dim(2);
        let scale = (variance + EPSILON).sqrt().recip();
        (x * scale.clone(), scale)
    }

    /// Each channel times its weight: `[batch, channels, pixels]`.
    fn weighted(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, groups, numbers] = x.dims();
        let [channels] = self.weight.dims();
        let x = x.reshape([batch, channels, groups * numbers / channels]);
        x * self.weight.val().reshape([1, channels, 1])
    }

    fn affine(&self, x: Tensor<3>) -> Tensor<2> {
        let [channels] = self.bias.dims();
        to_rows(self.weighted(x) + self.bias.val().reshape([1, channels, 1]))
    }
}

fn centred(x: Tensor<3>) -> Tensor<3> {
    x.clone() - x.mean_dim(2)
}

fn to_rows(x: Tensor<3>) -> Tensor<2> {
    let [batch, channels, pixels] = x.dims();
    x.reshape([batch, channels * pixels])
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::domain::network::NetworkSpec;
    use crate::nn::{
        fixture::{devices, noise, small_images},
        network::{Network, read},
        parameters::Parameters,
    };

    fn spec(input: &[usize], layers: serde_json::Value) -> NetworkSpec {
        NetworkSpec { input: input.to_vec(), layers: serde_json::from_value(layers).unwrap() }
    }

    /// Group one: mean 3, deviations -2, -1, 0 and 3, variance 3.5, hence times 0.534522. Group
    /// two: mean 15, deviations of 5, hence times 1/5. Each channel has two pixels.
    #[test]
    fn agrees_with_a_calculation_by_hand() {
        let spec = spec(&[4, 1, 2], serde_json::json!([{"group_norm": 2}]));
        let parameters = Parameters::of(&spec, |name, _| match name {
            "0.weight" => vec![2.0, -1.0, 1.0, 3.0],
            _ => vec![0.5, 0.0, -1.0, 10.0],
        });
        let parameters = parameters.unwrap();
        let x = vec![1.0_f32, 2.0, 3.0, 6.0, 10.0, 20.0, 20.0, 10.0];
        let expected = [-1.638_087, -0.569_043, 0.0, -1.603_565, -2.0, 0.0, 13.0, 7.0];
        for device in devices() {
            let network = Network::build(&spec, &parameters, &device).unwrap();
            // A sample's neighbours in the batch are nothing to it.
            let rows = [x.clone(), vec![7.0; 8]].concat();
            let rows = Tensor::from_data(TensorData::new(rows, [2, 8]), &device);
            let found = read(network.forward(rows));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 2e-5, "{found} {expected} on {device:?}");
            }
            assert_eq!(found[8..], [0.5, 0.5, 0.0, 0.0, -1.0, -1.0, 10.0, 10.0]);
        }
    }

    /// Along its own weights and along what comes in.
    #[test]
    fn its_derivative_agrees_with_differences() {
        let conv = serde_json::json!({"conv2d": {"out": 6, "kernel": 3}});
        let own = spec(&[1, 8, 8], serde_json::json!([{"group_norm": 1}]));
        let both = spec(&[1, 8, 8], serde_json::json!([conv, {"group_norm": 3}]));
        let examples = small_images(5, 1);
        let inputs = TensorData::new(examples.gather(&[0, 1, 2, 3, 4]), [5, 64]);
        for device in devices() {
            for spec in [&own, &both] {
                let network = Network::init(spec, 1, &device).unwrap();
                let direction = noise(spec, 2);
                let inputs = Tensor::<2>::from_data(inputs.clone(), &device);
                let at = |step| {
                    let mut moved = network.parameters();
                    moved.add_scaled(step, &direction);
                    network.with_parameters(&moved).forward(inputs.clone())
                };
                let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
                let towards = network.with_parameters(&direction);
                let found = network.forward_dual(&towards, inputs.clone());
                assert_eq!(read(found.value), read(network.forward(inputs.clone())));
                let found = found.derivative.unwrap();
                let off = read((found - expected.clone()).square().sum().sqrt())[0];
                let size = read(expected.square().sum().sqrt())[0];
                assert!(off < 2e-3 * size, "{off} {size} on {device:?}");
            }
        }
    }
}
