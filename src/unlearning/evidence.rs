//! What can be measured of one update, even of one sample: whether the forgotten samples now look
//! like samples that were never there, and what the network lost.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Task;
use super::rank_test::compare;
use super::selection::Selection;
use crate::domain::examples::Examples;
use crate::nn::{
    network::Network,
    prediction::{accuracy, log_probabilities, mean_cross_entropy, mean_divergence},
};

/// Measurements of one update. Figures are absent where nothing was there to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// Forgotten samples.
    pub samples: u64,
    /// Hold-out samples that they were compared with.
    pub holdout: u64,
    pub p_values: Option<PValues>,
    /// Two-sided Mann-Whitney test of the forgotten samples' `d` against the hold-out's.
    pub rank_test_p: Option<f64>,
    /// How often a forgotten sample's `d` exceeds a hold-out sample's: 0.5 when they look alike,
    /// more when the network still remembers, less when it forgot too much.
    pub rank_share_above: Option<f64>,
    pub verdict: Verdict,
    /// Share of these hold-out samples whose label the last exactly trained version predicted; absent in
    /// evidence of before it was measured.
    #[serde(default)]
    pub holdout_accuracy_exact: Option<f64>,
    /// Share of them whose label is predicted.
    pub holdout_accuracy_before: Option<f64>,
    pub holdout_accuracy_after: Option<f64>,
    /// Mean cross entropy on the hold-out set, in nats.
    pub holdout_loss_before: Option<f64>,
    pub holdout_loss_after: Option<f64>,
    /// How the samples differ from a random draw; absent in evidence of before it was measured.
    #[serde(default)]
    pub selection: Option<Selection>,
    /// Mean KL divergence from the network before to the network after, in nats, on the hold-out
    /// samples, or on the retained ones where there are none.
    pub drift: Option<f64>,
}

/// What the comparison of forgotten and never-seen samples shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Enough samples, and nothing sets them apart from samples that were never there.
    Passed,
    /// They stand out from samples that were never there.
    Failed,
    /// Too few samples, or too weak a sign either way.
    Inconclusive,
}

/// Conformal p-values, one for each forgotten sample: how often a hold-out sample is at least as
/// extreme, two-sided. Uniform when the sample looks never seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PValues {
    pub min: f64,
    pub median: f64,
    /// Share below 0.05.
    pub below_0_05: f64,
}

/// Below this p-value the rank test speaks against the update.
pub const FAILED_BELOW: f64 = 0.001;

/// From this p-value on, and with enough samples, the update passes.
const PASSED_FROM: f64 = 0.05;

/// Fewer samples than this, on either side, never pass.
const SAMPLES_MIN: usize = 30;

/// Measures an update of `task` that gave `updated`.
///
/// For a row x with label y, `d(x) = phi(updated) - phi(out-of-fold)`, where
/// `phi = log p_y - log(1 - p_y)`. If the forgetting worked, the forgotten rows' `d` is a draw
/// from the hold-out's.
pub fn measure(task: &Task<'_>, updated: &Network) -> Evidence {
    let classes = task.network.classes();
    let before = log_probabilities(task.network, task.holdout);
    let after = log_probabilities(updated, task.holdout);
    let forgotten_after = log_probabilities(updated, task.forgotten);
    let forgotten =
        differences(task.forgotten, &forgotten_after, task.forgotten_out_of_fold, classes);
    let holdout = differences(task.holdout, &after, task.holdout_out_of_fold, classes);
    let drift = if task.holdout.is_empty() {
        let before = log_probabilities(task.network, task.retained);
        mean_divergence(&before, &log_probabilities(updated, task.retained), classes)
    } else {
        mean_divergence(&before, &after, classes)
    };
    let test = compare(&forgotten, &holdout);
    let labels = &task.holdout.labels;
    Evidence {
        samples: forgotten.len() as u64,
        holdout: holdout.len() as u64,
        p_values: p_values(&forgotten, &holdout),
        rank_test_p: test.map(|test| test.p),
        rank_share_above: test.map(|test| test.share_above),
        verdict: judge(forgotten.len(), holdout.len(), test.map(|test| test.p)),
        holdout_accuracy_exact: accuracy(task.holdout_anchor, labels),
        holdout_accuracy_before: accuracy(&before, labels),
        holdout_accuracy_after: accuracy(&after, labels),
        holdout_loss_before: mean_cross_entropy(&before, labels),
        holdout_loss_after: mean_cross_entropy(&after, labels),
        selection: Some(Selection::of(task)),
        drift,
    }
}

fn judge(samples: usize, holdout: usize, p: Option<f64>) -> Verdict {
    match p {
        Some(p) if p < FAILED_BELOW => Verdict::Failed,
        Some(p) if p >= PASSED_FROM && samples.min(holdout) >= SAMPLES_MIN => Verdict::Passed,
        _ => Verdict::Inconclusive,
    }
}

fn differences(
    examples: &Examples,
    network: &[f32],
    out_of_fold: &[f32],
    classes: usize,
) -> Vec<f64> {
    let rows = network.chunks_exact(classes).zip(out_of_fold.chunks_exact(classes));
    rows.zip(&examples.labels)
        .map(|((network, out_of_fold), label)| {
            confidence(network, *label as usize) - confidence(out_of_fold, *label as usize)
        })
        .collect()
}

/// `log p_y - log(1 - p_y)`, the second term summed over the other classes, so that it stays
/// accurate where `p_y` is close to one; within `±CONFIDENCE_MAX`.
pub fn confidence(log_probabilities: &[f32], label: usize) -> f64 {
    /// About what 32-bit log-probabilities can tell apart from certainty.
    const CONFIDENCE_MAX: f64 = 80.0;
    let others: f64 = log_probabilities
        .iter()
        .enumerate()
        .filter(|(class, _)| *class != label)
        .map(|(_, log_probability)| f64::from(*log_probability).exp())
        .sum();
    let own = f64::from(log_probabilities[label]);
    (own - others.ln()).clamp(-CONFIDENCE_MAX, CONFIDENCE_MAX)
}

fn p_values(forgotten: &[f64], holdout: &[f64]) -> Option<PValues> {
    if forgotten.is_empty() || holdout.is_empty() {
        return None;
    }
    let mut sorted = holdout.to_vec();
    sorted.sort_by(f64::total_cmp);
    let total = sorted.len() + 1;
    let mut values: Vec<f64> = forgotten
        .iter()
        .map(|d| {
            let below = sorted.partition_point(|other| other < d);
            let up_to = sorted.partition_point(|other| other <= d);
            let extreme = (sorted.len() - below).min(up_to) + 1;
            (2.0 * extreme as f64 / total as f64).min(1.0)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let small = values.partition_point(|p| *p < 0.05);
    Some(PValues {
        min: values[0],
        median: f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]),
        below_0_05: small as f64 / values.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::domain::watch::Unwatched;
    use crate::nn::training::train;
    use crate::unlearning::fixture::World;

    #[test]
    fn confidence_is_accurate_near_certainty() {
        let even = [0.5_f32.ln(); 2];
        assert!(confidence(&even, 0).abs() < 1e-9);
        let sure = [-1e-9_f32, -20.0];
        assert!((confidence(&sure, 0) - 20.0).abs() < 1e-6);
        assert!((confidence(&sure, 1) + 20.0).abs() < 1e-6);
        let certain = [0.0, f32::NEG_INFINITY];
        assert!((confidence(&certain, 0) - 80.0).abs() < 1e-9);
    }

    #[test]
    fn p_values_count_what_is_as_extreme() {
        let holdout: Vec<f64> = (1..=99).map(f64::from).collect();
        let found = p_values(&[50.0, 1_000.0], &holdout).unwrap();
        assert!((found.min - 0.02).abs() < 1e-12);
        assert!((found.median - 0.51).abs() < 1e-12);
        assert!((found.below_0_05 - 0.5).abs() < 1e-12);
    }

    #[test]
    fn few_samples_are_inconclusive_and_never_passed() {
        assert_eq!(judge(29, 1_000, Some(0.9)), Verdict::Inconclusive);
        assert_eq!(judge(30, 29, Some(0.9)), Verdict::Inconclusive);
        assert_eq!(judge(30, 30, Some(0.9)), Verdict::Passed);
        assert_eq!(judge(30, 30, Some(0.01)), Verdict::Inconclusive);
        assert_eq!(judge(30, 30, Some(0.000_9)), Verdict::Failed);
        assert_eq!(judge(30, 0, None), Verdict::Inconclusive);
    }

    #[test]
    fn tells_a_network_that_remembers_from_one_that_never_saw() {
        let world = World::new(240, 240, 80, &Device::flex());
        let kept = measure(&world.task(), &world.network);
        assert_eq!(kept.verdict, Verdict::Failed);
        assert!(kept.rank_share_above.unwrap() > 0.6);
        assert!(kept.drift.unwrap().abs() < 1e-9);
        assert_eq!(kept.holdout_accuracy_before, kept.holdout_accuracy_after);
        assert_eq!(kept.holdout_accuracy_before, kept.holdout_accuracy_exact);

        let spec = world.network.spec();
        let retrained =
            train(spec, &world.retained, &world.recipe, &world.device, &Unwatched).unwrap();
        let exact = measure(&world.task(), &retrained);
        assert_ne!(exact.verdict, Verdict::Failed);
        assert!(exact.rank_share_above.unwrap() < kept.rank_share_above.unwrap());
        assert!(exact.drift.unwrap() > 0.0);
    }

    /// Rows that were never there must not look as if they were: whatever the update, their
    /// p-values are uniform, and the rank test of a request errs as often as it says.
    #[test]
    fn rows_that_were_never_trained_on_have_uniform_p_values() {
        let world = World::new(240, 900, 10, &Device::flex());
        let measured = |first: usize, count: usize| {
            let unseen: Vec<usize> = (first..first + count).collect();
            let compared: Vec<usize> = (300..900).collect();
            let predicted = |values: &[f32], rows: &[usize]| -> Vec<f32> {
                rows.iter().flat_map(|row| &values[row * 10..][..10]).copied().collect()
            };
            let (forgotten, holdout) =
                (world.holdout.select(&unseen), world.holdout.select(&compared));
            let task = Task {
                forgotten: &forgotten,
                forgotten_out_of_fold: &predicted(&world.holdout_out_of_fold, &unseen),
                holdout: &holdout,
                holdout_out_of_fold: &predicted(&world.holdout_out_of_fold, &compared),
                ..world.task()
            };
            measure(&task, &world.network)
        };
        let all = measured(0, 300).p_values.unwrap();
        assert!((0.42..0.58).contains(&all.median), "{all:?}");
        assert!((0.015..0.095).contains(&all.below_0_05), "{all:?}");
        let requests = (0..30).map(|request| measured(10 * request, 10).rank_test_p.unwrap());
        let small = requests.filter(|p| *p < 0.05).count();
        assert!(small <= 5, "{small} of 30 below 0.05");
    }

    #[test]
    fn says_little_without_a_holdout() {
        let world = World::new(40, 0, 3, &Device::flex());
        let evidence = measure(&world.task(), &world.network);
        assert_eq!(evidence.verdict, Verdict::Inconclusive);
        assert_eq!((evidence.samples, evidence.holdout), (3, 0));
        assert_eq!((evidence.p_values, evidence.rank_test_p), (None, None));
        assert_eq!(evidence.holdout_accuracy_after, None);
        assert!(evidence.drift.unwrap().abs() < 1e-9);
        let json = serde_json::to_string(&evidence).unwrap();
        assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
    }
}
