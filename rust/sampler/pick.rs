//! What a step of a row commits: with the eyes closed, or of what the model says.

use super::Answer;
use super::memory::Notes;
use super::row::Row;
use super::step::Pending;
use crate::canvas::State;
use crate::error::Result;
use crate::rng::Draw;
use crate::rules::cut::{Candidate, Cut, order, select};
use crate::rules::gap::{GapStop, gap};
use crate::rules::order::{Order, Place, Proposal};
use crate::rules::reach::Reach;
use crate::rules::revise::Revise;
use crate::rules::schedule::{Schedule, Step};
use crate::rules::spacing::thin;
use crate::watch::Watch;
use std::ops::Range;

impl Row {
    /// Where the gaps are looked at, also of what is written: an answer that the caller has named.
    pub(super) fn answer(&self) -> Option<Range<usize>> {
        let stop = self.rule.gap_stop?;
        stop.span(self.origin(), self.canvas.len())
    }

    /// Are the gaps of this step large enough to commit everything left?
    fn stops(&self, stop: GapStop, pending: &Pending, proposals: &[Proposal]) -> bool {
        let states = self.canvas.states();
        let answer = self.answer();
        let mut counts = self.writable(&pending.positions);
        if let Some(answer) = answer {
            for (&position, counts) in pending.positions.iter().zip(&mut counts) {
                let p = position as usize;
                *counts = answer.contains(&p) && (*counts || states[p] == State::Written);
            }
        }
        let scored = counts.into_iter().zip(proposals);
        let gaps = scored.filter(|(counts, _)| *counts).map(|(_, of)| gap(of));
        stop.is_reached(gaps, pending.progress)
    }

    /// The positions of this step, where the rule does not look at the model.
    pub(super) fn choose_blindly(
        &self,
        eligible: &[u32],
        floor: usize,
        step: Step,
    ) -> Option<Vec<u32>> {
        let rule = &self.rule;
        if let Schedule::Dilated { dilation } = rule.schedule {
            return Some(self.of_level(eligible, dilation, step.index));
        }
        if !rule.chooses_blindly() {
            return None;
        }
        if rule.order == Order::Ancestral {
            let probability = rule.chances(step).fill;
            let commits =
                |&p: &u32| self.stream.uniform(p, self.scheduled, Draw::Commit) < probability;
            return Some(eligible.iter().copied().filter(commits).collect());
        }
        let first = eligible.first().copied().unwrap_or(0);
        let candidate = |(index, &position): (usize, &u32)| {
            let place = self.place(position);
            let key = rule.noise.key(rule.order.score(None, place), 0.0, place);
            Candidate {
                key: self.penalised(key, position, first),
                confidence: 0.0,
                entropy: 0.0,
                index: index as u32,
                position,
            }
        };
        let mut candidates: Vec<Candidate> = eligible.iter().enumerate().map(candidate).collect();
        let watch = Watch::never();
        let count = select(&mut candidates, Cut::Count, floor, &watch).expect("nobody stops it");
        let count = thin(&mut candidates, count, floor, rule.spacing, &watch);
        let count = count.expect("nobody stops it");
        Some(candidates[..count].iter().map(|c| c.position).collect())
    }

    fn place(&self, position: u32) -> Place {
        Place {
            stream: self.stream,
            position,
            step: self.forwards,
            rank: self.wishes.rank(position),
        }
    }

    /// Indices of the requested positions that are committed, best first.
    pub(super) fn pick(
        &self,
        pending: &Pending,
        answer: &Answer<'_>,
        notes: Option<&mut Notes>,
        watch: &Watch<'_>,
    ) -> Result<Vec<usize>> {
        let rule = &self.rule;
        let mut candidates = if rule.cut.looks_twice() {
            self.agreed(pending, answer)
        } else {
            let densities = self.densities(pending, watch)?;
            self.candidates(pending, answer, densities.as_deref())
        };
        self.keep_candidates(&mut candidates, &pending.positions);
        self.doubt(&mut candidates, notes);
        let floor = match (rule.gap_stop, answer.proposals()) {
            (Some(stop), Some(p)) if self.stops(stop, pending, p) => candidates.len(),
            // There each block has a floor of its own.
            _ if matches!(rule.reach, Reach::Several { .. }) => 0,
            _ => pending.floor,
        };
        let held = self.hold_back(&mut candidates, answer);
        let count = select(&mut candidates, self.cut(), floor, watch)?;
        let mut count = thin(&mut candidates, count, floor, rule.spacing, watch)?;
        if let Some(most) = rule.revise.most_commits(candidates.len()) {
            count = count.min(most.max(floor));
        }
        for block in self.active() {
            count += force(&mut candidates, count, &block);
        }
        // Once all others are written, the leftmost has nothing open before it, and then the next one.
        let held = held.iter().take(floor.saturating_sub(count));
        let index = |c: &Candidate| c.index as usize;
        let mut picks: Vec<usize> = candidates[..count].iter().map(index).collect();
        picks.extend(held.map(index));
        Ok(picks)
    }

    /// The open positions among those requested, as the order ranks them.
    fn candidates(
        &self,
        pending: &Pending,
        answer: &Answer<'_>,
        densities: Option<&[f64]>,
    ) -> Vec<Candidate> {
        let rule = &self.rule;
        let candidate = |index: usize, position: u32| match answer {
            Answer::Choice(c) => Candidate {
                key: c[index].1,
                confidence: c[index].1,
                entropy: 0.0,
                index: index as u32,
                position,
            },
            Answer::Proposals(p) | Answer::Remembered(p, _) => {
                let place = self.place(position);
                let mut score = match rule.order {
                    Order::Calibrated => self.calibrated(&p[index], position),
                    order => order.score(Some(&p[index]), place),
                };
                if let Some(densities) = densities {
                    score *= densities[index];
                }
                Candidate {
                    key: rule.noise.key(score, pending.progress, place),
                    confidence: rule.order.confidence(&p[index]),
                    entropy: p[index].entropy,
                    index: index as u32,
                    position,
                }
            }
        };
        self.of_open(&pending.positions, candidate)
    }

    /// What a proposal tells beyond how frequent its token is, less the farther it stands from where its block begins.
    fn calibrated(&self, proposal: &Proposal, position: u32) -> f64 {
        let begin = match self.rule.block_length {
            Some(_) => self.window().start,
            None => self.origin(),
        };
        let distance = position.saturating_sub(begin as u32);
        let calibration = &self.rule.calibration;
        calibration.score(proposal.token, proposal.probability, distance)
    }

    /// Of each of the positions that is open, what is made of its index and of itself.
    pub(super) fn of_open(
        &self,
        positions: &[u32],
        of: impl Fn(usize, u32) -> Candidate,
    ) -> Vec<Candidate> {
        let states = self.canvas.states();
        let mut made = Vec::with_capacity(positions.len());
        for (index, &position) in positions.iter().enumerate() {
            if states[position as usize] == State::Open {
                made.push(of(index, position));
            }
        }
        made
    }

    /// What ends the ranking; under Saber, the mean confidence of what stands, which must be passed.
    fn cut(&self) -> Cut {
        let mean = self.memory.as_ref().and_then(|m| m.mean_confidence());
        match mean.filter(|_| self.rule.revise == Revise::Drop) {
            Some(mean) => Cut::Threshold(mean.next_up()),
            None => self.rule.cut,
        }
    }

    /// How much is known around each of the requested positions, where the order asks that.
    fn densities(&self, pending: &Pending, watch: &Watch<'_>) -> Result<Option<Vec<f64>>> {
        let Some(prior) = self.rule.prior() else {
            return Ok(None);
        };
        let states = self.canvas.states();
        let is_open = |p: usize| states[p] == State::Open;
        let density = prior.density(is_open, states.len(), &pending.positions, watch);
        density.map(Some)
    }
}

/// Where none of the first `count` candidates lies in a block, moves the best of it behind them; returns how many were.
fn force(candidates: &mut [Candidate], count: usize, block: &Range<usize>) -> usize {
    let lies = |c: &Candidate| block.contains(&(c.position as usize));
    if candidates[..count].iter().any(lies) {
        return 0;
    }
    let inside = (count..candidates.len()).filter(|&i| lies(&candidates[i]));
    let best = inside.min_by(|&a, &b| order(&candidates[a], &candidates[b]));
    let Some(best) = best else {
        return 0;
    };
    candidates.swap(count, best);
    1
}
