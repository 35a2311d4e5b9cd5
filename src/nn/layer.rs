//! The layers. Between layers a batch is `[batch, width]`; image layers know their input's shape
//! and reshape inside, so that `flatten` has nothing left to do.

mod group_norm;
mod residual;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation, module::max_pool2d_with_indices, ops::MaxPoolOptions};

use super::operation::{Geometry, Windows, conv2d, linear, max_pool2d};
use crate::domain::network::Conv2dSpec;

pub(super) use group_norm::GroupNorm;
pub(super) use residual::Residual;

#[derive(Module, Debug)]
pub(super) enum Layer {
    Conv2d(Conv2d),
    Relu(Relu),
    GroupNorm(GroupNorm),
    MaxPool2d(MaxPool2d),
    GlobalAvgPool2d(GlobalAvgPool2d),
    Residual(Residual),
    Flatten(Flatten),
    Linear(Linear),
}

/// Weight `[out, in, kernel, kernel]`, bias `[out]`.
#[derive(Module, Debug)]
pub(super) struct Conv2d {
    pub weight: Param<Tensor<4>>,
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    pub spec: Conv2dSpec,
    /// `[channels, height, width]`
    #[module(skip)]
    pub input: [usize; 3],
}

#[derive(Module, Debug)]
pub(super) struct Relu;

#[derive(Module, Debug)]
pub(super) struct MaxPool2d {
    #[module(skip)]
    pub window: usize,
    /// `[channels, height, width]`
    #[module(skip)]
    pub input: [usize; 3],
}

#[derive(Module, Debug)]
pub(super) struct GlobalAvgPool2d {
    #[module(skip)]
    pub channels: usize,
}

#[derive(Module, Debug)]
pub(super) struct Flatten;

/// Weight `[out, in]`, as `PyTorch` has it; bias `[out]`.
#[derive(Module, Debug)]
pub(super) struct Linear {
    pub weight: Param<Tensor<2>>,
    pub bias: Param<Tensor<1>>,
}

/// A batch together with its derivative along a direction in weight space, both
/// `[batch, width]`. The derivative is absent where it is zero throughout: before the first
/// layer that has weights.
#[derive(Clone)]
pub(super) struct Dual {
    pub value: Tensor<2>,
    pub derivative: Option<Tensor<2>>,
}

/// One layer after the other.
pub(super) fn forward(layers: &[Layer], x: Tensor<2>) -> Tensor<2> {
    layers.iter().fold(x, |x, layer| layer.forward(x))
}

/// As [`Layer::forward_dual`], one layer after the other.
pub(super) fn forward_dual(layers: &[Layer], direction: &[Layer], x: Dual) -> Dual {
    let layers = layers.iter().zip(direction);
    layers.fold(x, |x, (layer, towards)| layer.forward_dual(towards, x))
}

impl Layer {
    /// `[batch, width before]` to `[batch, width after]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Conv2d(conv) => conv.apply(x, conv.weight.val(), conv.bias.val()),
            Self::Relu(_) => activation::relu(x),
            Self::MaxPool2d(pool) => max_pool2d(x, Windows::new(pool.window, pool.input)),
            Self::GroupNorm(norm) => norm.forward(x),
            Self::GlobalAvgPool2d(pool) => pool.apply(x),
            Self::Residual(residual) => residual.forward(x),
            Self::Flatten(_) => x,
            Self::Linear(layer) => linear(x, layer.weight.val(), layer.bias.val()),
        }
    }

    /// Forward-mode derivative: what changes in the output when the weights move along
    /// `direction`, a layer of the same shape.
    pub fn forward_dual(&self, direction: &Self, x: Dual) -> Dual {
        let Dual { value, derivative } = x;
        match (self, direction) {
            (Self::Conv2d(conv), Self::Conv2d(towards)) => {
                let moved = conv.apply(value.clone(), towards.weight.val(), towards.bias.val());
                let carried = derivative
                    .map(|d| conv.apply(d, conv.weight.val(), conv.bias.val().zeros_like()));
                Dual { value: self.forward(value), derivative: Some(sum(moved, carried)) }
            }
            (Self::Linear(layer), Self::Linear(towards)) => {
                let moved = linear(value.clone(), towards.weight.val(), towards.bias.val());
                let carried = derivative
                    .map(|d| linear(d, layer.weight.val(), layer.bias.val().zeros_like()));
                Dual { value: self.forward(value), derivative: Some(sum(moved, carried)) }
            }
            (Self::Relu(_), _) => {
                let closed = value.clone().lower_equal_scalar(0.0);
                Dual {
                    value: activation::relu(value),
                    derivative: derivative.map(|d| d.mask_fill(closed, 0.0)),
                }
            }
            (Self::GroupNorm(norm), Self::GroupNorm(towards)) => {
                norm.forward_dual(towards, Dual { value, derivative })
            }
            (Self::MaxPool2d(pool), _) => pool.forward_dual(value, derivative),
            (Self::GlobalAvgPool2d(pool), _) => {
                Dual { value: pool.apply(value), derivative: derivative.map(|d| pool.apply(d)) }
            }
            (Self::Residual(residual), Self::Residual(towards)) => {
                residual.forward_dual(towards, Dual { value, derivative })
            }
            (Self::Flatten(_), _) => Dual { value, derivative },
            (Self::Conv2d(_) | Self::GroupNorm(_) | Self::Residual(_) | Self::Linear(_), _) => {
                unreachable!("a direction has the layers of the network that it was made from")
            }
        }
    }
}

impl Conv2d {
    fn apply(&self, x: Tensor<2>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<2> {
        conv2d(x, weight, bias, Geometry::new(&self.spec, self.input))
    }
}

impl MaxPool2d {
    fn forward_dual(&self, value: Tensor<2>, derivative: Option<Tensor<2>>) -> Dual {
        let Some(derivative) = derivative else {
            let pooled = max_pool2d(value, Windows::new(self.window, self.input));
            return Dual { value: pooled, derivative: None };
        };
        let options = MaxPoolOptions::new([self.window; 2]);
        let (pooled, at) = max_pool2d_with_indices(to_images(value, self.input), options);
        let [batch, channels, height, width] = pooled.dims();
        let at = at.reshape([batch, channels, height * width]);
        let plane = self.input[1] * self.input[2];
        let picked = derivative.reshape([batch, channels, plane]).gather(2, at);
        let derivative = picked.reshape([batch, channels * height * width]);
        Dual { value: to_rows(pooled), derivative: Some(derivative) }
    }
}

impl GlobalAvgPool2d {
    fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        let [batch, width] = x.dims();
        let pooled = x.reshape([batch, self.channels, width / self.channels]).mean_dim(2);
        pooled.reshape([batch, self.channels])
    }
}

fn sum(moved: Tensor<2>, carried: Option<Tensor<2>>) -> Tensor<2> {
    match carried {
        Some(carried) => moved + carried,
        None => moved,
    }
}

fn to_images(rows: Tensor<2>, [channels, height, width]: [usize; 3]) -> Tensor<4> {
    let [batch, _] = rows.dims();
    rows.reshape([batch, channels, height, width])
}

fn to_rows(images: Tensor<4>) -> Tensor<2> {
    let [batch, channels, height, width] = images.dims();
    images.reshape([batch, channels * height * width])
}
