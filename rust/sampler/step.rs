//! A step of a row: which positions it asks for, and what it writes there.

use super::Answer;
use super::drafts::Shown;
use super::length::Change;
use super::looks::{Looks, Proposed};
use super::memory::Notes;
use super::row::Row;
use crate::canvas::State;
use crate::canvas::edit::{Edit, Kind};
use crate::error::Result;
use crate::rng::Draw;
use crate::rules::length::Length;
use crate::rules::order::{Order, Proposal};
use crate::rules::revise::Revise;
use crate::rules::schedule::{Schedule, Step, first_hit};
use crate::watch::Watch;

/// A step that waits for its scores.
pub struct Pending {
    /// Positions to score.
    pub positions: Vec<u32>,
    /// Positions chosen without looking at the model, in the order in which they are committed.
    pub(super) chosen: Option<Vec<u32>>,
    /// Commit at least so many.
    pub(super) floor: usize,
    /// Share of the block's steps that are done once this one is.
    pub(super) progress: f64,
    /// Positions of the block that stand behind it, where the rule says that.
    pub(super) standing: usize,
    /// What it takes back, where that was drawn before the model is asked.
    back: Vec<Edit>,
    /// It is a causal look at what the positions show.
    pub is_causal: bool,
    /// What they show in it, where that was drafted.
    pub(super) proposed: Vec<Proposed>,
    /// It proposes what the next one looks at, and commits nothing.
    pub(super) is_draft: bool,
}

/// What a step does once it is carried out. Until then nothing has changed.
#[derive(Default)]
pub struct Planned {
    /// Changes of the canvas, in order.
    pub edits: Vec<Edit>,
    /// What the row will remember of it, where it remembers anything.
    pub notes: Option<Box<Notes>>,
    /// What open positions show afterwards, where that is no mask.
    pub shown: Option<Box<Shown>>,
    /// How the length changes behind it.
    pub change: Option<Change>,
}

impl Row {
    /// The forward that a step needs; none if it would commit nothing.
    pub(super) fn prepare(
        &mut self,
        step: Step,
        published_mean: Option<f64>,
        score_all: bool,
    ) -> Option<Pending> {
        let rule = &self.rule;
        let eligible = self.eligible(step);
        let standing = rule.standing(step);
        let floor = match standing {
            Some(standing) => standing.saturating_sub(step.masks - step.left),
            None => rule.floor(step, published_mean),
        };
        let chosen = self.choose_blindly(&eligible, floor, step);
        let commits = chosen.as_ref().map_or(floor, Vec::len);
        // Nothing to fill is left only where what is written is looked at once more.
        let may_pass = !rule.schedule.keeps_idle_steps() && !rule.redecides();
        if commits == 0 && step.left > 0 && may_pass && standing.is_none() {
            return None;
        }
        let back = self.drawn_back(step, self.scheduled);
        if rule.schedule == Schedule::FirstHitting {
            self.time = first_hit(
                self.time,
                step.left,
                self.stream.uniform(0, self.scheduled, Draw::Time),
            );
        }
        let count = eligible.len();
        let mut positions = match &chosen {
            Some(chosen) if !score_all => chosen.clone(),
            _ if rule.length != Length::Fixed => self.measured(),
            _ if score_all && self.is_confined() => self.open_positions(step),
            _ => eligible,
        };
        let looks_back = rule.revise.scores_written().then(|| self.window());
        if let Some(written) = looks_back.or_else(|| self.answer()) {
            positions.extend(self.canvas.positions(written, State::Written));
            positions.sort_unstable();
        }
        let (looks, proposed) = self.looks(count);
        Some(Pending {
            positions,
            chosen,
            floor,
            progress: ((step.index + 1) as f64 / step.steps as f64).min(1.0),
            standing: standing.unwrap_or(0),
            back,
            is_causal: looks == Looks::Causal,
            proposed,
            is_draft: looks == Looks::Ahead,
        })
    }

    /// What the waiting step does. `answer` has an entry for each of its positions.
    pub fn plan(&self, answer: &Answer<'_>, watch: &Watch<'_>) -> Result<Planned> {
        let pending = self
            .pending
            .as_ref()
            .expect("only waiting rows are answered");
        if let Some(proposals) = self.inherited(pending, answer) {
            return match answer {
                Answer::Remembered(_, beside) => {
                    self.plan_of(pending, &Answer::Remembered(&proposals, beside), watch)
                }
                _ => self.plan_of(pending, &Answer::Proposals(&proposals), watch),
            };
        }
        self.plan_of(pending, answer, watch)
    }

    /// What is proposed where the first token of a block is what the finished one before it tells: the most probable one there,
    /// whatever was drawn.
    fn inherited(&self, pending: &Pending, answer: &Answer<'_>) -> Option<Vec<Proposal>> {
        if !self.rule.inherits_argmax() {
            return None;
        }
        let start = self.window().start;
        let is_told = start > 0 && self.canvas.states().get(start) == Some(&State::Open);
        let mut places = pending.positions.iter();
        let i = places.position(|&p| is_told && p as usize == start)?;
        let mut proposals = answer.proposals()?.to_vec();
        proposals[i].token = proposals[i].argmax.expect("checked before");
        proposals[i].probability = proposals[i].top1;
        Some(proposals)
    }

    fn plan_of(
        &self,
        pending: &Pending,
        answer: &Answer<'_>,
        watch: &Watch<'_>,
    ) -> Result<Planned> {
        if pending.is_draft {
            return Ok(pending.propose(answer));
        }
        if self.rule.follows_posterior() {
            let (edits, shown) = self.go_on(pending, answer);
            return Ok(Planned {
                edits,
                shown: Some(Box::new(shown)),
                ..Planned::default()
            });
        }
        let mut notes = self.notes(pending, answer);
        let mut back = pending.back.clone();
        let mut picks: Vec<usize> = match &pending.chosen {
            Some(chosen) if *chosen == pending.positions => (0..chosen.len()).collect(),
            Some(chosen) => {
                // More positions than the chosen ones were scored; those rise.
                let index_of = |p: &u32| {
                    pending
                        .positions
                        .binary_search(p)
                        .expect("chosen from the positions")
                };
                chosen.iter().map(index_of).collect()
            }
            None => match (self.rule.revise, answer.proposals()) {
                (Revise::Plan { eta }, Some(proposals)) => {
                    let picks;
                    (picks, back) = self.ranked_together(pending, proposals, eta, watch)?;
                    picks
                }
                _ => self.pick(pending, answer, notes.as_deref_mut(), watch)?,
            },
        };
        self.drop_behind_end(&mut picks, pending, answer);
        let change = self.change_of_length(pending, answer, &mut picks);
        if let Some(drafts) = self.rule.drafts {
            let (edits, shown) = self.draft(drafts, pending, &picks, answer);
            return Ok(Planned {
                edits,
                shown: Some(Box::new(shown)),
                ..Planned::default()
            });
        }
        match self.rule.revise {
            Revise::Drop => back = self.dropped(pending, answer, picks.len(), watch)?,
            Revise::Verify { bar } => {
                back = self.disproved(pending, answer, picks.len(), bar, watch)?;
            }
            _ => {}
        }
        let edit = |i: usize, kind| {
            let (token, probability) = self.written_as(pending, answer, i);
            self.edit(pending.positions[i], token, probability, kind)
        };
        let mut edits: Vec<Edit> = picks.into_iter().map(|i| edit(i, Kind::Commit)).collect();
        if let Revise::Edit { .. } = self.rule.revise {
            self.replace(pending, answer, &mut edits);
        }
        edits.append(&mut back);
        Ok(Planned {
            edits,
            notes,
            shown: None,
            change,
        })
    }

    /// Appends to the commits of a step the edits of what is written already.
    fn replace(&self, pending: &Pending, answer: &Answer<'_>, edits: &mut Vec<Edit>) {
        let (states, tokens) = (self.canvas.states(), self.canvas.tokens());
        let commits = edits.len();
        for (i, &position) in pending.positions.iter().enumerate() {
            let p = position as usize;
            if states[p] != State::Written {
                continue;
            }
            let (token, probability) = answer.token(i);
            if self.rule.revise.replaces(tokens[p], token, probability) {
                let edit = self.edit(position, token, probability, Kind::Edit);
                if self.may_become(&edit, &edits[..commits]) {
                    edits.push(edit);
                }
            }
        }
    }

    /// Steps from this one on, itself the first, that commit nothing.
    pub(super) fn idle_steps(&self, step: Step) -> usize {
        let rule = &self.rule;
        if let Schedule::Dilated { dilation } = rule.schedule {
            let open = self.open_positions(step);
            let has_any = |&index: &usize| !self.of_level(&open, dilation, index).is_empty();
            let next = (step.index + 1..step.steps).find(has_any);
            return next.expect("an open position has a level") - step.index;
        }
        if rule.order != Order::Ancestral {
            return rule.schedule.next_commit(step) - step.index;
        }
        // Each has draws of its own, which must be looked at.
        let eligible = self.open_positions(step);
        let commits = |&idle: &usize| {
            let index = step.index + idle;
            let probability = rule.chances(Step { index, ..step }).fill;
            let scheduled = self.scheduled + idle as u32;
            let draw = |&p: &u32| self.stream.uniform(p, scheduled, Draw::Commit);
            eligible.iter().any(|p| draw(p) < probability)
        };
        (1..step.steps - step.index)
            .find(commits)
            .expect("the last step takes all")
    }
}
