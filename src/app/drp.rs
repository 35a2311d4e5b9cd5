//! The Data Rights Protocol as the configuration sets it up: whom the business trusts, and whom
//! claims name.

use std::sync::Arc;

use crate::{
    http::Drp,
    intake::{
        drp::{Agent, AgentError, Trust},
        identity::drp_alias,
    },
};

use super::{
    config::{AgentConfig, DrpConfig},
    naming::{NamingConfigError, naming},
};

#[derive(Debug, thiserror::Error)]
pub enum DrpError {
    #[error("`drp.agents` names nobody")]
    NoAgent,
    #[error("`drp.business_id` or an entry of `drp.agents` cannot be used")]
    Agent(#[from] AgentError),
    #[error("`drp.subjects` and `drp.aliases` cannot be used")]
    Naming(#[from] NamingConfigError),
}

/// # Errors
/// When an id or a key is none, an agent is there twice, or no claim names anybody.
pub(super) fn facade(config: &DrpConfig) -> Result<Arc<Drp>, DrpError> {
    if config.agents.is_empty() {
        return Err(DrpError::NoAgent);
    }
    let agent = |configured: &AgentConfig| {
        let AgentConfig { id, verify_key, requests_per_minute, samples_per_day } = configured;
        let agent = Agent::new(id, verify_key)?;
        Ok::<_, AgentError>(agent.at_most(*requests_per_minute, *samples_per_day))
    };
    let agents = config.agents.iter().map(agent).collect::<Result<_, _>>()?;
    Ok(Arc::new(Drp {
        trust: Trust::new(&config.business_id, agents)?,
        naming: naming(&config.subjects, &config.aliases, drp_alias)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of RFC 8032, section 7.1, TEST 2.
    const KEY: &str = "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=";

    fn configured(business_id: &str, agents: &[(&str, &str)], aliases: &[&str]) -> DrpConfig {
        let agent = |(id, key): &(&str, &str)| AgentConfig {
            id: (*id).to_owned(),
            verify_key: (*key).to_owned(),
            requests_per_minute: None,
            samples_per_day: None,
        };
        DrpConfig {
            business_id: business_id.into(),
            agents: agents.iter().map(agent).collect(),
            subjects: Vec::new(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        }
    }

    #[test]
    fn what_cannot_be_trusted_or_named_is_refused() {
        let of = |config: &DrpConfig| facade(config).map(|_| ());
        let agents = [("A", KEY)];
        assert!(of(&configured("B", &agents, &["email", "phone_number"])).is_ok());
        assert!(matches!(of(&configured("B", &[], &["email"])), Err(DrpError::NoAgent)));
        for (business_id, agents) in
            [("", &agents[..]), ("B", &[("A", "AAAA")]), ("B", &[("A", KEY), ("A", KEY)])]
        {
            let refused = of(&configured(business_id, agents, &["email"]));
            assert!(matches!(refused, Err(DrpError::Agent(_))), "{refused:?}");
        }
        for aliases in [&[][..], &["name"]] {
            let refused = of(&configured("B", &agents, aliases));
            assert!(matches!(refused, Err(DrpError::Naming(_))), "{refused:?}");
        }
    }
}
