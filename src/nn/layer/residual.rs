//! What two branches make of the same input, added up (He et al. 2015, arXiv 1512.03385).

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Dual, Layer, forward, forward_dual};

#[derive(Module, Debug)]
pub(in crate::nn) struct Residual {
    pub body: Vec<Layer>,
    /// Gives its input as it is when there is none.
    pub shortcut: Vec<Layer>,
}

impl Residual {
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        forward(&self.body, x.clone()) + forward(&self.shortcut, x)
    }

    pub fn forward_dual(&self, towards: &Self, x: Dual) -> Dual {
        let body = forward_dual(&self.body, &towards.body, x.clone());
        let shortcut = forward_dual(&self.shortcut, &towards.shortcut, x);
        let derivative = match (body.derivative, shortcut.derivative) {
            (Some(body), Some(shortcut)) => Some(body + shortcut),
            (body, shortcut) => body.or(shortcut),
        };
        Dual { value: body.value + shortcut.value, derivative }
    }
}
