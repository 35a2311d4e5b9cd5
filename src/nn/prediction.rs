//! What a network says about rows, and how good it is.

use burn::tensor::{Tensor, TensorData, activation};

use super::network::{Network, read};
use crate::domain::examples::Examples;

/// Bounds the memory of a forward pass over many rows.
const BATCH_ROWS: usize = 256;

/// Natural-log probabilities `[rows, classes]` for every row.
pub fn log_probabilities(network: &Network, examples: &Examples) -> Vec<f32> {
    let mut predicted = Vec::with_capacity(examples.len() * network.classes());
    let rows: Vec<usize> = (0..examples.len()).collect();
    for rows in rows.chunks(BATCH_ROWS) {
        predicted.extend(log_probabilities_of(network, examples.gather(rows)));
    }
    predicted
}

/// Natural-log probabilities `[rows, classes]` for encoded rows, `[rows, width]` flattened; all
/// in one forward pass.
///
/// # Panics
/// When the values are no whole number of rows.
pub fn log_probabilities_of(network: &Network, values: Vec<f32>) -> Vec<f32> {
    let width: usize = network.spec().input.iter().product();
    let rows = values.len() / width;
    let data = TensorData::new(values, [rows, width]);
    let inputs = Tensor::<2>::from_data(data, &network.device());
    read(activation::log_softmax(network.forward(inputs), 1))
}

/// Share of rows whose most probable class is their label; `None` without rows.
pub fn accuracy(log_probabilities: &[f32], labels: &[u32]) -> Option<f64> {
    let hit = |(row, label): (&[f32], &u32)| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        f64::from(u8::from(best.is_some_and(|(class, _)| class == *label as usize)))
    };
    mean(rows(log_probabilities, labels.len()).zip(labels).map(hit))
}

/// Mean of `-log p(label)` in nats; `None` without rows.
pub fn mean_cross_entropy(log_probabilities: &[f32], labels: &[u32]) -> Option<f64> {
    let loss = |(row, label): (&[f32], &u32)| -f64::from(row[*label as usize]);
    mean(rows(log_probabilities, labels.len()).zip(labels).map(loss))
}

/// Mean over rows of `KL(from || to)` in nats, both `[rows, classes]`; `None` without rows.
pub fn mean_divergence(from: &[f32], to: &[f32], classes: usize) -> Option<f64> {
    let divergence = |(from, to): (&[f32], &[f32])| -> f64 {
        from.iter()
            .zip(to)
            .map(|(from, to)| (f64::from(*from), f64::from(*to)))
            .filter(|(from, _)| from.is_finite() || from.is_nan())
            .map(|(from, to)| from.exp() * (from - to))
            .sum()
    };
    let classes = classes.max(1);
    mean(from.chunks_exact(classes).zip(to.chunks_exact(classes)).map(divergence))
}

fn rows(values: &[f32], count: usize) -> impl Iterator<Item = &[f32]> {
    let width = values.len().checked_div(count).unwrap_or(0).max(1);
    values.chunks_exact(width)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_means_over_rows() {
        let predicted = [0.9_f32, 0.1, 0.2, 0.8].map(f32::ln);
        assert_eq!(accuracy(&predicted, &[0, 0]), Some(0.5));
        let loss = mean_cross_entropy(&predicted, &[0, 0]).unwrap();
        assert!((loss - (-(0.9_f64.ln() + 0.2_f64.ln()) / 2.0)).abs() < 1e-6);
        assert_eq!(accuracy(&[], &[]), None);
        assert_eq!(mean_divergence(&[], &[], 2), None);
    }

    #[test]
    fn divergence_is_zero_for_the_same_and_ignores_impossible_classes() {
        let certain = [0.0, f32::NEG_INFINITY];
        let even = [0.5_f32.ln(); 2];
        assert_eq!(mean_divergence(&even, &even, 2), Some(0.0));
        let from_certain = mean_divergence(&certain, &even, 2).unwrap();
        assert!((from_certain - 2_f64.ln()).abs() < 1e-6);
        assert_eq!(mean_divergence(&even, &certain, 2), Some(f64::INFINITY));
    }
}
