//! Which open positions of a row may be written in a step.

use super::row::Row;
use crate::canvas::State;
use crate::rules::cut::{Candidate, Cut};
use crate::rules::length::Length;
use crate::rules::reach::Reach;
use crate::rules::schedule::{Schedule, Step, levels};

impl Row {
    /// Open positions of the block, rising.
    pub(super) fn open_positions(&self, step: Step) -> Vec<u32> {
        let window = self.window();
        let mut positions = Vec::with_capacity(step.left);
        let states = self.canvas.states()[window.clone()].iter();
        for (position, &state) in (window.start as u32..).zip(states) {
            if state == State::Open {
                positions.push(position);
            }
        }
        positions
    }

    /// Those of them that may be written now.
    pub(super) fn eligible(&self, step: Step) -> Vec<u32> {
        let mut positions = self.open_positions(step);
        if self.is_confined() {
            self.keep_eligible(&mut positions);
        }
        positions
    }

    /// Leaves of the open positions, which rise, those that may be written now.
    pub(super) fn keep_eligible(&self, positions: &mut Vec<u32>) {
        self.rule.reach.keep(positions, &self.window());
        let states = self.canvas.states();
        positions.retain(|&p| self.wishes.allow(p, states));
    }

    /// Are there open positions of the window that may not be written yet?
    pub(super) fn is_confined(&self) -> bool {
        !matches!(self.rule.reach, Reach::Block)
            || self.wishes.after.is_some()
            || matches!(self.rule.schedule, Schedule::Dilated { .. })
            || self.rule.length != Length::Fixed
    }

    /// Those of some positions that a step of a dilated schedule writes; `index` is the step's.
    pub(super) fn of_level(&self, positions: &[u32], dilation: usize, index: usize) -> Vec<u32> {
        let window = self.window();
        let (level, _) = levels(window.len(), dilation);
        let is_of_it = |&&p: &&u32| level[p as usize - window.start] as usize == index;
        positions.iter().filter(is_of_it).copied().collect()
    }

    /// A key, or an entropy turned round, less what it loses for standing behind the first that may be written.
    #[inline]
    pub(super) fn penalised(&self, key: f64, position: u32, first: u32) -> f64 {
        let penalty = self.rule.position_penalty;
        if penalty == 0.0 {
            return key;
        }
        key - penalty * f64::from(position - first)
    }

    /// Leaves of the candidates those that may be written now, each with what it loses for where it stands. Most rules have
    /// nothing to do here, and know it before they look at any candidate.
    pub(super) fn keep_candidates(&self, candidates: &mut Vec<Candidate>, requested: &[u32]) {
        let Some(eligible) = self.eligible_of(requested) else {
            return;
        };
        candidates.retain(|c| eligible.binary_search(&c.position).is_ok());
        if self.rule.position_penalty == 0.0 || self.rule.cut.looks_twice() {
            return;
        }
        let first = eligible.first().copied().unwrap_or(0);
        for c in candidates {
            c.key = self.penalised(c.key, c.position, first);
            if let Cut::EntropyThreshold(_) = self.rule.cut {
                c.entropy = -self.penalised(-c.entropy, c.position, first);
            }
        }
    }

    /// The open positions among those requested that may be written, where that is not all of them or it counts which is the
    /// first.
    pub(super) fn eligible_of(&self, requested: &[u32]) -> Option<Vec<u32>> {
        if !self.is_confined() && self.rule.position_penalty == 0.0 {
            return None;
        }
        let window = self.window();
        let is_open = |&&p: &&u32| {
            window.contains(&(p as usize)) && self.canvas.states()[p as usize] == State::Open
        };
        let mut positions = requested.iter().filter(is_open).copied().collect();
        self.keep_eligible(&mut positions);
        Some(positions)
    }
}
