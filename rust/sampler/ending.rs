//! Where the answer of a row ends, and what fills the places behind it.

use super::row::Row;
use crate::canvas::State;
use crate::canvas::edit::{Edit, Kind};
use crate::rules::ends::first_end;
use crate::rules::stops::{Ending, ending};

impl Row {
    /// Where the answer ends.
    pub(super) fn find_ending(&self) -> Option<Ending> {
        let rule = &self.rule;
        if rule.stops.is_empty() {
            let end = first_end(&self.canvas, |token| rule.is_end(token))?;
            return Some(Ending {
                first: end,
                last: end,
            });
        }
        // A stop of one id is an end token, too, and ends the row either way.
        let is_end = |token| rule.stop_at_end && rule.is_end(token);
        ending(&self.canvas, is_end, &rule.stops, self.early)
    }

    /// Before this position stand too few tokens for an end.
    pub(super) fn least_place(&self) -> usize {
        self.early
    }

    /// What fills the places behind an end.
    pub(super) fn fill(&self, end: usize) -> u32 {
        let known = self.rule.ends.first().copied();
        known.unwrap_or(self.canvas.tokens()[end])
    }

    /// What ended it before its last position, if anything did.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Ends at a position that was written and is final, because somebody else says so (a text does). Refuses, with the reason.
    pub fn end_at(&mut self, position: usize) -> Result<(), &'static str> {
        if self.is_cancelled {
            return Err("it was cancelled");
        }
        if self.canvas.states().get(position) != Some(&State::Written) {
            return Err("nothing was written there");
        }
        if self.canvas.count(0..position + 1, State::Written) > self.stable() {
            return Err("what stands there, or before it, may still change");
        }
        if self.ending.is_some_and(|known| known.last < position) {
            return Err("it ended before");
        }
        let ending = Ending {
            first: position,
            last: position,
        };
        // A step that waits is none of its own any more: what is filled now belongs to the last forward.
        self.pending = None;
        self.end(ending, self.forwards.saturating_sub(1));
        Ok(())
    }

    /// Fills what follows the end of the answer, and the row is finished.
    pub(super) fn end(&mut self, ending: Ending, step: u32) {
        self.ending = Some(ending);
        let end = ending.last;
        let fill = self.fill(end);
        let (states, tokens) = (self.canvas.states(), self.canvas.tokens());
        let differs = |&p: &usize| match states[p] {
            State::Given => false,
            State::Open => true,
            State::Written => tokens[p] != fill,
        };
        let rest = (end + 1..self.canvas.len()).filter(differs);
        let plan: Vec<Edit> = rest
            .map(|p| Edit {
                step,
                ..self.edit(p as u32, fill, f64::NAN, Kind::Pad)
            })
            .collect();
        self.carry_out(&plan);
        if let Some(block) = &mut self.block {
            block.is_finished = true;
        }
    }
}
