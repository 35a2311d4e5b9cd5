//! Max pooling over windows side by side.
//!
//! Burn's CPU backend walks over each window by itself, and keeps a 64-bit index of its maximum. Over
//! windows of two by two the compiler can vectorise the search, and to search again for the gradient
//! takes less time than to keep the index.
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
use burn::tensor::{IntDType, Shape, Tensor};
use rayon::prelude::*;

use super::{matrix, numbers};

/// `[batch, channels * height * width]` to the maxima of square windows side by side; what does
/// not fill a window is dropped. Of equal numbers the first is the maximum.
pub fn max_pool2d(rows: Tensor<2>, windows: Windows) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as MaxPooling>::max_pooling(rows.into_dispatch(), windows))
}

/// Windows side by side over the planes of an image.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    channels: usize,
    height: usize,
    width: usize,
    side: usize,
}

impl Windows {
    /// Of `side` by `side` over an image `[channels, height, width]`.
    pub fn new(side: usize, [channels, height, width]: [usize; 3]) -> Self {
        Self { channels, height, width, side }
    }

    fn plane(&self) -> usize {
        self.height * self.width
    }

    fn sides_after(&self) -> [usize; 2] {
        [self.height / self.side, self.width / self.side]
    }

    fn plane_after(&self) -> usize {
        self.sides_after().iter().product()
    }

    fn images_shape(&self, batch: usize) -> Shape {
        Shape::new([batch, self.channels, self.height, self.width])
    }

    /// The maxima of a plane, windows of two by two.
    fn maxima(&self, plane: &[f32], maxima: &mut [f32]) {
        let maxima = maxima.chunks_exact_mut(self.width / 2);
        for (maxima, lines) in maxima.zip(plane.chunks_exact(2 * self.width)) {
            let (above, below) = lines.split_at(self.width);
            let windows = above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0);
            for (maximum, (above, below)) in maxima.iter_mut().zip(windows) {
                *maximum = larger(larger(larger(above[0], above[1]), below[0]), below[1]);
            }
        }
    }

    /// Gives each maximum's gradient to the number that it was, windows of two by two.
    fn spread(&self, plane: &[f32], gradient: &[f32], spread: &mut [f32]) {
        let across = self.width / 2;
        let mut places = vec![0; across];
        let lines = plane.chunks_exact(2 * self.width).zip(spread.chunks_exact_mut(2 * self.width));
        for (gradient, (lines, spread)) in gradient.chunks_exact(across).zip(lines) {
            let (above, below) = lines.split_at(self.width);
            let windows = above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0);
            for (place, ([a, b], [c, d])) in places.iter_mut().zip(windows) {
                let first = u32::from(exceeds(*b, *a));
                let second = 2 + u32::from(exceeds(*d, *c));
                *place = if exceeds(larger(*c, *d), larger(*a, *b)) { second } else { first };
            }
            for (window, (place, gradient)) in places.iter().zip(gradient).enumerate() {
                let (x, y) = (*place as usize % 2, *place as usize / 2);
                spread[y * self.width + 2 * window + x] = *gradient;
            }
        }
    }
}

fn larger(left: f32, right: f32) -> f32 {
    if exceeds(right, left) { right } else { left }
}

/// What is no number exceeds everything.
fn exceeds(number: f32, maximum: f32) -> bool {
    (number > maximum) | number.is_nan()
}

/// The operation with its gradient, both on matrices of rows; see [`max_pool2d`].
#[backend_extension(Flex, NdArray: cfg(feature = "ndarray"), Autodiff)]
pub trait MaxPooling: Backend {
    fn max_pooling(rows: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self> {
        by_burn::<Self>(rows, windows)
    }

    fn max_pooling_backward(
        rows: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        windows: Windows,
    ) -> FloatTensor<Self> {
        backward_by_burn::<Self>(rows, gradient, windows)
    }
}

fn by_burn<B: Backend>(rows: FloatTensor<B>, windows: Windows) -> FloatTensor<B> {
    let batch = rows.shape()[0];
    let images = B::float_reshape(rows, windows.images_shape(batch));
    let side = [windows.side; 2];
    let pooled = B::max_pool2d(images, side, side, [0; 2], [1; 2], false);
    B::float_reshape(pooled, Shape::new([batch, windows.channels * windows.plane_after()]))
}

fn backward_by_burn<B: Backend>(
    rows: FloatTensor<B>,
    gradient: FloatTensor<B>,
    windows: Windows,
) -> FloatTensor<B> {
    let shape = rows.shape();
    let batch = shape[0];
    let images = B::float_reshape(rows, windows.images_shape(batch));
    let (side, none, one) = ([windows.side; 2], [0; 2], [1; 2]);
    let index = IntDType::I64;
    let indices =
        B::max_pool2d_with_indices(images.clone(), side, side, none, one, false, index).indices;
    let [height, width] = windows.sides_after();
    let pooled = Shape::new([batch, windows.channels, height, width]);
    let gradient = B::float_reshape(gradient, pooled);
    let found = B::max_pool2d_with_indices_backward(
        images, side, side, none, one, false, gradient, indices,
    );
    B::float_reshape(found.x_grad, shape)
}

#[cfg(feature = "ndarray")]
impl MaxPooling for NdArray {}

/// Windows other than two by two are left to Burn.
impl MaxPooling for Flex {
    fn max_pooling(rows: FlexTensor, windows: Windows) -> FlexTensor {
        if windows.side != 2 {
            return by_burn::<Self>(rows, windows);
        }
        let rows = rows.to_contiguous();
        let (batch, width) = (rows.shape()[0], windows.channels * windows.plane_after());
        let mut pooled = vec![0.0; batch * width];
        pooled
            .par_chunks_exact_mut(windows.plane_after())
            .zip(numbers(&rows).par_chunks_exact(windows.plane()))
            .for_each(|(maxima, plane)| windows.maxima(plane, maxima));
        matrix(pooled, batch, width)
    }

    fn max_pooling_backward(
        rows: FlexTensor,
        gradient: FlexTensor,
        windows: Windows,
    ) -> FlexTensor {
        if windows.side != 2 {
            return backward_by_burn::<Self>(rows, gradient, windows);
        }
        let [rows, gradient] = [rows, gradient].map(|tensor| tensor.to_contiguous());
        let (batch, width) = (rows.shape()[0], windows.channels * windows.plane());
        let mut found = vec![0.0; batch * width];
        found
            .par_chunks_exact_mut(windows.plane())
            .zip(numbers(&rows).par_chunks_exact(windows.plane()))
            .zip(numbers(&gradient).par_chunks_exact(windows.plane_after()))
            .for_each(|((found, plane), gradient)| windows.spread(plane, gradient, found));
        matrix(found, batch, width)
    }
}

impl<B: MaxPooling, C: CheckpointStrategy> MaxPooling for Autodiff<B, C> {
    fn max_pooling(rows: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self> {
        let node = rows.node();
        let rows = rows.primitive().clone();
        let pooled = B::max_pooling(rows.clone(), windows);
        match MaxPoolingBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((rows, windows), pooled),
            OpsKind::UnTracked(prep) => prep.finish(pooled),
        }
    }
}

#[derive(Debug)]
struct MaxPoolingBackward;

impl<B: MaxPooling> Backward<B, 1> for MaxPoolingBackward {
    type State = (FloatTensor<B>, Windows);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [node] = ops.parents;
        let (rows, windows) = ops.state;
        if let Some(node) = node {
            gradients.register::<B>(node.id, B::max_pooling_backward(rows, gradient, windows));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData, module, ops::MaxPoolOptions};

    use super::*;
    use crate::nn::fixture::devices;
    use crate::nn::network::read;

    type Run = fn(Tensor<2>, usize, [usize; 3]) -> Tensor<2>;

    fn ours(rows: Tensor<2>, side: usize, input: [usize; 3]) -> Tensor<2> {
        max_pool2d(rows, Windows::new(side, input))
    }

    fn burns(rows: Tensor<2>, side: usize, [channels, height, width]: [usize; 3]) -> Tensor<2> {
        let [batch, _] = rows.dims();
        let images = rows.reshape([batch, channels, height, width]);
        module::max_pool2d(images, MaxPoolOptions::new([side; 2])).flatten(1, 3)
    }

    /// Maxima, and the gradient of the rows.
    fn results(
        run: Run,
        numbers: &[f32],
        side: usize,
        input: [usize; 3],
        device: &Device,
    ) -> [Vec<u32>; 2] {
        let width: usize = input.iter().product();
        let rows = TensorData::new(numbers.to_vec(), [numbers.len() / width, width]);
        let rows = Tensor::<2>::from_data(rows, &device.clone().autodiff()).require_grad();
        let pooled = run(rows.clone(), side, input);
        let [batch, width] = pooled.dims();
        let slopes: Vec<_> = (1_u16..).take(batch * width).map(f32::from).collect();
        let slopes = Tensor::from_data(TensorData::new(slopes, [batch, width]), &rows.device());
        let gradients = (pooled.clone() * slopes).sum().backward();
        let gradient = rows.grad(&gradients).expect("a gradient of the rows");
        [read(pooled.inner()), read(gradient)].map(|it| it.into_iter().map(f32::to_bits).collect())
    }

    #[test]
    fn agrees_with_burns_own_operation_bit_by_bit() {
        // Small whole numbers: many windows hold their maximum more than once.
        let numbers = |count| (0_u16..count).map(|place| f32::from(place * 7 % 11 % 4) - 1.0);
        for device in devices() {
            for (side, input) in [(2, [3, 6, 8]), (2, [1, 5, 7]), (2, [2, 2, 3]), (3, [2, 7, 9])] {
                let width: usize = input.iter().product();
                let numbers: Vec<_> = numbers(u16::try_from(5 * width).unwrap()).collect();
                let found = results(ours, &numbers, side, input, &device);
                assert_eq!(found, results(burns, &numbers, side, input, &device), "{input:?}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_not_hidden() {
        for place in 0..4 {
            let mut window = [f32::INFINITY, 1.0, -1.0, f32::NEG_INFINITY];
            window[place] = f32::NAN;
            let [pooled, _] = results(ours, &window, 2, [1, 2, 2], &Device::flex());
            assert!(f32::from_bits(pooled[0]).is_nan(), "{window:?}");
        }
    }
}
