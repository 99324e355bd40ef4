//! What comes back for a request.

use crate::rules::order::Proposal;
use std::ops::Range;

/// What a caller knows about the requested positions of some rows, position by position.
pub enum Answer<'a> {
    /// Statistics of the model's distribution.
    Proposals(&'a [Proposal]),
    /// Tokens and scores of the caller's own choice; a score stands for key and confidence alike.
    Choice(&'a [(u32, f64)]),
}

impl Answer<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Proposals(p) => p.len(),
            Self::Choice(c) => c.len(),
        }
    }

    /// What concerns some of the positions.
    pub(super) fn part(&self, range: Range<usize>) -> Answer<'_> {
        match self {
            Self::Proposals(p) => Answer::Proposals(&p[range]),
            Self::Choice(c) => Answer::Choice(&c[range]),
        }
    }

    /// What is proposed for a position, and its probability or score.
    pub(super) fn token(&self, i: usize) -> (u32, f64) {
        match self {
            Self::Proposals(p) => (p[i].token, p[i].probability),
            Self::Choice(c) => c[i],
        }
    }

    /// A number that no order can deal with: statistics must be finite, a score only has to have a place in an order.
    pub(super) fn unusable(&self, i: usize) -> Option<f64> {
        match self {
            Self::Proposals(p) => p[i].unusable(),
            Self::Choice(c) => Some(c[i].1).filter(|x| x.is_nan()),
        }
    }
}
