//! Measures networks against the retrained ones.

use std::{ops::Range, sync::Arc};

use super::{
    attack::Attack,
    data::Dataset,
    figure::{self, Figure, Figures},
    library::confidences,
    lira::Lira,
    sisa::mean_log_probabilities,
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
    /// That all deleted samples are of, where that is how they were drawn.
    pub class: Option<u32>,
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

/// A network's figures, with its attacks' true-positive rates on `attack::grid`.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub figures: Figures,
    pub attack_curve: Option<Vec<f64>>,
    pub lira_curve: Option<Vec<f64>>,
}

impl Bench {
    pub fn judge(&self, network: &Network) -> Judged {
        let weights = self.is_convex.then(|| network.parameters());
        Judged { weights, ..self.judge_by(|examples| log_probabilities(network, examples)) }
    }

    /// By their mean probabilities.
    pub fn judge_ensemble(&self, networks: &[Network]) -> Judged {
        self.judge_by(|examples| mean_log_probabilities(networks, examples))
    }

    fn judge_by(&self, predicted: impl Fn(&Examples) -> Vec<f32>) -> Judged {
        Judged {
            forgotten: predicted(&self.forgotten),
            retained: predicted(&self.retained),
            test: predicted(&self.dataset.test),
            weights: None,
        }
    }

    /// With these of the deleted samples as the forgotten ones, against the retrained networks.
    pub fn measure(&self, judged: &Judged, retrained: &[&Judged], span: &Range<usize>) -> Measured {
        let classes = self.dataset.classes.len();
        let test = &self.dataset.test;
        let labels = &self.forgotten.labels[span.clone()];
        let places = span.start * classes..span.end * classes;
        let forgotten = &judged.forgotten[places.clone()];
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
            over(&|other| to_own(&other.forgotten[places.clone()], forgotten)),
        );
        add(Figure::DivergenceRetained, over(&|other| to_own(&other.retained, &judged.retained)));
        add(Figure::DivergenceTest, over(&|other| to_own(&other.test, &judged.test)));

        let attack = self.attack(judged, forgotten, labels);
        if let Some(attack) = &attack {
            add(Figure::AttackAuc, Some(attack.auc));
            add(Figure::AttackTpr, Some(attack.tpr_at_1_percent));
            add(Figure::AttackTprReversed, Some(attack.tpr_at_1_percent_reversed));
        }
        let lira = self.lira(judged, forgotten, span);
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
            let rows = self.forgotten_rows[span.clone()].iter();
            let truth: Vec<u32> = rows.map(|row| self.dataset.train.labels[*row]).collect();
            add(Figure::TrueLabelForgotten, accuracy(forgotten, &truth));
            add(Figure::WrongLabelTest, accuracy(&judged.test, &self.wrong_labels()));
        }
        let curve = |attack: Option<Attack>| attack.map(|attack| attack.curve);
        Measured { figures, attack_curve: curve(attack), lira_curve: curve(lira) }
    }

    /// Test samples that are like the deleted ones in all but membership: of the same class where
    /// one class is deleted, mislabelled in the same way where those are.
    fn attack(&self, judged: &Judged, forgotten: &[f32], labels: &[u32]) -> Option<Attack> {
        let others = if self.is_mislabelled {
            losses(&judged.test, &self.wrong_labels())
        } else {
            losses(&judged.test, &self.dataset.test.labels)
        };
        Attack::of(&losses(forgotten, labels), &self.like_deleted(others))
    }

    fn lira(&self, judged: &Judged, forgotten: &[f32], span: &Range<usize>) -> Option<Attack> {
        let lira = self.lira.as_ref().filter(|_| !self.is_mislabelled)?;
        let members: Vec<f64> = confidences(forgotten, &self.forgotten.labels[span.clone()])
            .into_iter()
            .zip(&self.forgotten_rows[span.clone()])
            .map(|(confidence, row)| lira.score(*row, confidence))
            .collect();
        let first_test_row = self.dataset.train.len();
        let others: Vec<f64> = confidences(&judged.test, &self.dataset.test.labels)
            .into_iter()
            .zip(first_test_row..)
            .map(|(confidence, row)| lira.score(row, confidence))
            .collect();
        Attack::of(&members, &self.like_deleted(others))
    }

    /// Of numbers for each test sample those of the deleted class, or all.
    fn like_deleted(&self, values: Vec<f64>) -> Vec<f64> {
        let Some(class) = self.class.filter(|_| !self.is_mislabelled) else { return values };
        let of_class = |(value, label): (f64, &u32)| (*label == class).then_some(value);
        values.into_iter().zip(&self.dataset.test.labels).filter_map(of_class).collect()
    }

    /// What test samples would be called had they been mislabelled.
    fn wrong_labels(&self) -> Vec<u32> {
        let classes = u32::try_from(self.dataset.classes.len()).unwrap_or(u32::MAX);
        self.dataset.test.labels.iter().map(|label| next_class(*label, classes)).collect()
    }
}

impl Measured {
    /// The mean of every figure and curve that all have.
    pub fn mean(all: &[Self]) -> Self {
        let figures: Vec<Figures> = all.iter().map(|one| one.figures.clone()).collect();
        Self {
            figures: figure::mean(&figures),
            attack_curve: mean_curve(all.iter().map(|one| one.attack_curve.as_deref())),
            lira_curve: mean_curve(all.iter().map(|one| one.lira_curve.as_deref())),
        }
    }
}

/// The mean true-positive rate at each false-positive rate; `None` unless all have one.
pub fn mean_curve<'a>(curves: impl Iterator<Item = Option<&'a [f64]>>) -> Option<Vec<f64>> {
    let curves: Vec<&[f64]> = curves.collect::<Option<_>>()?;
    let points = curves.first()?.len();
    let mean = |at: usize| curves.iter().map(|curve| curve[at]).sum::<f64>() / curves.len() as f64;
    Some((0..points).map(mean).collect())
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
            class: None,
            is_mislabelled: false,
            lira: None,
            is_convex: true,
            dataset,
        };
        let retrained = [1, 2].map(|seed| bench.judge(&trained(&without, seed)));
        let kept = bench.measure(&bench.judge(&trained(&all, 3)), &retrained.each_ref(), &(0..60));
        let floor = bench.measure(&retrained[0], &[&retrained[1]], &(0..60));
        for figure in [Figure::AccuracyForgotten, Figure::AttackAuc] {
            assert!(kept.figures[&figure] > floor.figures[&figure], "{figure:?}");
        }
        let by = Figure::DivergenceForgotten;
        assert!(kept.figures[&by] > 1.2 * floor.figures[&by], "{kept:?} {floor:?}");
        let itself = bench.measure(&retrained[0], &[&retrained[0]], &(0..60)).figures[&by];
        assert!(itself.abs() < 1e-12, "{itself}");
        assert!(floor.figures[&Figure::ParameterDistance] > 0.0);
        assert!(!floor.figures.contains_key(&Figure::WrongLabelTest));
        assert!(!floor.figures.contains_key(&Figure::LiraAuc));
        let part = bench.measure(&retrained[0], &[&retrained[1]], &(0..10));
        let moved = |by: Figure| (part.figures[&by] - floor.figures[&by]).abs();
        assert!(moved(Figure::AccuracyTest) < 1e-12 && moved(by) > 1e-9);
    }
}
