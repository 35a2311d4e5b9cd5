//! `forgetd serve`: the service.

use clap::Args;

use crate::{
    app::config::Config,
    app::telemetry,
    app::{App, Ledger, Role, stop_signal},
};

use super::CliError;

#[derive(Args, Debug)]
pub struct ServeArgs {
    /// What this process does; all by default. Predictions scale apart from unlearning.
    #[arg(long = "role", value_enum, value_delimiter = ',')]
    roles: Vec<Role>,
}

impl ServeArgs {
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        let stop = stop_signal()?;
        let telemetry = telemetry::install(&config.telemetry)?;
        let roles = if self.roles.is_empty() { Role::ALL.to_vec() } else { self.roles };
        let ledger = Ledger::open(&config.ledger).await?;
        let app = App::start(config, ledger, &roles, telemetry.metrics.clone()).await?;
        // Scripts read the port from here when they asked for 0.
        let scheme = if config.http.tls.is_some() { "https" } else { "http" };
        println!("listening on {scheme}://{}", app.address());
        app.run_until(stop).await;
        telemetry.shutdown();
        Ok(())
    }
}
