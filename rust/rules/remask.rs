//! Ancestral sampling that takes tokens back (`ReMDM`, Wang et al., 2503.00307): how likely a step fills a mask, and takes a
//! written position back. For every probability of taking back, masks are filled so much more often that the share of clean
//! positions stays that of the schedule.

use super::schedule::{Schedule, Step};
use crate::logits::arith::exp64;

/// How the probability of taking back follows from `eta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sigma {
    /// `eta`, or the largest that the schedule allows where that is smaller.
    Cap,
    /// `eta` times the largest that the schedule allows.
    Rescale,
    /// That, dealt to the written positions by a softmax of how unsure each was when it was written.
    Confidence,
    /// `eta` in a middle stretch of time in which the schedule stands still; before and behind it nothing is taken back.
    Loop,
}

/// Stretch of time in which `Sigma::Loop` stands still, and the share of clean positions there.
const LOOP: (f64, f64, f64) = (0.55, 0.05, 0.9);

/// What a step does with one position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chances {
    /// Probability with which a mask is filled.
    pub fill: f64,
    /// Probability with which a written position is taken back; of all of them together under `Sigma::Confidence`.
    pub back: f64,
}

impl Sigma {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cap, Self::Rescale, Self::Confidence, Self::Loop];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::Rescale => "rescale",
            Self::Confidence => "confidence",
            Self::Loop => "loop",
        }
    }

    /// The `eta` of the authors.
    pub fn default_eta(self) -> f64 {
        match self {
            Self::Cap => 0.008,
            Self::Rescale => 0.015,
            Self::Confidence => 1.0,
            Self::Loop => 0.02,
        }
    }

    /// What a step does under a schedule. The last one fills everything and takes nothing back.
    pub fn chances(self, eta: f64, schedule: Schedule, step: Step) -> Chances {
        if step.index + 1 >= step.steps {
            return Chances {
                fill: 1.0,
                back: 0.0,
            };
        }
        let grid = |j: usize| (step.steps - j) as f64 / step.steps as f64;
        let (t, s) = (grid(step.index), grid(step.index + 1));
        let alive = |time| match self {
            Self::Loop => standing_still(time),
            _ => schedule.alive(time),
        };
        let (alive_t, alive_s) = (alive(t), alive(s));
        let clean = 1.0 - alive_t;
        let most = if clean > 0.0 {
            (alive_s / clean).min(1.0)
        } else {
            1.0
        };
        let (from, to, _) = LOOP;
        let back = match self {
            Self::Cap => most.min(eta),
            Self::Rescale | Self::Confidence => eta * most,
            Self::Loop if t <= from && t > to => most.min(eta),
            Self::Loop => 0.0,
        };
        let plain = match self {
            Self::Loop => 1.0 - alive_s / alive_t,
            _ => schedule.probability(step),
        };
        // As published, what is dealt by confidence is not made up for.
        let more = match self {
            Self::Confidence => 0.0,
            _ => back * clean / alive_t,
        };
        Chances {
            fill: plain + more,
            back,
        }
    }
}

/// Share of masks alive at a time, where the schedule is linear but for a stretch in which it stands still.
fn standing_still(t: f64) -> f64 {
    let (from, to, share) = LOOP;
    if t > from {
        1.0 - (1.0 - t) * share / (1.0 - from)
    } else if t > to {
        1.0 - share
    } else {
        t * (1.0 - share) / to
    }
}

/// The softmax of how unsure each position was, in order.
pub fn shares(confidences: &[f64]) -> Vec<f64> {
    let least = confidences.iter().copied().fold(f64::INFINITY, f64::min);
    let weights: Vec<f64> = confidences.iter().map(|c| exp64(least - c)).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_clean_positions_is_that_of_the_schedule() {
        let linear = Schedule::Linear {
            as_published: false,
        };
        let cosine = Schedule::Cosine {
            as_published: false,
        };
        for (sigma, schedule) in [
            (Sigma::Cap, linear),
            (Sigma::Cap, cosine),
            (Sigma::Rescale, linear),
            (Sigma::Rescale, cosine),
            (Sigma::Loop, linear),
        ] {
            for eta in [0.0, 0.008, 0.3, 1.0] {
                let steps = 40;
                let mut clean = 0.0;
                for index in 0..steps {
                    let step = Step {
                        index,
                        steps,
                        masks: 1,
                        left: 1,
                    };
                    let Chances { fill, back } = sigma.chances(eta, schedule, step);
                    assert!((0.0..=1.0 + 1e-12).contains(&fill) && (0.0..=1.0).contains(&back));
                    clean = clean * (1.0 - back) + (1.0 - clean) * fill;
                    let s = (steps - index - 1) as f64 / f64::from(steps as u32);
                    let alive = match sigma {
                        Sigma::Loop => standing_still(s),
                        _ => schedule.alive(s),
                    };
                    assert!(
                        (clean - (1.0 - alive)).abs() < 1e-12,
                        "{sigma:?} {eta} {index}"
                    );
                }
            }
        }
    }

    #[test]
    fn shares_add_up_and_fall_with_confidence() {
        let made = shares(&[0.9, 0.1, 0.5]);
        assert!((made.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        assert!(made[1] > made[2] && made[2] > made[0]);
        assert!((made[1] / made[0] - 0.8f64.exp()).abs() < 1e-12);
    }
}
