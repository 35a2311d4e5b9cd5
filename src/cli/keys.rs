//! `forgetd keys`: who may do what.

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::{
    app::config::Config,
    app::telemetry,
    app::{Ledger, log_signer},
    clock::{Clock, Ids},
    domain::access::{ApiKey, KeyLimits, Scope, hash_secret, secret},
    notary::Notary,
};

use super::CliError;

#[derive(Args, Debug)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand, Debug)]
enum KeysCommand {
    /// Make a key; its secret is printed once and stored only as a hash.
    Add {
        /// For people: whose key it is.
        #[arg(long)]
        name: String,
        /// predict, delete, audit or admin; several with commas.
        #[arg(long = "scope", value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// Most requests within a minute; each process counts its own.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        requests_per_minute: Option<u32>,
        /// Most samples that its deletion requests may name within 24 hours.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..1 << 53))]
        samples_per_day: Option<u64>,
    },
    /// Give a key another secret, printed once; the one before opens nothing any more.
    Rotate { id: Uuid },
    /// List all keys, revoked ones too.
    List,
    /// End a key's life, at once on every replica but for their cache of a few seconds.
    Revoke { id: Uuid },
    /// Make the configured key the one that signs the audit log, which then says so. Processes
    /// with the key before sign nothing more.
    AdoptLogKey,
}

impl KeysArgs {
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        telemetry::install(&config.telemetry)?;
        let ledger = Ledger::open(&config.ledger).await?;
        let clock = Clock::system();
        match self.command {
            KeysCommand::Add { name, scopes, requests_per_minute, samples_per_day } => {
                let ids = Ids::system();
                let (id, secret) = (ids.next(clock.now()), secret(ids.bytes()));
                let key = ApiKey {
                    id,
                    name,
                    hash: hash_secret(&secret),
                    scopes,
                    limits: KeyLimits { requests_per_minute, samples_per_day },
                    created_at: clock.now(),
                    revoked_at: None,
                };
                ledger.store.create_api_key(&key, None).await?;
                println!("{id}\n{secret}");
            }
            KeysCommand::Rotate { id } => {
                let secret = secret(Ids::system().bytes());
                if !ledger.store.rotate_api_key(id, hash_secret(&secret), None, clock.now()).await?
                {
                    return Err(unknown(id));
                }
                println!("{id}\n{secret}");
            }
            KeysCommand::List => {
                for key in ledger.store.api_keys().await? {
                    let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
                    let end = key.revoked_at.map_or_else(
                        || "live".to_owned(),
                        |revoked_at| format!("revoked {revoked_at}"),
                    );
                    let (id, scopes, limits) = (key.id, scopes.join(","), limits(key.limits));
                    println!("{id}  {scopes}  {limits}  {end}  {}", key.name);
                }
            }
            KeysCommand::Revoke { id } => {
                if !ledger.store.revoke_api_key(id, None, clock.now()).await? {
                    return Err(unknown(id));
                }
                println!("revoked {id}");
            }
            KeysCommand::AdoptLogKey => {
                let signer = log_signer(&config.audit, &config.ledger)?;
                let previous = Notary::adopt(&ledger.store, &signer, &clock).await?;
                let before = previous.as_deref().unwrap_or("none");
                println!("{}\nsigns the audit log; before: {before}", signer.verifier_key());
            }
        }
        ledger.store.close().await;
        Ok(())
    }
}

/// In the words of the options that set them.
fn limits(limits: KeyLimits) -> String {
    let requests = limits.requests_per_minute.map(|most| format!("{most} requests per minute"));
    let samples = limits.samples_per_day.map(|most| format!("{most} samples per day"));
    let limits: Vec<_> = requests.into_iter().chain(samples).collect();
    if limits.is_empty() { "no limits".to_owned() } else { limits.join(", ") }
}

fn unknown(id: Uuid) -> CliError {
    CliError::usage(format!("there is no live key {id}"))
}
