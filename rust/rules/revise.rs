//! What becomes of tokens that a row has written itself, while their block is not finished.

use super::config::{MOST_STEPS, too_many};
use super::ends::Ends;
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
            _ => Ok(()),
        }
    }

    /// May what is written change while its block is not finished?
    pub fn looks_back(self) -> bool {
        self != Self::None
    }

    /// Does a forward score the written positions of its block, too, besides those that it may fill?
    pub fn scores_written(self) -> bool {
        match self {
            Self::None => false,
            Self::Edit { .. } => true,
        }
    }

    /// Of those, does it need the probability of the token that stands there?
    pub fn asks_current(self) -> bool {
        match self {
            Self::None | Self::Edit { .. } => false,
        }
    }

    /// What finishes a block.
    pub fn ends(self) -> Ends {
        match self {
            Self::None => Ends::Filled,
            Self::Edit {
                most_post_steps, ..
            } => Ends::Settled { most_post_steps },
        }
    }

    /// Does `token`, of this probability, take the place of a written one?
    pub fn replaces(self, written: u32, token: u32, probability: f64) -> bool {
        match self {
            Self::None => false,
            Self::Edit { threshold, .. } => token != written && probability > threshold,
        }
    }
}
