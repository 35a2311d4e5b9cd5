//! Sections for requests that come by other protocols.

use std::{
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
};

use serde::Deserialize;

use crate::domain::model::ModelName;

/// Requests of data controllers by OpenDSR 2.0.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenDsrConfig {
    /// Scheme and domain under which controllers reach the service; the certificate is for that
    /// domain.
    pub url: String,
    /// PEM: the certificate that answers are signed with, then those that lead to its issuer.
    pub certificate: PathBuf,
    /// PEM: the certificate's RSA key, PKCS#8 or PKCS#1.
    pub key: PathBuf,
    /// Which identities are subjects' ids; a `controller_customer_id` is one of every model when
    /// absent.
    #[serde(default = "customer_id")]
    pub subjects: Vec<SubjectConfig>,
    /// Which identities are aliases of subjects, declared as their samples came in: `email` and the
    /// advertising ids.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// Requests of Authorized Agents by the Data Rights Protocol 0.9.4.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrpConfig {
    /// What agents call this business.
    pub business_id: String,
    /// Whose requests are taken.
    pub agents: Vec<AgentConfig>,
    /// Which claims are subjects' ids; none when absent.
    #[serde(default)]
    pub subjects: Vec<SubjectConfig>,
    /// Which claims are aliases of subjects, declared as their samples came in: `email`, as when
    /// absent, and `phone_number`.
    #[serde(default = "email")]
    pub aliases: Vec<String>,
}

/// An agent as the network's service directory has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    pub id: String,
    /// Ed25519's public key in base64.
    pub verify_key: String,
    /// What each process lets in; no limit when absent.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Samples that its requests may name within 24 hours; no limit when absent.
    pub samples_per_day: Option<NonZeroU64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectConfig {
    pub identity_type: String,
    /// Every model when absent.
    pub model: Option<ModelName>,
}

fn customer_id() -> Vec<SubjectConfig> {
    vec![SubjectConfig { identity_type: "controller_customer_id".into(), model: None }]
}

fn email() -> Vec<String> {
    vec!["email".into()]
}
