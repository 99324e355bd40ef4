//! What a step may write of end tokens, under the policies that look at where they stand.

use super::Answer;
use super::row::Row;
use super::step::Pending;
use crate::canvas::State;
use crate::canvas::edit::{Edit, Kind};
use crate::rules::cut::Candidate;
use crate::rules::eos::EosPolicy;

impl Row {
    /// Before this position no end token may be proposed: too few tokens stand before it, or, under `suffix`, another token was
    /// written behind it.
    pub fn early(&self) -> usize {
        let own = |&p: &usize| self.canvas.states()[p] == State::Written;
        let is_other = |&p: &usize| !self.rule.is_end(self.canvas.tokens()[p]);
        let last = match self.rule.eos {
            EosPolicy::Suffix => {
                let mut places = (0..self.canvas.len()).rev();
                places.find(|p| own(p) && is_other(p)).unwrap_or(0)
            }
            _ => 0,
        };
        last.max(self.least_place())
    }

    /// Under `delay`, takes those out of the candidates whose end token would stand behind something open; returns them, the
    /// leftmost first.
    pub(super) fn hold_back(
        &self,
        candidates: &mut Vec<Candidate>,
        answer: &Answer<'_>,
    ) -> Vec<Candidate> {
        if self.rule.eos != EosPolicy::Delay {
            return Vec::new();
        }
        let first = self.canvas.first_open();
        let is_held = |c: &Candidate| {
            let (token, _) = answer.token(c.index as usize);
            Some(c.position as usize) != first && self.rule.is_end(token)
        };
        let held = candidates.iter().copied().filter(is_held).collect();
        candidates.retain(|c| !is_held(c));
        held
    }

    /// Under `suffix`, drops those of the chosen that stand behind an end token among them: it fills their places.
    pub(super) fn drop_behind_end(
        &self,
        picks: &mut Vec<usize>,
        pending: &Pending,
        answer: &Answer<'_>,
    ) {
        if self.rule.eos != EosPolicy::Suffix {
            return;
        }
        let is_end = |i: usize| self.rule.is_end(answer.token(i).0);
        let ends = picks.iter().filter(|&&i| is_end(i));
        if let Some(end) = ends.map(|&i| pending.positions[i]).min() {
            picks.retain(|&i| pending.positions[i] <= end);
        }
    }

    /// Under `delay`, may a written token become an end token, once the commits of the step are done?
    pub(super) fn may_become(&self, edit: &Edit, commits: &[Edit]) -> bool {
        if self.rule.eos != EosPolicy::Delay || !self.rule.is_end(edit.token) {
            return true;
        }
        let filled = |p: u32| commits.iter().any(|commit| commit.position == p);
        let mut open = self
            .canvas
            .positions(0..edit.position as usize, State::Open);
        open.all(filled)
    }

    /// Under `suffix`, fills what is open behind an end token that the step has written.
    pub(super) fn fill_behind_end(&mut self, plan: &[Edit]) -> bool {
        if self.rule.eos != EosPolicy::Suffix {
            return false;
        }
        let ends = plan.iter().filter(|edit| self.rule.is_end(edit.token));
        let Some(end) = ends.map(|edit| edit.position).min() else {
            return false;
        };
        let fill = self.fill(end as usize);
        let behind = end as usize + 1..self.canvas.len();
        let open = self.canvas.positions(behind, State::Open);
        let plan: Vec<Edit> = open
            .map(|p| self.edit(p, fill, f64::NAN, Kind::Pad))
            .collect();
        self.carry_out(&plan);
        true
    }
}
