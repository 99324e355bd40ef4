//! A step of a row whose rule remembers distributions: what it asks of the model besides, and what it will remember.

use super::Answer;
use super::beside::Extra;
use super::memory::Notes;
use super::row::Row;
use super::step::Pending;
use super::trail::Rest;
use crate::canvas::State;
use crate::rules::cut::{Candidate, Cut};
use crate::rules::nearby::NOT_STEADY;

impl Row {
    /// Of each of the requested positions, may it be written now? What else was scored, because somebody watches, counts for
    /// nothing.
    pub(super) fn writable(&self, positions: &[u32]) -> Vec<bool> {
        let states = self.canvas.states();
        let eligible = self.eligible_of(positions);
        let of = |position: &u32| {
            let is_eligible = |all: &Vec<u32>| all.binary_search(position).is_ok();
            states[*position as usize] == State::Open && eligible.as_ref().is_none_or(is_eligible)
        };
        positions.iter().map(of).collect()
    }

    /// What the rule wants to know of each requested position beside its prediction.
    pub fn extras(&self, positions: &[u32]) -> Vec<Extra> {
        let Some(memory) = &self.memory else {
            let lead = self.lead();
            let extra = Extra {
                lead,
                ..Extra::default()
            };
            return vec![extra; positions.len()];
        };
        let keeps = self.rule.keeps();
        let credit = self.rule.credit;
        let of = |(&position, is_writable): (&u32, bool)| {
            if !is_writable {
                return Extra::default();
            }
            Extra {
                lead: None,
                head: keeps.heads,
                credit: credit.map(|rule| (rule, memory.credits(position).to_vec())),
            }
        };
        let writable = self.writable(positions);
        positions.iter().zip(writable).map(of).collect()
    }

    /// The first position of which an answer does not say what the rule needs, and what that is.
    pub fn missing(&self, answer: &Answer<'_>) -> Option<(u32, &'static str)> {
        self.memory.as_ref()?;
        let (pending, keeps) = (self.pending.as_ref()?, self.rule.keeps());
        if !(keeps.heads || keeps.credits) {
            return None;
        }
        let lacks = |i: usize| {
            let beside = answer.beside(i);
            if keeps.heads && beside.is_none_or(|known| known.head.cells.is_empty()) {
                return Some("the head of each distribution");
            }
            let has_leader = beside.is_some_and(|known| known.leader.is_some());
            (keeps.credits && !has_leader).then_some("the leader of each distribution")
        };
        let writable = self.writable(&pending.positions);
        let asked = writable.iter().enumerate().filter(|(_, is)| **is);
        let mut found = asked.filter_map(|(i, _)| Some((pending.positions[i], lacks(i)?)));
        found.next()
    }

    /// What the row will remember of the waiting step, as far as the answer says it.
    pub(super) fn notes(&self, pending: &Pending, answer: &Answer<'_>) -> Option<Box<Notes>> {
        self.memory.as_ref()?;
        let keeps = self.rule.keeps();
        if !(keeps.heads || keeps.credits) {
            return None;
        }
        let mut notes = Box::new(Notes {
            credit: self.rule.credit,
            rest: self.rest(),
            ..Notes::default()
        });
        let writable = self.writable(&pending.positions);
        for (i, &position) in pending.positions.iter().enumerate() {
            let (Some(beside), true) = (answer.beside(i), writable[i]) else {
                continue;
            };
            if keeps.heads {
                notes.heads.push((position, beside.head.clone(), None));
            }
            if let (true, Some(leader)) = (keeps.credits, beside.leader) {
                notes.leaders.push((position, leader));
            }
        }
        Some(notes)
    }

    /// When a distribution has come to rest, where the rule asks that.
    fn rest(&self) -> Option<Rest> {
        match self.rule.cut {
            Cut::Steady { bar, steps, .. } => Some(Rest { bar, steps }),
            _ => None,
        }
    }

    /// Takes the confidence of candidates whose distribution has not come to rest, where it would be enough. They are those of
    /// the notes, in their order.
    pub(super) fn doubt(&self, candidates: &mut [Candidate], notes: Option<&mut Notes>) {
        let (Cut::Steady { threshold, .. }, Some(memory)) = (self.rule.cut, &self.memory) else {
            return;
        };
        let (Some(notes), Some(rest)) = (notes, self.rest()) else {
            return;
        };
        for (candidate, (position, head, known)) in candidates.iter_mut().zip(&mut notes.heads) {
            if candidate.confidence < threshold {
                continue;
            }
            let trail = memory.trail(*position);
            let is_close = trail.is_close(head, rest);
            *known = Some(is_close);
            if !is_close || !trail.rests(rest) {
                candidate.confidence = NOT_STEADY;
            }
        }
    }
}
