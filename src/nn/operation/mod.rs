//! Operations that Burn's default CPU backend is slow at, written anew over its matrix product, with
//! their gradients. They are extensions of Burn's backends, so that tensors, automatic
//! differentiation and the choice of a device stay Burn's.

mod columns;
mod convolution;
mod geometry;
mod linear;
mod pooling;

use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;

pub(super) use {
    convolution::conv2d,
    geometry::Geometry,
    linear::linear,
    pooling::{Windows, max_pool2d},
};

fn matrix(numbers: Vec<f32>, rows: usize, columns: usize) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, [rows, columns]))
}

/// The numbers of a contiguous tensor.
fn numbers(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous numbers of 32 bits")
}
