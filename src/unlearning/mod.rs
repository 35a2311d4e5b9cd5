//! Unlearning: one file per method behind one trait, what a result is measured by, and whether
//! it may be published.

pub mod certified;
pub mod counterfactual;
mod descent;
pub mod evidence;
pub mod fine_tune;
pub mod fisher;
pub mod gates;
pub mod gauss_newton;
pub mod iau;
mod importance;
pub mod influence;
pub mod neg_grad_plus;
pub mod rank_test;
pub mod reference;
pub mod selection;
pub mod ssd;

use burn::tensor::Device;
use serde::{Deserialize, de::DeserializeOwned};

use self::{
    certified::Certified, fine_tune::FineTune, fisher::Fisher, gauss_newton::GaussNewton, iau::Iau,
    influence::Influence, neg_grad_plus::NegGradPlus, reference::Reference, ssd::Ssd,
};
use crate::domain::{
    examples::Examples,
    model::{Policy, RangeError},
    watch::Watch,
};
use crate::nn::{
    convex::{Perturbation, PerturbationSpec},
    network::Network,
    parameters::Parameters,
};

/// How deleted samples are forgotten.
pub enum Method {
    /// Exact: training again without them, which is training's work and not an update.
    Retrain,
    Update(Box<dyn Update>),
}

/// The methods that a policy can name; [`by_name`] knows others, to compare with.
pub const NAMES: [&str; 5] = ["certified", "gauss-newton", "iau", "iau-reference", "retrain"];

/// As [`by_name`], of the methods that a policy can name.
///
/// # Errors
/// As [`by_name`], or when the method is there to be compared with only.
pub fn of_policy(policy: &Policy) -> Result<Method, MethodError> {
    if NAMES.contains(&policy.method.as_str()) {
        by_name(&policy.method, &policy.method_parameters)
    } else {
        Err(MethodError::NotOffered(policy.method.clone()))
    }
}

/// A method's hyper-parameters; defaults where one is not given.
pub type MethodParameters = serde_json::Map<String, serde_json::Value>;

/// The method of that name with these parameters.
///
/// # Errors
/// When there is no such method, it has no such parameter, or a value is out of range.
pub fn by_name(name: &str, parameters: &MethodParameters) -> Result<Method, MethodError> {
    macro_rules! update {
        ($method:ty) => {{
            let method: $method = parse(name, parameters)?;
            let range = |source| MethodError::Range { method: name.to_owned(), source };
            method.validate().map_err(range)?;
            Ok(Method::Update(Box::new(method)))
        }};
    }
    match name {
        "certified" => update!(Certified),
        "fine-tune" => update!(FineTune),
        "fisher" => update!(Fisher),
        "gauss-newton" => update!(GaussNewton),
        "iau" => update!(Iau),
        "iau-reference" => update!(Reference),
        "influence-first-order" => update!(Influence),
        "neg-grad-plus" => update!(NegGradPlus),
        "ssd" => update!(Ssd),
        "retrain" => {
            let NoParameters {} = parse(name, parameters)?;
            Ok(Method::Retrain)
        }
        other => Err(MethodError::Unknown(other.to_owned())),
    }
}

/// A method that cannot be had as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    #[error("there is no unlearning method {0:?}")]
    Unknown(String),
    #[error("`method` must be one of {names}, not {0:?}", names = NAMES.join(", "))]
    NotOffered(String),
    #[error("the parameters of method {method:?} cannot be read")]
    Parameters { method: String, source: serde_json::Error },
    #[error("a parameter of method {method:?} is out of range")]
    Range { method: String, source: RangeError },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

/// The method with these parameters, and defaults where one is not given.
///
/// # Errors
/// When it has no such parameter, or takes no such value.
pub fn parse<T: DeserializeOwned>(
    method: &str,
    parameters: &MethodParameters,
) -> Result<T, MethodError> {
    T::deserialize(parameters)
        .map_err(|source| MethodError::Parameters { method: method.to_owned(), source })
}

/// An approximate method: from a network and the rows to forget to the network that has.
pub trait Update: Send + Sync {
    fn name(&self) -> &'static str;

    /// Every hyper-parameter, for the record.
    fn parameters(&self) -> serde_json::Value;

    /// How many retained rows it wants drawn for it; `None` wants all.
    fn retained_rows_max(&self) -> Option<usize>;

    /// How the objective must be perturbed that weights are trained to the minimum of, for this method
    /// to update them; only of linear networks.
    fn perturbation(&self) -> Option<PerturbationSpec> {
        None
    }

    /// Whether what it promises holds whichever samples are deleted, and not for random draws alone.
    fn takes_any_selection(&self) -> bool {
        false
    }

    /// The same task gives the same network to the bit on one machine.
    fn update(&self, task: &Task<'_>, watch: &dyn Watch) -> Result<Updated, UnlearningError>;
}

/// What is to be forgotten, and what there is to do it with. Predictions are natural-log
/// probabilities, `[rows, classes]` flattened.
pub struct Task<'a> {
    /// On a plain device.
    pub network: &'a Network,
    pub forgotten: &'a Examples,
    /// By models that never saw the row.
    pub forgotten_out_of_fold: &'a [f32],
    /// By the network at the end of its training, as every anchor.
    pub forgotten_anchor: &'a [f32],
    pub retained: &'a Examples,
    pub retained_out_of_fold: &'a [f32],
    pub retained_anchor: &'a [f32],
    /// How many rows there are of which `retained` are drawn.
    pub retained_total: usize,
    /// Never trained on; may be empty.
    pub holdout: &'a Examples,
    pub holdout_out_of_fold: &'a [f32],
    pub holdout_anchor: &'a [f32],
    /// How the objective was perturbed that the network is at the minimum of, where it was.
    pub perturbation: Option<&'a Perturbation>,
    pub seed: u64,
    /// The network's.
    pub device: &'a Device,
}

pub struct Updated {
    /// On a plain device.
    pub network: Network,
    /// Steps taken, what was measured on the way; for the record.
    pub details: serde_json::Value,
}

#[derive(Debug, thiserror::Error)]
pub enum UnlearningError {
    #[error("unlearning was cancelled")]
    Cancelled,
    /// It could not do what it promises; the batch is to be retrained.
    #[error("the method gives up: {0}")]
    Refused(String),
    #[error("there are no samples to forget")]
    NothingToForget,
    #[error("there are no samples left to hold the network in place; retrain instead")]
    NothingRetained,
    #[error("predictions for {what} hold {found} numbers, but {expected} are needed")]
    Size { what: &'static str, expected: usize, found: usize },
    #[error("{what} have shape {found:?}, but the network takes {expected:?}")]
    Shape { what: &'static str, expected: Vec<usize>, found: Vec<usize> },
    #[error("a sample has class {label}, but the network has {classes} classes, counted from 0")]
    Label { label: u32, classes: usize },
    #[error("the update left the network with weights that are no numbers; retrain instead")]
    NotFinite,
}

impl Task<'_> {
    /// The network with other weights.
    ///
    /// # Errors
    /// When a weight is no number.
    fn network_with(&self, weights: &Parameters) -> Result<Network, UnlearningError> {
        if weights.is_finite() {
            Ok(self.network.with_parameters(weights))
        } else {
            Err(UnlearningError::NotFinite)
        }
    }

    /// # Errors
    /// When a part does not fit the network or the other parts.
    pub fn check(&self) -> Result<(), UnlearningError> {
        if self.forgotten.is_empty() {
            return Err(UnlearningError::NothingToForget);
        }
        if self.retained.is_empty() {
            return Err(UnlearningError::NothingRetained);
        }
        let classes = self.network.classes();
        for (what, examples, predictions) in [
            (
                "the forgotten samples",
                self.forgotten,
                [self.forgotten_out_of_fold, self.forgotten_anchor],
            ),
            (
                "the retained samples",
                self.retained,
                [self.retained_out_of_fold, self.retained_anchor],
            ),
            ("the hold-out samples", self.holdout, [self.holdout_out_of_fold, self.holdout_anchor]),
        ] {
            if !examples.is_empty() && examples.shape != self.network.spec().input {
                let expected = self.network.spec().input.clone();
                return Err(UnlearningError::Shape {
                    what,
                    expected,
                    found: examples.shape.clone(),
                });
            }
            let expected = examples.len() * classes;
            if let Some(found) = predictions.map(<[f32]>::len).into_iter().find(|n| *n != expected)
            {
                return Err(UnlearningError::Size { what, expected, found });
            }
            let outside = examples.labels.iter().find(|label| **label as usize >= classes);
            if let Some(label) = outside {
                return Err(UnlearningError::Label { label: *label, classes });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod fixture;

#[cfg(test)]
mod tests {
    use super::{fixture::World, *};

    #[test]
    fn every_name_has_its_method_and_no_other_has() {
        let compared = ["fine-tune", "fisher", "influence-first-order", "neg-grad-plus", "ssd"];
        for name in NAMES.into_iter().chain(compared) {
            match by_name(name, &MethodParameters::new()).unwrap() {
                Method::Retrain => assert_eq!(name, "retrain"),
                Method::Update(update) => {
                    assert_eq!(update.name(), name);
                    assert!(update.parameters().is_object());
                }
            }
        }
        assert!(by_name("gradient-ascent", &MethodParameters::new()).is_err());
    }

    #[test]
    fn parameters_replace_defaults_and_wrong_ones_are_named() {
        let with = |name: &str, parameters: serde_json::Value| {
            by_name(name, parameters.as_object().unwrap())
        };
        let Ok(Method::Update(iau)) = with("iau", serde_json::json!({"steps_min": 7})) else {
            panic!("`iau` is an update")
        };
        let Ok(Method::Update(default)) = with("iau", serde_json::json!({})) else {
            panic!("`iau` is an update")
        };
        assert_eq!(iau.parameters()["steps_min"], 7);
        assert_eq!(iau.parameters()["steps_max"], default.parameters()["steps_max"]);

        for (name, parameters, word) in [
            ("iau", serde_json::json!({"lerning_rate": 1}), "lerning_rate"),
            ("iau", serde_json::json!({"learning_rate": "high"}), "high"),
            ("iau", serde_json::json!({"learning_rate": -1.0}), "learning_rate"),
            ("iau", serde_json::json!({"rows_per_step": 0}), "rows_per_step"),
            // What would forget nothing.
            ("iau", serde_json::json!({"steps_min": 0, "visits": 0}), "steps_min"),
            ("iau", serde_json::json!({"forget_weight": 0.0}), "forget_weight"),
            ("fisher", serde_json::json!({"noise": 0.0}), "noise"),
            ("iau-reference", serde_json::json!({"epsilon": 0.0}), "epsilon"),
            ("retrain", serde_json::json!({"steps": 3}), "steps"),
            ("amnesia", serde_json::json!({}), "amnesia"),
        ] {
            let error = with(name, parameters).err().unwrap();
            let text = crate::domain::chain::Chain(&error).to_string();
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn tasks_that_do_not_fit_are_named() {
        let world = World::new(40, 20, 3, &Device::flex());
        world.task().check().unwrap();
        let none = world.forgotten.select(&[]);
        let task = Task {
            forgotten: &none,
            forgotten_out_of_fold: &[],
            forgotten_anchor: &[],
            ..world.task()
        };
        assert!(matches!(task.check(), Err(UnlearningError::NothingToForget)));
        let task = Task { retained: &none, retained_anchor: &[], ..world.task() };
        assert!(matches!(task.check(), Err(UnlearningError::NothingRetained)));
        let task = Task { holdout_out_of_fold: &[0.0; 7], ..world.task() };
        let error = task.check().unwrap_err().to_string();
        assert!(error.contains("hold-out") && error.contains("200"), "{error}");
        let mut wrong = world.forgotten.clone();
        wrong.labels[0] = 10;
        let task = Task { forgotten: &wrong, ..world.task() };
        assert!(matches!(task.check(), Err(UnlearningError::Label { label: 10, .. })));
        let mut wrong = world.retained.clone();
        wrong.shape = vec![8, 8];
        let task = Task { retained: &wrong, ..world.task() };
        assert!(matches!(task.check(), Err(UnlearningError::Shape { .. })));
    }
}
