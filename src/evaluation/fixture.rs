//! What several tests need.

use std::sync::Arc;

use super::{data::Dataset, suite::DatasetSpec};
use crate::domain::network::{LayerSpec, NetworkSpec};

/// One hidden layer over images, ten classes.
pub fn network(dataset: &Dataset, hidden: usize) -> NetworkSpec {
    let hidden = LayerSpec::Linear(hidden);
    let layers = vec![LayerSpec::Flatten, hidden, LayerSpec::Relu, LayerSpec::Linear(10)];
    NetworkSpec { input: dataset.train.shape.clone(), layers }
}

/// 300 of the bundled digits to train on, 60 held out, 100 to test on.
pub fn digits() -> Arc<Dataset> {
    let spec = DatasetSpec {
        name: "digits".into(),
        bundled: Some("digits".into()),
        train: None,
        test: None,
        label: "label".into(),
        subject: None,
        train_rows: Some(300),
        holdout_rows: 60,
        test_rows: 100,
        seed: 0,
    };
    Arc::new(Dataset::load(&spec, None, None).unwrap())
}
