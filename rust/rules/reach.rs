//! Which open positions may be written now: how far a step reaches into the canvas.

use crate::canvas::State;
use crate::canvas::window::Blocks;
use crate::error::{Error, Result};
use std::ops::Range;

/// The part of a canvas that a step may write in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reach {
    /// The block that is being filled.
    Block,
    /// The first part of it that is not full (Fast-dLLM v2, Wu et al., 2509.26328).
    Parts {
        /// Positions in a part, counted from where the block begins; `None` makes the block one.
        length: Option<usize>,
        /// Is the first position of a block, where another stands before it, a part of its own? Where predictions are shifted,
        /// the finished block before it tells its token.
        first_alone: bool,
    },
    /// As many positions from its first open one on (`WeDLM`, 2512.22737).
    Sliding(usize),
    /// Several blocks: the next one joins once so large a share of the last is written (D2F, 2508.09192).
    Several {
        /// That share.
        add: f64,
        /// A block must be written in, too, once so large a share of the one before it is.
        activate: f64,
    },
}

impl Reach {
    /// Checks the parameters.
    pub fn check(self) -> Result<()> {
        let share = |name, share: f64, remedy| {
            if share > 0.0 && share <= 1.0 {
                Ok(())
            } else {
                Err(Error::setting(
                    name,
                    "must be a share above 0, at most 1",
                    share,
                    remedy,
                ))
            }
        };
        match self {
            Self::Parts {
                length: Some(0), ..
            } => Err(Error::setting(
                "sub_block_length",
                "must be at least 1",
                0,
                "8 is Fast-dLLM v2's; leave it out for whole blocks",
            )),
            Self::Sliding(0) => Err(Error::setting(
                "window_length",
                "must be at least 1",
                0,
                "16 is WeDLM's; 1 is left to right",
            )),
            Self::Several { add, activate } => {
                share(
                    "add_block_at",
                    add,
                    "0.1 is D2F's; 1 is one block at a time",
                )?;
                share(
                    "activate_block_at",
                    activate,
                    "0.95 is D2F's; 1 is once the one before is full",
                )
            }
            _ => Ok(()),
        }
    }

    /// The setting that says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block_length",
            Self::Parts { length: None, .. } => "inherit_token",
            Self::Parts { .. } => "sub_block_length",
            Self::Sliding(_) => "window_length",
            Self::Several { .. } => "add_block_at",
        }
    }

    /// Leaves of the open positions of a block, which rise, those that may be written now.
    pub fn keep(self, open: &mut Vec<u32>, block: &Range<usize>) {
        let (Some(&first), start) = (open.first(), block.start as u32) else {
            return;
        };
        let end = match self {
            Self::Parts {
                first_alone: true, ..
            } if first == start && start > 0 => first + 1,
            Self::Block | Self::Several { .. } | Self::Parts { length: None, .. } => return,
            Self::Parts {
                length: Some(length),
                ..
            } => {
                let part = (first - start) as usize / length;
                (start as usize)
                    .saturating_add((part + 1).saturating_mul(length))
                    .min(u32::MAX as usize) as u32
            }
            Self::Sliding(length) => (first as usize)
                .saturating_add(length)
                .min(u32::MAX as usize) as u32,
        };
        open.retain(|&p| p < end);
    }
}

/// Share of the positions of a block to be written that are.
fn share(states: &[State]) -> f64 {
    let count = |wanted| states.iter().filter(|&&s| s == wanted).count();
    let (open, written) = (count(State::Open), count(State::Written));
    if open == 0 {
        1.0
    } else {
        written as f64 / (open + written) as f64
    }
}

/// The blocks that may be written in: from the one of the first open position, `first`, to the first that is less than `add`
/// done.
pub fn live(blocks: Blocks, states: &[State], first: usize, add: f64) -> Range<usize> {
    let mut block = blocks.around(first, states.len());
    let begin = block.start;
    while block.end < states.len() && share(&states[block.clone()]) >= add {
        block = blocks.around(block.end, states.len());
    }
    begin..block.end
}

/// Those of them that must be written in: they have open positions, and the block before them is at least `activate` done.
pub fn active(
    blocks: Blocks,
    states: &[State],
    live: &Range<usize>,
    activate: f64,
) -> Vec<Range<usize>> {
    let (mut found, mut before, mut at) = (Vec::new(), 1.0, live.start);
    while at < live.end {
        let block = blocks.around(at, states.len());
        at = block.end;
        if before >= activate && states[block.clone()].contains(&State::Open) {
            found.push(block.clone());
        }
        before = share(&states[block]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(reach: Reach, open: &[u32], block: Range<usize>) -> Vec<u32> {
        let mut open = open.to_vec();
        reach.keep(&mut open, &block);
        open
    }

    #[test]
    fn parts_and_windows_begin_with_the_first_open_position() {
        let parts = |first_alone| Reach::Parts {
            length: Some(2),
            first_alone,
        };
        assert_eq!(kept(parts(false), &[4, 5, 6, 7], 4..8), [4, 5]);
        assert_eq!(kept(parts(true), &[4, 5, 6, 7], 4..8), [4]);
        assert_eq!(kept(parts(true), &[5, 6, 7], 4..8), [5]);
        assert_eq!(
            kept(parts(true), &[0, 1, 2], 0..8),
            [0, 1],
            "nothing stands before it"
        );
        assert_eq!(kept(Reach::Sliding(3), &[4, 7, 8], 0..9), [4]);
        assert_eq!(
            kept(Reach::Sliding(usize::MAX), &[4, 7, 8], 0..9),
            [4, 7, 8]
        );
        assert_eq!(kept(Reach::Sliding(1), &[], 0..9), [0u32; 0]);
    }

    #[test]
    fn blocks_join_one_by_one() {
        use State::{Given, Open, Written};
        let blocks = Blocks {
            origin: 0,
            length: Some(2),
        };
        let states = [Written, Open, Given, Given, Written, Open, Open, Open];
        assert_eq!(live(blocks, &states, 1, 0.5), 0..8);
        assert_eq!(live(blocks, &states, 1, 0.6), 0..2);
        assert_eq!(active(blocks, &states, &(0..8), 0.5), [0..2, 4..6, 6..8]);
        assert_eq!(active(blocks, &states, &(0..8), 0.6), [0..2, 4..6]);
    }
}
