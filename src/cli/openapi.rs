//! `forgetd openapi`: the API's description, as `openapi.yaml` holds it.

use crate::http;

use super::CliError;

pub(super) fn run() -> Result<(), CliError> {
    let yaml = http::openapi().to_yaml().map_err(|error| CliError::usage(error.to_string()))?;
    print!("{yaml}");
    Ok(())
}
