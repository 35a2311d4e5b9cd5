//! `forgetd verify`: whether a certificate or a whole log holds, without trusting who serves it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgGroup, Args};

use crate::{
    app::config::Config,
    audit::{
        certificate::{self, Trust},
        checkpoint::Checkpoint,
        monitor::Monitor,
        note::{KeyKind, Note, VerifierKey},
        report::{Outcome, Report},
        tile::{self, Tile, TileError},
    },
    domain::{audit::leaf_hash, chain::Chain, identity::Digest},
    outbound::{Outbound, OutboundError},
};

use super::{CliError, replay};

/// Findings that are shown one by one.
const FINDINGS_MAX: usize = 20;

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["file", "log"]))]
pub struct VerifyArgs {
    /// A certificate (JSON), or a proof of C2SP tlog-proof.
    file: Option<PathBuf>,
    /// Audit a whole log instead: the address below which its checkpoint and tiles lie, such as
    /// <http://127.0.0.1:8080/audit>.
    #[arg(long, value_name = "URL")]
    log: Option<String>,
    /// The log's key, which you got from its operator and not with the certificate: a verifier key
    /// (name+id+key), an Ed25519 public key in 64 hexadecimal digits, or a file that holds either.
    #[arg(long)]
    key: String,
    /// Verifier key of a witness that must have cosigned; may be repeated.
    #[arg(long = "witness", value_name = "KEY")]
    witnesses: Vec<String>,
    /// An older checkpoint that you kept: the log must only have grown since.
    #[arg(long, visible_alias = "since", value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// The key that signed the older checkpoint, where the log has changed keys since.
    #[arg(long, requires = "checkpoint", value_name = "KEY")]
    checkpoint_key: Option<String>,
    /// Also make the certificate's last version again from the ledger that the configuration names
    /// (the service's own, or a copy of it), and compare the weights.
    #[arg(long, requires = "file")]
    replay: bool,
    /// Keep the log's checkpoint in this file, for the next time, if everything holds.
    #[arg(long, requires = "log", value_name = "FILE")]
    save: Option<PathBuf>,
    /// API key for the log's entries, where they are not public.
    #[arg(long, env = "FORGETD_API_KEY", hide_env_values = true, value_name = "SECRET")]
    api_key: Option<String>,
}

impl VerifyArgs {
    /// Fails, as a process, unless every statement holds.
    pub async fn run(self, config: &Config) -> Result<ExitCode, CliError> {
        let older = self.checkpoint.as_deref().map(read_note).transpose()?;
        let older_key = match (&self.checkpoint_key, &older) {
            (Some(key), Some(older)) => Some(key_for(key, || origin_of(&older.text))?),
            (None, _) | (_, None) => None,
        };
        let older = older.as_ref().map(|older| (older, older_key.as_ref()));
        let witnesses =
            self.witnesses.iter().map(|key| parse_key(key)).collect::<Result<Vec<_>, _>>()?;
        if let Some(witness) = witnesses.iter().find(|key| key.kind() != KeyKind::Witness) {
            return Err(CliError::usage(format!("{} is no witness's key", witness.name())));
        }
        let (report, checkpoint) = match (&self.file, &self.log) {
            (Some(file), _) => {
                let text = read(file)?;
                let mut report = verify_text(&text, &self.key, &witnesses, older)?;
                if self.replay && report.holds() {
                    replay(&text, config, &mut report).await?;
                }
                (report, None)
            }
            (None, Some(log)) => {
                let log = Log::new(log, self.api_key.clone())?;
                let note = String::from_utf8(log.get("checkpoint").await?)
                    .map_err(|_| CliError::usage("the log's checkpoint is no text"))?;
                let key = key_for(&self.key, || origin_of(&note))?;
                let older = older.map(|(older, its_key)| (older, its_key.unwrap_or(&key)));
                let trust = Trust { key: &key, witnesses: &witnesses, older };
                (audit(&log, &note, &trust).await?, Some(note))
            }
            (None, None) => return Err(CliError::usage("name a certificate, or a log by --log")),
        };
        show(&report);
        if !report.holds() {
            return Ok(ExitCode::FAILURE);
        }
        if let (Some(path), Some(note)) = (self.save, checkpoint) {
            fs::write(&path, note).map_err(|source| CliError::File { path, source })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(report: &Report) {
    for check in &report.checks {
        match &check.outcome {
            Outcome::Holds(found) => println!("ok      {}: {found}", check.statement),
            Outcome::Fails(why) => println!("FAILED  {}: {why}", check.statement),
            Outcome::Open(why) => println!("OPEN    {}: {why}", check.statement),
        }
    }
    let count =
        |is: fn(&Outcome) -> bool| report.checks.iter().filter(|it| is(&it.outcome)).count();
    let all = report.checks.len();
    match (count(|it| matches!(it, Outcome::Fails(_))), count(|it| matches!(it, Outcome::Open(_))))
    {
        (0, 0) => println!("all {all} checks hold"),
        (0, open) => println!("{open} of {all} checks could not be made; the others hold"),
        (failed, _) => println!("{failed} of {all} checks FAILED"),
    }
}

async fn replay(text: &str, config: &Config, report: &mut Report) -> Result<(), CliError> {
    match serde_json::from_str(text) {
        Ok(certificate) => replay::replay(&certificate, config, report).await,
        Err(_) => Err(CliError::usage("--replay needs the certificate itself, not a tlog-proof")),
    }
}

fn verify_text(
    text: &str,
    key: &str,
    witnesses: &[VerifierKey],
    older: Option<(&Note, Option<&VerifierKey>)>,
) -> Result<Report, CliError> {
    let is_proof = text.starts_with("c2sp.org/tlog-proof");
    let key = key_for(key, || {
        if is_proof {
            return text.split_once("\n\n").and_then(|(_, note)| origin_of(note));
        }
        let certificate: serde_json::Value = serde_json::from_str(text).ok()?;
        origin_of(certificate["checkpoint"].as_str()?)
    })?;
    let older = older.map(|(older, its_key)| (older, its_key.unwrap_or(&key)));
    let trust = Trust { key: &key, witnesses, older };
    if is_proof {
        Ok(certificate::verify_tlog_proof(text, &trust))
    } else {
        Ok(certificate::verify(text, &trust))
    }
}

/// A verifier key; or a bare public key, whose name is then the log's own word.
fn key_for(text: &str, origin: impl Fn() -> Option<String>) -> Result<VerifierKey, CliError> {
    let text = match fs::read_to_string(text) {
        Ok(held) => held.trim().to_owned(),
        Err(_) => text.to_owned(),
    };
    let key = match text.parse::<Digest>() {
        Ok(bytes) => {
            let name = origin().ok_or_else(|| {
                CliError::usage("there is no checkpoint whose log the public key could be of")
            })?;
            VerifierKey::new(&name, KeyKind::Log, bytes.as_bytes())
                .map_err(|error| CliError::usage(format!("--key: {error}")))?
        }
        Err(_) => parse_key(&text)?,
    };
    match key.kind() {
        KeyKind::Log => Ok(key),
        KeyKind::Witness => Err(CliError::usage("--key is a witness's key, not a log's")),
    }
}

fn parse_key(text: &str) -> Result<VerifierKey, CliError> {
    text.parse().map_err(|error| CliError::usage(format!("{text:?} is no key: {error}")))
}

fn origin_of(note: &str) -> Option<String> {
    note.lines().next().map(str::to_owned)
}

fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|source| CliError::File { path: path.to_owned(), source })
}

fn read_note(path: &Path) -> Result<Note, CliError> {
    Note::parse(&read(path)?).map_err(|error| {
        let source = io::Error::new(io::ErrorKind::InvalidData, error);
        CliError::File { path: path.to_owned(), source }
    })
}

/// A log somewhere else.
struct Log {
    outbound: Outbound,
    prefix: String,
}

impl Log {
    fn new(prefix: &str, api_key: Option<String>) -> Result<Self, OutboundError> {
        let outbound = Outbound::new(api_key.map(Into::into))?;
        Ok(Self { outbound, prefix: prefix.trim_end_matches('/').to_owned() })
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, OutboundError> {
        self.outbound.get(&format!("{}/{path}", self.prefix)).await
    }
}

/// Fetches every entry and tile, computes the tree anew and holds the entries to their order.
async fn audit(log: &Log, note: &str, trust: &Trust<'_>) -> Result<Report, CliError> {
    let mut report = Report::default();
    let Some(checkpoint) = certificate::open_checkpoint(note, trust, &mut report) else {
        return Ok(report);
    };
    let older = match trust.older.map(|(older, key)| Checkpoint::open(older, key)).transpose() {
        Ok(older) => older,
        Err(error) => {
            report.note("consistency", Err::<String, _>(error));
            return Ok(report);
        }
    };
    if let Some(older) = &older
        && older.size > checkpoint.size
    {
        let (was, is) = (older.size, checkpoint.size);
        report.fail("consistency", format!("the log was cut: it had {was} entries and has {is}"));
        return Ok(report);
    }
    let mut walk = Walk { log, monitor: Monitor::default(), tiles: 0, findings: Vec::new() };
    let mut known = older.as_ref().filter(|it| it.size == 0).map(|_| walk.monitor.root());
    for index in 0.. {
        let Some(bundle) = Tile::of_tree(0, index, checkpoint.size) else { break };
        for (at, entry) in (bundle.first()..).zip(walk.entries(bundle).await?) {
            walk.take(at, &entry).await?;
            if older.as_ref().is_some_and(|older| older.size == at + 1) {
                known = Some(walk.monitor.root());
            }
        }
    }
    walk.compare_partial_tiles().await?;
    if let Some(older) = &older {
        let grown = format!("the log only grew, from {} to {}", older.size, checkpoint.size);
        match known {
            Some(root) if root == older.root => report.hold("consistency", grown),
            _ => report.fail("consistency", "the log's beginning is not the one you knew"),
        }
    }
    walk.conclude(&checkpoint, &mut report);
    Ok(report)
}

struct Walk<'a> {
    log: &'a Log,
    monitor: Monitor,
    tiles: u64,
    findings: Vec<(&'static str, String)>,
}

impl Walk<'_> {
    /// A bundle's entries, held to the leaf hashes that are served of them.
    async fn entries(&mut self, bundle: Tile) -> Result<Vec<String>, CliError> {
        let path = format!("tile/entries/{}", bundle.path());
        let bytes = self.log.get(&path).await?;
        let entries = match tile::decode_entries(&bytes, bundle.width) {
            Ok(entries) => entries,
            Err(error) => {
                self.found("entries", format!("{path}: {error}"));
                return Ok(Vec::new());
            }
        };
        let hashes: Vec<_> = entries.iter().map(|entry| leaf_hash(entry.as_bytes())).collect();
        self.compare(bundle, &hashes).await?;
        Ok(entries)
    }

    async fn take(&mut self, index: u64, entry: &str) -> Result<(), CliError> {
        if let Err(finding) = self.monitor.judge(index, entry) {
            let finding = Chain(&finding).to_string();
            self.found("order", finding);
        }
        for (tile, hashes) in self.monitor.push(entry) {
            // Those of level 0 came with their entries.
            if tile.level > 0 {
                self.compare(tile, &hashes).await?;
            }
        }
        Ok(())
    }

    async fn compare_partial_tiles(&mut self) -> Result<(), CliError> {
        let partial: Vec<_> = self
            .monitor
            .partial_tiles()
            .filter(|(tile, _)| tile.level > 0)
            .map(|(tile, hashes)| (tile, hashes.to_vec()))
            .collect();
        for (tile, hashes) in partial {
            self.compare(tile, &hashes).await?;
        }
        Ok(())
    }

    async fn compare(&mut self, tile: Tile, computed: &[Digest]) -> Result<(), CliError> {
        self.tiles += 1;
        let path = format!("tile/{}/{}", tile.level, tile.path());
        let served: Result<Vec<Digest>, TileError> = tile.decode(&self.log.get(&path).await?);
        match served {
            Err(error) => self.found("tiles", format!("{path}: {error}")),
            Ok(served) => {
                let differs = served.iter().zip(computed).position(|(a, b)| a != b);
                if let Some(position) = differs {
                    let at = tile.first() + position as u64;
                    self.found("tiles", format!("{path}: hash {at} is not that of the entries"));
                }
            }
        }
        Ok(())
    }

    fn found(&mut self, statement: &'static str, finding: String) {
        self.findings.push((statement, finding));
    }

    fn conclude(self, checkpoint: &Checkpoint, report: &mut Report) {
        let (size, root) = (self.monitor.size(), self.monitor.root());
        if (size, root) == (checkpoint.size, checkpoint.root) {
            report.hold("root", format!("computed anew from {size} entries"));
        } else {
            report.fail("root", format!("{size} entries give {root}, not the signed root"));
        }
        let counts = self.monitor.counts();
        for (statement, held) in [
            ("entries", format!("{size} entries can be read")),
            ("tiles", format!("{} tiles hold the entries' hashes", self.tiles)),
            (
                "order",
                format!(
                    "{} requests are open, {} completed, {} settled or ended otherwise; {} \
                     versions, {} entries of kinds unknown here",
                    counts.open, counts.completed, counts.ended, counts.versions, counts.foreign
                ),
            ),
        ] {
            let findings: Vec<_> =
                self.findings.iter().filter(|(about, _)| *about == statement).collect();
            if findings.is_empty() {
                report.hold(statement, held);
            }
            for (_, finding) in findings.iter().take(FINDINGS_MAX) {
                report.fail(statement, finding.clone());
            }
            if let Some(more) = findings.len().checked_sub(FINDINGS_MAX).filter(|more| *more > 0) {
                report.fail(statement, format!("and {more} findings more"));
            }
        }
    }
}
