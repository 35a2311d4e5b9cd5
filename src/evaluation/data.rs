//! Data sets in memory: read, drawn and encoded as the service does it.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::{error::EvaluationError, suite::DatasetSpec};
use crate::{
    dataset::{
        csv, digits,
        encoder::Encoder,
        parquet,
        raw_sample::{RawSample, ReadError},
    },
    domain::{
        examples::{Examples, Values},
        identity::Digest,
        sample::{Split, StoredSample},
        schema::InputSchema,
    },
};

/// Encoded splits, disjoint. Ordinals are places in the split.
#[derive(Debug)]
pub struct Dataset {
    pub name: String,
    pub classes: Vec<String>,
    pub train: Examples,
    pub holdout: Examples,
    pub test: Examples,
    /// Of every number and label of the three splits.
    pub digest: Digest,
}

impl Dataset {
    /// Reads and draws; `train_rows` wins over the declared number. The draw with fewer training
    /// samples is a part of the draw with more.
    ///
    /// # Errors
    /// When a file cannot be read, or holds too few samples.
    pub fn load(
        spec: &DatasetSpec,
        folder: Option<&Path>,
        train_rows: Option<usize>,
    ) -> Result<Self, EvaluationError> {
        let source = Source { spec, folder };
        let (schema, mut train, mut rest) = source.read()?;
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
        train.shuffle(&mut rng);
        let measured = spec.holdout_rows + spec.test_rows;
        if spec.bundled.is_some() {
            rest = train.split_off(train.len().saturating_sub(measured));
        } else {
            rest.shuffle(&mut rng);
        }
        let wanted = train_rows.or(spec.train_rows);
        if rest.len() < measured || train.is_empty() || wanted.is_some_and(|n| n > train.len()) {
            let problem = format!(
                "there are {} training samples and {} others, but {} and {measured} are asked for",
                train.len(),
                rest.len(),
                wanted.unwrap_or(1),
            );
            return Err(EvaluationError::Data { dataset: spec.name.clone(), problem });
        }
        train.truncate(wanted.unwrap_or(train.len()));
        rest.truncate(measured);
        let test = rest.split_off(spec.holdout_rows);
        Self::encode(spec, &schema, [train, rest, test])
    }

    fn encode(
        spec: &DatasetSpec,
        schema: &InputSchema,
        splits: [Vec<RawSample>; 3],
    ) -> Result<Self, EvaluationError> {
        let encoding = |source| EvaluationError::Encoding {
            dataset: spec.name.clone(),
            source: Box::new(source),
        };
        let [train, holdout, test] = splits.map(stored);
        let encoder = Encoder::fit(schema, &train).map_err(encoding)?;
        let classes = encoder.classes().to_vec();
        // What no training sample is called cannot be predicted, nor measure anything.
        let known = |samples: Vec<StoredSample>| -> Vec<StoredSample> {
            samples.into_iter().filter(|sample| classes.contains(&sample.label)).collect()
        };
        let encode = |samples: Vec<StoredSample>| encoder.encode(&samples).map_err(encoding);
        let (train, holdout, test) =
            (encode(train)?, encode(known(holdout))?, encode(known(test))?);
        let digest = digest(&[&train, &holdout, &test]);
        Ok(Self { name: spec.name.clone(), classes, train, holdout, test, digest })
    }
}

fn stored(samples: Vec<RawSample>) -> Vec<StoredSample> {
    let stored = |(ordinal, raw): (i64, RawSample)| StoredSample {
        id: Uuid::nil(),
        ordinal,
        split: Split::Train,
        features: raw.features,
        label: raw.label,
    };
    (0..).zip(samples).map(stored).collect()
}

fn digest(splits: &[&Examples]) -> Digest {
    let mut bytes = Vec::new();
    for examples in splits {
        bytes.extend(format!("{:?} {}\n", examples.shape, examples.len()).into_bytes());
        match &examples.values {
            Values::Bytes { bytes: pixels, scale } => {
                bytes.extend(scale.to_le_bytes());
                bytes.extend(pixels);
            }
            Values::Floats(floats) => bytes.extend(floats.iter().flat_map(|f| f.to_le_bytes())),
        }
        bytes.extend(examples.labels.iter().flat_map(|label| label.to_le_bytes()));
    }
    Digest::of(&bytes)
}

struct Source<'a> {
    spec: &'a DatasetSpec,
    folder: Option<&'a Path>,
}

/// A schema, samples to train on, and others.
type Read = (InputSchema, Vec<RawSample>, Vec<RawSample>);

impl Source<'_> {
    fn read(&self) -> Result<Read, EvaluationError> {
        let (Some(train), Some(test)) = (&self.spec.train, &self.spec.test) else {
            let samples = digits::digits().collect::<Result<_, _>>();
            let samples = samples.map_err(|source| self.unreadable(Path::new("digits"), source))?;
            return Ok((digits::schema(), samples, Vec::new()));
        };
        let Some(folder) = self.folder else {
            return Err(EvaluationError::NoDataFolder { dataset: self.spec.name.clone() });
        };
        let (train, test) = (folder.join(train), folder.join(test));
        let schema = self.schema(&train)?;
        Ok((schema.clone(), self.samples(&train, &schema)?, self.samples(&test, &schema)?))
    }

    fn schema(&self, path: &Path) -> Result<InputSchema, EvaluationError> {
        let schema = if is_csv(path) {
            csv::infer_schema(BufReader::new(open(path)?), &self.csv_mapping())
        } else {
            parquet::infer_schema(open(path)?, &self.parquet_mapping())
        };
        schema.map_err(|source| self.unreadable(path, source))
    }

    fn samples(
        &self,
        path: &Path,
        schema: &InputSchema,
    ) -> Result<Vec<RawSample>, EvaluationError> {
        let samples: Result<Vec<_>, ReadError> = if is_csv(path) {
            csv::samples(BufReader::new(open(path)?), schema, &self.csv_mapping())
                .and_then(Iterator::collect)
        } else {
            parquet::samples(open(path)?, schema, &self.parquet_mapping())
                .and_then(Iterator::collect)
        };
        samples.map_err(|source| self.unreadable(path, source))
    }

    fn csv_mapping(&self) -> csv::Mapping {
        csv::Mapping {
            sample_id: None,
            subject_id: self.spec.subject.clone().unwrap_or_else(|| "subject_id".into()),
            label: self.spec.label.clone(),
            split: None,
            aliases: Vec::new(),
        }
    }

    fn parquet_mapping(&self) -> parquet::Mapping {
        parquet::Mapping {
            sample_id: None,
            source: self.spec.name.clone(),
            subject_id: self.spec.subject.clone(),
            label: self.spec.label.clone(),
            split: None,
            aliases: Vec::new(),
        }
    }

    fn unreadable(&self, path: &Path, source: ReadError) -> EvaluationError {
        EvaluationError::Read {
            dataset: self.spec.name.clone(),
            path: path.to_owned(),
            source: Box::new(source),
        }
    }
}

fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "csv")
}

fn open(path: &Path) -> Result<File, EvaluationError> {
    File::open(path).map_err(|source| EvaluationError::Input { path: PathBuf::from(path), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(train_rows: Option<usize>) -> DatasetSpec {
        DatasetSpec {
            name: "digits".into(),
            bundled: Some("digits".into()),
            train: None,
            test: None,
            label: "label".into(),
            subject: None,
            train_rows,
            holdout_rows: 100,
            test_rows: 200,
            seed: 3,
        }
    }

    #[test]
    fn splits_are_as_large_as_declared_and_smaller_draws_are_parts_of_larger_ones() {
        let all = Dataset::load(&spec(None), None, None).unwrap();
        assert_eq!((all.train.len(), all.holdout.len(), all.test.len()), (1_497, 100, 200));
        assert_eq!(all.classes.len(), 10);
        let part = Dataset::load(&spec(Some(500)), None, None).unwrap();
        assert_eq!(part.train.gather(&[0, 499]), all.train.gather(&[0, 499]));
        assert_eq!(part.test.gather(&[7]), all.test.gather(&[7]));
        let again = Dataset::load(&spec(None), None, Some(500)).unwrap();
        assert_eq!(again.digest, part.digest);
        assert_ne!(all.digest, part.digest);
    }

    #[test]
    fn too_few_samples_and_a_missing_folder_are_named() {
        let error = Dataset::load(&spec(Some(1_498)), None, None).unwrap_err().to_string();
        assert!(error.contains("1497") && error.contains("1498"), "{error}");
        let files = DatasetSpec {
            bundled: None,
            train: Some("a.csv".into()),
            test: Some("b.csv".into()),
            ..spec(None)
        };
        let error = Dataset::load(&files, None, None).unwrap_err().to_string();
        assert!(error.contains("--data"), "{error}");
        let error = Dataset::load(&files, Some(Path::new("/nowhere")), None).unwrap_err();
        assert!(error.to_string().contains("a.csv"), "{error}");
    }

    #[test]
    fn tables_are_read_with_their_subjects_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let table = |rows: std::ops::Range<u32>| -> String {
            let row = |n: u32| format!("p{n},{},{},{}\n", n * 2, ["x", "y"][n as usize % 2], n % 2);
            "person,age,work,class\n".to_owned() + &rows.map(row).collect::<String>()
        };
        std::fs::write(folder.path().join("train.csv"), table(0..40)).unwrap();
        std::fs::write(folder.path().join("test.csv"), table(40..60)).unwrap();
        let spec = DatasetSpec {
            bundled: None,
            train: Some("train.csv".into()),
            test: Some("test.csv".into()),
            label: "class".into(),
            subject: Some("person".into()),
            holdout_rows: 5,
            test_rows: 15,
            ..spec(None)
        };
        let read = Dataset::load(&spec, Some(folder.path()), None).unwrap();
        assert_eq!((read.train.len(), read.holdout.len(), read.test.len()), (40, 5, 15));
        // One standardised number, two one-hot columns.
        assert_eq!(read.train.shape, [3]);
    }
}
