//! One version of a model in memory, ready to answer.

use std::time::Duration;

use crate::{
    dataset::encoder::Encoder,
    domain::{identity::Digest, model::Model},
};

/// What answers: weights that only read.
pub trait Predict: Send + Sync {
    /// Probabilities `[rows, classes]` for encoded rows, `[rows, width]` flattened.
    fn probabilities(&self, rows: Vec<f32>) -> Vec<f32>;

    /// About how long so many values, among others, keep a thread.
    fn duration(&self, values: usize) -> Duration;
}

pub struct ServedVersion {
    pub model: Model,
    pub epoch: u64,
    /// SHA-256 of the weights file.
    pub weights: Digest,
    /// Turns features into encoded rows; knows the classes in the order of the probabilities.
    pub encoder: Encoder,
    pub network: Box<dyn Predict>,
}

impl ServedVersion {
    /// Class labels in the order of the probabilities.
    pub fn classes(&self) -> &[String] {
        self.encoder.classes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use uuid::Uuid;

    use super::{Digest, Duration, Encoder, Model, Predict, ServedVersion};
    use crate::domain::{
        features::Features,
        model::{Policy, Recipe},
        sample::{Split, StoredSample},
        schema::{InputSchema, TensorSchema},
        timestamp::Timestamp,
    };

    /// Says of each row of two numbers that it is of class `a` if the first is greater.
    struct Greater;

    impl Predict for Greater {
        fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
            assert!(!rows.contains(&666.0), "the number of the beast is not answered");
            let (pairs, _) = rows.as_chunks::<2>();
            pairs.iter().flat_map(|[a, b]| if a > b { [1.0, 0.0] } else { [0.0, 1.0] }).collect()
        }

        fn duration(&self, _: usize) -> Duration {
            Duration::ZERO
        }
    }

    /// A model over two numbers with classes `a` and `b`.
    pub fn version(epoch: u64) -> ServedVersion {
        let schema = InputSchema::Tensor(TensorSchema { shape: vec![2], scale: 1 });
        let sample = |label: &str| StoredSample {
            id: Uuid::nil(),
            ordinal: 0,
            split: Split::Train,
            features: Features::Floats(vec![0.5, 0.5]),
            label: label.into(),
        };
        let model = Model {
            id: Uuid::from_u128(7),
            name: "pairs".parse().unwrap(),
            architecture: serde_json::from_str(r#"{"preset": "logistic"}"#).unwrap(),
            schema: schema.clone(),
            recipe: Recipe::default(),
            policy: Policy::default(),
            created_at: Timestamp::from_micros(0),
        };
        ServedVersion {
            model,
            epoch,
            weights: Digest::of(&epoch.to_le_bytes()),
            encoder: Encoder::fit(&schema, &[sample("a"), sample("b")]).unwrap(),
            network: Box::new(Greater),
        }
    }
}
