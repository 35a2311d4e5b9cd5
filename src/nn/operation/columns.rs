//! Convolution as matrix products over the columns of one image after the other (im2col;
//! Chellapilla et al. 2006): they stay in the cache, and the images of a batch run in parallel.
//!
//! Burn's CPU backend computes the gradient of the weights as a convolution whose kernel is as large
//! as the image, and a convolution of few channels without matrix products.

use burn::backend::{Flex, flex::FlexTensor, ops::FloatTensorOps};
use burn::tensor::{Shape, TensorData};
use rayon::prelude::*;

use super::{geometry::Geometry, matrix, numbers};

/// Images whose share of the weights' gradient is summed before the shares are: fixed, so that the
/// sum does not depend on the number of threads.
const IMAGES_A_SHARE: usize = 8;

/// Rows `[batch, image]`, weight `[out, channels, kernel, kernel]` and bias `[out]` to
/// `[batch, output]`.
pub fn convolution(
    rows: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    geometry: Geometry,
) -> FlexTensor {
    let [rows, weight, bias] = [rows, weight, bias].map(FlexTensor::to_contiguous);
    let weights = join(numbers(&weight), numbers(&bias), geometry);
    let images = numbers(&rows);
    let batch = images.len() / geometry.image();
    let mut outputs = vec![0.0; batch * geometry.output()];
    outputs
        .par_chunks_exact_mut(geometry.output())
        .zip(images.par_chunks_exact(geometry.image()))
        .for_each_init(
            || Scratch::new(geometry),
            |scratch, (output, image)| {
                scratch.gather(image);
                let product = product(weights.clone(), scratch.columns.clone());
                geometry.each_line(|line, position, count| {
                    let found = &numbers(&product)[position..position + count];
                    output[line..line + count].copy_from_slice(found);
                });
            },
        );
    matrix(outputs, batch, geometry.output())
}

/// The gradient `[batch, image]` of the rows from that of the outputs, `[batch, output]`.
pub fn rows_backward(weight: &FlexTensor, gradient: &FlexTensor, geometry: Geometry) -> FlexTensor {
    let [weight, gradient] = [weight, gradient].map(FlexTensor::to_contiguous);
    let weights = weight.reshape(Shape::new([geometry.out, geometry.fan_in()])).transpose(0, 1);
    let gradients = numbers(&gradient);
    let batch = gradients.len() / geometry.output();
    let mut images = vec![0.0; batch * geometry.image()];
    images
        .par_chunks_exact_mut(geometry.image())
        .zip(gradients.par_chunks_exact(geometry.output()))
        .for_each_init(
            || Scratch::new(geometry),
            |scratch, (image, gradient)| {
                scratch.spread(gradient);
                let columns = product(weights.clone(), scratch.gradient.clone());
                scratch.scatter(numbers(&columns), image);
            },
        );
    matrix(images, batch, geometry.image())
}

/// The gradients of weight and bias from that of the outputs, `[batch, output]`.
pub fn weights_backward(
    rows: &FlexTensor,
    gradient: &FlexTensor,
    geometry: Geometry,
) -> (FlexTensor, FlexTensor) {
    let [rows, gradient] = [rows, gradient].map(FlexTensor::to_contiguous);
    let Geometry { out, channels, kernel, .. } = geometry;
    let size = (geometry.fan_in() + 1) * out;
    let shares: Vec<Vec<f32>> = numbers(&rows)
        .par_chunks(IMAGES_A_SHARE * geometry.image())
        .zip(numbers(&gradient).par_chunks(IMAGES_A_SHARE * geometry.output()))
        .map_init(
            || Scratch::new(geometry),
            |scratch, (images, gradients)| {
                let mut share = vec![0.0; size];
                let gradients = gradients.chunks_exact(geometry.output());
                for (image, gradient) in images.chunks_exact(geometry.image()).zip(gradients) {
                    scratch.gather(image);
                    scratch.spread(gradient);
                    // This way round, not the columns but the gradient is laid out anew.
                    let gradient = scratch.gradient.transpose(0, 1);
                    add(&mut share, numbers(&product(scratch.columns.clone(), gradient)));
                }
                share
            },
        )
        .collect();
    let mut sum = vec![0.0; size];
    for share in &shares {
        add(&mut sum, share);
    }
    let bias = sum.split_off(geometry.fan_in() * out);
    let weight = matrix(sum, geometry.fan_in(), out).transpose(0, 1).to_contiguous();
    (
        weight.reshape(Shape::new([out, channels, kernel, kernel])),
        FlexTensor::from_data(TensorData::new(bias, [out])),
    )
}

/// What one thread works on, an image at a time.
struct Scratch {
    geometry: Geometry,
    /// An image with its padding, which stays zero.
    padded: Vec<f32>,
    /// What the kernel sees at each position: `[fan-in + 1, positions]`. The last row is one
    /// throughout, so that the bias is one more weight.
    columns: FlexTensor,
    /// An output's gradient: `[out, positions]`, zero between two lines.
    gradient: FlexTensor,
}

impl Scratch {
    fn new(geometry: Geometry) -> Self {
        let (fan_in, positions) = (geometry.fan_in(), geometry.positions());
        let mut columns = vec![0.0; (fan_in + 1) * positions];
        columns[fan_in * positions..].fill(1.0);
        Self {
            padded: vec![0.0; geometry.channels * geometry.padded().iter().product::<usize>()],
            columns: matrix(columns, fan_in + 1, positions),
            gradient: matrix(vec![0.0; geometry.out * positions], geometry.out, positions),
            geometry,
        }
    }

    /// Fills the columns.
    fn gather(&mut self, image: &[f32]) {
        let geometry = self.geometry;
        let image = if geometry.padding == 0 {
            image
        } else {
            geometry.each_image_line(|line, padded| {
                let line = &image[line..line + geometry.width];
                self.padded[padded..padded + geometry.width].copy_from_slice(line);
            });
            &self.padded
        };
        let columns = self.columns.storage_mut::<f32>().chunks_exact_mut(geometry.positions());
        for (row, column) in columns.take(geometry.fan_in()).enumerate() {
            let start = geometry.start(row);
            column.copy_from_slice(&image[start..start + column.len()]);
        }
    }

    /// Fills the gradient.
    fn spread(&mut self, gradient: &[f32]) {
        let positions = self.gradient.storage_mut::<f32>();
        self.geometry.each_line(|line, position, count| {
            positions[position..position + count].copy_from_slice(&gradient[line..line + count]);
        });
    }

    /// Adds columns `[fan-in, positions]` to the pixels of an image that they came from.
    fn scatter(&mut self, columns: &[f32], image: &mut [f32]) {
        let geometry = self.geometry;
        let sum = if geometry.padding == 0 { &mut *image } else { &mut self.padded };
        sum.fill(0.0);
        for (row, column) in columns.chunks_exact(geometry.positions()).enumerate() {
            let start = geometry.start(row);
            add(&mut sum[start..start + column.len()], column);
        }
        if geometry.padding > 0 {
            geometry.each_image_line(|line, padded| {
                let sum = &self.padded[padded..padded + geometry.width];
                image[line..line + geometry.width].copy_from_slice(sum);
            });
        }
    }
}

/// Weight and bias as one matrix `[out, fan-in + 1]`.
fn join(weight: &[f32], bias: &[f32], geometry: Geometry) -> FlexTensor {
    let rows = weight.chunks_exact(geometry.fan_in()).zip(bias);
    let joined = rows.flat_map(|(row, bias)| row.iter().chain([bias])).copied().collect();
    matrix(joined, geometry.out, geometry.fan_in() + 1)
}

/// `[rows, inner]` times `[inner, columns]`.
fn product(left: FlexTensor, right: FlexTensor) -> FlexTensor {
    <Flex as FloatTensorOps<Flex>>::float_matmul(left, right)
}

fn add(sum: &mut [f32], numbers: &[f32]) {
    sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
}
