//! The training samples of one model: all of a data set's, some left out, some mislabelled.

use std::sync::Arc;

use serde_json::json;

use super::data::Dataset;
use crate::domain::{examples::Examples, identity::Digest};

#[derive(Clone, Debug)]
pub struct TrainingSet {
    pub dataset: Arc<Dataset>,
    /// Ascending.
    dropped: Vec<usize>,
    /// Ascending rows that are given the next class's label; none of them is dropped.
    mislabelled: Vec<usize>,
}

impl TrainingSet {
    pub fn all(dataset: Arc<Dataset>) -> Self {
        Self { dataset, dropped: Vec::new(), mislabelled: Vec::new() }
    }

    /// Without `rows`, also where they are mislabelled.
    #[must_use]
    pub fn without(&self, rows: &[usize]) -> Self {
        let mut dropped: Vec<usize> = self.dropped.iter().chain(rows).copied().collect();
        dropped.sort_unstable();
        dropped.dedup();
        let mislabelled =
            self.mislabelled.iter().filter(|row| dropped.binary_search(row).is_err()).copied();
        Self { mislabelled: mislabelled.collect(), dropped, dataset: self.dataset.clone() }
    }

    /// With the next class's label on `rows`.
    #[must_use]
    pub fn mislabelling(&self, rows: &[usize]) -> Self {
        let mut mislabelled: Vec<usize> = rows.to_vec();
        mislabelled.sort_unstable();
        Self { mislabelled, ..self.clone() }
    }

    /// Rows of the data set's training split that are trained on, ascending.
    pub fn rows(&self) -> Vec<usize> {
        (0..self.dataset.train.len())
            .filter(|row| self.dropped.binary_search(row).is_err())
            .collect()
    }

    /// What is trained on.
    pub fn examples(&self) -> Examples {
        self.select(&self.rows())
    }

    /// The chosen rows with the labels that they are trained with.
    pub fn select(&self, rows: &[usize]) -> Examples {
        let mut examples = self.dataset.train.select(rows);
        let classes = u32::try_from(self.dataset.classes.len()).unwrap_or(u32::MAX);
        for (label, row) in examples.labels.iter_mut().zip(rows) {
            if self.mislabelled.binary_search(row).is_ok() {
                *label = next_class(*label, classes);
            }
        }
        examples
    }

    /// What decides the samples, as part of a key.
    pub fn key(&self) -> serde_json::Value {
        let digest = |rows: &[usize]| {
            let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
            Digest::of(&bytes)
        };
        json!({
            "data": self.dataset.digest,
            "dropped": digest(&self.dropped),
            "mislabelled": digest(&self.mislabelled),
        })
    }
}

/// The label that a mislabelled sample of class `label` is given.
pub fn next_class(label: u32, classes: u32) -> u32 {
    (label + 1) % classes.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::fixture::digits;

    #[test]
    fn dropped_rows_are_gone_and_mislabelled_ones_lie() {
        let dataset = digits();
        let all = TrainingSet::all(dataset.clone());
        let poisoned = all.mislabelling(&[5, 2]);
        let examples = poisoned.examples();
        assert_eq!(examples.len(), dataset.train.len());
        let labels = &dataset.train.labels;
        assert_eq!(examples.labels[2], (labels[2] + 1) % 10);
        assert_eq!(examples.labels[3], labels[3]);

        let cleaned = poisoned.without(&[2, 5]);
        assert_eq!(cleaned.examples().ordinals[..4], [0, 1, 3, 4]);
        assert_eq!(cleaned.examples().labels[2], labels[3]);
        // The same samples are the same training, however they came about.
        assert_eq!(cleaned.key(), all.without(&[5, 2]).key());
        assert_ne!(cleaned.key(), poisoned.key());
        assert_ne!(all.key(), poisoned.key());
    }
}
