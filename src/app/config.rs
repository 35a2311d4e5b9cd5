//! The configuration: one TOML file, then `FORGETD_*` environment variables, then flags; the
//! later wins. Unknown keys are errors, and secrets are never printed.

mod intake;
mod messages;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use secrecy::SecretString;
use serde::Deserialize;

pub use self::{
    intake::{AgentConfig, DrpConfig, OpenDsrConfig, SubjectConfig},
    messages::{ReachConfig, WebhooksConfig},
};
use crate::nn::device::DeviceKind;

/// `FORGETD_HTTP__LISTEN` sets `http.listen`.
const ENVIRONMENT_PREFIX: &str = "FORGETD_";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub ledger: LedgerConfig,
    pub http: HttpConfig,
    pub serving: ServingConfig,
    pub worker: WorkerConfig,
    pub audit: AuditConfig,
    pub webhooks: WebhooksConfig,
    /// What those who bring intakes are told; they choose the addresses.
    pub callbacks: ReachConfig,
    /// OpenDSR is not offered without it.
    pub opendsr: Option<OpenDsrConfig>,
    /// The Data Rights Protocol is not offered without it.
    pub drp: Option<DrpConfig>,
    pub telemetry: TelemetryConfig,
}

/// Where everything durable lies.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// Holds whatever the other keys do not place elsewhere; created with mode 0700.
    pub data_dir: PathBuf,
    /// `sqlite:///path` or `postgres://...`; `forgetd.sqlite` in the data folder when absent.
    /// May hold a password, hence a secret.
    pub database_url: Option<SecretString>,
    /// `file:///path`, `s3://bucket/prefix`, `gs://...` or `az://...`; the folder `blobs` in the
    /// data folder when absent. Replicas must share it.
    pub blobs_url: Option<String>,
    /// 64 hexadecimal digits: the key under which identifiers become pseudonyms. Made at the
    /// first start in `service-key` of the data folder when absent. Replicas must share it.
    pub service_key: Option<SecretString>,
    /// 64 hexadecimal digits: the key under which the samples' data keys are wrapped. Made at the
    /// first start in `master-key` of the data folder when absent. Replicas must share it.
    pub master_key: Option<SecretString>,
    /// What `master_key` replaces, until `forgetd master-key rotate` has ended.
    pub previous_master_key: Option<SecretString>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    /// Plain HTTP without it.
    pub tls: Option<TlsConfig>,
    /// Connections at once; who comes beyond it waits. No more than three quarters of the
    /// descriptors that the process may have.
    pub connections_max: u32,
    /// How long a request's head may take. A connection on which nothing is asked for so long is
    /// closed, within twice of it.
    pub head_timeout_s: u64,
    /// Largest body of an ingestion.
    pub ingestion_bytes_max: usize,
    /// Largest body of any other request.
    pub body_bytes_max: usize,
    /// Deletion requests that may wait; beyond it a POST is answered 429.
    pub deletion_queue_max: u64,
    pub request_timeout_s: u64,
    /// After SIGTERM the service is not ready for this long while it still answers, so that
    /// balancers notice.
    pub drain_delay_s: u64,
    /// How long requests in flight have then.
    pub drain_timeout_s: u64,
}

/// SIGHUP has both files read anew.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM: the certificate, then those that lead to its issuer.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServingConfig {
    pub device: DeviceKind,
    /// Threads that predict.
    pub threads: usize,
    /// Predictions that may wait; beyond it a request is answered 429.
    pub queue_max: usize,
    /// A replica that cannot reach the ledger for this long stops answering.
    pub lease_s: u64,
    /// The longest time until a new version is noticed without a signal.
    pub poll_s: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Threads that train and unlearn.
    pub threads: usize,
    /// A worker that cannot reach the ledger for this long loses its job to another.
    pub lease_s: u64,
    pub poll_s: u64,
    /// Attempts at one job before it fails for good; requests whose worker was lost as often are
    /// put off instead.
    pub attempts_max: u32,
    /// What a model's next deletion needs is read in advance, between deletions, up to so many
    /// bytes of samples in memory; 0 reads nothing before it is needed.
    pub reserve_bytes_max: usize,
    /// How often weights are looked for that a crash left without a version; they are removed at
    /// the second sight.
    pub sweep_s: u64,
    /// Younger weights are not suspected: their version may be about to be published.
    pub orphan_age_s: u64,
}

/// The audit log, which everybody can check.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Name of the log, which its checkpoints begin with; best the address under which it is
    /// found, without a scheme. `forgetd/` and its key's id when absent.
    pub origin: Option<String>,
    /// 64 hexadecimal digits: the Ed25519 secret that signs checkpoints. Made at the first start
    /// in `audit-key` of the data folder when absent. Replicas must share it.
    pub signing_key: Option<SecretString>,
    /// Whether the log's entries are served without an API key; its hashes and checkpoints always
    /// are.
    pub entries_public: bool,
    /// Who cosigns the log's checkpoints.
    pub witnesses: Vec<WitnessConfig>,
}

/// A witness as C2SP tlog-witness has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Below which its `add-checkpoint` lies.
    pub url: String,
    /// Its verifier key: `name+id+key`.
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// `tracing` directives, e.g. `info` or `forgetd=debug,sqlx=warn`.
    pub log: String,
    pub format: LogFormat,
    /// OTLP/HTTP endpoint that traces go to, e.g. `http://127.0.0.1:4318/v1/traces`.
    pub otlp_endpoint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("forgetd-data"),
            database_url: None,
            blobs_url: None,
            service_key: None,
            master_key: None,
            previous_master_key: None,
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            tls: None,
            connections_max: 8_192,
            head_timeout_s: 30,
            ingestion_bytes_max: 64 << 20,
            body_bytes_max: 4 << 20,
            deletion_queue_max: 100_000,
            request_timeout_s: 30,
            drain_delay_s: 0,
            drain_timeout_s: 20,
        }
    }
}

impl Default for ServingConfig {
    fn default() -> Self {
        Self { device: DeviceKind::Flex, threads: 2, queue_max: 1_024, lease_s: 15, poll_s: 1 }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            lease_s: 20,
            poll_s: 1,
            attempts_max: 5,
            reserve_bytes_max: 64 << 20,
            sweep_s: 600,
            orphan_age_s: 3_600,
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info".into(), format: LogFormat::Auto, otlp_endpoint: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration cannot be used: {0}")]
    Invalid(#[from] Box<figment::Error>),
    #[error("the configuration file {0} does not exist")]
    Missing(PathBuf),
    #[error("`{key}` is {value}, but must be {range}")]
    Range { key: &'static str, value: String, range: &'static str },
}

/// What the command line may override.
#[derive(Debug, Default)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
}

impl Config {
    /// # Errors
    /// When a file is missing or broken, a key is unknown, or a value out of range.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            if !file.exists() {
                return Err(ConfigError::Missing(file.to_owned()));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // A key has a section; FORGETD_CONFIG and other names without one are not keys.
        let environment =
            Env::prefixed(ENVIRONMENT_PREFIX).filter(|key| key.as_str().contains("__")).split("__");
        figment = figment.merge(environment);
        if let Some(data_dir) = &overrides.data_dir {
            figment = figment.merge(Serialized::default("ledger.data_dir", data_dir));
        }
        if let Some(listen) = &overrides.listen {
            figment = figment.merge(Serialized::default("http.listen", listen));
        }
        let config: Self = figment.extract().map_err(Box::new)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let seconds = |key, value: u64| within(key, value, 1, 3_600, "1 to 3600 seconds");
        let threads = |key, value: usize| within(key, value as u64, 1, 1_024, "1 to 1024");
        let bytes = |key, value: usize| {
            within(key, value as u64, 1_024, 1 << 32, "1024 to 4294967296 bytes")
        };
        let connections = u64::from(self.http.connections_max);
        within("http.connections_max", connections, 1, 1 << 20, "1 to 1048576")?;
        seconds("http.head_timeout_s", self.http.head_timeout_s)?;
        seconds("http.request_timeout_s", self.http.request_timeout_s)?;
        within("http.drain_delay_s", self.http.drain_delay_s, 0, 600, "0 to 600 seconds")?;
        seconds("http.drain_timeout_s", self.http.drain_timeout_s)?;
        seconds("serving.lease_s", self.serving.lease_s)?;
        seconds("serving.poll_s", self.serving.poll_s)?;
        seconds("worker.lease_s", self.worker.lease_s)?;
        seconds("worker.poll_s", self.worker.poll_s)?;
        seconds("worker.sweep_s", self.worker.sweep_s)?;
        seconds("worker.orphan_age_s", self.worker.orphan_age_s)?;
        within("webhooks.timeout_s", self.webhooks.timeout_s, 1, 60, "1 to 60 seconds")?;
        let retention = self.webhooks.retention_days;
        within("webhooks.retention_days", retention, 1, 3_650, "1 to 3650 days")?;
        threads("serving.threads", self.serving.threads)?;
        threads("worker.threads", self.worker.threads)?;
        bytes("http.ingestion_bytes_max", self.http.ingestion_bytes_max)?;
        bytes("http.body_bytes_max", self.http.body_bytes_max)?;
        let reserve = self.worker.reserve_bytes_max as u64;
        within("worker.reserve_bytes_max", reserve, 0, 1 << 40, "0 to 1099511627776 bytes")?;
        let attempts = u64::from(self.worker.attempts_max);
        within("worker.attempts_max", attempts, 1, 100, "1 to 100")?;
        within("http.deletion_queue_max", self.http.deletion_queue_max, 1, u64::MAX, "at least 1")?;
        within("serving.queue_max", self.serving.queue_max as u64, 1, 1 << 20, "1 to 1048576")
    }
}

fn within(
    key: &'static str,
    value: u64,
    least: u64,
    most: u64,
    range: &'static str,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::Range { key, value: value.to_string(), range })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), &Overrides::default())
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for (section, key) in
            [("http", "listne"), ("webhooks", "timeout"), ("callbacks", "timeout_s")]
        {
            let error = load(&format!("[{section}]\n{key} = 1")).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
    }

    #[test]
    fn webhooks_and_callbacks_have_a_reach_each() {
        let private = "http_allowed = true\nallowed_networks = [\"10.0.0.0/8\"]\n";
        let admits = |section: &str| {
            let config = load(&format!("[{section}]\n{private}")).unwrap();
            let admits = |reach: &ReachConfig| reach.reach().check("http://10.0.0.1/").is_ok();
            (admits(&config.webhooks.reach), admits(&config.callbacks))
        };
        assert_eq!(admits("webhooks"), (true, false));
        assert_eq!(admits("callbacks"), (false, true));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let error = load("[worker]\nlease_s = 0").unwrap_err().to_string();
        assert!(error.contains("worker.lease_s"), "{error}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = load("[ledger]\ndatabase_url = \"postgres://u:hunter2@db/f\"").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[http]\nlisten = \"127.0.0.1:1\"").unwrap();
        let overrides =
            Overrides { listen: Some("127.0.0.1:2".parse().unwrap()), ..Overrides::default() };
        let config = Config::load(Some(file.path()), &overrides).unwrap();
        assert_eq!(config.http.listen.port(), 2);
    }

    #[test]
    fn the_file_in_deploy_shows_every_key_with_its_default() {
        let text = include_str!("../../deploy/forgetd.toml");
        let config = load(text).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        for key in [
            "connections_max",
            "head_timeout_s",
            "drain_delay_s",
            "poll_s",
            "attempts_max",
            "orphan_age_s",
            "otlp_endpoint",
            "service_key",
            "origin",
            "signing_key",
            "entries_public",
            "witnesses",
            "previous_master_key",
            "certificate",
            "[callbacks]",
            "allowed_networks",
            "allowed_hosts",
            "identity_type",
            "business_id",
            "verify_key",
        ] {
            assert!(text.contains(key), "{key} is not shown");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load(Some(Path::new("/no/such.toml")), &Overrides::default());
        assert!(error.unwrap_err().to_string().contains("/no/such.toml"));
    }
}
