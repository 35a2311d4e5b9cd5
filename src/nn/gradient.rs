//! Gradients of the mean cross entropy.

use burn::module::{Module as _, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData, activation};

use super::network::{Network, read};
use super::parameters::Parameters;
use crate::domain::examples::Examples;

/// Rows with what a network should say about them, on a device.
pub struct Batch {
    /// `[batch, width]`
    pub inputs: Tensor<2>,
    /// Probabilities `[batch, classes]`.
    pub targets: Tensor<2>,
}

impl Batch {
    /// The chosen rows with their labels as targets.
    ///
    /// # Panics
    /// When a row does not exist or a label is no class.
    pub fn of_labels(examples: &Examples, rows: &[usize], classes: usize, device: &Device) -> Self {
        let mut targets = vec![0.0; rows.len() * classes];
        for (target, row) in targets.chunks_exact_mut(classes).zip(rows) {
            target[examples.labels[*row] as usize] = 1.0;
        }
        Self::new(examples, rows, targets, classes, device)
    }

    /// The chosen rows with the distributions that `log_probabilities`, `[all rows, classes]`,
    /// gives them as targets.
    ///
    /// # Panics
    /// When a row does not exist.
    pub fn of_log_probabilities(
        examples: &Examples,
        log_probabilities: &[f32],
        rows: &[usize],
        classes: usize,
        device: &Device,
    ) -> Self {
        let targets = rows
            .iter()
            .flat_map(|row| &log_probabilities[row * classes..(row + 1) * classes])
            .map(|log_probability| log_probability.exp())
            .collect();
        Self::new(examples, rows, targets, classes, device)
    }

    fn new(
        examples: &Examples,
        rows: &[usize],
        targets: Vec<f32>,
        classes: usize,
        device: &Device,
    ) -> Self {
        let inputs = TensorData::new(examples.gather(rows), [rows.len(), examples.width()]);
        let targets = TensorData::new(targets, [rows.len(), classes]);
        Self {
            inputs: Tensor::from_data(inputs, device),
            targets: Tensor::from_data(targets, device),
        }
    }

    /// Mean cross entropy of `network`, which records gradients, in nats: `[1]`.
    pub fn loss(&self, network: &Network) -> Tensor<1> {
        mean_cross_entropy(network.forward(self.inputs.clone()), self.targets.clone())
    }

    /// As [`Self::loss`], with the natural-log probabilities `[batch, classes]` that it comes from.
    pub fn loss_and_predictions(&self, network: &Network) -> (Tensor<1>, Vec<f32>) {
        let logits = network.forward(self.inputs.clone());
        let predictions = read(activation::log_softmax(logits.clone().inner(), 1));
        (mean_cross_entropy(logits, self.targets.clone()), predictions)
    }
}

/// A loss with its gradient.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// In nats.
    pub loss: f64,
    pub parameters: Parameters,
}

/// The gradient of the mean cross entropy over `batch`, which lies on `network`'s device made
/// recording by [`Device::autodiff`].
pub fn mean_cross_entropy_gradient(network: &Network, batch: &Batch) -> Gradient {
    let recording = network.clone().train();
    let loss = batch.loss(&recording);
    let value = scalar(&loss);
    let gradients = GradientsParams::from_grads(loss.backward(), &recording);
    Gradient { loss: value, parameters: to_parameters(&recording, gradients) }
}

/// Mean over the batch of `-sum(target * log softmax(logits))`, in nats: `[1]`.
pub(super) fn mean_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let [batch, _] = logits.dims();
    (activation::log_softmax(logits, 1) * targets).sum() / -(batch as f32)
}

/// The number that a tensor `[1]` holds.
pub fn scalar(tensor: &Tensor<1>) -> f64 {
    f64::from(read(tensor.clone()).first().copied().unwrap_or(f32::NAN))
}

/// The gradients of `network`'s weights in host memory; zero where it has none.
pub fn to_parameters(network: &Network, gradients: GradientsParams) -> Parameters {
    struct Reader(GradientsParams, Vec<Vec<f32>>);
    impl ModuleVisitor for Reader {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = match self.0.remove::<D>(param.id) {
                Some(gradient) => read(gradient),
                None => vec![0.0; param.lazy_shape().num_elements()],
            };
            self.1.push(values);
        }
    }
    let mut reader = Reader(gradients, Vec::new());
    network.visit(&mut reader);
    network.named(reader.1)
}
