//! Which samples are deleted.

use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use super::{
    data::Dataset,
    error::EvaluationError,
    suite::{DeletionSpec, Draw},
};
use crate::domain::examples::Examples;

/// Rows of the training split in the order of their deletion; `losses` are the trained network's,
/// one a row, and asked for only where they decide. A smaller random draw with the same seed is
/// the beginning of a larger one.
///
/// # Errors
/// When there are not enough rows, or the losses' own.
pub fn choose(
    spec: &DeletionSpec,
    dataset: &Dataset,
    seed: u64,
    losses: impl FnOnce() -> Result<Vec<f64>, EvaluationError>,
) -> Result<Vec<usize>, EvaluationError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(DELETIONS);
    let candidates: Vec<usize> = match spec.draw {
        Draw::Random | Draw::Mislabelled | Draw::HighestLoss => (0..dataset.train.len()).collect(),
        Draw::Class => of_class(&dataset.train, class(seed, dataset.classes.len())),
    };
    let count = spec.count(candidates.len());
    if count > candidates.len() || count >= dataset.train.len() {
        let problem = format!(
            "deletion {:?} takes {count} of {} training samples",
            spec.name,
            candidates.len()
        );
        return Err(EvaluationError::Data { dataset: dataset.name.clone(), problem });
    }
    let mut rows = candidates;
    if spec.draw == Draw::HighestLoss {
        let losses = losses()?;
        rows.sort_by(|a, b| losses[*b].total_cmp(&losses[*a]));
    } else {
        rows.shuffle(&mut rng);
    }
    rows.truncate(count);
    if spec.draw == Draw::HighestLoss {
        rows.shuffle(&mut rng);
    }
    Ok(rows)
}

/// Sets these draws apart from others with the same seed.
const DELETIONS: u64 = 1;

/// The class that the seed decides.
pub fn class(seed: u64, classes: usize) -> u32 {
    u32::try_from(seed % classes.max(1) as u64).unwrap_or(0)
}

fn of_class(train: &Examples, class: u32) -> Vec<usize> {
    (0..train.len()).filter(|row| train.labels[*row] == class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::fixture::digits;

    fn chosen(draw: Draw, rows: usize, seed: u64) -> Vec<usize> {
        let spec = DeletionSpec {
            name: "set".into(),
            draw,
            rows: Some(rows),
            share: None,
            requests: 1,
            alone: false,
        };
        let dataset = digits();
        let losses = || Ok((0..dataset.train.len()).map(|row| (row % 50) as f64).collect());
        choose(&spec, &dataset, seed, losses).unwrap()
    }

    #[test]
    fn random_draws_are_distinct_nested_and_the_seed_s() {
        let many = chosen(Draw::Random, 30, 4);
        let mut sorted = many.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 30);
        assert_eq!(chosen(Draw::Random, 10, 4), many[..10]);
        assert_eq!(chosen(Draw::Mislabelled, 30, 4), many);
        assert_ne!(chosen(Draw::Random, 30, 5), many);
    }

    #[test]
    fn a_class_or_the_highest_losses_are_deleted() {
        let dataset = digits();
        let rows = chosen(Draw::Class, 12, 13);
        assert!(rows.iter().all(|row| dataset.train.labels[*row] == 3));
        let rows = chosen(Draw::HighestLoss, 6, 1);
        assert!(rows.iter().all(|row| row % 50 == 49));
    }

    #[test]
    fn more_than_there_are_cannot_be_deleted() {
        let spec = DeletionSpec {
            name: "all of it".into(),
            draw: Draw::Random,
            rows: Some(300),
            share: None,
            requests: 1,
            alone: false,
        };
        let error = choose(&spec, &digits(), 1, || Ok(Vec::new())).unwrap_err().to_string();
        assert!(error.contains("all of it") && error.contains("300"), "{error}");
    }
}
