//! `forgetd master-key`: the key under which everything that speaks of a sample is sealed.

use clap::{Args, Subcommand};

use crate::{app::Ledger, app::config::Config, app::telemetry, clock::Clock};

use super::CliError;

#[derive(Args, Debug)]
pub struct MasterKeyArgs {
    #[command(subcommand)]
    command: MasterKeyCommand,
}

#[derive(Subcommand, Debug)]
enum MasterKeyCommand {
    /// Wrap every data key under a new master key, so that older backups and replicas open no more.
    ///
    /// A key in the data folder is replaced by a new one; no other process may use the folder
    /// meanwhile. Keys in the configuration: give every process the new one as `master_key` and
    /// the old one as `previous_master_key`, run this, then take the old one away.
    Rotate,
}

impl MasterKeyArgs {
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        let MasterKeyCommand::Rotate = self.command;
        telemetry::install(&config.telemetry)?;
        Ledger::rotate_master_key(&config.ledger, &Clock::system()).await?;
        println!("every data key is wrapped under the new master key; the old one opens nothing");
        Ok(())
    }
}
