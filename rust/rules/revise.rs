//! What becomes of tokens that a row has written itself, while their block is not finished.

use super::config::{MOST_STEPS, too_many};
use super::ends::Ends;
use super::remask::Sigma;
use crate::error::{Error, Result};

/// Whether written tokens may change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Revise {
    /// What is written stays.
    None,
    /// In every forward, a token gives way to another whose probability is above a threshold (token editing of LLaDA2.1,
    /// which SGLang calls JointThreshold).
    Edit {
        /// 0 lets any other token pass, 1 none.
        threshold: f64,
        /// Forwards of a block at most that have nothing left to fill. The block is finished before that where one of them
        /// changes nothing. Without the bound, two tokens could take each other's place for ever.
        most_post_steps: usize,
    },
    /// Each written position is taken back with a probability, and masks are filled so much more often (`ReMDM`).
    Resample {
        /// Where the probability comes from.
        sigma: Sigma,
        /// 0 takes nothing back.
        eta: f64,
    },
    /// Open and written positions are ranked together, and what is not among the best is taken back (P2, Peng et al.,
    /// 2502.03540; the cumulative counts of `RemeDi`, Huang et al., 2509.23653).
    Plan {
        /// Scale of the scores of what is written, logarithms at most 0: 0 takes nothing back.
        eta: f64,
    },
    /// After a forward, written tokens whose probability fell most are taken back, fewer than were written (Saber, Zhao et al.,
    /// 2510.18165).
    Drop,
    /// Each written token is asked again from behind a mask that sees all but itself, and taken back where it is less probable
    /// than `bar`: where more than one is written, and fewer than the forward before wrote (WINO, Hong et al., 2507.18578).
    Verify {
        /// 0 takes nothing back.
        bar: f64,
    },
    /// Once a block is full, its least sure token is taken back with its neighbours, then the next least sure one.
    Redo {
        /// Forwards of a block at most for all of that.
        budget: usize,
    },
}

/// The names in settings of those that take tokens back.
pub fn remasks() -> Vec<&'static str> {
    let sigmas = Sigma::ALL.map(Sigma::name);
    [
        &sigmas[..],
        &["planner", "confidence-drop", "low-confidence", "verify"],
    ]
    .concat()
}

impl Revise {
    /// Checks the parameters.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Edit { threshold, .. } if threshold.is_nan() || threshold < 0.0 => {
                Err(Error::setting(
                    "edit_threshold",
                    "must be a number, at least 0",
                    threshold,
                    "None turns editing off, 0 replaces every token that the model would not write now, as in SGLang (in Diffusers 0 turns editing off)",
                ))
            }
            Self::Edit {
                most_post_steps, ..
            } if most_post_steps > MOST_STEPS => Err(too_many("max_post_steps", most_post_steps)),
            Self::Resample { eta, .. } if !(0.0..=1.0).contains(&eta) => Err(Error::setting(
                "remask_eta",
                "must lie in [0, 1]",
                eta,
                "it is a probability, or a share of one; 0 takes nothing back",
            )),
            Self::Plan { eta } if !(eta >= 0.0 && eta.is_finite()) => Err(Error::setting(
                "remask_eta",
                "must be at least 0 and finite",
                eta,
                "1 ranks written tokens like proposals, 0 takes nothing back",
            )),
            Self::Verify { bar } if bar.is_nan() => Err(Error::setting(
                "remask_threshold",
                "must be a number",
                bar,
                "0.9 is WINO's; 0 takes nothing back",
            )),
            Self::Redo { budget } if budget > MOST_STEPS => Err(too_many("remask_budget", budget)),
            _ => Ok(()),
        }
    }

    /// Does it take tokens back, so that their positions are open again?
    pub fn takes_back(self) -> bool {
        !matches!(self, Self::None | Self::Edit { .. })
    }

    /// May what is written change while its block is not finished?
    pub fn looks_back(self) -> bool {
        self != Self::None
    }

    /// Does a forward score the written positions of its block, too, besides those that it may fill?
    pub fn scores_written(self) -> bool {
        matches!(self, Self::Edit { .. }) || self.asks_current()
    }

    /// Of those, does it need the probability of the token that stands there?
    pub fn asks_current(self) -> bool {
        matches!(self, Self::Plan { .. } | Self::Drop | Self::Verify { .. })
    }

    /// Is that its probability where the model does not see the token itself?
    pub fn asks_shadow(self) -> bool {
        matches!(self, Self::Verify { .. })
    }

    /// How many of `left` open positions a forward commits at most, where the rule says that.
    pub fn most_commits(self, left: usize) -> Option<usize> {
        self.asks_shadow().then(|| (left * 7 / 10).clamp(5, 20))
    }

    /// Does it remember how probable each token was when it was written?
    pub fn keeps_confidence(self) -> bool {
        let is_dealt = matches!(self, Self::Resample { sigma, .. } if sigma == Sigma::Confidence);
        is_dealt || matches!(self, Self::Drop | Self::Redo { .. })
    }

    /// What finishes a block.
    pub fn ends(self) -> Ends {
        match self {
            Self::None
            | Self::Plan { .. }
            | Self::Drop
            | Self::Verify { .. }
            | Self::Redo { .. } => Ends::Filled,
            Self::Edit {
                most_post_steps, ..
            } => Ends::Settled { most_post_steps },
            Self::Resample { .. } => Ends::Steps,
        }
    }

    /// Forwards of a block at most beyond those of the same rule without it.
    pub fn most_extra(self) -> usize {
        match self {
            Self::Redo { budget } => budget,
            _ => self.ends().most_post_steps(),
        }
    }

    /// Does `token`, of this probability, take the place of a written one?
    pub fn replaces(self, written: u32, token: u32, probability: f64) -> bool {
        match self {
            Self::Edit { threshold, .. } => token != written && probability > threshold,
            _ => false,
        }
    }
}
