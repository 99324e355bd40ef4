//! A step of a row: which positions it asks for, and what it writes there.

use super::Answer;
use super::drafts::Shown;
use super::memory::Notes;
use super::row::Row;
use crate::canvas::State;
use crate::canvas::edit::{Edit, Kind};
use crate::error::Result;
use crate::rng::Draw;
use crate::rules::config::Steps;
use crate::rules::cut::{Candidate, Cut, order, select};
use crate::rules::eos::EosPolicy;
use crate::rules::gap::{GapStop, gap};
use crate::rules::nearby::density;
use crate::rules::noise::Noise;
use crate::rules::order::{Order, Place, Proposal};
use crate::rules::reach::Reach;
use crate::rules::revise::Revise;
use crate::rules::schedule::{Schedule, Step, first_hit, levels};
use crate::rules::spacing::thin;
use crate::watch::Watch;
use std::ops::Range;

/// A step that waits for its scores.
pub struct Pending {
    /// Positions to score.
    pub positions: Vec<u32>,
    /// Positions chosen without looking at the model, in the order in which they are committed.
    chosen: Option<Vec<u32>>,
    /// Commit at least so many.
    floor: usize,
    /// Share of the block's steps that are done once this one is.
    progress: f64,
    /// Positions of the block that stand behind it, where the rule says that.
    pub(super) standing: usize,
    /// What it takes back, where that was drawn before the model is asked.
    back: Vec<Edit>,
    /// It is a causal look at what the positions show.
    pub is_causal: bool,
    /// What they show in it, where that was drafted.
    pub drafts: Vec<u32>,
}

/// What a step does once it is carried out. Until then nothing has changed.
pub struct Planned {
    /// Changes of the canvas, in order.
    pub edits: Vec<Edit>,
    /// What the row will remember of it, where it remembers anything.
    pub notes: Option<Box<Notes>>,
    /// What open positions show afterwards, where that is no mask.
    pub shown: Option<Box<Shown>>,
}

/// What of a step is known before its scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// It commits at least so many.
    pub floor: usize,
    /// Share of the block's steps that are done once it is.
    pub progress: f64,
}

impl Row {
    /// The waiting step.
    pub fn pace(&self) -> Option<Pace> {
        self.pending.as_ref().map(|pending| Pace {
            floor: pending.floor,
            progress: pending.progress,
        })
    }

    /// The step after the waiting one, where it is sure, or nearly so, to be in the same block: so that it may begin before
    /// the decisions of this one are known here. Never where they say how many it commits.
    pub fn next_pace(&self) -> Option<Pace> {
        let rule = &self.rule;
        let is_plain = rule.shows == Noise::Mask && rule.temperature_end.is_none();
        let places_ends = matches!(rule.eos, EosPolicy::Suffix | EosPolicy::Delay);
        let waits = self.is_confined() || rule.keeps().anything() || !is_plain;
        let asks_twice = rule.cut == Cut::Verified || rule.gap_stop.is_some();
        if rule.revise.looks_back() || asks_twice || waits || places_ends {
            return None;
        }
        let (pending, block) = (self.pending.as_ref()?, self.block.as_ref()?);
        let taken = if rule.cut == Cut::Count {
            pending.floor
        } else if rule.steps == Steps::Open && !rule.schedule.keeps_idle_steps() {
            // Nobody knows how many will pass; it is unlikely that they are four times as many as in the step before.
            let last = self.forwards.checked_sub(1)?;
            let edits = self.trajectory.iter().rev();
            4 * edits.take_while(|edit| edit.step == last).count()
        } else {
            return None;
        };
        let step = Step {
            index: block.index + 1,
            left: block.left.checked_sub(taken).filter(|&left| left > 0)?,
            ..block.step()
        };
        let floor = rule.floor(step, None);
        (floor > 0 || rule.schedule.keeps_idle_steps()).then(|| Pace {
            floor,
            progress: (step.index + 1) as f64 / step.steps as f64,
        })
    }

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
        let mut positions = match &chosen {
            Some(chosen) if !score_all => chosen.clone(),
            _ if score_all && self.is_confined() => self.open_positions(step),
            _ => eligible,
        };
        if rule.revise.scores_written() {
            positions.extend(self.canvas.positions(self.window(), State::Written));
            positions.sort_unstable();
        } else if let Some(answer) = self.answer() {
            positions.extend(self.canvas.positions(answer, State::Written));
            positions.sort_unstable();
        }
        // A single position needs no draft: what it shows is not looked at.
        let drafts = self.block.as_ref().and_then(|block| block.drafts.clone());
        let is_causal =
            self.rule.cut == Cut::Verified && (drafts.is_some() || positions.len() == 1);
        let drafts = drafts.unwrap_or_default();
        Some(Pending {
            positions,
            chosen,
            floor,
            progress: ((step.index + 1) as f64 / step.steps as f64).min(1.0),
            standing: standing.unwrap_or(0),
            back,
            is_causal,
            drafts,
        })
    }

    /// Where the gaps are looked at, also of what is written: an answer that the caller has named.
    fn answer(&self) -> Option<Range<usize>> {
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

    /// Open positions of the block, rising.
    fn open_positions(&self, step: Step) -> Vec<u32> {
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
    fn eligible(&self, step: Step) -> Vec<u32> {
        let mut positions = self.open_positions(step);
        if self.is_confined() {
            self.keep_eligible(&mut positions);
        }
        positions
    }

    /// Leaves of the open positions, which rise, those that may be written now.
    fn keep_eligible(&self, positions: &mut Vec<u32>) {
        self.rule.reach.keep(positions, &self.window());
        let states = self.canvas.states();
        positions.retain(|&p| self.wishes.allow(p, states));
    }

    /// Are there open positions of the window that may not be written yet?
    fn is_confined(&self) -> bool {
        !matches!(self.rule.reach, Reach::Block)
            || self.wishes.after.is_some()
            || matches!(self.rule.schedule, Schedule::Dilated { .. })
    }

    /// Those of some positions that a step of a dilated schedule writes; `index` is the step's.
    fn of_level(&self, positions: &[u32], dilation: usize, index: usize) -> Vec<u32> {
        let window = self.window();
        let (level, _) = levels(window.len(), dilation);
        let is_of_it = |&&p: &&u32| level[p as usize - window.start] as usize == index;
        positions.iter().filter(is_of_it).copied().collect()
    }

    /// The positions of this step, where the rule does not look at the model.
    fn choose_blindly(&self, eligible: &[u32], floor: usize, step: Step) -> Option<Vec<u32>> {
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
        let mut candidates: Vec<Candidate> = (0..eligible.len())
            .map(|index| {
                let place = self.place(eligible[index]);
                let key = rule.noise.key(rule.order.score(None, place), 0.0, place);
                Candidate {
                    key: self.penalised(key, eligible[index], eligible[0]),
                    confidence: 0.0,
                    entropy: 0.0,
                    index: index as u32,
                    position: eligible[index],
                }
            })
            .collect();
        let watch = Watch::never();
        let count = select(&mut candidates, Cut::Count, floor, &watch).expect("nobody stops it");
        let count = thin(&mut candidates, count, floor, rule.spacing, &watch);
        let count = count.expect("nobody stops it");
        Some(candidates[..count].iter().map(|c| c.position).collect())
    }

    /// A key, or an entropy turned round, less what it loses for standing behind the first that may be written.
    fn penalised(&self, key: f64, position: u32, first: u32) -> f64 {
        let penalty = self.rule.position_penalty;
        if penalty == 0.0 {
            return key;
        }
        key - penalty * f64::from(position - first)
    }

    fn place(&self, position: u32) -> Place {
        Place {
            stream: self.stream,
            position,
            step: self.forwards,
            rank: self.wishes.rank(position),
        }
    }

    /// What the waiting step does. `answer` has an entry for each of its positions.
    pub fn plan(&self, answer: &Answer<'_>, watch: &Watch<'_>) -> Result<Planned> {
        let pending = self
            .pending
            .as_ref()
            .expect("only waiting rows are answered");
        if self.rule.cut == Cut::Verified && !pending.is_causal {
            let drafts = (0..pending.positions.len()).map(|i| answer.token(i).0);
            let notes = Notes {
                drafts: Some(drafts.collect()),
                ..Notes::default()
            };
            return Ok(Planned {
                edits: Vec::new(),
                notes: Some(Box::new(notes)),
                shown: None,
            });
        }
        if self.rule.follows_posterior() {
            let (edits, shown) = self.go_on(pending, answer);
            return Ok(Planned {
                edits,
                notes: None,
                shown: Some(Box::new(shown)),
            });
        }
        let notes = self.notes(pending, answer);
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
                _ => self.pick(pending, answer, notes.as_deref(), watch)?,
            },
        };
        self.drop_behind_end(&mut picks, pending, answer);
        if let Some(drafts) = self.rule.drafts {
            let (edits, shown) = self.draft(drafts, pending, &picks, answer);
            return Ok(Planned {
                edits,
                notes: None,
                shown: Some(Box::new(shown)),
            });
        }
        if self.rule.revise == Revise::Drop {
            back = self.dropped(pending, answer, picks.len(), watch)?;
        }
        let edit = |i: usize, kind| {
            let (token, probability) = answer.token(i);
            self.edit(pending.positions[i], token, probability, kind)
        };
        let mut edits: Vec<Edit> = picks.into_iter().map(|i| edit(i, Kind::Commit)).collect();
        let revise = self.rule.revise;
        if let Revise::Edit { .. } = revise {
            let replaced = |&i: &usize| {
                let p = pending.positions[i] as usize;
                let (token, probability) = answer.token(i);
                self.canvas.states()[p] == State::Written
                    && revise.replaces(self.canvas.tokens()[p], token, probability)
            };
            let replaced = (0..pending.positions.len()).filter(replaced);
            let replaced = replaced.map(|i| edit(i, Kind::Edit));
            let replaced: Vec<Edit> = replaced.filter(|e| self.may_become(e, &edits)).collect();
            edits.extend(replaced);
        }
        edits.append(&mut back);
        Ok(Planned {
            edits,
            notes,
            shown: None,
        })
    }

    /// Indices of the requested positions that are committed, best first.
    fn pick(
        &self,
        pending: &Pending,
        answer: &Answer<'_>,
        notes: Option<&Notes>,
        watch: &Watch<'_>,
    ) -> Result<Vec<usize>> {
        let rule = &self.rule;
        let mut candidates = if rule.cut == Cut::Verified {
            self.verified(pending, answer)
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
                let mut score = rule.order.score(Some(&p[index]), place);
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

    /// Of each of the positions that is open, what is made of its index and of itself.
    fn of_open(&self, positions: &[u32], of: impl Fn(usize, u32) -> Candidate) -> Vec<Candidate> {
        let states = self.canvas.states();
        let mut made = Vec::with_capacity(positions.len());
        for (index, &position) in positions.iter().enumerate() {
            if states[position as usize] == State::Open {
                made.push(of(index, position));
            }
        }
        made
    }

    /// The open positions from left to right; those are sure where the draft is what the answer says.
    fn verified(&self, pending: &Pending, answer: &Answer<'_>) -> Vec<Candidate> {
        let candidate = |index: usize, position: u32| {
            let agrees = pending.drafts.get(index) == Some(&answer.token(index).0);
            Candidate {
                key: -f64::from(position),
                confidence: f64::from(u8::from(agrees)),
                entropy: 0.0,
                index: index as u32,
                position,
            }
        };
        self.of_open(&pending.positions, candidate)
    }

    /// Leaves of the candidates those that may be written now, each with what it loses for where it stands. Most rules have
    /// nothing to do here, and know it before they look at any candidate.
    fn keep_candidates(&self, candidates: &mut Vec<Candidate>, requested: &[u32]) {
        let Some(eligible) = self.eligible_of(requested) else {
            return;
        };
        candidates.retain(|c| eligible.binary_search(&c.position).is_ok());
        if self.rule.position_penalty == 0.0 || self.rule.cut == Cut::Verified {
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

    /// What ends the ranking; under Saber, the mean confidence of what stands, which must be passed.
    fn cut(&self) -> Cut {
        let mean = self.memory.as_ref().and_then(|m| m.mean_confidence());
        match mean.filter(|_| self.rule.revise == Revise::Drop) {
            Some(mean) => Cut::Threshold(mean.next_up()),
            None => self.rule.cut,
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

    /// How much is known around each of the requested positions, where the order asks that.
    fn densities(&self, pending: &Pending, watch: &Watch<'_>) -> Result<Option<Vec<f64>>> {
        if self.rule.order != Order::CertaintyPrior {
            return Ok(None);
        }
        let states = self.canvas.states();
        let is_open = |p: usize| states[p] == State::Open;
        let (positions, sigma) = (&pending.positions, self.rule.prior_sigma);
        density(is_open, states.len(), positions, sigma, watch).map(Some)
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
