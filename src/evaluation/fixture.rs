//! What several tests need.

use std::sync::Arc;

use serde_json::json;

use super::{
    case::Case,
    data::Dataset,
    suite::{DatasetSpec, DeletionSpec, Draw, NetworkEntry},
};
use crate::{
    domain::network::{LayerSpec, NetworkSpec},
    nn::device::DeviceKind,
};

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

/// A network that is to forget three of the digits.
pub fn case() -> Case {
    let dataset = digits();
    Case {
        network: NetworkEntry {
            name: "mlp".into(),
            architecture: serde_json::from_value(json!({"preset": "mlp"})).unwrap(),
            recipe: serde_json::from_value(json!({})).unwrap(),
            perturbation: None,
        },
        spec: network(&dataset, 8),
        deletion: DeletionSpec {
            name: "three".into(),
            draw: Draw::Random,
            rows: Some(3),
            share: None,
            requests: 1,
            alone: false,
        },
        seed: 4,
        retrainings: 2,
        reference_models: 4,
        retained_measured_max: 100,
        methods: Vec::new(),
        device: DeviceKind::Flex,
        dataset,
    }
}
