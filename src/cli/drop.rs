//! `forgetd drop`: a consumer deletion list of California's DROP in, the report on it out.
//!
//! A list may be run as often as one likes: each run asks for what nobody has asked for yet, and
//! reports what is certain by then.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    app::{Ledger, config::Config},
    broker::{Broker, CHUNK, Outcome},
    clock::{Clock, Ids},
    dataset::{
        csv::hashed_list::{self, Entries, Entry},
        raw_sample::ReadError,
    },
    domain::{
        alias::AliasKind,
        model::{Model, ModelName},
    },
};

use super::{CliError, progress::Spinner};

#[derive(Args, Debug)]
pub struct DropArgs {
    /// Which identifiers the list names: email, phone, maid, ctvid, ndz or `name_vin`.
    #[arg(long)]
    list: AliasKind,
    /// The list as DROP gives it, CSV with the columns ID and Hash.
    #[arg(long)]
    file: PathBuf,
    /// Where the report goes, CSV with the columns Id and Status: every entry about which all is
    /// certain.
    #[arg(long)]
    report: PathBuf,
    /// Where the other entries go, CSV with the columns Id and Reason.
    #[arg(long)]
    open: Option<PathBuf>,
    /// The model to delete from; every model when absent.
    #[arg(long)]
    model: Option<ModelName>,
}

impl DropArgs {
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        // Once to the end before anything is asked for: a broken list changes nothing.
        for entry in self.entries()? {
            entry?;
        }
        let list = self.file.canonicalize().ok();
        if [Some(&self.report), self.open.as_ref()]
            .into_iter()
            .flatten()
            .any(|path| path.canonicalize().ok() == list)
        {
            return Err(CliError::usage("the report would overwrite the list"));
        }
        let ledger = Ledger::open(&config.ledger).await?;
        let broker = Broker {
            store: ledger.store.clone(),
            service_key: ledger.service_key.clone(),
            clock: Clock::system(),
            ids: Ids::system(),
            list: self.list,
            models: self.models(&ledger).await?,
            api_key_id: None,
            queue_limit: config.http.deletion_queue_max,
        };
        let mut report = Table::create(&self.report, ["Id", "Status"])?;
        let mut open =
            self.open.as_ref().map(|path| Table::create(path, ["Id", "Reason"])).transpose()?;
        let spinner = Spinner::new("looked up");
        let mut counts = BTreeMap::new();
        let mut entries = self.entries()?;
        loop {
            let chunk = entries.by_ref().take(CHUNK).collect::<Result<Vec<_>, ReadError>>()?;
            if chunk.is_empty() {
                break;
            }
            let outcomes = broker.outcomes(&chunk).await?;
            for (Entry { id, .. }, outcome) in chunk.iter().zip(outcomes) {
                *counts.entry(outcome.describe()).or_insert(0_u64) += 1;
                match (outcome, &mut open) {
                    (Outcome::Certain(status), _) => report.add(id, &status.code().to_string())?,
                    (other, Some(open)) => open.add(id, other.describe())?,
                    (_, None) => {}
                }
            }
            spinner.add(chunk.len() as u64);
        }
        report.finish()?;
        if let Some(open) = open {
            open.finish()?;
        }
        spinner.finish();
        for (outcome, entries) in counts {
            println!("{outcome}: {entries}");
        }
        ledger.store.close().await;
        Ok(())
    }

    fn entries(&self) -> Result<Entries<BufReader<File>>, CliError> {
        let file = File::open(&self.file)
            .map_err(|source| CliError::File { path: self.file.clone(), source })?;
        Ok(hashed_list::entries(BufReader::new(file))?)
    }

    async fn models(&self, ledger: &Ledger) -> Result<Vec<Model>, CliError> {
        let Some(name) = &self.model else { return Ok(ledger.store.all_models().await?) };
        let model = ledger.store.model(name).await?;
        Ok(vec![model.ok_or_else(|| CliError::usage(format!("there is no model {name}")))?])
    }
}

/// A CSV file of two columns.
struct Table {
    path: PathBuf,
    writer: csv::Writer<BufWriter<File>>,
}

impl Table {
    fn create(path: &Path, [first, second]: [&str; 2]) -> Result<Self, CliError> {
        let file = File::create(path)
            .map_err(|source| CliError::File { path: path.to_owned(), source })?;
        let writer = csv::Writer::from_writer(BufWriter::new(file));
        let mut table = Self { path: path.to_owned(), writer };
        table.add(first, second)?;
        Ok(table)
    }

    fn add(&mut self, first: &str, second: &str) -> Result<(), CliError> {
        let written = self.writer.write_record([first, second]);
        written.map_err(|error| CliError::Io(error.into()))
    }

    fn finish(self) -> Result<(), CliError> {
        let Self { path, writer } = self;
        let written = writer.into_inner().map_err(csv::IntoInnerError::into_error);
        written.and_then(|mut file| file.flush()).map_err(|source| CliError::File { path, source })
    }
}
