//! The linear layer.
//!
//! Differentiated automatically, `x W^T` gives the gradient of W transposed, which everything that
//! reads it lays out anew. Written by hand it comes as W lies.
#![cfg_attr(
    feature = "ndarray",
    expect(deprecated, reason = "kept as the second backend until Burn 0.23 drops it")
)]

#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata as _,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    backend_extension,
    tensor::FloatTensor,
};
use burn::tensor::{Shape, Tensor};

/// `rows weight^T + bias`: rows `[batch, in]`, weight `[out, in]`, bias `[out]`.
pub fn linear(rows: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    let [rows, weight, bias] = [rows.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as Affine>::affine(rows, weight, bias))
}

/// The operation; see [`linear`].
#[backend_extension(Flex, NdArray: cfg(feature = "ndarray"), Autodiff)]
pub trait Affine: Backend {
    fn affine(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let out = weight.shape()[0];
        let product = Self::float_matmul(rows, Self::float_transpose(weight));
        Self::float_add(product, Self::float_reshape(bias, Shape::new([1, out])))
    }
}

impl Affine for Flex {}

#[cfg(feature = "ndarray")]
impl Affine for NdArray {}

impl<B: Affine, C: CheckpointStrategy> Affine for Autodiff<B, C> {
    fn affine(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [rows.node(), weight.node(), bias.node()];
        let [rows, weight, bias] = [rows, weight, bias].map(|tensor| tensor.primitive().clone());
        let outputs = B::affine(rows.clone(), weight.clone(), bias);
        match AffineBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([rows, weight], outputs),
            OpsKind::UnTracked(prep) => prep.finish(outputs),
        }
    }
}

#[derive(Debug)]
struct AffineBackward;

impl<B: Backend> Backward<B, 3> for AffineBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [rows_node, weight_node, bias_node] = ops.parents;
        let [rows, weight] = ops.state;
        if let Some(node) = rows_node {
            gradients.register::<B>(node.id, B::float_matmul(gradient.clone(), weight));
        }
        if let Some(node) = weight_node {
            let transposed = B::float_transpose(gradient.clone());
            gradients.register::<B>(node.id, B::float_matmul(transposed, rows));
        }
        if let Some(node) = bias_node {
            let out = gradient.shape()[1];
            let sum = B::float_sum_dim(gradient, 0);
            gradients.register::<B>(node.id, B::float_reshape(sum, Shape::new([out])));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::nn::fixture::devices;
    use crate::nn::network::read;

    #[test]
    fn agrees_with_automatic_differentiation() {
        fn tensor<const D: usize>(shape: [usize; D], pace: f32, device: &Device) -> Tensor<D> {
            let count = shape.iter().product();
            let numbers: Vec<_> = (0..count).map(|place| (place as f32 * pace).sin()).collect();
            Tensor::from_data(TensorData::new(numbers, shape), device)
        }
        type Run = fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2>;
        let results = |run: Run, device: &Device| {
            let rows = tensor([7, 5], 0.7, device).require_grad();
            let weight = tensor([3, 5], 1.3, device).require_grad();
            let bias = tensor([3], 2.1, device).require_grad();
            let outputs = run(rows.clone(), weight.clone(), bias.clone());
            let gradients = (outputs.clone() * tensor([7, 3], 0.3, device)).sum().backward();
            [
                read(outputs.inner()),
                read(rows.grad(&gradients).expect("a gradient of the rows")),
                read(weight.grad(&gradients).expect("a gradient of the weight")),
                read(bias.grad(&gradients).expect("a gradient of the bias")),
            ]
        };
        for device in devices() {
            let device = device.autodiff();
            let found = results(linear, &device);
            let expected =
                results(|x, weight, bias| x.matmul(weight.transpose()) + bias.unsqueeze(), &device);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
            }
        }
    }
}
