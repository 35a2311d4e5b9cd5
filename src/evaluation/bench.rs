//! Measures networks against the retrained ones.

use std::sync::Arc;

use super::{
    attack::Attack,
    data::Dataset,
    figure::{Figure, Figures},
    library::confidences,
    lira::Lira,
    training_set::next_class,
};
use crate::{
    domain::examples::Examples,
    nn::{
        network::Network,
        parameters::Parameters,
        prediction::{accuracy, log_probabilities, mean_divergence},
    },
};

/// What the networks of one case are measured on.
pub struct Bench {
    pub dataset: Arc<Dataset>,
    /// In the order of their deletion, with the labels that they were trained with.
    pub forgotten: Examples,
    /// Their rows in the data set.
    pub forgotten_rows: Vec<usize>,
    pub retained: Examples,
    pub is_mislabelled: bool,
    /// Rows: the data set's training samples, then its test samples.
    pub lira: Option<Arc<Lira>>,
    /// Whether distances between weights mean something.
    pub is_convex: bool,
}

/// What one network says about the bench's samples: natural-log probabilities, flattened.
pub struct Judged {
    forgotten: Vec<f32>,
    retained: Vec<f32>,
    test: Vec<f32>,
    weights: Option<Parameters>,
}

/// A network's figures, with its attacks' curves.
#[derive(Clone, Debug)]
pub struct Measured {
    pub figures: Figures,
    pub attack: Option<Attack>,
    pub lira: Option<Attack>,
}

impl Bench {
    pub fn judge(&self, network: &Network) -> Judged {
        Judged {
            forgotten: log_probabilities(network, &self.forgotten),
            retained: log_probabilities(network, &self.retained),
            test: log_probabilities(network, &self.dataset.test),
            weights: self.is_convex.then(|| network.parameters()),
        }
    }

    /// With the first `deleted` samples as the forgotten ones, against the retrained networks.
    pub fn measure(&self, judged: &Judged, retrained: &[&Judged], deleted: usize) -> Measured {
        let classes = self.dataset.classes.len();
        let test = &self.dataset.test;
        let labels = &self.forgotten.labels[..deleted];
        let forgotten = &judged.forgotten[..deleted * classes];
        let mut figures = Figures::new();
        let mut add = |figure: Figure, value: Option<f64>| {
            // An infinite divergence is none that could be averaged.
            if let Some(value) = value.filter(|value| value.is_finite()) {
                figures.insert(figure, value);
            }
        };
        add(Figure::AccuracyRetained, accuracy(&judged.retained, &self.retained.labels));
        add(Figure::AccuracyForgotten, accuracy(forgotten, labels));
        add(Figure::AccuracyTest, accuracy(&judged.test, &test.labels));

        let to_own = |other: &[f32], own: &[f32]| mean_divergence(other, own, classes);
        let over = |of: &dyn Fn(&Judged) -> Option<f64>| {
            mean(retrained.iter().filter_map(|other| of(other)))
        };
        add(
            Figure::DivergenceForgotten,
            over(&|other| to_own(&other.forgotten[..deleted * classes], forgotten)),
        );
        add(Figure::DivergenceRetained, over(&|other| to_own(&other.retained, &judged.retained)));
        add(Figure::DivergenceTest, over(&|other| to_own(&other.test, &judged.test)));

        let members = losses(forgotten, labels);
        let attack = Attack::of(&members, &losses(&judged.test, &test.labels));
        if let Some(attack) = &attack {
            add(Figure::AttackAuc, Some(attack.auc));
            add(Figure::AttackTpr, Some(attack.tpr_at_1_percent));
            add(Figure::AttackTprReversed, Some(attack.tpr_at_1_percent_reversed));
        }
        let lira = self.lira(judged, deleted);
        if let Some(lira) = &lira {
            add(Figure::LiraAuc, Some(lira.auc));
            add(Figure::LiraTpr, Some(lira.tpr_at_1_percent));
            add(Figure::LiraTprReversed, Some(lira.tpr_at_1_percent_reversed));
        }
        if let Some(weights) = &judged.weights {
            let distance = |other: &Judged| {
                let mut difference = weights.clone();
                difference.add_scaled(-1.0, other.weights.as_ref()?);
                Some(difference.norm())
            };
            add(Figure::ParameterDistance, over(&distance));
        }
        if self.is_mislabelled {
            let next = |label: &u32| next_class(*label, u32::try_from(classes).unwrap_or(1));
            let rows = self.forgotten_rows[..deleted].iter();
            let truth: Vec<u32> = rows.map(|row| self.dataset.train.labels[*row]).collect();
            let wrong: Vec<u32> = test.labels.iter().map(next).collect();
            add(Figure::TrueLabelForgotten, accuracy(forgotten, &truth));
            add(Figure::WrongLabelTest, accuracy(&judged.test, &wrong));
        }
        Measured { figures, attack, lira }
    }

    fn lira(&self, judged: &Judged, deleted: usize) -> Option<Attack> {
        let lira = self.lira.as_ref().filter(|_| !self.is_mislabelled)?;
        let classes = self.dataset.classes.len();
        let forgotten = &judged.forgotten[..deleted * classes];
        let members: Vec<f64> = confidences(forgotten, &self.forgotten.labels[..deleted])
            .into_iter()
            .zip(&self.forgotten_rows)
            .map(|(confidence, row)| lira.score(*row, confidence))
            .collect();
        let first_test_row = self.dataset.train.len();
        let others: Vec<f64> = confidences(&judged.test, &self.dataset.test.labels)
            .into_iter()
            .zip(first_test_row..)
            .map(|(confidence, row)| lira.score(row, confidence))
            .collect();
        Attack::of(&members, &others)
    }
}

/// The attacker's score: the loss, negative, so that what is well known scores high.
fn losses(log_probabilities: &[f32], labels: &[u32]) -> Vec<f64> {
    let classes = log_probabilities.len().checked_div(labels.len()).unwrap_or(0).max(1);
    let rows = log_probabilities.chunks_exact(classes).zip(labels);
    rows.map(|(row, label)| f64::from(row[*label as usize])).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{
        domain::{model::Recipe, watch::Unwatched},
        evaluation::{
            fixture::{digits, network},
            training_set::TrainingSet,
        },
        nn::training::train,
    };

    #[test]
    fn a_network_that_saw_the_samples_is_told_from_one_that_did_not() {
        let dataset = digits();
        let all = TrainingSet::all(dataset.clone());
        let rows: Vec<usize> = (0..60).collect();
        let spec = network(&dataset, 32);
        let trained = |set: &TrainingSet, seed| {
            let recipe = Recipe { epochs: 60, learning_rate: 1e-2, seed, ..Recipe::default() };
            train(&spec, &set.examples(), &recipe, &Device::flex(), &Unwatched).unwrap()
        };
        let without = all.without(&rows);
        let bench = Bench {
            forgotten: all.select(&rows),
            forgotten_rows: rows,
            retained: without.examples(),
            is_mislabelled: false,
            lira: None,
            is_convex: true,
            dataset,
        };
        let retrained = [1, 2].map(|seed| bench.judge(&trained(&without, seed)));
        let kept = bench.measure(&bench.judge(&trained(&all, 3)), &retrained.each_ref(), 60);
        let floor = bench.measure(&retrained[0], &[&retrained[1]], 60);
        for figure in [Figure::AccuracyForgotten, Figure::AttackAuc] {
            assert!(kept.figures[&figure] > floor.figures[&figure], "{figure:?}");
        }
        let by = Figure::DivergenceForgotten;
        assert!(kept.figures[&by] > 1.2 * floor.figures[&by], "{kept:?} {floor:?}");
        let itself = bench.measure(&retrained[0], &[&retrained[0]], 60).figures[&by];
        assert!(itself.abs() < 1e-12, "{itself}");
        assert!(floor.figures[&Figure::ParameterDistance] > 0.0);
        assert!(!floor.figures.contains_key(&Figure::WrongLabelTest));
        assert!(!floor.figures.contains_key(&Figure::LiraAuc));
        let part = bench.measure(&retrained[0], &[&retrained[1]], 10);
        let moved = |by: Figure| (part.figures[&by] - floor.figures[&by]).abs();
        assert!(moved(Figure::AccuracyTest) < 1e-12 && moved(by) > 1e-9);
    }
}
