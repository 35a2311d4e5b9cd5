//! Whether a suite can be run.

use std::collections::BTreeSet;

use super::{DatasetSpec, DeletionSpec, Draw, MethodSpec, NetworkEntry, Suite};
use crate::{domain::model::Recipe, evaluation::error::EvaluationError};

impl Suite {
    /// # Errors
    /// Names the first declaration that cannot be run.
    pub(super) fn check(&self) -> Result<(), EvaluationError> {
        let refuse = |problem: String| Err(EvaluationError::Suite(problem));
        let of_experiments = self.experiments.iter().filter_map(|it| it.seeds.as_ref());
        let mut seeds = of_experiments.chain([&self.seeds]);
        if seeds.any(|seeds| seeds.is_empty() || seeds.iter().any(|seed| *seed >= 1 << 32)) {
            return refuse("`seeds` must name at least one, each below 2^32".into());
        }
        if self.retrainings < 2 {
            return refuse("`retrainings` must be at least 2: the floor compares them".into());
        }
        if matches!(self.reference_models, 1..=3) {
            return refuse("`reference_models` must be 0 or at least 4".into());
        }
        let datasets = unique("data set", self.datasets.iter().map(|dataset| &*dataset.name))?;
        let networks = unique("network", self.networks.iter().map(|network| &*network.name))?;
        let deletions = unique("deletion", self.deletions.iter().map(|set| &*set.name))?;
        let methods = unique("method", self.methods.iter().map(MethodSpec::label))?;
        self.datasets.iter().try_for_each(DatasetSpec::check)?;
        self.networks.iter().try_for_each(NetworkEntry::check)?;
        self.deletions.iter().try_for_each(DeletionSpec::check)?;
        for method in &self.methods {
            method.contender()?;
            if method.folds.is_some_and(|folds| !(2..=50).contains(&folds)) {
                return refuse(format!("method {:?}: `folds` must be 2 to 50", method.label()));
            }
        }
        for experiment in &self.experiments {
            known("data set", &experiment.datasets, &datasets)?;
            known("network", &experiment.networks, &networks)?;
            known("deletion", &experiment.deletions, &deletions)?;
            known("method", experiment.methods.as_deref().unwrap_or(&[]), &methods)?;
        }
        for timing in &self.timings {
            known("data set", &timing.datasets, &datasets)?;
            known("network", &timing.networks, &networks)?;
            known("deletion", &timing.deletions, &deletions)?;
            known("method", timing.methods.as_deref().unwrap_or(&[]), &methods)?;
            let sizes = timing.train_rows.as_deref().unwrap_or(&[1]);
            if timing.repeats == 0 || sizes.is_empty() || sizes.contains(&0) {
                return refuse("a timing needs `repeats` and `train_rows` of at least 1".into());
            }
        }
        Ok(())
    }
}

fn unique<'a>(
    what: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<BTreeSet<&'a str>, EvaluationError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || !seen.insert(name) {
            let problem = format!("the {what} {name:?} has no name or is there twice");
            return Err(EvaluationError::Suite(problem));
        }
    }
    Ok(seen)
}

fn known(what: &str, named: &[String], present: &BTreeSet<&str>) -> Result<(), EvaluationError> {
    match named.iter().find(|name| !present.contains(name.as_str())) {
        Some(name) => Err(EvaluationError::Suite(format!("there is no {what} {name:?}"))),
        None => Ok(()),
    }
}

impl DatasetSpec {
    fn check(&self) -> Result<(), EvaluationError> {
        let refuse = |problem: &str| {
            Err(EvaluationError::Suite(format!("data set {:?} {problem}", self.name)))
        };
        match (self.bundled.as_deref(), &self.train, &self.test) {
            (Some("digits"), None, None) | (None, Some(_), Some(_)) => {}
            (Some(_), None, None) => return refuse("is not bundled; only `digits` is"),
            _ => return refuse("needs `bundled`, or `train` and `test`"),
        }
        if self.train_rows == Some(0) || self.test_rows == 0 {
            return refuse("needs training and test samples");
        }
        Ok(())
    }
}

impl NetworkEntry {
    fn check(&self) -> Result<(), EvaluationError> {
        let refuse = |problem: String| {
            Err(EvaluationError::Suite(format!("network {:?}: {problem}", self.name)))
        };
        if self.recipe.seed != Recipe::default().seed {
            return refuse("the recipe's seed is the evaluation's; leave it out".into());
        }
        if let Some(perturbation) = self.perturbation {
            if let Err(error) = perturbation.validate() {
                return refuse(error.to_string());
            }
            if !self.architecture.is_linear() {
                return refuse("only a linear network's objective can be perturbed".into());
            }
        }
        match self.recipe.validate() {
            Ok(()) => Ok(()),
            Err(error) => refuse(error.to_string()),
        }
    }
}

impl DeletionSpec {
    fn check(&self) -> Result<(), EvaluationError> {
        let refuse = |problem: &str| {
            Err(EvaluationError::Suite(format!("deletion {:?} {problem}", self.name)))
        };
        let fits = match (self.rows, self.share) {
            (Some(rows), None) => rows > 0,
            (None, Some(share)) => share > 0.0 && share < 1.0,
            _ => false,
        };
        if !fits {
            return refuse("needs either `rows` of at least 1 or a `share` between 0 and 1");
        }
        if self.requests == 0 {
            return refuse("needs at least one request");
        }
        if self.alone && self.draw == Draw::Mislabelled {
            return refuse("cannot be `alone`: every mislabelled sample is in the training set");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
        name = "tiny"
        about = "for tests"
        seeds = [1, 2]
        retrainings = 2

        [[dataset]]
        name = "digits"
        bundled = "digits"
        holdout_rows = 50
        test_rows = 100

        [[network]]
        name = "mlp"
        architecture = { preset = "mlp", hidden = [8] }
        recipe = { epochs = 2 }

        [[deletion]]
        name = "one"
        draw = "random"
        rows = 1

        [[method]]
        name = "iau"
        label = "short"
        parameters = { steps_max = 3 }

        [[experiment]]
        datasets = ["digits"]
        networks = ["mlp"]
        deletions = ["one"]
    "#;

    const SHORT: &str = r#"name = "iau"
        label = "short"
        parameters = { steps_max = 3 }"#;

    const RECIPE: &str = "recipe = { epochs = 2 }";

    fn refusal(from: &str, to: &str) -> String {
        assert!(SOUND.contains(from));
        match toml::from_str::<Suite>(&SOUND.replace(from, to)) {
            Ok(suite) => crate::domain::chain::Chain(&suite.check().unwrap_err()).to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn bundled_suites_are_sound() {
        toml::from_str::<Suite>(SOUND).unwrap().check().unwrap();
        for name in ["quick", "paper", "deep"] {
            assert_eq!(Suite::load(name).unwrap().name, name);
        }
        let error = Suite::load("slow").unwrap_err().to_string();
        assert!(error.contains("quick") && error.contains("paper"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, word) in [
            ("retrainings = 2", "retrainings = 1", "retrainings"),
            ("seeds = [1, 2]", "seeds = []", "seeds"),
            ("networks = [\"mlp\"]", "networks = [\"mlp\"]\nseeds = [4294967296]", "2^32"),
            ("datasets = [\"digits\"]", "datasets = [\"mnist\"]", "mnist"),
            ("rows = 1", "share = 1.5", "share"),
            ("rows = 1\n", "rows = 1\nshare = 0.5\n", "either"),
            ("steps_max = 3", "steps_maximum = 3", "steps_maximum"),
            ("name = \"iau\"", "name = \"retrain\"", "retrain"),
            ("name = \"iau\"", "name = \"amnesia\"", "amnesia"),
            ("name = \"iau\"", "name = \"sisa\"", "steps_max"),
            (SHORT, "name = \"sisa\"\nparameters = { shards = 1 }", "shards"),
            ("bundled = \"digits\"", "bundled = \"mnist\"", "bundled"),
            ("{ epochs = 2 }", "{ epochs = 0 }", "epochs"),
            ("{ epochs = 2 }", "{ seed = 9 }", "seed"),
            (RECIPE, "perturbation = { l2 = 1.0, sigma = 1.0 }", "linear"),
            (RECIPE, "perturbation = { l2 = 1.0, sigma = -1.0 }", "sigma"),
            ("test_rows = 100", "test_row = 100", "test_row"),
        ] {
            let text = refusal(from, to);
            assert!(text.contains(word), "{from} -> {to}: {text}");
        }
    }

    #[test]
    fn a_suite_is_restricted_to_what_it_has() {
        let paper = || Suite::load("paper").unwrap();
        let two = paper().restricted_to(&["adult".into(), "mnist".into()]).unwrap();
        assert_eq!(two.name, "paper, adult, mnist");
        assert_eq!(two.datasets.len(), 2);
        let all = two.experiments.iter().flat_map(|experiment| &experiment.datasets);
        let timed = two.timings.iter().flat_map(|timing| &timing.datasets);
        let named: BTreeSet<&str> = all.chain(timed).map(String::as_str).collect();
        assert_eq!(named, BTreeSet::from(["adult", "mnist"]));
        let error = paper().restricted_to(&["imagenet".into()]).unwrap_err().to_string();
        assert!(error.contains("imagenet"), "{error}");
    }

    #[test]
    fn every_request_deletes_something() {
        let spec = |rows, share, requests| DeletionSpec {
            name: "set".into(),
            draw: Draw::Random,
            rows,
            share,
            requests,
            alone: false,
        };
        assert_eq!(spec(Some(7), None, 1).count(1_000), 7);
        assert_eq!(spec(None, Some(0.05), 1).count(1_000), 50);
        assert_eq!(spec(None, Some(0.001), 1).count(100), 1);
        assert_eq!(spec(Some(3), None, 5).count(100), 5);
    }
}
