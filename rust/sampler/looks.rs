//! Rules that ask twice: a forward proposes tokens, another one looks at them causally, and a prefix of them is written.

use super::Answer;
use super::memory::Notes;
use super::row::Row;
use super::step::{Pending, Planned};
use crate::rules::cut::{Candidate, Cut};

/// A token that is proposed, and its probability.
pub type Proposed = (u32, f64);

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// It proposes and commits.
    Once,
    /// It only proposes.
    Ahead,
    /// It looks at what was proposed, and commits.
    Causal,
}

impl Row {
    /// What the next step is for, with `count` positions that may be written; and what those show in it.
    pub(super) fn looks(&self, count: usize) -> (Looks, Vec<Proposed>) {
        if !self.rule.cut.looks_twice() {
            return (Looks::Once, Vec::new());
        }
        let proposed = self.block.as_ref().and_then(|block| block.proposed.clone());
        let looks = match (self.rule.cut, &proposed) {
            (_, Some(_)) => Looks::Causal,
            // Everything agrees.
            (Cut::Mixed { weight }, _) if weight >= 1.0 => Looks::Once,
            // What a single position shows is not looked at. (Two models go on in step, each with a cache of all rows.)
            (Cut::Verified, _) if count == 1 => Looks::Causal,
            _ => Looks::Ahead,
        };
        (looks, proposed.unwrap_or_default())
    }

    /// Does it wait for another model to look at what this one proposed?
    pub(super) fn is_between_models(&self) -> bool {
        let has_proposed = self.block.as_ref().is_some_and(|b| b.proposed.is_some());
        matches!(self.rule.cut, Cut::Mixed { .. }) && has_proposed && !self.is_done()
    }

    /// The open positions from left to right; those are sure where what was proposed is what the answer says. The first one is,
    /// too, where the rule writes what was proposed.
    pub(super) fn agreed(&self, pending: &Pending, answer: &Answer<'_>) -> Vec<Candidate> {
        let writes_proposed = matches!(self.rule.cut, Cut::Mixed { .. });
        let is_sure = writes_proposed && !pending.is_causal;
        let mut candidates = self.of_open(&pending.positions, |index, position| {
            let proposed = pending.proposed.get(index).map(|&(token, _)| token);
            let agrees = is_sure || proposed == Some(answer.token(index).0);
            Candidate {
                key: -f64::from(position),
                confidence: f64::from(u8::from(agrees)),
                entropy: 0.0,
                index: index as u32,
                position,
            }
        });
        if let Some(first) = candidates.first_mut().filter(|_| writes_proposed) {
            first.confidence = 1.0;
        }
        candidates
    }

    /// What is written at the `i`-th position of a step if it is picked: what was proposed there, where that was only looked
    /// at, else what the answer says.
    pub(super) fn written_as(&self, pending: &Pending, answer: &Answer<'_>, i: usize) -> Proposed {
        match self.rule.cut {
            Cut::Mixed { .. } if pending.is_causal => pending.proposed[i],
            _ => answer.token(i),
        }
    }
}

impl Pending {
    /// A step that only proposes.
    pub(super) fn propose(&self, answer: &Answer<'_>) -> Planned {
        let proposed = (0..self.positions.len()).map(|i| answer.token(i));
        let notes = Notes {
            proposed: Some(proposed.collect()),
            ..Notes::default()
        };
        Planned {
            notes: Some(Box::new(notes)),
            ..Planned::default()
        }
    }
}
