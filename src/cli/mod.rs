//! The command line: one file per subcommand.

mod demo;
mod drop;
mod evaluate;
mod health;
mod ingest;
mod keys;
mod master_key;
mod openapi;
mod progress;
mod replay;
mod serve;
mod train;
mod verify;

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    app::config::{Config, ConfigError, Overrides},
    app::telemetry::{self, TelemetryError},
    app::{AppError, Ledger, LedgerError},
    broker::BrokerError,
    dataset::raw_sample::ReadError,
    domain::{chain::Chain, program},
    evaluation::EvaluationError,
    notary::NotaryError,
    outbound::OutboundError,
    store::{Conflict, IngestError, StoreError},
};

/// A deletion-request service for machine-learned models.
#[derive(Parser, Debug)]
#[command(name = "forgetd", version = program::VERSION)]
struct Cli {
    /// The configuration, a TOML file; FORGETD_* variables and flags win over it.
    #[arg(long, global = true, env = "FORGETD_CONFIG")]
    config: Option<PathBuf>,
    /// Folder for the embedded database, the weights and the service's keys.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
    /// Address to answer on; the port 0 takes a free one.
    #[arg(long, global = true)]
    listen: Option<SocketAddr>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Learn the bundled handwritten digits, serve them, and show how to forget a person.
    Demo,
    /// Serve predictions, take deletion requests and work on them.
    Serve(serve::ServeArgs),
    /// Bring the database to the current schema, and exit.
    Migrate,
    /// Put a CSV, NDJSON or Parquet file's samples into the ledger, all or none.
    Ingest(Box<ingest::IngestArgs>),
    /// Delete whom a list of California's DROP names by hashed identifiers, and write the report on it.
    Drop(drop::DropArgs),
    /// Train a model on what the ledger holds, or settle it, and exit.
    Train(train::TrainArgs),
    /// Judge unlearning methods against retraining, by a suite, and write a report.
    Evaluate(evaluate::EvaluateArgs),
    /// Make, list, rotate and revoke API keys.
    Keys(keys::KeysArgs),
    /// Check a certificate of deletion offline, or a whole audit log; exit with 0 if all of it holds.
    Verify(verify::VerifyArgs),
    /// Change the key under which samples are sealed.
    MasterKey(master_key::MasterKeyArgs),
    /// Print the description of the API, `openapi.yaml`.
    Openapi,
    /// Exit with 0 if the service at the configured address is ready.
    Health,
}

/// What ends a command; `main` prints it with its sources.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error("cannot open {path}")]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error(transparent)]
    Notary(#[from] NotaryError),
    #[error("the terminal or a thread failed")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Usage(String),
}

impl From<IngestError> for CliError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Conflict { position, conflict, .. } => {
                let why = match conflict {
                    Conflict::Exists => "is in the ledger already",
                    Conflict::SampleDeleted => "was deleted on request",
                    Conflict::SubjectDeleted => "belongs to a subject who was deleted on request",
                };
                Self::Usage(format!("sample {} of the file {why}; nothing was kept", position + 1))
            }
            IngestError::Store(error) => error.into(),
        }
    }
}

impl CliError {
    fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = keep_memory_out_of_core_files() {
        return refuse(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error),
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => refuse(&error),
    }
}

/// The memory holds keys and samples in the clear. With an empty filter the kernel writes none of it
/// into a core file, wherever it sends that (core(5)).
fn keep_memory_out_of_core_files() -> io::Result<()> {
    match std::fs::write("/proc/self/coredump_filter", "0") {
        // No Linux, or no core files at all.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn refuse(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("forgetd: {}", Chain(error));
    ExitCode::FAILURE
}

async fn run(cli: Cli) -> Result<ExitCode, CliError> {
    let overrides = Overrides { data_dir: cli.data_dir, listen: cli.listen };
    let mut config = Config::load(cli.config.as_deref(), &overrides)?;
    match cli.command {
        Command::Demo => demo::run(&mut config).await?,
        Command::Serve(args) => args.run(&config).await?,
        Command::Migrate => {
            telemetry::install(&config.telemetry)?;
            Ledger::open(&config.ledger).await?.store.close().await;
            println!("the database has the current schema");
        }
        Command::Ingest(args) => args.run(&config).await?,
        Command::Drop(args) => args.run(&config).await?,
        Command::Train(args) => args.run(&config).await?,
        Command::Evaluate(args) => args.run(&config).await?,
        Command::Keys(args) => args.run(&config).await?,
        Command::Verify(args) => return args.run(&config).await,
        Command::MasterKey(args) => args.run(&config).await?,
        Command::Openapi => openapi::run()?,
        Command::Health => return health::run(&config).await,
    }
    Ok(ExitCode::SUCCESS)
}
