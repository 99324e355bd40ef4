//! What comes back for a request.

use super::beside::Beside;
use crate::rules::order::Proposal;
use crate::watch::Watch;
use std::ops::Range;

/// What a caller knows about the requested positions of some rows, position by position.
pub enum Answer<'a> {
    /// Statistics of the model's distribution.
    Proposals(&'a [Proposal]),
    /// The same, and what a rule with a memory wants to know beside them.
    Remembered(&'a [Proposal], &'a [Beside]),
    /// Tokens and scores of the caller's own choice; a score stands for key and confidence alike.
    Choice(&'a [(u32, f64)]),
}

impl Answer<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Proposals(p) | Self::Remembered(p, _) => p.len(),
            Self::Choice(c) => c.len(),
        }
    }

    /// What concerns some of the positions.
    pub(super) fn part(&self, range: Range<usize>) -> Answer<'_> {
        match self {
            Self::Proposals(p) => Answer::Proposals(&p[range]),
            Self::Remembered(p, beside) => Answer::Remembered(&p[range.clone()], &beside[range]),
            Self::Choice(c) => Answer::Choice(&c[range]),
        }
    }

    /// The statistics of all positions, where they are known.
    pub(super) fn proposals(&self) -> Option<&[Proposal]> {
        match self {
            Self::Proposals(p) | Self::Remembered(p, _) => Some(p),
            Self::Choice(_) => None,
        }
    }

    /// What is known beside them of a position.
    pub(super) fn beside(&self, i: usize) -> Option<&Beside> {
        match self {
            Self::Remembered(_, beside) => Some(&beside[i]),
            Self::Proposals(_) | Self::Choice(_) => None,
        }
    }

    /// What is proposed for a position, and its probability or score.
    pub(super) fn token(&self, i: usize) -> (u32, f64) {
        match self {
            Self::Proposals(p) | Self::Remembered(p, _) => (p[i].token, p[i].probability),
            Self::Choice(c) => c[i],
        }
    }

    /// A number that no order can deal with: statistics must be finite, a score only has to have a place in an order.
    pub(super) fn unusable(&self, i: usize) -> Option<f64> {
        match self {
            Self::Proposals(p) | Self::Remembered(p, _) => p[i].unusable(),
            Self::Choice(c) => Some(c[i].1).filter(|x| x.is_nan()),
        }
    }

    /// Is every number one that orders can deal with, and no token excluded? A quick look, which names nothing; also false where
    /// `watch` stopped it.
    pub(super) fn is_usable(&self, excludes: impl Fn(u32) -> bool, watch: &Watch<'_>) -> bool {
        const PIECE: usize = 1 << 16;
        let of_proposal = |p: &Proposal| p.is_usable() && !excludes(p.token);
        let of_choice = |&(token, score): &(u32, f64)| !score.is_nan() && !excludes(token);
        match self {
            Self::Proposals(p) | Self::Remembered(p, _) => {
                let mut pieces = p.chunks(PIECE).enumerate();
                pieces
                    .all(|(i, piece)| (i == 0 || watch.goes_on()) && piece.iter().all(of_proposal))
            }
            Self::Choice(c) => {
                let mut pieces = c.chunks(PIECE).enumerate();
                pieces.all(|(i, piece)| (i == 0 || watch.goes_on()) && piece.iter().all(of_choice))
            }
        }
    }
}
