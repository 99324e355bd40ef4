//! One row of the batch: its canvas, its rule, where it is in its schedule, and the step it waits for.

use super::{Answer, Start};
use crate::canvas::edit::{Edit, Kind};
use crate::canvas::window::Blocks;
use crate::canvas::{Canvas, State};
use crate::error::Result;
use crate::rng::{Draw, Stream};
use crate::rules::Rule;
use crate::rules::config::Steps;
use crate::rules::cut::{Candidate, Cut, select};
use crate::rules::ends::{first_end, is_block_finished};
use crate::rules::order::{Order, Place};
use crate::rules::schedule::{Schedule, Step, first_hit};
use crate::watch::Watch;
use std::ops::Range;
use std::sync::Arc;

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
}

/// What of a step is known before its scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// It commits at least so many.
    pub floor: usize,
    /// Share of the block's steps that are done once it is.
    pub progress: f64,
}

/// The block being filled.
struct Block {
    window: Range<usize>,
    /// Open positions it began with, and those that are left.
    masks: usize,
    left: usize,
    steps: usize,
    /// Steps done.
    index: usize,
    /// Forwards that had nothing left to fill.
    post_steps: usize,
    is_finished: bool,
}

impl Block {
    /// Where it is in its schedule.
    fn step(&self) -> Step {
        Step {
            index: self.index,
            steps: self.steps,
            masks: self.masks,
            left: self.left,
        }
    }
}

pub struct Row {
    rule: Arc<Rule>,
    canvas: Canvas,
    stream: Stream,
    blocks: Blocks,
    /// Number of blocks with open positions at the start.
    block_count: usize,
    block: Option<Block>,
    forwards: u32,
    /// Steps of the schedule so far, those passed over without a forward included.
    scheduled: u32,
    time: f64,
    pending: Option<Pending>,
    trajectory: Vec<Edit>,
    is_cancelled: bool,
}

impl Row {
    pub fn new(rule: Arc<Rule>, start: Start) -> Self {
        let canvas = Canvas::new(start.canvas, Some(rule.mask));
        let blocks = rule.blocks(start.origin);
        Self {
            block_count: blocks.count(canvas.states(), canvas.len()),
            rule,
            canvas,
            stream: start.stream,
            blocks,
            block: None,
            forwards: 0,
            scheduled: 0,
            time: f64::NAN,
            pending: None,
            trajectory: Vec::new(),
            is_cancelled: false,
        }
    }

    pub fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// Number of blocks with open positions at the start.
    pub fn block_count(&self) -> usize {
        self.block_count
    }

    pub fn canvas(&self) -> &Canvas {
        &self.canvas
    }

    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    /// Will it take part in no request any more?
    pub fn is_done(&self) -> bool {
        self.is_cancelled || self.canvas.open() == 0 && self.unfinished().is_none()
    }

    /// The block that was begun and is not finished.
    fn unfinished(&self) -> Option<&Block> {
        self.block.as_ref().filter(|block| !block.is_finished)
    }

    /// Its canvas stays as it is from now on.
    pub fn cancel(&mut self) {
        if !self.is_done() {
            self.is_cancelled = true;
            self.pending = None;
        }
    }

    /// How many positions from the start of the canvas were written and cannot change any more.
    pub fn stable(&self) -> usize {
        let first_open = self.canvas.first_open().unwrap_or(self.canvas.len());
        let may_change = self.rule.revise.looks_back() && !self.is_cancelled;
        let end = match self.unfinished().filter(|_| may_change) {
            Some(block) => block.window.start.min(first_open),
            None => first_open,
        };
        self.canvas.count(0..end, State::Written)
    }

    pub fn stream(&self) -> Stream {
        self.stream
    }

    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// The block being filled: all positions while there is none.
    pub fn window(&self) -> Range<usize> {
        let whole = 0..self.canvas.len();
        self.block.as_ref().map_or(whole, |b| b.window.clone())
    }

    /// Forwards so far.
    pub fn forwards(&self) -> u32 {
        self.forwards
    }

    pub fn trajectory(&self) -> &[Edit] {
        &self.trajectory
    }

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
        if rule.revise.looks_back() {
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

    /// Moves to the next step that needs a forward, unless one is waiting or nothing is left to do.
    pub fn advance(&mut self, published_mean: Option<f64>, score_all: bool) {
        while self.pending.is_none() && !self.is_cancelled {
            let step = match self.unfinished() {
                Some(block) => block.step(),
                None => match self.canvas.first_open() {
                    Some(first) => self.enter(first),
                    None => return,
                },
            };
            self.pending = self.prepare(step, published_mean, score_all);
            if self.pending.is_none() {
                self.count_steps(self.idle_steps(step));
            }
        }
    }

    /// Begins with the block that holds `first`, its first open position.
    fn enter(&mut self, first: usize) -> Step {
        let window = self.blocks.around(first, self.canvas.len());
        let left = self.canvas.count(window.clone(), State::Open);
        let index = self.blocks.count(self.canvas.states(), window.start);
        let steps = self.rule.steps_of_block(index, self.block_count);
        self.time = if self.rule.schedule == Schedule::FirstHitting {
            1.0
        } else {
            f64::NAN
        };
        let block = self.block.insert(Block {
            window,
            masks: left,
            left,
            steps: steps.unwrap_or(left),
            index: 0,
            post_steps: 0,
            is_finished: false,
        });
        block.step()
    }

    /// The forward that a step needs; none if it would commit nothing.
    fn prepare(
        &mut self,
        step: Step,
        published_mean: Option<f64>,
        score_all: bool,
    ) -> Option<Pending> {
        let rule = &self.rule;
        let eligible = self.open_positions(step);
        let floor = rule.floor(step, published_mean);
        let chosen = self.choose_blindly(&eligible, floor, step);
        let commits = chosen.as_ref().map_or(floor, Vec::len);
        // Nothing to fill is left only where what is written is looked at once more.
        if commits == 0 && step.left > 0 && !rule.schedule.keeps_idle_steps() {
            return None;
        }
        if rule.schedule == Schedule::FirstHitting {
            self.time = first_hit(
                self.time,
                step.left,
                self.stream.uniform(0, self.scheduled, Draw::Time),
            );
        }
        let mut positions = match &chosen {
            Some(chosen) if !score_all => chosen.clone(),
            _ => eligible,
        };
        if rule.revise.looks_back() {
            positions.extend(self.canvas.positions(self.window(), State::Written));
            positions.sort_unstable();
        }
        Some(Pending {
            positions,
            chosen,
            floor,
            progress: ((step.index + 1) as f64 / step.steps as f64).min(1.0),
        })
    }

    /// Open positions of the block, rising.
    fn open_positions(&self, step: Step) -> Vec<u32> {
        let mut positions = Vec::with_capacity(step.left);
        positions.extend(self.canvas.positions(self.window(), State::Open));
        positions
    }

    /// The positions of this step, where the rule does not look at the model.
    fn choose_blindly(&self, eligible: &[u32], floor: usize, step: Step) -> Option<Vec<u32>> {
        let rule = &self.rule;
        if !rule.chooses_blindly() {
            return None;
        }
        if rule.order == Order::Ancestral {
            let probability = rule.schedule.probability(step);
            let commits =
                |&p: &u32| self.stream.uniform(p, self.scheduled, Draw::Commit) < probability;
            return Some(eligible.iter().copied().filter(commits).collect());
        }
        let mut candidates: Vec<Candidate> = (0..eligible.len())
            .map(|index| {
                let place = self.place(eligible[index]);
                let key = rule.noise.key(rule.order.score(None, place), 0.0, place);
                Candidate {
                    key,
                    confidence: 0.0,
                    entropy: 0.0,
                    index,
                }
            })
            .collect();
        let watch = Watch::never();
        let count = select(&mut candidates, Cut::Count, floor, &watch).expect("nobody stops it");
        Some(
            candidates[..count]
                .iter()
                .map(|c| eligible[c.index])
                .collect(),
        )
    }

    fn place(&self, position: u32) -> Place {
        Place {
            stream: self.stream,
            position,
            step: self.forwards,
        }
    }

    /// What the waiting step writes. `answer` has an entry for each of its positions.
    pub fn plan(&self, answer: &Answer<'_>, watch: &Watch<'_>) -> Result<Vec<Edit>> {
        let pending = self
            .pending
            .as_ref()
            .expect("only waiting rows are answered");
        let picks = match &pending.chosen {
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
            None => self.pick(pending, answer, watch)?,
        };
        let edit = |i: usize, kind| {
            let (token, probability) = answer.token(i);
            self.edit(pending.positions[i], token, probability, kind)
        };
        let mut plan: Vec<Edit> = picks.into_iter().map(|i| edit(i, Kind::Commit)).collect();
        let revise = self.rule.revise;
        if revise.looks_back() {
            let replaced = |&i: &usize| {
                let p = pending.positions[i] as usize;
                let (token, probability) = answer.token(i);
                self.canvas.states()[p] == State::Written
                    && revise.replaces(self.canvas.tokens()[p], token, probability)
            };
            let replaced = (0..pending.positions.len()).filter(replaced);
            plan.extend(replaced.map(|i| edit(i, Kind::Edit)));
        }
        Ok(plan)
    }

    /// Carries out the waiting step as `plan` has it.
    pub fn commit(&mut self, plan: &[Edit]) {
        self.pending = None;
        let open = self.canvas.open();
        self.carry_out(plan);
        let filled = open - self.canvas.open();
        let revise = self.rule.revise;
        let block = self.block.as_mut().expect("a step is of a block");
        let is_post_step = block.left == 0;
        block.left -= filled;
        block.post_steps += usize::from(is_post_step);
        let has_changed = !plan.is_empty();
        block.is_finished = is_block_finished(revise, block.left, block.post_steps, has_changed);
        // A token that may still change ends nothing.
        if self.rule.stop_at_end && (block.is_finished || !revise.looks_back()) {
            self.pad_behind_the_end();
        }
        self.forwards += 1;
        // Those behind the last open position are no steps of the schedule.
        if !is_post_step {
            self.count_steps(1);
        }
    }

    /// Fills what follows the end of the answer, if it has one: then the row is finished.
    fn pad_behind_the_end(&mut self) {
        let Some(end) = first_end(&self.canvas, &self.rule.ends) else {
            return;
        };
        let fill = self.rule.ends[0];
        let (states, tokens) = (self.canvas.states(), self.canvas.tokens());
        let differs = |&p: &usize| match states[p] {
            State::Given => false,
            State::Open => true,
            State::Written => tokens[p] != fill,
        };
        let rest = (end + 1..self.canvas.len()).filter(differs);
        let plan: Vec<Edit> = rest
            .map(|p| self.edit(p as u32, fill, f64::NAN, Kind::Pad))
            .collect();
        self.carry_out(&plan);
        if let Some(block) = &mut self.block {
            block.is_finished = true;
        }
    }

    /// Indices of the requested positions that are committed, best first.
    fn pick(
        &self,
        pending: &Pending,
        answer: &Answer<'_>,
        watch: &Watch<'_>,
    ) -> Result<Vec<usize>> {
        let rule = &self.rule;
        let states = self.canvas.states();
        let mut candidates = Vec::with_capacity(pending.positions.len());
        for (index, &position) in pending.positions.iter().enumerate() {
            if states[position as usize] != State::Open {
                continue;
            }
            candidates.push(match answer {
                Answer::Choice(c) => Candidate {
                    key: c[index].1,
                    confidence: c[index].1,
                    entropy: 0.0,
                    index,
                },
                Answer::Proposals(p) => {
                    let place = self.place(position);
                    let score = rule.order.score(Some(&p[index]), place);
                    Candidate {
                        key: rule.noise.key(score, pending.progress, place),
                        confidence: rule.order.confidence(&p[index]),
                        entropy: p[index].entropy,
                        index,
                    }
                }
            });
        }
        let count = select(&mut candidates, rule.cut, pending.floor, watch)?;
        Ok(candidates[..count].iter().map(|c| c.index).collect())
    }

    fn edit(&self, position: u32, token: u32, probability: f64, kind: Kind) -> Edit {
        Edit {
            step: self.forwards,
            position,
            token,
            probability,
            kind,
            time: self.time,
        }
    }

    fn carry_out(&mut self, plan: &[Edit]) {
        self.canvas.apply(plan);
        self.trajectory.extend_from_slice(plan);
    }

    /// Steps from this one on, itself the first, that commit nothing.
    fn idle_steps(&self, step: Step) -> usize {
        let rule = &self.rule;
        if rule.order != Order::Ancestral {
            return rule.schedule.next_commit(step) - step.index;
        }
        // Each has draws of its own, which must be looked at.
        let eligible = self.open_positions(step);
        let commits = |&idle: &usize| {
            let index = step.index + idle;
            let probability = rule.schedule.probability(Step { index, ..step });
            let scheduled = self.scheduled + idle as u32;
            let draw = |&p: &u32| self.stream.uniform(p, scheduled, Draw::Commit);
            eligible.iter().any(|p| draw(p) < probability)
        };
        (1..step.steps - step.index)
            .find(commits)
            .expect("the last step takes all")
    }

    fn count_steps(&mut self, steps: usize) {
        self.scheduled += steps as u32;
        if let Some(block) = &mut self.block {
            block.index += steps;
        }
    }
}
