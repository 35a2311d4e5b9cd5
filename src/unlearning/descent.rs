//! Adam from fresh along a loss that a method sets up step by step.

use burn::module::Module as _;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::{Task, UnlearningError};
use crate::domain::watch::{Progress, Watch};
use crate::nn::{adam::Adam, network::Network};

/// The network, plain again, after `steps` steps; `loss` gets the step's number and the network
/// as it is then, recording, and gives the loss `[1]` to go down.
pub(super) fn descend(
    task: &Task<'_>,
    steps: u32,
    learning_rate: impl Fn(u32) -> f64,
    watch: &dyn Watch,
    mut loss: impl FnMut(u32, &Network) -> Tensor<1>,
) -> Result<Network, UnlearningError> {
    let mut recording = task.network.clone().train();
    let mut optimizer = Adam::default();
    for step in 0..steps {
        if watch.is_cancelled() {
            return Err(UnlearningError::Cancelled);
        }
        let gradients = loss(step, &recording).backward();
        let gradients = GradientsParams::from_grads(gradients, &recording);
        recording = optimizer.step(learning_rate(step), recording, gradients);
        let (done, total) = (u64::from(step) + 1, u64::from(steps));
        watch.progressed(&Progress { stage: "unlearning".to_owned(), done, total });
    }
    let network = recording.valid();
    if network.parameters().is_finite() { Ok(network) } else { Err(UnlearningError::NotFinite) }
}
