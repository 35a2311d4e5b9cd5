//! What a network that never saw the forgotten samples would say of them.
//!
//! Two witnesses are at hand, and each errs in a way of its own. The network at the end of its
//! training knows all other samples, but has seen these. The out-of-fold prediction comes from a
//! model that has not, but that saw less of everything and has chances of its own. Retained and
//! hold-out samples say how far each is off: of samples with the same out-of-fold confidence, the
//! retained ones show what training adds that includes the sample itself, the hold-out ones what
//! it adds without.

use super::Task;
use super::evidence::confidence;
use crate::domain::examples::Examples;

/// For each forgotten sample the confidence in its label, and how the rest is shared out.
pub struct Counterfactual {
    /// `log p - log(1 - p)` of the label.
    confidences: Vec<f64>,
    /// Natural-log probabilities of the classes given that it is not the label, `[rows, classes]`;
    /// the label's own is minus infinity.
    others: Vec<f64>,
    labels: Vec<usize>,
    classes: usize,
}

/// With fewer hold-out samples there is no saying what training adds.
const HOLDOUT_MIN: usize = 30;

/// Standard deviations.
const OWN_MAX: f64 = 0.5;

impl Counterfactual {
    /// `own_share` of what sets a forgotten sample apart from retained ones of the same confidence
    /// is taken for the network's own chance, which a retraining would have as well; at most
    /// [`OWN_MAX`] deviations of hold-out samples of that confidence, for what exceeds that is no
    /// chance.
    pub fn of(task: &Task<'_>, own_share: f64) -> Self {
        let classes = task.network.classes();
        let labels: Vec<usize> = task.forgotten.labels.iter().map(|y| *y as usize).collect();
        let out_of_fold = confidences(task.forgotten, task.forgotten_out_of_fold, classes);
        let anchor = confidences(task.forgotten, task.forgotten_anchor, classes);
        let with =
            Added::of(task.retained, task.retained_out_of_fold, task.retained_anchor, classes);
        let without =
            Added::of(task.holdout, task.holdout_out_of_fold, task.holdout_anchor, classes);
        let measured = without.at.len() >= HOLDOUT_MIN && !with.at.is_empty();
        let expected = |(out_of_fold, anchor): (&f64, &f64)| {
            if !measured {
                return *out_of_fold;
            }
            let neighbours = HOLDOUT_MIN.max(without.at.len() / 20);
            let (seen, unseen) =
                (with.near(*out_of_fold, 2 * neighbours), without.near(*out_of_fold, neighbours));
            let own = own_share * (anchor - out_of_fold - seen.mean);
            let own_max = OWN_MAX * unseen.deviation;
            out_of_fold + unseen.mean + own.clamp(-own_max, own_max)
        };
        let confidences = out_of_fold.iter().zip(&anchor).map(expected).collect();
        let rows = task
            .forgotten_out_of_fold
            .chunks_exact(classes)
            .zip(task.forgotten_anchor.chunks_exact(classes));
        let others =
            rows.zip(&labels).flat_map(|((a, b), label)| mean_of_others(a, b, *label)).collect();
        Self { confidences, others, labels, classes }
    }

    /// Natural-log probabilities `[rows, classes]` with every confidence lowered by `lowered`.
    #[expect(clippy::cast_possible_truncation, reason = "predictions have 32 bits")]
    pub fn log_probabilities(&self, rows: &[usize], lowered: f64) -> Vec<f32> {
        let mut predicted = Vec::with_capacity(rows.len() * self.classes);
        for row in rows {
            let confidence = self.confidences[*row] - lowered;
            let (label, not_label) = (-softplus(-confidence), -softplus(confidence));
            let others = &self.others[row * self.classes..][..self.classes];
            predicted.extend(others.iter().enumerate().map(|(class, other)| {
                let value = if class == self.labels[*row] { label } else { not_label + other };
                value as f32
            }));
        }
        predicted
    }

    /// By how much `predicted`, `[rows, classes]`, is more confident of the rows' labels than it
    /// should be: the mean, in which a row counts by `p (1 - p)` of what it should be, the slope of
    /// a probability along its confidence. Where that is near 0 or 1, confidences wander by whole
    /// units and nobody sees it.
    pub fn excess(&self, rows: &[usize], predicted: &[f32]) -> f64 {
        let (mut sum, mut weights) = (0.0, f64::MIN_POSITIVE);
        for (row, predicted) in rows.iter().zip(predicted.chunks_exact(self.classes)) {
            let expected = self.confidences[*row];
            let weight = (-softplus(expected) - softplus(-expected)).exp();
            sum += weight * (confidence(predicted, self.labels[*row]) - expected);
            weights += weight;
        }
        sum / weights
    }
}

/// What the network at the end of its training adds to the out-of-fold confidence, along it.
struct Added {
    /// Out-of-fold confidences, ascending.
    at: Vec<f64>,
    /// Of what is added and of its square, over the first samples; one more than `at`.
    sums: Vec<[f64; 2]>,
}

/// Of what is added to some samples.
struct Spread {
    mean: f64,
    /// The standard deviation.
    deviation: f64,
}

impl Added {
    fn of(examples: &Examples, out_of_fold: &[f32], anchor: &[f32], classes: usize) -> Self {
        let at = confidences(examples, out_of_fold, classes);
        let anchor = confidences(examples, anchor, classes);
        Self::along(at.iter().zip(&anchor).map(|(at, anchor)| (*at, anchor - at)).collect())
    }

    /// Of pairs of an out-of-fold confidence and what is added to it.
    fn along(mut pairs: Vec<(f64, f64)>) -> Self {
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sums = vec![[0.0; 2]];
        sums.extend(pairs.iter().scan([0.0; 2], |[sum, squares], (_, added)| {
            (*sum, *squares) = (*sum + added, *squares + added * added);
            Some([*sum, *squares])
        }));
        Self { at: pairs.into_iter().map(|(at, _)| at).collect(), sums }
    }

    /// Over the `count` samples around that confidence, half on either side where there are as
    /// many.
    fn near(&self, confidence: f64, count: usize) -> Spread {
        let count = count.min(self.at.len());
        let place = self.at.partition_point(|at| *at < confidence);
        let first = place.saturating_sub(count / 2).min(self.at.len() - count);
        let mean_of = |which: usize| {
            (self.sums[first + count][which] - self.sums[first][which]) / count as f64
        };
        let (mean, square) = (mean_of(0), mean_of(1));
        Spread { mean, deviation: (square - mean * mean).max(0.0).sqrt() }
    }
}

/// Of what `log_probabilities`, `[rows, classes]`, says of each example's label.
pub(super) fn confidences(
    examples: &Examples,
    log_probabilities: &[f32],
    classes: usize,
) -> Vec<f64> {
    let rows = log_probabilities.chunks_exact(classes).zip(&examples.labels);
    rows.map(|(row, label)| confidence(row, *label as usize)).collect()
}

/// The mean of two distributions over the classes other than `label`, as logarithms.
fn mean_of_others(a: &[f32], b: &[f32], label: usize) -> Vec<f64> {
    let share = |row: &[f32]| -> Vec<f64> {
        let weight = |(class, value): (usize, &f32)| {
            // What a float cannot hold any more stays possible.
            if class == label {
                0.0
            } else {
                f64::from(*value).exp().max(f64::from(f32::MIN_POSITIVE))
            }
        };
        let weights: Vec<f64> = row.iter().enumerate().map(weight).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    };
    share(a).into_iter().zip(share(b)).map(|(a, b)| f64::midpoint(a, b).ln()).collect()
}

/// `ln(1 + e^x)`
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::unlearning::fixture::World;

    #[test]
    fn a_spread_is_over_the_nearest_and_never_runs_out() {
        let added = Added::along((0..6).rev().map(f64::from).map(|at| (at, at)).collect());
        for (confidence, count, mean, deviation) in [
            (-9.0, 3, 1.0, (2.0_f64 / 3.0).sqrt()),
            (3.0, 2, 2.5, 0.5),
            (2.5, 2, 2.5, 0.5),
            (9.0, 3, 4.0, (2.0_f64 / 3.0).sqrt()),
            (3.0, 99, 2.5, (35.0_f64 / 12.0).sqrt()),
            (3.0, 1, 3.0, 0.0),
        ] {
            let found = added.near(confidence, count);
            assert!((found.mean - mean).abs() < 1e-12, "{} at {confidence}", found.mean);
            assert!((found.deviation - deviation).abs() < 1e-9, "{}", found.deviation);
        }
    }

    /// A sample that stands out further than chance alone makes any hold-out sample stand out was
    /// learned by heart, and the target does not follow it.
    #[test]
    fn what_exceeds_chance_is_memory() {
        let world = World::new(300, 300, 20, &Device::flex());
        let anchored = |by: f64| {
            let anchor = more_confident(&world.forgotten, &world.forgotten_out_of_fold, by);
            let task = Task { forgotten_anchor: &anchor, ..world.task() };
            Counterfactual::of(&task, 0.75).confidences
        };
        let (far, further) = (anchored(40.0), anchored(60.0));
        for (far, further) in far.iter().zip(&further) {
            assert!((far - further).abs() < 1e-9, "{far} {further}");
        }
    }

    #[test]
    fn distributions_are_whole_and_as_confident_as_expected() {
        let world = World::new(120, 60, 12, &Device::flex());
        let expected = Counterfactual::of(&world.task(), 0.75);
        let rows: Vec<usize> = (0..12).collect();
        for lowered in [0.0, 1.5] {
            let predicted = expected.log_probabilities(&rows, lowered);
            for row in predicted.chunks_exact(10) {
                let sum: f64 = row.iter().map(|value| f64::from(*value).exp()).sum();
                assert!((sum - 1.0).abs() < 1e-5, "{sum}");
            }
            assert!((expected.excess(&rows, &predicted) + lowered).abs() < 1e-3);
        }
        let seen = expected.excess(&rows, &world.forgotten_anchor);
        assert!(seen > 0.5, "training adds confidence: {seen}");
    }

    #[test]
    fn what_nobody_sees_is_no_excess() {
        let of = |first, second| Counterfactual {
            confidences: vec![first, second],
            others: vec![f64::NEG_INFINITY, 0.0, f64::NEG_INFINITY, 0.0],
            labels: vec![0, 0],
            classes: 2,
        };
        let excess = |rows: &[usize], first, second| {
            of(0.0, 12.0).excess(rows, &of(first, second).log_probabilities(rows, 0.0))
        };
        assert!((excess(&[0, 1], 0.5, 8.0) - 0.5).abs() < 1e-3);
        assert!(excess(&[0, 1], 0.0, 8.0).abs() < 1e-3);
        assert!(excess(&[1], 0.0, 8.0) < -3.9, "alone it is all there is");
    }

    #[test]
    fn without_a_holdout_the_out_of_fold_confidence_stands() {
        let world = World::new(60, 0, 5, &Device::flex());
        let expected = Counterfactual::of(&world.task(), 0.75);
        let excess = expected.excess(&[0, 1, 2, 3, 4], &world.forgotten_out_of_fold);
        assert!(excess.abs() < 1e-6, "{excess}");
    }

    #[expect(clippy::cast_possible_truncation, reason = "predictions have 32 bits")]
    fn more_confident(examples: &Examples, predicted: &[f32], by: f64) -> Vec<f32> {
        let rows = examples.labels.iter().zip(predicted.chunks_exact(10));
        rows.flat_map(|(label, row)| {
            let label = *label as usize;
            let confidence = confidence(row, label) + by;
            let mut row: Vec<f64> = mean_of_others(row, row, label)
                .into_iter()
                .map(|other| other - softplus(confidence))
                .collect();
            row[label] = -softplus(-confidence);
            row.into_iter().map(|value| value as f32)
        })
        .collect()
    }

    /// Memory that is the same for all is found, whatever the samples' confidence.
    #[test]
    fn takes_away_what_only_seen_samples_have() {
        let world = World::new(300, 300, 20, &Device::flex());
        // Every network adds 0.5 to the out-of-fold confidence, and 2 more to what it has seen.
        let anchors = [
            more_confident(&world.forgotten, &world.forgotten_out_of_fold, 2.5),
            more_confident(&world.retained, &world.retained_out_of_fold, 2.5),
            more_confident(&world.holdout, &world.holdout_out_of_fold, 0.5),
        ];
        let task = Task {
            forgotten_anchor: &anchors[0],
            retained_anchor: &anchors[1],
            holdout_anchor: &anchors[2],
            ..world.task()
        };
        let expected = Counterfactual::of(&task, 0.75);
        for row in 0..20 {
            let found = expected.excess(&[row], &anchors[0][row * 10..][..10]);
            assert!((found - 2.0).abs() < 0.02, "{found}");
        }
    }
}
