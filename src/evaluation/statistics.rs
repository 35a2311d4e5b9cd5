//! Means over seeds, and how far they can be trusted.

use serde::{Deserialize, Serialize};

/// A mean with its 95 % confidence interval by Student's t.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub mean: f64,
    /// Half the interval's width; absent for a single value.
    pub half_width: Option<f64>,
    /// What the mean is over, one value a seed.
    pub values: Vec<f64>,
}

impl Estimate {
    /// `None` without values.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let half_width = (count > 1).then(|| {
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let variance = squares / (count - 1) as f64;
            t_975(count - 1) * (variance / count as f64).sqrt()
        });
        Some(Self { mean, half_width, values })
    }

    pub fn low(&self) -> f64 {
        self.mean - self.half_width.unwrap_or(0.0)
    }

    pub fn high(&self) -> f64 {
        self.mean + self.half_width.unwrap_or(0.0)
    }
}

/// The 97.5 % quantile of Student's t: exact to five digits up to 10 degrees of freedom, beyond
/// by the expansion in 1/n around the normal quantile (Abramowitz and Stegun, 26.7.5), which is
/// off by less than 2e-5 there.
fn t_975(degrees: usize) -> f64 {
    const TABLE: [f64; 10] = [
        12.706_20, 4.302_65, 3.182_45, 2.776_45, 2.570_58, 2.446_91, 2.364_62, 2.306_00, 2.262_16,
        2.228_14,
    ];
    const Z: f64 = 1.959_963_985;
    if let Some(quantile) = degrees.checked_sub(1).and_then(|at| TABLE.get(at)) {
        return *quantile;
    }
    let n = degrees as f64;
    let z = |power| Z.powi(power);
    Z + (z(3) + Z) / (4.0 * n)
        + (5.0 * z(5) + 16.0 * z(3) + 3.0 * Z) / (96.0 * n.powi(2))
        + (3.0 * z(7) + 19.0 * z(5) + 17.0 * z(3) - 15.0 * Z) / (384.0 * n.powi(3))
        + (79.0 * z(9) + 776.0 * z(7) + 1482.0 * z(5) - 1920.0 * z(3) - 945.0 * Z)
            / (92_160.0 * n.powi(4))
}

/// The middle value, the mean of the two middle ones for an even count; `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_the_tables_of_student_s_t() {
        for (degrees, expected) in [
            (1, 12.706_205),
            (4, 2.776_445),
            (10, 2.228_139),
            (11, 2.200_985),
            (15, 2.131_450),
            (29, 2.045_230),
            (60, 2.000_298),
            (1_000, 1.962_339),
        ] {
            let found = t_975(degrees);
            assert!((found - expected).abs() < 2e-5, "{degrees}: {found}");
        }
    }

    #[test]
    fn the_interval_of_a_textbook_sample() {
        // Mean 5, standard deviation 2, five values: 5 ± 2.77645 * 2 / sqrt(5).
        let deviation = 2.0_f64.sqrt();
        let values = vec![5.0 - 2.0 * deviation, 5.0, 5.0, 5.0, 5.0 + 2.0 * deviation];
        let estimate = Estimate::of(values).unwrap();
        assert!((estimate.mean - 5.0).abs() < 1e-12);
        assert!((estimate.half_width.unwrap() - 2.776_45 * 2.0 / 5.0_f64.sqrt()).abs() < 1e-9);
        assert!((estimate.high() + estimate.low() - 10.0).abs() < 1e-12);
    }

    #[test]
    fn one_value_has_no_interval_and_none_has_no_mean() {
        let one = Estimate::of(vec![3.0]).unwrap();
        assert_eq!((one.mean, one.half_width), (3.0, None));
        assert_eq!(Estimate::of(Vec::new()), None);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
