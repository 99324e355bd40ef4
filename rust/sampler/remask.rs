//! What a row takes back: by draws (`ReMDM`), by rank (P2), by drops of confidence (Saber), where the model would not write it
//! again (WINO), and once a block is full.

use super::answer::Answer;
use super::row::Row;
use super::step::Pending;
use crate::canvas::State;
use crate::canvas::edit::{Edit, Kind};
use crate::error::Result;
use crate::logits::arith::ln;
use crate::rng::Draw;
use crate::rules::cut::{Candidate, Cut, select};
use crate::rules::order::{Order, Proposal};
use crate::rules::remask::{Sigma, shares};
use crate::rules::revise::Revise;
use crate::rules::schedule::Step;
use crate::watch::Watch;

impl Row {
    /// A position that is open again.
    fn back(&self, position: u32) -> Edit {
        let mask = self.rule.mask.expect("looked at when the row came");
        self.edit(position, mask, f64::NAN, Kind::Remask)
    }

    /// Written positions of the block, rising.
    fn written_in_block(&self) -> Vec<u32> {
        self.canvas
            .positions(self.window(), State::Written)
            .collect()
    }

    /// What an ancestral step takes back.
    pub(super) fn drawn_back(&self, step: Step, scheduled: u32) -> Vec<Edit> {
        let Revise::Resample { sigma, .. } = self.rule.revise else {
            return Vec::new();
        };
        let chance = self.rule.chances(step).back;
        if chance == 0.0 {
            return Vec::new();
        }
        let written = self.written_in_block();
        let shares = match (&self.memory, sigma) {
            (Some(memory), Sigma::Confidence) => {
                // Scores of a caller's own may be anything.
                let confidence = |&p: &u32| memory.confidence(p).clamp(-600.0, 600.0);
                shares(&written.iter().map(confidence).collect::<Vec<_>>())
            }
            _ => vec![1.0; written.len()],
        };
        let is_drawn = |(&p, share): (&u32, f64)| {
            self.stream.uniform(p, scheduled, Draw::Remask) < chance * share
        };
        let drawn = written.iter().zip(shares).filter(|&pair| is_drawn(pair));
        drawn.map(|(&p, _)| self.back(p)).collect()
    }

    /// Passes over the steps of a block that fill nothing: they cost no forward, and what they take back is done at once. Where
    /// nothing happens any more, the block is over with what happened last, and the steps to come are not counted.
    pub(super) fn pass_quiet_steps(&mut self) {
        let mut quiet = 0;
        while let Some(block) = &self.block {
            let step = Step {
                index: block.index + quiet,
                ..block.step()
            };
            if step.index >= step.steps {
                break;
            }
            let fill = self.rule.chances(step).fill;
            let scheduled = self.scheduled + quiet as u32;
            let is_filled = |p| self.stream.uniform(p, scheduled, Draw::Commit) < fill;
            let window = block.window.clone();
            if self.canvas.positions(window, State::Open).any(is_filled) {
                self.count_steps(quiet);
                return;
            }
            quiet += 1;
            let edits = self.drawn_back(step, scheduled);
            if !edits.is_empty() {
                self.carry_out_within(&edits);
                self.count_steps(quiet);
                quiet = 0;
            }
        }
        if let Some(block) = &mut self.block {
            block.index += quiet;
        }
    }

    /// Open and written positions in one ranking: the best stand, the others are taken back.
    pub(super) fn ranked_together(
        &self,
        pending: &Pending,
        proposals: &[Proposal],
        eta: f64,
        watch: &Watch<'_>,
    ) -> Result<(Vec<usize>, Vec<Edit>)> {
        let states = self.canvas.states();
        let log = |p: f64| ln(p.max(f64::MIN_POSITIVE));
        let candidate = |(index, &position): (usize, &u32)| {
            let p = &proposals[index];
            let is_open = states[position as usize] == State::Open;
            let key = match (is_open, self.rule.order) {
                // Above every logarithm of a probability.
                (false, _) if eta == 0.0 => f64::INFINITY,
                (true, Order::Entropy) => -p.entropy,
                (false, Order::Entropy) => -p.entropy * eta,
                (true, order) => log(order.confidence(p)),
                (false, _) => log(p.current) * eta,
            };
            Candidate {
                key,
                confidence: 0.0,
                entropy: 0.0,
                index: index as u32,
                position,
            }
        };
        let positions = pending.positions.iter().enumerate();
        let mut candidates: Vec<Candidate> = positions.map(candidate).collect();
        let count = select(&mut candidates, Cut::Count, pending.standing, watch)?;
        let (best, others) = candidates.split_at(count);
        let is_open = |c: &&Candidate| states[c.position as usize] == State::Open;
        let picks = best.iter().filter(is_open).map(|c| c.index as usize);
        let mut lost: Vec<u32> = others
            .iter()
            .filter(|c| !is_open(c))
            .map(|c| c.position)
            .collect();
        lost.sort_unstable();
        let back = lost.into_iter().map(|p| self.back(p)).collect();
        Ok((picks.collect(), back))
    }

    /// Of what was written before, that whose probability fell most, where `commits` are written now: fewer than those, and
    /// none once the block is full.
    pub(super) fn dropped(
        &self,
        pending: &Pending,
        answer: &Answer<'_>,
        commits: usize,
        watch: &Watch<'_>,
    ) -> Result<Vec<Edit>> {
        let (Some(proposals), Some(memory)) = (answer.proposals(), &self.memory) else {
            return Ok(Vec::new());
        };
        let open = self.block.as_ref().map_or(0, |block| block.left);
        if commits >= open {
            return Ok(Vec::new());
        }
        let least = self.rule.min_commit.unwrap_or(2) / 2;
        let count = least
            .max(commits.div_ceil(8))
            .min(commits.saturating_sub(1));
        let fell = |i: usize, p: u32| Some(memory.confidence(p) - proposals[i].current);
        self.highest_back(pending, count, fell, watch)
    }

    /// Takes back those of the written positions of a step whose key is the highest, at most `count` of those that have one.
    fn highest_back(
        &self,
        pending: &Pending,
        count: usize,
        key: impl Fn(usize, u32) -> Option<f64>,
        watch: &Watch<'_>,
    ) -> Result<Vec<Edit>> {
        let states = self.canvas.states();
        let positions = pending.positions.iter().enumerate();
        let written = positions.filter(|&(_, &p)| states[p as usize] == State::Written);
        let mut candidates: Vec<Candidate> = written
            .filter_map(|(index, &position)| {
                Some(Candidate {
                    key: key(index, position)?,
                    confidence: 0.0,
                    entropy: 0.0,
                    index: index as u32,
                    position,
                })
            })
            .collect();
        let count = select(&mut candidates, Cut::Count, count, watch)?;
        let back = candidates[..count].iter().map(|c| self.back(c.position));
        Ok(back.collect())
    }

    /// Of what was written before, that which the model would not write where it does not see it, the least probable first:
    /// fewer than the forward before wrote, and none unless more than one is written now. So a block takes no more forwards
    /// than it had masks: what the first wrote is made up for by what the last one writes.
    pub(super) fn disproved(
        &self,
        pending: &Pending,
        answer: &Answer<'_>,
        commits: usize,
        bar: f64,
        watch: &Watch<'_>,
    ) -> Result<Vec<Edit>> {
        let Some(proposals) = answer.proposals().filter(|_| commits > 1) else {
            return Ok(Vec::new());
        };
        let before = self.forwards.checked_sub(1);
        let edits = self.trajectory.iter().rev();
        let last = edits.take_while(|edit| Some(edit.step) == before);
        let last = last.filter(|edit| edit.kind == Kind::Commit).count();
        let doubted = |i: usize, _| {
            let current = proposals[i].current;
            (current < bar).then_some(-current)
        };
        self.highest_back(pending, last.saturating_sub(1), doubted, watch)
    }

    /// Is some of what it asks asked from behind a mask, where the model does not see what is written there?
    pub fn asks_shadow(&self) -> bool {
        let states = self.canvas.states();
        let is_written = |&p: &u32| states[p as usize] == State::Written;
        self.rule.revise.asks_shadow()
            && self
                .pending
                .as_ref()
                .is_some_and(|step| step.positions.iter().any(is_written))
    }

    /// Takes the least sure token of a full block back, with its neighbours, while there are forwards left for that.
    pub(super) fn redo(&mut self) {
        let Revise::Redo { budget } = self.rule.revise else {
            return;
        };
        let written = self.written_in_block();
        let (Some(block), Some(memory)) = (self.block.as_mut(), self.memory.as_mut()) else {
            return;
        };
        let most = budget - block.redo_forwards;
        if block.left > 0 || most == 0 {
            return;
        }
        let Some(least) = memory.take_least_sure(written.iter().copied()) else {
            return;
        };
        let is_there = |p: u32| written.binary_search(&p).is_ok();
        let around = [Some(least), least.checked_sub(1), least.checked_add(1)];
        let around = around.into_iter().flatten().filter(|&p| is_there(p));
        let mut chosen: Vec<u32> = around.take(most).collect();
        chosen.sort_unstable();
        // A small block of its own: each of its forwards fills one at least.
        block.masks = chosen.len();
        block.steps = chosen.len();
        block.index = 0;
        block.is_redone = true;
        let edits: Vec<Edit> = chosen.into_iter().map(|p| self.back(p)).collect();
        self.carry_out_within(&edits);
    }
}
