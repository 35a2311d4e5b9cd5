//! `forgetd drop`: a consumer deletion list of California's DROP in, the report on it out.
//!
//! A list may be run as often as one likes: each run asks for what nobody has asked for yet, and
//! reports what is certain by then.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use uuid::Uuid;

use crate::{
    app::{Ledger, config::Config},
    clock::{Clock, Ids},
    dataset::{
        csv::hashed_list::{self, Entries, Entry},
        raw_sample::ReadError,
    },
    domain::{
        alias::AliasKind,
        deletion::{Target, TargetKind},
        identity::Pseudonym,
        model::{Model, ModelName},
    },
    intake::standing::{DropStatus, Standing},
    store::{Acceptance, NewDeletion},
};

use super::{CliError, progress::Spinner};

/// Entries that are looked up together, and subjects that one request names at most.
const CHUNK: usize = 1_000;

/// Models that are read together.
const PAGE: u32 = 200;

/// What the Delete Act gives a data broker (Civil Code, section 1798.99.86, c).
const DUE_WITHIN: Duration = Duration::from_hours(45 * 24);

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

/// What can be said of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Certain(DropStatus),
    /// Its deletion is asked for, and not done.
    Waiting,
    /// It is of several subjects, all of whom are to be opted out of sale: no deletion is asked for.
    Shared,
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
        let matching = Matching {
            models: self.models(&ledger).await?,
            ledger,
            list: self.list,
            clock: Clock::system(),
            ids: Ids::system(),
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
            let outcomes = matching.outcomes(&chunk).await?;
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
        matching.ledger.store.close().await;
        Ok(())
    }

    fn entries(&self) -> Result<Entries<BufReader<File>>, CliError> {
        let file = File::open(&self.file)
            .map_err(|source| CliError::File { path: self.file.clone(), source })?;
        Ok(hashed_list::entries(BufReader::new(file))?)
    }

    async fn models(&self, ledger: &Ledger) -> Result<Vec<Model>, CliError> {
        if let Some(name) = &self.model {
            let model = ledger.store.model(name).await?;
            let unknown = || CliError::usage(format!("there is no model {name}"));
            return Ok(vec![model.ok_or_else(unknown)?]);
        }
        let mut models = Vec::new();
        loop {
            let after = models.last().map(|model: &Model| model.id);
            let page = ledger.store.models(after, PAGE).await?;
            if page.is_empty() {
                return Ok(models);
            }
            models.extend(page);
        }
    }
}

impl Outcome {
    fn describe(self) -> &'static str {
        match self {
            Self::Certain(DropStatus::Exempted) => "exempted",
            Self::Certain(DropStatus::Deleted) => "deleted",
            Self::Certain(DropStatus::NotFound) => "not found",
            Self::Waiting => "waiting for its deletion",
            Self::Shared => "shared by several subjects",
        }
    }
}

/// A list on its way through the ledger.
struct Matching {
    ledger: Ledger,
    models: Vec<Model>,
    list: AliasKind,
    clock: Clock,
    ids: Ids,
    queue_limit: u64,
}

impl Matching {
    /// What can be said of each entry, after the deletion of whom it names was asked for.
    async fn outcomes(&self, entries: &[Entry]) -> Result<Vec<Outcome>, CliError> {
        let key = &self.ledger.service_key;
        let aliases: Vec<_> =
            entries.iter().map(|entry| key.alias(self.list, &entry.hash)).collect();
        let mut subjects: BTreeMap<Pseudonym, BTreeSet<Pseudonym>> = BTreeMap::new();
        for model in &self.models {
            for (alias, found) in self.ledger.store.alias_subjects(model.id, &aliases).await? {
                subjects.entry(alias).or_default().extend(found);
            }
        }
        let named: BTreeSet<_> =
            subjects.values().filter(|found| found.len() == 1).flatten().copied().collect();
        let named: Vec<_> = named.into_iter().collect();
        let mut statuses: BTreeMap<Pseudonym, Vec<Option<DropStatus>>> = BTreeMap::new();
        for model in &self.models {
            let standings = self.ledger.store.subject_standings(model.id, &named).await?;
            let kept = standings.iter().filter(|(_, standing)| standing.is_none());
            let kept: Vec<_> = kept.map(|(subject, _)| *subject).collect();
            self.ask_for_deletion(model, &kept).await?;
            for (subject, standing) in standings {
                let standing = standing.unwrap_or(Standing::Queued);
                statuses.entry(subject).or_default().push(standing.translation().drop);
            }
        }
        let of = |alias| match subjects.get(alias) {
            None => Outcome::Certain(DropStatus::NotFound),
            Some(found) if found.len() > 1 => Outcome::Shared,
            Some(found) => {
                let statuses = found.iter().filter_map(|subject| statuses.get(subject));
                summary(statuses.flatten().copied())
            }
        };
        Ok(aliases.iter().map(of).collect())
    }

    async fn ask_for_deletion(
        &self,
        model: &Model,
        subjects: &[Pseudonym],
    ) -> Result<(), CliError> {
        if subjects.is_empty() {
            return Ok(());
        }
        let received_at = self.clock.now();
        let by_policy = Duration::from_hours(u64::from(model.policy.due_within_days) * 24);
        let target = |key: &Pseudonym| Target { kind: TargetKind::Subject, key: *key };
        let new = NewDeletion {
            id: self.ids.next(received_at),
            model_id: model.id,
            targets: subjects.iter().map(target).collect(),
            api_key_id: None::<Uuid>,
            approval_above_share: model.policy.approval_above_share,
            received_at,
            due_by: received_at.plus(by_policy.min(DUE_WITHIN)),
            idempotency: None,
        };
        match self.ledger.store.accept_deletion(&new, self.queue_limit).await? {
            Acceptance::Accepted(_) => Ok(()),
            Acceptance::QueueFull => Err(CliError::usage(
                "too many deletion requests wait; run this list again once fewer do",
            )),
            // Without a key of either kind there is neither.
            Acceptance::Repeated(_) | Acceptance::KeyReused | Acceptance::QuotaExceeded(_) => {
                Err(CliError::usage("the ledger took the request for another one"))
            }
        }
    }
}

/// Of one subject in several models: it is deleted when nothing waits, and exempt when nothing of it
/// was to be deleted.
fn summary(statuses: impl Iterator<Item = Option<DropStatus>>) -> Outcome {
    let (mut deleted, mut exempted) = (false, false);
    for status in statuses {
        match status {
            None => return Outcome::Waiting,
            Some(DropStatus::Deleted) => deleted = true,
            Some(DropStatus::Exempted) => exempted = true,
            Some(DropStatus::NotFound) => {}
        }
    }
    Outcome::Certain(match (deleted, exempted) {
        (true, _) => DropStatus::Deleted,
        (false, true) => DropStatus::Exempted,
        (false, false) => DropStatus::NotFound,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_deleted_when_nothing_of_it_waits() {
        let of = |statuses: &[Option<DropStatus>]| summary(statuses.iter().copied());
        let (deleted, exempted) = (Some(DropStatus::Deleted), Some(DropStatus::Exempted));
        assert_eq!(of(&[deleted, None]), Outcome::Waiting);
        assert_eq!(of(&[exempted, deleted]), Outcome::Certain(DropStatus::Deleted));
        assert_eq!(of(&[exempted]), Outcome::Certain(DropStatus::Exempted));
        assert_eq!(of(&[]), Outcome::Certain(DropStatus::NotFound));
    }
}
