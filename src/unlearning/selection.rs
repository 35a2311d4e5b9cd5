//! How the samples of an update differ from a random draw.
//!
//! An update stands on what models said that had not seen a sample; they had seen the other samples
//! of the update. That says little where the others are of all kinds, and too much where they
//! belong together: most of a class, or samples under the same wrong label.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Task, counterfactual::confidences, rank_test::compare};
use crate::domain::examples::Examples;

/// What sets the forgotten samples apart from the others. Figures are absent where nothing was there
/// to measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Selection {
    /// Of all the training samples of a class, the share that is forgotten; of the class where it is
    /// the largest. Estimated from the retained samples at hand, as if they held one more of each
    /// class: that a rare one was not drawn does not make it forgotten.
    pub class_share: f64,
    /// How often the out-of-fold confidence in a forgotten sample's label exceeds that in a hold-out
    /// sample's: 0.5 for a random draw, near 0 for the hardest samples and for wrong labels.
    pub confidence_share_above: Option<f64>,
}

impl Selection {
    pub fn of(task: &Task<'_>) -> Self {
        let classes = task.network.classes();
        let forgotten = confidences(task.forgotten, task.forgotten_out_of_fold, classes);
        let holdout = confidences(task.holdout, task.holdout_out_of_fold, classes);
        Self {
            class_share: class_share(task, classes),
            confidence_share_above: compare(&forgotten, &holdout).map(|test| test.share_above),
        }
    }
}

fn class_share(task: &Task<'_>, classes: usize) -> f64 {
    let weight = (task.retained_total as f64 / task.retained.len().max(1) as f64).max(1.0);
    let (forgotten, drawn) = (counts(task.forgotten, classes), counts(task.retained, classes));
    let shares = forgotten
        .iter()
        .zip(drawn)
        .map(|(forgotten, drawn)| forgotten / (forgotten + weight * (drawn + 1.0)));
    shares.fold(0.0, f64::max)
}

/// Samples of each class.
fn counts(examples: &Examples, classes: usize) -> Vec<f64> {
    let mut counts = vec![0.0; classes];
    for label in &examples.labels {
        counts[*label as usize] += 1.0;
    }
    counts
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::unlearning::fixture::World;

    #[test]
    fn a_random_draw_is_like_the_rest_and_a_class_is_not() {
        let world = World::new(240, 200, 60, &Device::flex());
        let random = Selection::of(&world.task());
        assert!((0.35..0.65).contains(&random.confidence_share_above.unwrap()), "{random:?}");
        assert!(random.class_share < 0.5, "{random:?}");

        let threes: Vec<usize> = (0..60).filter(|row| world.forgotten.labels[*row] == 3).collect();
        let forgotten = world.forgotten.select(&threes);
        let out_of_fold: Vec<f32> = threes
            .iter()
            .flat_map(|row| &world.forgotten_out_of_fold[row * 10..][..10])
            .copied()
            .collect();
        let others: Vec<usize> =
            (0..world.retained.len()).filter(|row| world.retained.labels[*row] != 3).collect();
        let others = world.retained.select(&others);
        let task = Task {
            forgotten: &forgotten,
            forgotten_out_of_fold: &out_of_fold,
            retained: &others,
            retained_total: others.len(),
            ..world.task()
        };
        let (share, expected) =
            (Selection::of(&task).class_share, threes.len() as f64 / (threes.len() + 1) as f64);
        assert!((share - expected).abs() < 1e-12, "{share} {expected}");
    }

    #[test]
    fn what_was_drawn_stands_for_what_was_not() {
        let world = World::new(240, 0, 60, &Device::flex());
        let all = Selection::of(&world.task()).class_share;
        let tenfold = Task { retained_total: 10 * world.retained.len(), ..world.task() };
        let found = Selection::of(&tenfold);
        assert!(found.class_share < all && found.class_share > all / 10.0, "{found:?} {all}");
        assert_eq!(found.confidence_share_above, None, "no hold-out");
    }

    #[test]
    fn wrong_labels_are_held_in_low_confidence() {
        let mut world = World::new(240, 200, 60, &Device::flex());
        for label in &mut world.forgotten.labels {
            *label = (*label + 1) % 10;
        }
        let found = Selection::of(&world.task()).confidence_share_above.unwrap();
        assert!(found < 0.2, "{found}");
    }
}
