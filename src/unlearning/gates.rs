//! Whether an update may be published. Pure: measurements in, decision out.

use super::evidence::{Evidence, FAILED_BELOW};

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
    #[error("{figure} is {value}, no finite number")]
    NotFinite { figure: &'static str, value: f64 },
}

/// Lets an update pass whose hold-out accuracy falls by at most `tolerance` (a share; one sample
/// may always change, however small the hold-out set), whose forgotten samples do not clearly
/// stand out, on either side, and whose figures are finite. Weak evidence never fails.
pub fn judge(evidence: &Evidence, tolerance: f64) -> Result<(), GateFailure> {
    for (figure, value) in [
        ("drift", evidence.drift),
        ("hold-out loss", evidence.holdout_loss_after),
        ("hold-out accuracy", evidence.holdout_accuracy_after),
    ] {
        if let Some(value) = value.filter(|value| !value.is_finite()) {
            return Err(GateFailure::NotFinite { figure, value });
        }
    }
    utility(evidence, tolerance)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unlearning::evidence::Verdict;

    fn evidence() -> Evidence {
        Evidence {
            samples: 40,
            holdout: 100,
            p_values: None,
            rank_test_p: Some(0.3),
            rank_share_above: Some(0.52),
            verdict: Verdict::Passed,
            holdout_accuracy_before: Some(0.9),
            holdout_accuracy_after: Some(0.88),
            holdout_loss_before: Some(0.4),
            holdout_loss_after: Some(0.41),
            drift: Some(0.02),
        }
    }

    #[test]
    fn accuracy_may_fall_by_the_tolerance_and_no_further() {
        let fallen = |after| Evidence { holdout_accuracy_after: Some(after), ..evidence() };
        assert_eq!(judge(&evidence(), 0.03), Ok(()));
        assert_eq!(judge(&fallen(0.87), 0.03), Ok(()));
        assert_eq!(judge(&fallen(0.99), 0.03), Ok(()));
        let error = judge(&fallen(0.86), 0.03).unwrap_err();
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
        assert_eq!(judge(&small(0.8), 0.03), Ok(()));
        assert!(judge(&small(0.7), 0.03).is_err());
        let none = Evidence {
            holdout: 0,
            holdout_accuracy_before: None,
            holdout_accuracy_after: None,
            ..evidence()
        };
        assert_eq!(judge(&none, 0.0), Ok(()));
    }

    #[test]
    fn only_strong_evidence_fails_and_on_either_side() {
        let seen = |p, share| Evidence {
            rank_test_p: Some(p),
            rank_share_above: Some(share),
            ..evidence()
        };
        assert_eq!(judge(&seen(0.002, 0.7), 0.03), Ok(()));
        let remembered = judge(&seen(0.000_5, 0.7), 0.03).unwrap_err();
        assert!(matches!(remembered, GateFailure::StillRemembered { .. }));
        let over = judge(&seen(0.000_5, 0.3), 0.03).unwrap_err();
        assert!(matches!(over, GateFailure::OverForgotten { .. }));
        let unknown = Evidence { rank_test_p: None, rank_share_above: None, ..evidence() };
        assert_eq!(judge(&unknown, 0.03), Ok(()));
    }

    #[test]
    fn figures_that_are_no_numbers_fail() {
        for broken in [
            Evidence { drift: Some(f64::NAN), ..evidence() },
            Evidence { drift: Some(f64::INFINITY), ..evidence() },
            Evidence { holdout_loss_after: Some(f64::NAN), ..evidence() },
        ] {
            assert!(matches!(judge(&broken, 0.03), Err(GateFailure::NotFinite { .. })));
        }
    }
}
