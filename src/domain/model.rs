//! A model: a named network with its input schema, training recipe and policy.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{network::Architecture, schema::InputSchema, timestamp::Timestamp};

#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// `UUIDv7`.
    pub id: Uuid,
    pub name: ModelName,
    pub architecture: Architecture,
    pub schema: InputSchema,
    pub recipe: Recipe,
    pub policy: Policy,
    pub created_at: Timestamp,
}

/// 1 to 64 of `a-z`, `0-9`, `-`, `_`, starting with a letter or digit; it stands in URLs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9_-]{0,63}$", example = "digits")]
pub struct ModelName(String);

#[derive(Debug, thiserror::Error)]
#[error("a model's name is 1 to 64 of a-z, 0-9, '-' and '_', starting with a letter or a digit")]
pub struct ModelNameError;

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(text: &str) -> Result<Self, ModelNameError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| plain(b) || b == b'-' || b == b'_')
            && text.bytes().next().is_some_and(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(ModelNameError) }
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ModelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// How the network is trained. Everything that decides the weights stands here: the same recipe
/// over the same samples gives the same bits on the same machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    #[schema(minimum = 1, maximum = 10_000)]
    pub epochs: u32,
    #[schema(minimum = 1, maximum = 65_536)]
    pub batch_size: u32,
    /// Step size of Adam (betas 0.9 and 0.999, eps 1e-8).
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    pub learning_rate: f64,
    /// Weight alpha of the gradient restriction (IAU, arXiv 2507.23257); 0 trains without it.
    #[schema(minimum = 0.0, maximum = 10.0)]
    pub gradient_restriction: f64,
    /// k of the k-fold cross-fitting that gives each sample its out-of-fold prediction.
    #[schema(minimum = 2, maximum = 50)]
    pub folds: u32,
    /// Initial weights, order of the samples and folds all derive from it. At most 2^53 - 1, so
    /// that every JSON reader keeps it exactly.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    pub seed: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 15,
            batch_size: 64,
            learning_rate: 1e-3,
            gradient_restriction: 0.0,
            folds: 5,
            seed: 0,
        }
    }
}

/// What is done when a deletion comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Name of an unlearning method: `iau`, `gauss-newton`, `certified` (of linear networks),
    /// `iau-reference` or `retrain`.
    pub method: String,
    /// The method's hyper-parameters; its defaults where one is not given.
    #[schema(value_type = Object)]
    pub method_parameters: Map<String, Value>,
    /// An update whose hold-out accuracy falls by more than this (a share, not points) is not
    /// published; its batch is retrained instead.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub holdout_accuracy_tolerance: f64,
    /// Most requests that one update serves.
    #[schema(minimum = 1, maximum = 100_000)]
    pub batch_requests_max: u32,
    /// A request is due this many days after it was received, unless it says otherwise
    /// (GDPR Art. 12(3): one month; CCPA: 45 days).
    #[schema(minimum = 1, maximum = 365)]
    pub due_within_days: u32,
    /// An open request is warned of once so little time is left to it: by metrics, a leaf of the
    /// audit log and a message to webhooks.
    #[schema(minimum = 1, maximum = 8_760)]
    pub warn_before_hours: u32,
    pub extension: ExtensionPolicy,
    /// A request that would delete more than this share of the training samples waits for an
    /// administrator's approval; none does where it is absent.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub approval_above_share: Option<f64>,
    pub settlement: SettlementPolicy,
}

/// How far an administrator may move the deadline of an open request back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExtensionPolicy {
    /// All extensions together, in days after the first deadline (GDPR Art. 12(3): two further
    /// months; CCPA: 45 more days).
    #[schema(minimum = 1, maximum = 365)]
    pub days_max: u32,
    /// How often; 0 forbids extensions.
    #[schema(minimum = 0, maximum = 12)]
    pub times_max: u32,
}

/// When an exact retraining settles what was approximate; whichever comes first. A settlement can
/// always be called for by hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SettlementPolicy {
    /// After this many unsettled requests.
    #[schema(minimum = 1)]
    pub after_requests: Option<u32>,
    /// Once the oldest unsettled request was completed this long ago.
    #[schema(minimum = 1)]
    pub after_age_s: Option<u64>,
    /// Once the hold-out accuracy lies this share below the last exactly trained version's, on the
    /// hold-out samples that the latest batch drew.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub after_accuracy_drop: Option<f64>,
    /// At most so many retrainings within 24 hours are called for by requests, so that a flood of them
    /// does not force endless retraining: beyond, settlements wait, and batches whose update fails its
    /// gates. But once a quarter of `due_within_days` is left to a request, it waits no longer.
    #[schema(minimum = 1)]
    pub per_day_max: Option<u32>,
    /// A running settlement steps aside for a deletion at most this often; then it is finished
    /// first.
    pub preemptions_max: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            method: "iau".into(),
            method_parameters: Map::new(),
            holdout_accuracy_tolerance: 0.03,
            batch_requests_max: 1_000,
            due_within_days: 30,
            warn_before_hours: 72,
            extension: ExtensionPolicy::default(),
            approval_above_share: None,
            settlement: SettlementPolicy::default(),
        }
    }
}

impl Default for ExtensionPolicy {
    fn default() -> Self {
        Self { days_max: 60, times_max: 1 }
    }
}

impl Default for SettlementPolicy {
    fn default() -> Self {
        Self {
            after_requests: Some(100),
            after_age_s: Some(7 * 24 * 3600),
            after_accuracy_drop: Some(0.03),
            per_day_max: Some(24),
            preemptions_max: 3,
        }
    }
}

/// A value of a recipe, a policy, a method or a limit outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` is {value}, but must be {range}")]
pub struct RangeError {
    pub field: &'static str,
    pub value: String,
    pub range: &'static str,
}

/// # Errors
/// When the value does not fit.
pub fn check(
    fits: bool,
    field: &'static str,
    value: impl std::fmt::Display,
    range: &'static str,
) -> Result<(), RangeError> {
    if fits { Ok(()) } else { Err(RangeError { field, value: value.to_string(), range }) }
}

impl Recipe {
    /// # Errors
    /// Names the first value outside its range.
    pub fn validate(&self) -> Result<(), RangeError> {
        let rate = self.learning_rate;
        check((1..=10_000).contains(&self.epochs), "epochs", self.epochs, "1 to 10000")?;
        check(
            (1..=65_536).contains(&self.batch_size),
            "batch_size",
            self.batch_size,
            "1 to 65536",
        )?;
        check(rate > 0.0 && rate <= 1.0, "learning_rate", rate, "above 0 and at most 1")?;
        let alpha = self.gradient_restriction;
        check((0.0..=10.0).contains(&alpha), "gradient_restriction", alpha, "0 to 10")?;
        check((2..=50).contains(&self.folds), "folds", self.folds, "2 to 50")?;
        check(self.seed < 1 << 53, "seed", self.seed, "at most 2^53 - 1")
    }
}

impl Policy {
    /// How long after its receipt a request is due, unless it says otherwise.
    pub fn due_within(&self) -> Duration {
        Duration::from_hours(u64::from(self.due_within_days) * 24)
    }

    /// # Errors
    /// Names the first value outside its range. Which methods there are, `unlearning` knows.
    pub fn validate(&self) -> Result<(), RangeError> {
        let share = |field, value: f64| check((0.0..=1.0).contains(&value), field, value, "0 to 1");
        let settlement = &self.settlement;
        share("holdout_accuracy_tolerance", self.holdout_accuracy_tolerance)?;
        check(
            (1..=100_000).contains(&self.batch_requests_max),
            "batch_requests_max",
            self.batch_requests_max,
            "1 to 100000",
        )?;
        check(
            (1..=365).contains(&self.due_within_days),
            "due_within_days",
            self.due_within_days,
            "1 to 365",
        )?;
        check(
            (1..=8_760).contains(&self.warn_before_hours),
            "warn_before_hours",
            self.warn_before_hours,
            "1 to 8760",
        )?;
        let days = self.extension.days_max;
        check((1..=365).contains(&days), "extension.days_max", days, "1 to 365")?;
        let times = self.extension.times_max;
        check((0..=12).contains(&times), "extension.times_max", times, "0 to 12")?;
        share("approval_above_share", self.approval_above_share.unwrap_or(0.0))?;
        check(settlement.per_day_max != Some(0), "settlement.per_day_max", 0, "at least 1")?;
        let positive = settlement.after_requests != Some(0);
        check(positive, "settlement.after_requests", 0, "at least 1")?;
        check(settlement.after_age_s != Some(0), "settlement.after_age_s", 0, "at least 1")?;
        share("settlement.after_accuracy_drop", settlement.after_accuracy_drop.unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_urls() {
        for good in ["digits", "a", "adult-2_x", "0"] {
            assert_eq!(good.parse::<ModelName>().unwrap().to_string(), good);
        }
        for bad in ["", "-a", "A", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn defaults_are_in_range_and_nan_is_not() {
        assert_eq!(Recipe::default().validate(), Ok(()));
        assert_eq!(Policy::default().validate(), Ok(()));
        let recipe = Recipe { learning_rate: f64::NAN, ..Recipe::default() };
        assert_eq!(recipe.validate().unwrap_err().field, "learning_rate");
        let policy = Policy { holdout_accuracy_tolerance: f64::NAN, ..Policy::default() };
        assert!(policy.validate().is_err());
    }
}
