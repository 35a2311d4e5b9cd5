//! `forgetd keys`: who may do what.

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::{
    app::config::Config,
    app::telemetry,
    app::{Ledger, log_signer},
    clock::{Clock, Ids},
    domain::access::{ApiKey, Scope, hash_secret},
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
    },
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
            KeysCommand::Add { name, scopes } => {
                let ids = Ids::system();
                // 256 random bits, recognisable to secret scanners by their prefix.
                let secret = format!("forgetd_{}", hex::encode(ids.bytes::<32>()));
                let id = ids.next(clock.now());
                let key = ApiKey {
                    id,
                    name,
                    hash: hash_secret(&secret),
                    scopes,
                    created_at: clock.now(),
                    revoked_at: None,
                };
                ledger.store.create_api_key(&key).await?;
                println!("{id}\n{secret}");
            }
            KeysCommand::List => {
                for key in ledger.store.api_keys().await? {
                    let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
                    let end = key.revoked_at.map_or_else(
                        || "live".to_owned(),
                        |revoked_at| format!("revoked {revoked_at}"),
                    );
                    println!("{}  {}  {}  {}", key.id, scopes.join(","), end, key.name);
                }
            }
            KeysCommand::Revoke { id } => {
                if !ledger.store.revoke_api_key(id, clock.now()).await? {
                    return Err(CliError::usage(format!("there is no live key {id}")));
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
