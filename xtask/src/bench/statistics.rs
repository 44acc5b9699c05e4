//! Medians and how sure they are.
//!
//! How it works: the interval is a percentile bootstrap of the median: 2,000 samples drawn with replacement by a fixed generator, so that
//! the same data give the same interval.
//!
//! Deliberately absent: means, and percentiles that so few samples cannot carry.

use anyhow::{Context as _, Result};

const DRAWS: usize = 2000;

/// The median and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Median {
    /// The middle.
    pub(crate) value: f64,
    /// The lower end of the interval.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
    /// How many samples.
    pub(crate) count: usize,
}

impl Median {
    /// With two digits, for what is about 1.
    pub(crate) fn precise(&self) -> String {
        format!("{:.2} (95 %: {:.2} to {:.2}, n = {})", self.value, self.low, self.high, self.count)
    }
}

impl std::fmt::Display for Median {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} (95 %: {:.1} to {:.1}, n = {})", self.value, self.low, self.high, self.count)
    }
}

/// The median of at least one sample.
pub(crate) fn median(samples: &[f64]) -> Option<Median> {
    let value = middle(samples)?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0) % samples.len()
    };
    let resample = |_| middle(&(0..samples.len()).map(|_| samples[draw()]).collect::<Vec<_>>());
    let mut medians: Vec<f64> = (0..DRAWS).filter_map(resample).collect();
    medians.sort_by(f64::total_cmp);
    Some(Median { value, low: medians[DRAWS * 25 / 1000], high: medians[DRAWS * 975 / 1000 - 1], count: samples.len() })
}

/// Prints one figure.
pub(crate) fn print(name: &str, samples: &[f64]) -> Result<()> {
    println!("{name}: {}", median(samples).with_context(|| format!("no samples of {name}"))?);
    Ok(())
}

fn middle(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[half - 1], upper) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_its_interval_and_outliers_do_not_move_it() {
        let mut samples: Vec<f64> = (0..51).map(f64::from).collect();
        samples[50] = 1e9;
        let found = median(&samples).unwrap();
        assert!((found.value - 25.0).abs() < f64::EPSILON);
        assert!(found.low < found.value && found.value < found.high && found.high < 50.0, "{found}");
        assert_eq!(median(&[]), None);
    }
}
