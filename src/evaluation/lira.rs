//! The likelihood-ratio attack (LiRA, Carlini et al. 2022, arXiv 2112.03570), online: for each
//! sample, how a confidence compares with those of reference models that saw the sample and of
//! others that did not.

use crate::nn::order::{Purpose, draw};

/// Which reference models were trained on a row of the pool: the same number for every row, which
/// models being a matter of chance.
pub fn is_included(row: usize, model: usize, models: usize, share: f64) -> bool {
    let key = |model: usize| {
        let ordinal = i64::try_from(row * models + model).unwrap_or(i64::MAX);
        (draw(0, Purpose::Measure, ordinal), model)
    };
    let own = key(model);
    let before = (0..models).filter(|other| key(*other) < own).count();
    before < included_count(models, share)
}

/// How many of the models are trained on each row; at least two are, and at least two are not, so
/// that both sides have a spread.
pub fn included_count(models: usize, share: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a small count"
    )]
    let count = (models as f64 * share).round() as usize;
    count.clamp(2, models.saturating_sub(2).max(2))
}

/// The fitted attack: a normal distribution per row and side. The deviations are pooled over the
/// rows, which is the better estimate with fewer than some 64 models (ibid., section VI).
#[derive(Clone, Debug)]
pub struct Lira {
    mean_in: Vec<f64>,
    mean_out: Vec<f64>,
    variance_in: f64,
    variance_out: f64,
}

/// Below this deviation the confidences' rounding would decide.
const DEVIATION_MIN: f64 = 1e-3;

impl Lira {
    /// From the confidences `log p_y - log(1 - p_y)` of each reference model, `[models][rows]`,
    /// and whether it was trained on the row. `None` where a row has fewer than two models on a
    /// side.
    pub fn fit(confidences: &[Vec<f32>], included: impl Fn(usize, usize) -> bool) -> Option<Self> {
        let rows = confidences.first()?.len();
        let (mut mean_in, mut mean_out) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let (mut squares_in, mut squares_out) = (Spread::default(), Spread::default());
        for row in 0..rows {
            let side = |wanted: bool| -> Vec<f64> {
                let of_side = |(model, _): &(usize, &Vec<f32>)| included(row, *model) == wanted;
                let models = confidences.iter().enumerate().filter(of_side);
                models.map(|(_, confidences)| f64::from(confidences[row])).collect()
            };
            mean_in.push(squares_in.add(&side(true))?);
            mean_out.push(squares_out.add(&side(false))?);
        }
        Some(Self {
            mean_in,
            mean_out,
            variance_in: squares_in.variance(),
            variance_out: squares_out.variance(),
        })
    }

    /// The log-likelihood ratio of "was trained on" to "was not" for a model that gives `row`
    /// this confidence.
    pub fn score(&self, row: usize, confidence: f64) -> f64 {
        let log_density = |mean: f64, variance: f64| {
            -0.5 * (variance.ln() + (confidence - mean).powi(2) / variance)
        };
        log_density(self.mean_in[row], self.variance_in)
            - log_density(self.mean_out[row], self.variance_out)
    }
}

/// Squared deviations from each row's own mean.
#[derive(Default)]
struct Spread {
    squares: f64,
    degrees: f64,
}

impl Spread {
    fn add(&mut self, values: &[f64]) -> Option<f64> {
        if values.len() < 2 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        self.squares += values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        self.degrees += values.len() as f64 - 1.0;
        Some(mean)
    }

    fn variance(&self) -> f64 {
        (self.squares / self.degrees.max(1.0)).max(DEVIATION_MIN * DEVIATION_MIN)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::evaluation::attack::Attack;

    /// Box and Muller's standard normal numbers.
    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        let mut unit = || (f64::from(rng.next_u32()) + 0.5) / f64::from(u32::MAX);
        let (u, v) = (unit(), unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    #[test]
    fn every_row_is_in_as_many_models_as_every_other() {
        for (models, share) in [(16, 0.5), (8, 0.66), (8, 0.99), (4, 0.01)] {
            let expected = included_count(models, share);
            assert!((2..=models - 2).contains(&expected));
            for row in 0..50 {
                let found = (0..models).filter(|m| is_included(row, *m, models, share)).count();
                assert_eq!(found, expected);
            }
        }
        let first: Vec<bool> = (0..50).map(|row| is_included(row, 0, 16, 0.5)).collect();
        assert!(first.iter().any(|in_it| *in_it) && first.iter().any(|in_it| !in_it));
    }

    /// Rows differ far more among each other than a row's membership shifts it: a threshold on
    /// the confidence is nearly blind, the likelihood ratio is not. With shifts of one deviation
    /// and known distributions the area under the curve is Phi(1 / sqrt 2) = 0.760.
    #[test]
    fn finds_what_a_plain_threshold_cannot_on_a_toy_gaussian() {
        let (rows, models) = (4_000, 32);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let centres: Vec<f64> = (0..rows).map(|_| 10.0 * normal(&mut rng)).collect();
        let included = |row, model| is_included(row, model, models, 0.5);
        let confidences: Vec<Vec<f32>> = (0..models)
            .map(|model| {
                let confidence = |row: usize| {
                    let shift = f64::from(u8::from(included(row, model)));
                    #[expect(clippy::cast_possible_truncation, reason = "as predictions are")]
                    let confidence = (centres[row] + shift + normal(&mut rng)) as f32;
                    confidence
                };
                (0..rows).map(confidence).collect()
            })
            .collect();
        let lira = Lira::fit(&confidences, included).unwrap();
        let (mut scores, mut plain) = ([vec![], vec![]], [vec![], vec![]]);
        for (row, centre) in centres.iter().enumerate() {
            let side = row % 2;
            let confidence = centre + side as f64 + normal(&mut rng);
            scores[side].push(lira.score(row, confidence));
            plain[side].push(confidence);
        }
        let auc = Attack::of(&scores[1], &scores[0]).unwrap().auc;
        assert!((auc - 0.760).abs() < 0.02, "{auc}");
        let blind = Attack::of(&plain[1], &plain[0]).unwrap().auc;
        assert!((blind - 0.53).abs() < 0.03, "{blind}");
    }

    #[test]
    fn equal_means_and_deviations_score_by_distance() {
        let confidences = [vec![0.0], vec![2.0], vec![4.0], vec![6.0]];
        // Mean 1 of those that saw the row and 5 of the others, variance 2 on both sides.
        let lira = Lira::fit(&confidences, |_, model| model < 2).unwrap();
        assert!(lira.score(0, 3.0).abs() < 1e-12);
        assert!((lira.score(0, 1.0) - 0.5 * 16.0 / 2.0).abs() < 1e-12);
        assert!(Lira::fit(&confidences, |_, model| model < 1).is_none());
        assert!(Lira::fit(&[], |_, _| true).is_none());
    }
}
