//! `forgetd ingest`: a file into the ledger, all of it or nothing.

use std::{
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    app::Ledger,
    app::config::Config,
    clock::{Clock, Ids},
    dataset::{
        csv, ndjson, parquet,
        raw_sample::{RawSample, ReadError},
    },
    domain::{
        alias::{AliasKind, AliasKindError},
        identity::ServiceKey,
        model::{Model, ModelName, Policy, Recipe},
        network::Architecture,
        sample::Split,
        schema::InputSchema,
    },
    store::{CreateModel, SealedSample, Sealer},
};

use super::{CliError, progress::Spinner};

/// Samples given to the ledger at a time.
const CHUNK: usize = 1_000;
/// Chunks that are ready before the ledger has taken in the one before them.
const CHUNKS_AHEAD: usize = 2;

#[derive(Args, Debug)]
pub struct IngestArgs {
    /// The model that the samples are for; made from the file when there is none of this name.
    #[arg(long)]
    model: ModelName,
    #[arg(long)]
    file: PathBuf,
    /// Told by the file's ending when absent.
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// Column that names the data subject.
    #[arg(long, default_value = "subject_id")]
    subject: String,
    /// Column that names the sample; the subject names it where absent.
    #[arg(long)]
    sample_id: Option<String>,
    /// Column of what else the subject is known by, so that it is found by its hash: such as
    /// email=mail; email, phone, maid, ctvid, ndz or `name_vin`.
    #[arg(long = "alias", value_name = "KIND=COLUMN", value_parser = parse_alias)]
    aliases: Vec<(AliasKind, String)>,
    /// Column to be predicted.
    #[arg(long, default_value = "label")]
    label: String,
    /// Which split the samples belong to.
    #[arg(long, value_enum, default_value = "train", conflicts_with = "split_column")]
    split: SplitChoice,
    /// Column of `train` and `holdout`.
    #[arg(long)]
    split_column: Option<String>,
    /// For a new model: the network, a preset's name or JSON.
    #[arg(long, default_value = "mlp", value_parser = parse_network)]
    network: Architecture,
    /// For a new model: the training recipe as JSON, e.g. '{"epochs": 5}'.
    #[arg(long, default_value = "{}", value_parser = parse_json::<Recipe>)]
    recipe: Recipe,
    /// For a new model: the policy as JSON, e.g. '{"method": "iau"}'.
    #[arg(long, default_value = "{}", value_parser = parse_json::<Policy>)]
    policy: Policy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FileFormat {
    Csv,
    Ndjson,
    Parquet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SplitChoice {
    Train,
    Holdout,
}

fn parse_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn parse_alias(text: &str) -> Result<(AliasKind, String), String> {
    let (kind, column) = text.split_once('=').ok_or("expected KIND=COLUMN, such as email=mail")?;
    Ok((kind.parse().map_err(|error: AliasKindError| error.to_string())?, column.to_owned()))
}

fn parse_network(text: &str) -> Result<Architecture, String> {
    if text.trim_start().starts_with('{') {
        parse_json(text)
    } else {
        serde_json::from_value(serde_json::json!({"preset": text}))
            .map_err(|error| error.to_string())
    }
}

impl IngestArgs {
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        let ledger = Ledger::open(&config.ledger).await?;
        let (clock, ids) = (Clock::system(), Ids::system());
        let format = self.format()?;
        let model = match ledger.store.model(&self.model).await? {
            Some(model) => model,
            None => self.create_model(&ledger, format, &clock, &ids).await?,
        };
        let samples = self.samples(format, &model.schema)?;
        ledger.store.expect_many_samples().await?;
        let mut ingestion = ledger.store.begin_ingestion(ids.next(clock.now()), model.id).await?;
        let preparing = Preparing {
            samples,
            model_id: model.id,
            default_split: match self.split {
                SplitChoice::Train => Split::Train,
                SplitChoice::Holdout => Split::Holdout,
            },
            service_key: Arc::clone(&ledger.service_key),
            sealer: ingestion.sealer(),
            clock: clock.clone(),
            ids,
        };
        let (chunks, mut prepared) = mpsc::channel(CHUNKS_AHEAD);
        let preparing = tokio::task::spawn_blocking(move || preparing.run(&chunks));
        let spinner = Spinner::new("ingested");
        while let Some(chunk) = prepared.recv().await {
            let count = chunk.len() as u64;
            ingestion.add_sealed(chunk).await?;
            spinner.add(count);
        }
        preparing.await.map_err(io::Error::from)??;
        let receipt = ingestion.commit(clock.now(), None).await?;
        spinner.finish();
        println!(
            "{}: {} training samples and {} hold-out samples are in the ledger",
            model.name, receipt.train, receipt.holdout
        );
        ledger.store.close().await;
        Ok(())
    }

    fn format(&self) -> Result<FileFormat, CliError> {
        let ending = self.file.extension().and_then(|ending| ending.to_str());
        match (self.format, ending) {
            (Some(format), _) => Ok(format),
            (None, Some("csv")) => Ok(FileFormat::Csv),
            (None, Some("ndjson" | "jsonl")) => Ok(FileFormat::Ndjson),
            (None, Some("parquet")) => Ok(FileFormat::Parquet),
            (None, _) => Err(CliError::usage(format!(
                "{} does not end in .csv, .ndjson or .parquet; say --format",
                self.file.display()
            ))),
        }
    }

    async fn create_model(
        &self,
        ledger: &Ledger,
        format: FileFormat,
        clock: &Clock,
        ids: &Ids,
    ) -> Result<Model, CliError> {
        let model = Model {
            id: ids.next(clock.now()),
            name: self.model.clone(),
            architecture: self.network.clone(),
            schema: self.infer_schema(format)?,
            recipe: self.recipe.clone(),
            policy: self.policy.clone(),
            created_at: clock.now(),
        };
        model.recipe.validate().map_err(|error| CliError::usage(error.to_string()))?;
        model.policy.validate().map_err(|error| CliError::usage(error.to_string()))?;
        match ledger.store.create_model(&model, None).await? {
            CreateModel::Created => Ok(model),
            CreateModel::NameTaken => Err(CliError::usage(format!(
                "model {} was made by another process just now; run this again",
                model.name
            ))),
        }
    }

    fn infer_schema(&self, format: FileFormat) -> Result<InputSchema, CliError> {
        Ok(match format {
            FileFormat::Csv => csv::infer_schema(self.open()?, &self.csv_mapping())?,
            FileFormat::Parquet => {
                parquet::infer_schema(open(&self.file)?, &self.parquet_mapping())?
            }
            FileFormat::Ndjson => {
                return Err(CliError::usage(format!(
                    "there is no model {}, and NDJSON does not say what one looks like; create it \
                     with POST /v1/models",
                    self.model
                )));
            }
        })
    }

    fn samples(&self, format: FileFormat, schema: &InputSchema) -> Result<RawSamples, CliError> {
        Ok(match format {
            FileFormat::Csv => Box::new(csv::samples(self.open()?, schema, &self.csv_mapping())?),
            FileFormat::Ndjson => Box::new(ndjson::samples(self.open()?, schema)),
            FileFormat::Parquet => {
                let file = open(&self.file)?;
                Box::new(parquet::samples(file, schema, &self.parquet_mapping())?)
            }
        })
    }

    fn open(&self) -> Result<BufReader<File>, CliError> {
        Ok(BufReader::new(open(&self.file)?))
    }

    fn csv_mapping(&self) -> csv::Mapping {
        csv::Mapping {
            sample_id: self.sample_id.clone(),
            subject_id: self.subject.clone(),
            label: self.label.clone(),
            split: self.split_column.clone(),
            aliases: self.aliases.clone(),
        }
    }

    fn parquet_mapping(&self) -> parquet::Mapping {
        parquet::Mapping {
            sample_id: self.sample_id.clone(),
            source: self
                .file
                .file_stem()
                .map(|stem| stem.to_string_lossy().into())
                .unwrap_or_default(),
            // Image sets seldom name subjects: the default column may be absent.
            subject_id: Some(self.subject.clone()).filter(|name| name != "subject_id"),
            label: self.label.clone(),
            split: self.split_column.clone(),
            aliases: self.aliases.clone(),
        }
    }
}

type RawSamples = Box<dyn Iterator<Item = Result<RawSample, ReadError>> + Send>;

/// A file on its way to sealed samples, on a thread of its own: the ledger writes what was sealed
/// before meanwhile.
struct Preparing {
    samples: RawSamples,
    model_id: Uuid,
    default_split: Split,
    service_key: Arc<ServiceKey>,
    sealer: Sealer,
    clock: Clock,
    ids: Ids,
}

impl Preparing {
    /// Ends early when nobody takes the chunks any more.
    fn run(mut self, chunks: &mpsc::Sender<Vec<SealedSample>>) -> Result<(), ReadError> {
        loop {
            let chunk = self.next_chunk()?;
            if chunk.is_empty() || chunks.blocking_send(chunk).is_err() {
                return Ok(());
            }
        }
    }

    fn next_chunk(&mut self) -> Result<Vec<SealedSample>, ReadError> {
        let Self { samples, model_id, default_split, service_key, sealer, clock, ids } = self;
        let seal = |raw: Result<RawSample, ReadError>| {
            let id = ids.next(clock.now());
            Ok(sealer.seal(&raw?.into_sample(id, *model_id, service_key, *default_split)))
        };
        samples.take(CHUNK).map(seal).collect()
    }
}

fn open(path: &Path) -> Result<File, CliError> {
    File::open(path).map_err(|source| CliError::File { path: path.to_owned(), source })
}
