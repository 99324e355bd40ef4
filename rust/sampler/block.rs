//! The block of a row that is being filled.

use super::drafts::Last;
use super::looks::Proposed;
use crate::rules::schedule::Step;
use std::ops::Range;

/// The block being filled.
pub(super) struct Block {
    pub(super) window: Range<usize>,
    /// Open positions it began with, and those that are left.
    pub(super) masks: usize,
    pub(super) left: usize,
    pub(super) steps: usize,
    /// Steps done.
    pub(super) index: usize,
    /// Forwards that had nothing left to fill.
    pub(super) post_steps: usize,
    /// Forwards that filled again what was taken back once it was full, and whether that has begun.
    pub(super) redo_forwards: usize,
    pub(super) is_redone: bool,
    pub(super) is_finished: bool,
    /// Forwards of the row before its first.
    pub(super) since: u32,
    /// Of a rule with drafts.
    pub(super) last: Last,
    /// What its open positions are to be, if the next forward agrees.
    pub(super) proposed: Option<Vec<Proposed>>,
}

impl Block {
    /// Where it is in its schedule.
    pub(super) fn step(&self) -> Step {
        Step {
            index: self.index,
            steps: self.steps,
            masks: self.masks,
            left: self.left,
        }
    }
}
