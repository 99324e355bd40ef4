//! Where an end token may be written, so that no answer is cut by one that came too early.

use crate::error::{Error, Result};

/// What is asked of an end token. (What is asked of where it stands at the earliest is `min_new_tokens`.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EosPolicy {
    /// Nothing: it is a token like any other.
    Allow,
    /// That nothing else was written to its right, then or later: what is open there becomes an end token, too.
    Suffix,
    /// That nothing to its left is open when it is written.
    Delay,
    /// A logit that is larger by so much.
    Penalise(f64),
}

impl EosPolicy {
    /// All of them, each at the place that is its number, with a penalty that means nothing.
    pub const ALL: [Self; 4] = [
        Self::Allow,
        Self::Suffix,
        Self::Delay,
        Self::Penalise(f64::INFINITY),
    ];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Suffix => "suffix",
            Self::Delay => "delay",
            Self::Penalise(_) => "penalise",
        }
    }

    /// Checks the penalty.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Penalise(penalty) if penalty.is_nan() || penalty < 0.0 => Err(Error::setting(
                "eos_penalty",
                "must be a number, at least 0",
                penalty,
                "inf never proposes an end token; to write one sooner is no penalty",
            )),
            _ => Ok(()),
        }
    }
}
