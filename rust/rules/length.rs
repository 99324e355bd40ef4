//! How long an answer becomes while it is written: what is measured in a forward, and what follows from it.

use crate::error::{Error, Result};

/// Forwards of a row in which the density of end tokens may change its length.
pub const ADJUSTED_FORWARDS: u32 = 64;
/// Width of the segments in which a distance from the band of densities is counted, and what rounding may add to a distance.
const SEGMENT: f64 = 0.1;
const ROUNDING: f64 = 1e-9;
/// A change is at most two to this power times the factor.
const MOST_DOUBLINGS: i32 = 3;

/// Who decides how long an answer becomes, which is at most `most` positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Whoever laid out the canvas.
    Fixed,
    /// How sure the model is of the end: masks come at the end before anything is written, then in place of an unsure one.
    Daedal {
        /// Positions of the answer.
        most: usize,
        /// Masks that one change adds, or that stand in place of one.
        factor: usize,
        /// End tokens that count, from the right.
        checked: usize,
        /// Nothing is written before the certainty of the end is so large.
        enough: f64,
        /// No mask is replaced by several once it is so large.
        certain: f64,
        /// A mask is unsure below this confidence.
        unsure: f64,
    },
    /// The share of masks that would become end tokens: it is kept in a band.
    Density {
        /// Positions of the answer.
        most: usize,
        /// Masks that the smallest change adds or takes away.
        factor: usize,
        /// Below this there is too little room.
        low: f64,
        /// Above this there is too much.
        high: f64,
    },
}

impl Length {
    /// The names in settings, the fixed length first.
    pub const NAMES: [&'static str; 3] = ["fixed", "daedal", "rho-eos"];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => Self::NAMES[0],
            Self::Daedal { .. } => Self::NAMES[1],
            Self::Density { .. } => Self::NAMES[2],
        }
    }

    /// Positions of an answer at most, where its length changes.
    pub fn most(self) -> Option<usize> {
        match self {
            Self::Fixed => None,
            Self::Daedal { most, .. } | Self::Density { most, .. } => Some(most),
        }
    }

    /// Forwards that may write nothing because they only add masks.
    pub fn most_growing(self) -> usize {
        match self {
            Self::Daedal { most, factor, .. } => most.div_ceil(factor.max(1)),
            _ => 0,
        }
    }

    /// Does it look at what is written, too?
    pub fn looks_at_written(self) -> bool {
        matches!(self, Self::Daedal { .. })
    }

    /// Checks every number.
    pub fn check(self) -> Result<()> {
        let count = |name, value: usize, remedy| {
            if !(1..=1 << 20).contains(&value) {
                let rule = "must be at least 1 and at most 1048576";
                return Err(Error::setting(name, rule, value, remedy));
            }
            Ok(())
        };
        let share = |name, value: f64, remedy| {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::setting(name, "must lie in [0, 1]", value, remedy));
            }
            Ok(())
        };
        match self {
            Self::Fixed => Ok(()),
            Self::Daedal {
                factor,
                checked,
                enough,
                certain,
                unsure,
                ..
            } => {
                count("expansion_factor", factor, "8 is DAEDAL's")?;
                count("eos_check_tokens", checked, "32 is DAEDAL's")?;
                share("eos_confidence_threshold", enough, "0.5 is DAEDAL's")?;
                share(
                    "expand_eos_confidence_threshold",
                    certain,
                    "0.9 is DAEDAL's",
                )?;
                share("low_confidence_threshold", unsure, "0.1 is DAEDAL's")
            }
            Self::Density {
                factor, low, high, ..
            } => {
                count("expansion_factor", factor, "8 is rho-EOS's")?;
                share("low_density_threshold", low, "0.4 is rho-EOS's")?;
                share("high_density_threshold", high, "0.6 is rho-EOS's")?;
                if low > high {
                    return Err(Error::setting(
                        "low_density_threshold",
                        "must be at most high_density_threshold",
                        format!("{low} and {high}"),
                        "rho-EOS keeps the density between 0.4 and 0.6",
                    ));
                }
                Ok(())
            }
        }
    }
}

/// How sure the end is: the mean largest probability of the last `checked` positions whose most probable token is an end token,
/// of which a missing one counts 0. `from_right` has that probability for each position that predicts an end token, the
/// rightmost first.
pub fn certainty(from_right: impl Iterator<Item = f64>, checked: usize) -> f64 {
    let mut sum = 0.0;
    for probability in from_right.take(checked) {
        sum += probability;
    }
    sum / checked as f64
}

/// How many masks are added (or, below 0, taken away) where `ends` of `masks` would become end tokens: in the band none, beside
/// it `factor` in the first segment, twice as many in the second, and so on, eight times as many at most.
pub fn adjustment(ends: usize, masks: usize, factor: usize, low: f64, high: f64) -> isize {
    let density = ends as f64 / masks as f64;
    let (distance, sign) = if density < low {
        (low - density, 1)
    } else if density > high {
        (density - high, -1)
    } else {
        return 0;
    };
    let segment = (distance / SEGMENT - ROUNDING).ceil().max(1.0) as i32;
    sign * (factor << (segment - 1).min(MOST_DOUBLINGS)) as isize
}

/// How many of `wanted` masks that would become end tokens may go, of `ends` among `masks`: one stays, and the density does not
/// fall below the band.
pub fn removable(ends: usize, masks: usize, low: f64, wanted: usize) -> usize {
    let fits = |&count: &usize| (ends - count) as f64 >= low * (masks - count) as f64;
    let most = wanted.min(ends.saturating_sub(1));
    (1..=most).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ends_count_and_a_missing_one_is_nothing() {
        assert_eq!(certainty([].into_iter(), 4), 0.0);
        assert_eq!(certainty([1.0, 0.5].into_iter(), 4), 0.375);
        assert_eq!(certainty([1.0, 0.5, 0.25, 0.125].into_iter(), 2), 0.75);
    }

    #[test]
    fn no_change_jumps_over_the_band_and_an_end_stays() {
        assert_eq!(removable(59, 64, 0.4, 64), 55); // 4 of 9
        assert_eq!(removable(59, 64, 0.4, 8), 8);
        assert_eq!(removable(7, 7, 0.4, 64), 6);
        assert_eq!(removable(1, 1, 0.4, 64), 0);
        assert_eq!(removable(0, 0, 0.4, 64), 0);
        assert_eq!(removable(61, 100, 0.6, 8), 2); // 59 of 98
    }

    #[test]
    fn a_density_is_led_back_into_its_band() {
        let change = |ends| adjustment(ends, 100, 8, 0.4, 0.6);
        let expected = [
            (0, 64),
            (9, 64),
            (10, 32),
            (19, 32),
            (20, 16),
            (30, 8),
            (39, 8),
            (40, 0),
            (60, 0),
            (61, -8),
            (70, -8),
            (71, -16),
            (80, -16),
            (90, -32),
            (91, -64),
            (100, -64),
        ];
        for (ends, by) in expected {
            assert_eq!(change(ends), by, "{ends} of 100");
        }
        assert_eq!(adjustment(0, 1, 8, 1.0, 1.0), 64); // ten segments away
    }
}
