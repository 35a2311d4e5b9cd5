//! The figures that a network is judged by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// In the order of the report's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    AccuracyRetained,
    AccuracyForgotten,
    AccuracyTest,
    DivergenceForgotten,
    DivergenceRetained,
    DivergenceTest,
    AttackAuc,
    AttackTpr,
    AttackTprReversed,
    LiraAuc,
    LiraTpr,
    LiraTprReversed,
    ParameterDistance,
    TrueLabelForgotten,
    WrongLabelTest,
}

/// One network's figures; those that do not apply are absent.
pub type Figures = BTreeMap<Figure, f64>;

impl Figure {
    pub const ALL: [Self; 15] = [
        Self::AccuracyRetained,
        Self::AccuracyForgotten,
        Self::AccuracyTest,
        Self::DivergenceForgotten,
        Self::DivergenceRetained,
        Self::DivergenceTest,
        Self::AttackAuc,
        Self::AttackTpr,
        Self::AttackTprReversed,
        Self::LiraAuc,
        Self::LiraTpr,
        Self::LiraTprReversed,
        Self::ParameterDistance,
        Self::TrueLabelForgotten,
        Self::WrongLabelTest,
    ];

    /// A column's head.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AccuracyRetained => "accR %",
            Self::AccuracyForgotten => "accF %",
            Self::AccuracyTest => "accT %",
            Self::DivergenceForgotten => "klF",
            Self::DivergenceRetained => "klR",
            Self::DivergenceTest => "klT",
            Self::AttackAuc => "AUC",
            Self::AttackTpr => "TPR@1 %",
            Self::AttackTprReversed => "TPR@1 % rev.",
            Self::LiraAuc => "LiRA AUC",
            Self::LiraTpr => "LiRA TPR@1 %",
            Self::LiraTprReversed => "LiRA TPR@1 % rev.",
            Self::ParameterDistance => "distance",
            Self::TrueLabelForgotten => "true label F %",
            Self::WrongLabelTest => "wrong label T %",
        }
    }

    pub const fn meaning(self) -> &'static str {
        match self {
            Self::AccuracyRetained => "accuracy on retained samples",
            Self::AccuracyForgotten => {
                "accuracy on the deleted samples, by the labels they were trained with"
            }
            Self::AccuracyTest => "accuracy on test samples, which nobody trained on",
            Self::DivergenceForgotten => {
                "mean KL(retrained || network) on the deleted samples, in nats"
            }
            Self::DivergenceRetained => {
                "mean KL(retrained || network) on retained samples, in nats"
            }
            Self::DivergenceTest => "mean KL(retrained || network) on test samples, in nats",
            Self::AttackAuc => {
                "membership attack by the loss: how often a deleted sample looks better known \
                 than a test sample"
            }
            Self::AttackTpr => {
                "share of the deleted samples that the loss gives away at 1 % false positives"
            }
            Self::AttackTprReversed => {
                "the same for an attacker who takes high losses for membership: over-forgetting"
            }
            Self::LiraAuc => "the same area for the likelihood-ratio attack with reference models",
            Self::LiraTpr => {
                "share of the deleted samples that the likelihood ratio gives away at 1 % false \
                 positives"
            }
            Self::LiraTprReversed => "the same for an attacker who takes low ratios for membership",
            Self::ParameterDistance => {
                "mean distance of the weights to the retrained networks' (convex models only)"
            }
            Self::TrueLabelForgotten => {
                "mislabelled samples that are given their true label after their deletion"
            }
            Self::WrongLabelTest => {
                "test samples that are given the label which their class was mislabelled with"
            }
        }
    }

    /// Whether it is a share that is shown in per cent.
    pub const fn is_share(self) -> bool {
        !matches!(
            self,
            Self::DivergenceForgotten
                | Self::DivergenceRetained
                | Self::DivergenceTest
                | Self::AttackAuc
                | Self::LiraAuc
                | Self::ParameterDistance
        )
    }
}

/// The mean of each figure over those networks that have it.
pub fn mean(all: &[Figures]) -> Figures {
    let mean_of = |figure: Figure| {
        let values: Vec<f64> =
            all.iter().filter_map(|figures| figures.get(&figure)).copied().collect();
        (!values.is_empty()).then(|| (figure, values.iter().sum::<f64>() / values.len() as f64))
    };
    Figure::ALL.into_iter().filter_map(mean_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_those_that_have_the_figure() {
        let one = Figures::from([(Figure::AttackAuc, 0.5), (Figure::LiraAuc, 0.7)]);
        let two = Figures::from([(Figure::AttackAuc, 0.6)]);
        let found = mean(&[one, two]);
        assert!((found[&Figure::AttackAuc] - 0.55).abs() < 1e-12);
        assert!((found[&Figure::LiraAuc] - 0.7).abs() < 1e-12);
        assert_eq!(found.len(), 2);
        assert!(mean(&[]).is_empty());
    }

    #[test]
    fn figures_are_keys_of_json() {
        let figures = Figures::from([(Figure::AttackTpr, 0.25)]);
        let text = serde_json::to_string(&figures).unwrap();
        assert_eq!(text, r#"{"attack_tpr":0.25}"#);
        assert_eq!(serde_json::from_str::<Figures>(&text).unwrap(), figures);
    }
}
