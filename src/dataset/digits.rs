//! The bundled handwritten digits that the demo learns; data/README.md says whose they are.

use flate2::read::GzDecoder;

use super::{
    csv::{self, Mapping},
    raw_sample::{RawSample, ReadError},
};
use crate::domain::schema::{InputSchema, TensorSchema};

static FILE: &[u8] = include_bytes!("../../data/digits.csv.gz");

/// 1,797 digits of 186 made-up persons, labels `0` to `9`, with their split.
pub fn digits() -> impl Iterator<Item = Result<RawSample, ReadError>> {
    let mapping = Mapping {
        sample_id: Some("sample_id".into()),
        subject_id: "subject_id".into(),
        label: "label".into(),
        split: Some("split".into()),
        aliases: Vec::new(),
    };
    match csv::samples(GzDecoder::new(FILE), &schema(), &mapping) {
        Ok(samples) => Box::new(samples) as Box<dyn Iterator<Item = _> + Send>,
        Err(error) => Box::new(std::iter::once(Err(error))),
    }
}

/// Counts of dark pixels, 0 to 16, `[1, 8, 8]`.
pub fn schema() -> InputSchema {
    InputSchema::Tensor(TensorSchema { shape: vec![1, 8, 8], scale: 16 })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::domain::{features::Features, sample::Split};

    #[test]
    fn all_digits_are_there_and_have_a_person_and_a_split() {
        let samples = digits().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(samples.len(), 1797);
        let ids: BTreeSet<_> = samples.iter().map(|sample| &sample.sample_id).collect();
        assert_eq!(ids.len(), 1797);
        let labels: BTreeSet<_> = samples.iter().map(|sample| sample.label.as_str()).collect();
        assert!(labels.into_iter().eq(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]));
        let train = samples.iter().filter(|sample| sample.split == Some(Split::Train)).count();
        let holdout = samples.iter().filter(|sample| sample.split == Some(Split::Holdout)).count();
        assert_eq!((train, holdout), (1442, 355));
        let mut sizes = BTreeMap::<_, usize>::new();
        for sample in &samples {
            *sizes.entry(&sample.subject_id).or_default() += 1;
        }
        assert_eq!(sizes.len(), 186);
        assert!(sizes.values().all(|size| (1..=20).contains(size)));
    }

    #[test]
    fn the_first_digit_is_the_original_s_first() {
        let first = digits().next().unwrap().unwrap();
        assert_eq!((first.sample_id.as_str(), first.label.as_str()), ("digit-0000", "0"));
        let Features::Pixels(pixels) = first.features else { panic!("digits are pixels") };
        assert_eq!(pixels[..16], [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]);
        assert_eq!(pixels.len(), 64);
    }
}
