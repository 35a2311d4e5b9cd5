//! Whether an update may be published. Pure: measurements in, decision out.

use super::{
    Update,
    evidence::{Evidence, FAILED_BELOW},
};

/// What an update may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// By how much the hold-out accuracy may fall, a share.
    pub accuracy_tolerance: f64,
    /// Whether the samples may belong together in any way.
    pub any_selection: bool,
}

/// Up to this share of a class updates were found as near to a retraining as for random draws; at
/// 0.35 they were not (docs/experiments/sets.md).
const CLASS_SHARE_MAX: f64 = 0.25;

/// Random draws of [`SELECTION_MIN`] samples lie five deviations above this.
const CONFIDENCE_SHARE_MIN: f64 = 0.2;

/// Of fewer samples the figures say little, and they do little.
const SELECTION_MIN: u64 = 30;

impl Limits {
    pub fn of(update: &dyn Update, accuracy_tolerance: f64) -> Self {
        Self { accuracy_tolerance, any_selection: update.takes_any_selection() }
    }
}

/// Why an update is not published; names the figure and its limit. Its batch is retrained.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GateFailure {
    #[error(
        "hold-out accuracy fell from {before:.4} to {after:.4}, by more than the {limit:.4} that \
         are tolerated"
    )]
    Utility { before: f64, after: f64, limit: f64 },
    #[error(
        "the network still remembers: in {share:.3} of the comparisons a forgotten sample stands \
         out from a hold-out one (p = {p:.2e}, limit {limit:.2e})"
    )]
    StillRemembered { share: f64, p: f64, limit: f64 },
    #[error(
        "the network forgot too much, which gives the samples away as well: only in {share:.3} of \
         the comparisons a forgotten sample exceeds a hold-out one (p = {p:.2e}, limit {limit:.2e})"
    )]
    OverForgotten { share: f64, p: f64, limit: f64 },
    #[error(
        "the samples are {share:.2} of all of their class, more than the {limit} up to which an \
         update is known to do what a retraining does"
    )]
    Class { share: f64, limit: f64 },
    #[error(
        "the samples are unlike others, as wrong labels are: only in {share:.3} of the comparisons \
         the confidence in a forgotten sample's label exceeds that in a hold-out one's (limit \
         {limit}), and of such sets an update does not take all of the effect away"
    )]
    Unlike { share: f64, limit: f64 },
    #[error("{figure} is {value}, no finite number")]
    NotFinite { figure: &'static str, value: f64 },
}

/// Lets an update pass whose hold-out accuracy falls by at most the tolerance (one sample may
/// always change, however small the hold-out set), whose forgotten samples do not clearly stand
/// out, on either side, and do not belong together beyond what its method can do, and whose figures
/// are finite. Weak evidence never fails.
pub fn judge(evidence: &Evidence, limits: Limits) -> Result<(), GateFailure> {
    for (figure, value) in [
        ("drift", evidence.drift),
        ("hold-out loss", evidence.holdout_loss_after),
        ("hold-out accuracy", evidence.holdout_accuracy_after),
    ] {
        if let Some(value) = value.filter(|value| !value.is_finite()) {
            return Err(GateFailure::NotFinite { figure, value });
        }
    }
    utility(evidence, limits.accuracy_tolerance)?;
    forgotten(evidence)?;
    if limits.any_selection { Ok(()) } else { selection(evidence) }
}

fn forgotten(evidence: &Evidence) -> Result<(), GateFailure> {
    match (evidence.rank_test_p, evidence.rank_share_above) {
        (Some(p), Some(share)) if p < FAILED_BELOW => {
            let limit = FAILED_BELOW;
            Err(if share > 0.5 {
                GateFailure::StillRemembered { share, p, limit }
            } else {
                GateFailure::OverForgotten { share, p, limit }
            })
        }
        _ => Ok(()),
    }
}

fn utility(evidence: &Evidence, tolerance: f64) -> Result<(), GateFailure> {
    /// Shares of a few hundred thousand samples, and their differences, round by less.
    const ROUNDING: f64 = 1e-9;
    let (Some(before), Some(after)) =
        (evidence.holdout_accuracy_before, evidence.holdout_accuracy_after)
    else {
        return Ok(());
    };
    let limit = tolerance.max(1.0 / evidence.holdout.max(1) as f64);
    if before - after > limit + ROUNDING {
        Err(GateFailure::Utility { before, after, limit })
    } else {
        Ok(())
    }
}

fn selection(evidence: &Evidence) -> Result<(), GateFailure> {
    let Some(selection) = evidence.selection.filter(|_| evidence.samples >= SELECTION_MIN) else {
        return Ok(());
    };
    let share = selection.class_share;
    if share > CLASS_SHARE_MAX {
        return Err(GateFailure::Class { share, limit: CLASS_SHARE_MAX });
    }
    match selection.confidence_share_above {
        Some(share) if share < CONFIDENCE_SHARE_MIN => {
            Err(GateFailure::Unlike { share, limit: CONFIDENCE_SHARE_MIN })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unlearning::{evidence::Verdict, selection::Selection};

    const LIMITS: Limits = Limits { accuracy_tolerance: 0.03, any_selection: false };

    fn evidence() -> Evidence {
        Evidence {
            samples: 40,
            holdout: 100,
            p_values: None,
            rank_test_p: Some(0.3),
            rank_share_above: Some(0.52),
            verdict: Verdict::Passed,
            holdout_accuracy_exact: Some(0.9),
            holdout_accuracy_before: Some(0.9),
            holdout_accuracy_after: Some(0.88),
            holdout_loss_before: Some(0.4),
            holdout_loss_after: Some(0.41),
            selection: Some(Selection { class_share: 0.1, confidence_share_above: Some(0.45) }),
            drift: Some(0.02),
        }
    }

    #[test]
    fn accuracy_may_fall_by_the_tolerance_and_no_further() {
        let fallen = |after| Evidence { holdout_accuracy_after: Some(after), ..evidence() };
        assert_eq!(judge(&evidence(), LIMITS), Ok(()));
        assert_eq!(judge(&fallen(0.87), LIMITS), Ok(()));
        assert_eq!(judge(&fallen(0.99), LIMITS), Ok(()));
        let error = judge(&fallen(0.86), LIMITS).unwrap_err();
        assert!(matches!(error, GateFailure::Utility { .. }));
        let text = error.to_string();
        assert!(text.contains("0.8600") && text.contains("0.0300"), "{text}");
    }

    #[test]
    fn one_sample_of_a_small_holdout_may_change() {
        let small = |after| Evidence {
            holdout: 10,
            holdout_accuracy_before: Some(0.9),
            holdout_accuracy_after: Some(after),
            ..evidence()
        };
        assert_eq!(judge(&small(0.8), LIMITS), Ok(()));
        assert!(judge(&small(0.7), LIMITS).is_err());
        let none = Evidence {
            holdout: 0,
            holdout_accuracy_before: None,
            holdout_accuracy_after: None,
            ..evidence()
        };
        assert_eq!(judge(&none, Limits { accuracy_tolerance: 0.0, ..LIMITS }), Ok(()));
    }

    #[test]
    fn only_strong_evidence_fails_and_on_either_side() {
        let seen = |p, share| Evidence {
            rank_test_p: Some(p),
            rank_share_above: Some(share),
            ..evidence()
        };
        assert_eq!(judge(&seen(0.002, 0.7), LIMITS), Ok(()));
        let remembered = judge(&seen(0.000_5, 0.7), LIMITS).unwrap_err();
        assert!(matches!(remembered, GateFailure::StillRemembered { .. }));
        let over = judge(&seen(0.000_5, 0.3), LIMITS).unwrap_err();
        assert!(matches!(over, GateFailure::OverForgotten { .. }));
        let unknown = Evidence { rank_test_p: None, rank_share_above: None, ..evidence() };
        assert_eq!(judge(&unknown, LIMITS), Ok(()));
    }

    #[test]
    fn samples_that_belong_together_fail_unless_the_method_takes_any() {
        let chosen = |samples, class_share, confidence_share_above| Evidence {
            samples,
            selection: Some(Selection { class_share, confidence_share_above }),
            ..evidence()
        };
        assert_eq!(judge(&chosen(30, 0.25, Some(0.2)), LIMITS), Ok(()));
        assert_eq!(judge(&chosen(30, 0.25, None), LIMITS), Ok(()));
        let of_a_class = chosen(30, 0.26, Some(0.5));
        let error = judge(&of_a_class, LIMITS).unwrap_err();
        assert_eq!(error, GateFailure::Class { share: 0.26, limit: CLASS_SHARE_MAX });
        let mislabelled = chosen(30, 0.1, Some(0.19));
        let error = judge(&mislabelled, LIMITS).unwrap_err();
        assert!(matches!(error, GateFailure::Unlike { .. }), "{error}");
        for set in [of_a_class, mislabelled] {
            assert_eq!(judge(&set, Limits { any_selection: true, ..LIMITS }), Ok(()));
            let few = Evidence { samples: 29, ..set };
            assert_eq!(judge(&few, LIMITS), Ok(()));
        }
        let old = Evidence { selection: None, ..chosen(100, 1.0, None) };
        assert_eq!(judge(&old, LIMITS), Ok(()));
    }

    #[test]
    fn figures_that_are_no_numbers_fail() {
        for broken in [
            Evidence { drift: Some(f64::NAN), ..evidence() },
            Evidence { drift: Some(f64::INFINITY), ..evidence() },
            Evidence { holdout_loss_after: Some(f64::NAN), ..evidence() },
        ] {
            assert!(matches!(judge(&broken, LIMITS), Err(GateFailure::NotFinite { .. })));
        }
    }
}
