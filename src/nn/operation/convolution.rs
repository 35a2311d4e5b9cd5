//! Two-dimensional convolution.
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
    flex::FlexTensor,
    tensor::FloatTensor,
};
use burn::tensor::{Shape, Tensor};

use super::{columns, geometry::Geometry};

/// `[batch, channels * height * width]` to `[batch, out * height after * width after]`; weight
/// `[out, channels, kernel, kernel]`, bias `[out]`.
pub fn conv2d(
    rows: Tensor<2>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    geometry: Geometry,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Convolution>::convolution(
        rows.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        geometry,
    ))
}

/// The operation with its gradients. Rows and gradients of rows are matrices; see [`conv2d`].
#[backend_extension(Flex, NdArray: cfg(feature = "ndarray"), Autodiff)]
pub trait Convolution: Backend {
    fn convolution(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        by_burn::<Self>(rows, weight, bias, geometry)
    }

    /// The gradient of the rows.
    fn convolution_rows_backward(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        rows_backward_by_burn::<Self>(rows, weight, gradient, geometry)
    }

    /// The gradients of weight and bias.
    fn convolution_weights_backward(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        geometry: Geometry,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        weights_backward_by_burn::<Self>(rows, weight, bias, gradient, geometry)
    }
}

fn by_burn<B: Backend>(
    rows: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    geometry: Geometry,
) -> FloatTensor<B> {
    let batch = rows.shape()[0];
    let images = B::float_reshape(rows, geometry.images_shape(batch));
    let outputs = B::conv2d(images, weight, Some(bias), geometry.options());
    B::float_reshape(outputs, Shape::new([batch, geometry.output()]))
}

fn rows_backward_by_burn<B: Backend>(
    rows: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    geometry: Geometry,
) -> FloatTensor<B> {
    let batch = rows.shape()[0];
    let images = B::float_reshape(rows, geometry.images_shape(batch));
    let gradient = B::float_reshape(gradient, geometry.outputs_shape(batch));
    let images = B::conv2d_x_backward(images, weight, gradient, geometry.options());
    B::float_reshape(images, Shape::new([batch, geometry.image()]))
}

fn weights_backward_by_burn<B: Backend>(
    rows: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    gradient: FloatTensor<B>,
    geometry: Geometry,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let batch = rows.shape()[0];
    let images = B::float_reshape(rows, geometry.images_shape(batch));
    let gradient = B::float_reshape(gradient, geometry.outputs_shape(batch));
    let options = geometry.options();
    let weight = B::conv2d_weight_backward(images.clone(), weight, gradient.clone(), options);
    (weight, B::conv2d_bias_backward(images, bias, gradient))
}

#[cfg(feature = "ndarray")]
impl Convolution for NdArray {}

/// A stride other than one is left to Burn.
impl Convolution for Flex {
    fn convolution(
        rows: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        geometry: Geometry,
    ) -> FlexTensor {
        if geometry.stride == 1 {
            columns::convolution(&rows, &weight, &bias, geometry)
        } else {
            by_burn::<Self>(rows, weight, bias, geometry)
        }
    }

    fn convolution_rows_backward(
        rows: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        geometry: Geometry,
    ) -> FlexTensor {
        if geometry.stride == 1 {
            columns::rows_backward(&weight, &gradient, geometry)
        } else {
            rows_backward_by_burn::<Self>(rows, weight, gradient, geometry)
        }
    }

    fn convolution_weights_backward(
        rows: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        gradient: FlexTensor,
        geometry: Geometry,
    ) -> (FlexTensor, FlexTensor) {
        if geometry.stride == 1 {
            columns::weights_backward(&rows, &gradient, geometry)
        } else {
            weights_backward_by_burn::<Self>(rows, weight, bias, gradient, geometry)
        }
    }
}

impl<B: Convolution, C: CheckpointStrategy> Convolution for Autodiff<B, C> {
    fn convolution(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        let nodes = [rows.node(), weight.node(), bias.node()];
        let inputs = [rows, weight, bias].map(|tensor| tensor.primitive().clone());
        let [rows, weight, bias] = inputs.clone();
        let outputs = B::convolution(rows, weight, bias, geometry);
        match ConvolutionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((inputs, geometry), outputs),
            OpsKind::UnTracked(prep) => prep.finish(outputs),
        }
    }
}

#[derive(Debug)]
struct ConvolutionBackward;

impl<B: Convolution> Backward<B, 3> for ConvolutionBackward {
    type State = ([FloatTensor<B>; 3], Geometry);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [rows_node, weight_node, bias_node] = ops.parents;
        let ([rows, weight, bias], geometry) = ops.state;
        if let Some(node) = rows_node {
            let (rows, weight) = (rows.clone(), weight.clone());
            let found = B::convolution_rows_backward(rows, weight, gradient.clone(), geometry);
            gradients.register::<B>(node.id, found);
        }
        if weight_node.is_some() || bias_node.is_some() {
            let (weight, bias) =
                B::convolution_weights_backward(rows, weight, bias, gradient, geometry);
            if let Some(node) = weight_node {
                gradients.register::<B>(node.id, weight);
            }
            if let Some(node) = bias_node {
                gradients.register::<B>(node.id, bias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData, module, ops::ConvOptions};

    use super::*;
    use crate::domain::network::Conv2dSpec;
    use crate::nn::fixture::devices;
    use crate::nn::network::read;

    const BATCH: usize = 19;

    /// A spec and the image that it is for; at least one with every branch of the code.
    fn cases() -> [(Conv2dSpec, [usize; 3]); 6] {
        let spec = |out, kernel, stride, padding| Conv2dSpec { out, kernel, stride, padding };
        [
            (spec(6, 5, 1, 0), [3, 12, 14]),
            (spec(4, 3, 1, 1), [2, 7, 5]),
            (spec(3, 3, 1, 2), [1, 4, 4]),
            (spec(5, 1, 1, 0), [4, 3, 6]),
            (spec(2, 4, 1, 0), [2, 4, 4]),
            (spec(3, 3, 2, 1), [2, 8, 7]),
        ]
    }

    fn waves(count: usize, frequency: f32) -> Vec<f32> {
        (0..count).map(|place| (place as f32 * frequency).sin()).collect()
    }

    fn tensor<const D: usize>(shape: [usize; D], frequency: f32, device: &Device) -> Tensor<D> {
        let numbers = waves(shape.iter().product(), frequency);
        Tensor::from_data(TensorData::new(numbers, shape), &device.clone().autodiff())
    }

    type Run = fn(Tensor<2>, Tensor<4>, Tensor<1>, &Conv2dSpec, [usize; 3]) -> Tensor<2>;

    fn ours(
        rows: Tensor<2>,
        weight: Tensor<4>,
        bias: Tensor<1>,
        spec: &Conv2dSpec,
        input: [usize; 3],
    ) -> Tensor<2> {
        conv2d(rows, weight, bias, Geometry::new(spec, input))
    }

    fn burns(
        rows: Tensor<2>,
        weight: Tensor<4>,
        bias: Tensor<1>,
        spec: &Conv2dSpec,
        [channels, height, width]: [usize; 3],
    ) -> Tensor<2> {
        let options = ConvOptions::new([spec.stride; 2], [spec.padding; 2], [1; 2], 1);
        let images = rows.reshape([BATCH, channels, height, width]);
        module::conv2d(images, weight, Some(bias), options).flatten(1, 3)
    }

    /// Outputs, and the gradients of rows, weight and bias.
    fn results(run: Run, spec: &Conv2dSpec, input: [usize; 3], device: &Device) -> [Vec<f32>; 4] {
        let rows = tensor([BATCH, input.iter().product()], 0.7, device).require_grad();
        let weight =
            tensor([spec.out, input[0], spec.kernel, spec.kernel], 1.3, device).require_grad();
        let bias = tensor([spec.out], 2.1, device).require_grad();
        let outputs = run(rows.clone(), weight.clone(), bias.clone(), spec, input);
        let slopes = tensor(outputs.dims(), 0.3, device);
        let gradients = (outputs.clone() * slopes).sum().backward();
        [
            read(outputs.inner()),
            read(rows.grad(&gradients).expect("a gradient of the rows")),
            read(weight.grad(&gradients).expect("a gradient of the weight")),
            read(bias.grad(&gradients).expect("a gradient of the bias")),
        ]
    }

    #[test]
    fn agrees_with_burns_own_operation() {
        for device in devices() {
            for (spec, input) in cases() {
                let found = results(ours, &spec, input, &device);
                let expected = results(burns, &spec, input, &device);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.len(), expected.len());
                    let largest = expected.iter().fold(1.0_f32, |most, it| most.max(it.abs()));
                    for (found, expected) in found.iter().zip(expected) {
                        let error = (found - expected).abs();
                        assert!(error <= 1e-5 * largest, "{spec:?}: {found} for {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn gives_the_same_bits_on_any_number_of_threads() {
        for (spec, input) in cases() {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| results(ours, &spec, input, &Device::flex()))
            };
            assert_eq!(on(1), on(3));
        }
    }

    #[test]
    fn what_needs_no_gradient_gets_none() {
        let (spec, input) = &cases()[0];
        let device = Device::flex();
        let rows = tensor([BATCH, input.iter().product()], 0.7, &device);
        let weight = tensor([spec.out, input[0], spec.kernel, spec.kernel], 1.3, &device);
        let bias = tensor([spec.out], 2.1, &device).require_grad();
        let outputs = ours(rows.clone(), weight.clone(), bias.clone(), spec, *input);
        let gradients = outputs.sum().backward();
        assert!(rows.grad(&gradients).is_none() && weight.grad(&gradients).is_none());
        assert!(bias.grad(&gradients).is_some());
    }
}
