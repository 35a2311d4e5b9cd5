//! Sections for what is told to others: how far it goes, and how long it is kept.

use serde::Deserialize;

use crate::outbound::{Network, Reach};

/// Where messages may go besides the Internet over TLS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReachConfig {
    /// Whether addresses may begin with http: too.
    pub http_allowed: bool,
    /// Networks that are not on the Internet, and to which messages may go all the same.
    pub allowed_networks: Vec<Network>,
    /// Names of hosts to which messages may go wherever they resolve to.
    pub allowed_hosts: Vec<String>,
}

impl ReachConfig {
    pub fn reach(&self) -> Reach {
        Reach::internet(self.http_allowed, &self.allowed_networks, &self.allowed_hosts)
    }
}

/// What webhooks are told; administrators choose their addresses.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhooksConfig {
    #[serde(flatten)]
    pub reach: ReachConfig,
    /// How long a receiver has to answer, a callback's too.
    pub timeout_s: u64,
    /// How long messages are kept that were delivered or given up, to callbacks too.
    pub retention_days: u64,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self { reach: ReachConfig::default(), timeout_s: 15, retention_days: 30 }
    }
}
