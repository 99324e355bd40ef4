//! One row of the batch: its canvas, where it is in its schedule, and the step it waits for.

use super::{Answer, Start};
use crate::decide::config::{Config, Steps};
use crate::decide::plan::{Edit, Kind, apply};
use crate::decide::schedule::{Schedule, Step, first_hit};
use crate::decide::score::{Order, Place};
use crate::decide::select::{Candidate, Cut, select};
use crate::decide::stop::first_end;
use crate::decide::window::Blocks;
use crate::error::Result;
use crate::rng::{Draw, Stream};
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
    /// Masks it began with.
    masks: usize,
    steps: usize,
    /// Steps done.
    index: usize,
}

pub struct Row {
    mask: u32,
    canvas: Vec<u32>,
    /// Positions that were not given.
    writable: Vec<bool>,
    stream: Stream,
    blocks: Blocks,
    /// Number of blocks that held masks at the start.
    block_count: usize,
    block: Option<Block>,
    forwards: u32,
    /// Steps of the schedule so far, those passed over without a forward included.
    scheduled: u32,
    time: f64,
    pending: Option<Pending>,
    trajectory: Vec<Edit>,
}

impl Row {
    pub fn new(config: &Config, start: Start) -> Self {
        let writable: Vec<bool> = start.canvas.iter().map(|&t| t == config.mask).collect();
        let blocks = config.blocks(start.origin);
        Self {
            block_count: blocks.count(&writable, writable.len()),
            mask: config.mask,
            canvas: start.canvas,
            writable,
            stream: start.stream,
            blocks,
            block: None,
            forwards: 0,
            scheduled: 0,
            time: f64::NAN,
            pending: None,
            trajectory: Vec::new(),
        }
    }

    /// Number of blocks that held masks at the start.
    pub fn block_count(&self) -> usize {
        self.block_count
    }

    pub fn canvas(&self) -> &[u32] {
        &self.canvas
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
    pub fn next_pace(&self, config: &Config) -> Option<Pace> {
        let (pending, block) = (self.pending.as_ref()?, self.block.as_ref()?);
        let eligible = self.canvas[block.window.clone()]
            .iter()
            .filter(|&&t| t == self.mask)
            .count();
        let taken = if config.cut == Cut::Count {
            pending.floor
        } else if config.steps == Steps::Open && !config.schedule.keeps_idle_steps() {
            // Nobody knows how many will pass; it is unlikely that they are four times as many as in the step before.
            let last = self.forwards.checked_sub(1)?;
            let edits = self.trajectory.iter().rev();
            4 * edits.take_while(|edit| edit.step == last).count()
        } else {
            return None;
        };
        let step = Step {
            index: block.index + 1,
            steps: block.steps,
            masks: block.masks,
            left: eligible.checked_sub(taken).filter(|&left| left > 0)?,
        };
        let floor = floor(step, config, None);
        (floor > 0 || config.schedule.keeps_idle_steps()).then(|| Pace {
            floor,
            progress: (step.index + 1) as f64 / step.steps as f64,
        })
    }

    /// Masks that are left.
    pub fn masks(&self) -> usize {
        self.canvas.iter().filter(|&&t| t == self.mask).count()
    }

    /// Moves to the next step that needs a forward, unless one is waiting or nothing is left to do.
    pub fn advance(&mut self, config: &Config, published_mean: Option<f64>, score_all: bool) {
        while self.pending.is_none() {
            let Some(first) = self.canvas.iter().position(|&t| t == self.mask) else {
                return;
            };
            let step = self.enter(self.blocks.around(first, self.canvas.len()), config);
            self.pending = self.prepare(step, config, published_mean, score_all);
            if self.pending.is_none() {
                self.count_steps(self.idle_steps(step, config));
            }
        }
    }

    /// Makes `window` the current block, if it is not yet, and tells where it is in its schedule.
    fn enter(&mut self, window: Range<usize>, config: &Config) -> Step {
        let left = self.canvas[window.clone()]
            .iter()
            .filter(|&&t| t == self.mask)
            .count();
        if self.block.as_ref().is_none_or(|b| b.window != window) {
            let index = self.blocks.count(&self.writable, window.start);
            let steps = config.steps_of_block(index, self.block_count);
            self.block = Some(Block {
                window,
                masks: left,
                steps: steps.unwrap_or(left),
                index: 0,
            });
            self.time = if config.schedule == Schedule::FirstHitting {
                1.0
            } else {
                f64::NAN
            };
        }
        let block = self.block.as_ref().expect("just set");
        Step {
            index: block.index,
            steps: block.steps,
            masks: block.masks,
            left,
        }
    }

    /// The forward that a step needs; none if it would commit nothing.
    fn prepare(
        &mut self,
        step: Step,
        config: &Config,
        published_mean: Option<f64>,
        score_all: bool,
    ) -> Option<Pending> {
        let window = self.block.as_ref()?.window.clone();
        let eligible: Vec<u32> = window
            .filter(|&p| self.canvas[p] == self.mask)
            .map(|p| p as u32)
            .collect();
        let floor = floor(step, config, published_mean);
        let chosen = self.choose_blindly(&eligible, floor, step, config);
        let commits = chosen.as_ref().map_or(floor, Vec::len);
        if commits == 0 && !config.schedule.keeps_idle_steps() {
            return None;
        }
        if config.schedule == Schedule::FirstHitting {
            self.time = first_hit(
                self.time,
                step.left,
                self.stream.uniform(0, self.scheduled, Draw::Time),
            );
        }
        let positions = match &chosen {
            Some(chosen) if !score_all => chosen.clone(),
            _ => eligible,
        };
        Some(Pending {
            positions,
            chosen,
            floor,
            progress: (step.index + 1) as f64 / step.steps as f64,
        })
    }

    /// The positions of this step, where the rule does not look at the model.
    fn choose_blindly(
        &self,
        eligible: &[u32],
        floor: usize,
        step: Step,
        config: &Config,
    ) -> Option<Vec<u32>> {
        if !config.chooses_blindly() {
            return None;
        }
        if config.order == Order::Ancestral {
            let probability = config.schedule.probability(step);
            let commits =
                |&p: &u32| self.stream.uniform(p, self.scheduled, Draw::Commit) < probability;
            return Some(eligible.iter().copied().filter(commits).collect());
        }
        let mut candidates: Vec<Candidate> = (0..eligible.len())
            .map(|index| {
                let place = self.place(eligible[index]);
                let key = config
                    .noise
                    .key(config.order.score(None, place), 0.0, place);
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
    pub fn plan(
        &self,
        config: &Config,
        answer: &Answer<'_>,
        watch: &Watch<'_>,
    ) -> Result<Vec<Edit>> {
        let pending = self
            .pending
            .as_ref()
            .expect("only waiting rows are answered");
        let picks = match &pending.chosen {
            Some(chosen) if *chosen == pending.positions => (0..chosen.len()).collect(),
            Some(chosen) => {
                // All eligible positions were scored; those rise.
                let index_of = |p: &u32| {
                    pending
                        .positions
                        .binary_search(p)
                        .expect("chosen from the positions")
                };
                chosen.iter().map(index_of).collect()
            }
            None => self.pick(pending, config, answer, watch)?,
        };
        let edit = |i: usize| {
            let (token, probability) = match answer {
                Answer::Proposals(p) => (p[i].token, p[i].probability),
                Answer::Choice(c) => c[i],
            };
            self.edit(pending.positions[i], token, probability, Kind::Commit)
        };
        Ok(picks.into_iter().map(edit).collect())
    }

    /// Carries out the waiting step as `plan` has it.
    pub fn commit(&mut self, config: &Config, plan: &[Edit]) {
        self.pending = None;
        self.carry_out(plan);
        if config.stop_at_end
            && let Some(end) = first_end(&self.canvas, &self.writable, self.mask, &config.ends)
        {
            let rest = end + 1..self.canvas.len();
            let open = rest.filter(|&p| self.writable[p] && self.canvas[p] != config.ends[0]);
            let plan: Vec<Edit> = open
                .map(|p| self.edit(p as u32, config.ends[0], f64::NAN, Kind::Pad))
                .collect();
            self.carry_out(&plan);
        }
        self.forwards += 1;
        self.count_steps(1);
    }

    /// Indices of the requested positions that are committed, best first.
    fn pick(
        &self,
        pending: &Pending,
        config: &Config,
        answer: &Answer<'_>,
        watch: &Watch<'_>,
    ) -> Result<Vec<usize>> {
        let mut candidates: Vec<Candidate> = (0..pending.positions.len())
            .map(|index| match answer {
                Answer::Choice(c) => Candidate {
                    key: c[index].1,
                    confidence: c[index].1,
                    entropy: 0.0,
                    index,
                },
                Answer::Proposals(p) => {
                    let place = self.place(pending.positions[index]);
                    let score = config.order.score(Some(&p[index]), place);
                    Candidate {
                        key: config.noise.key(score, pending.progress, place),
                        confidence: config.order.confidence(&p[index]),
                        entropy: p[index].entropy,
                        index,
                    }
                }
            })
            .collect();
        let count = select(&mut candidates, config.cut, pending.floor, watch)?;
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
        apply(&mut self.canvas, &self.writable, self.mask, plan);
        self.trajectory.extend_from_slice(plan);
    }

    /// Steps from this one on, itself the first, that commit nothing.
    fn idle_steps(&self, step: Step, config: &Config) -> usize {
        if config.order != Order::Ancestral {
            return config.schedule.next_commit(step) - step.index;
        }
        // Each has draws of its own, which must be looked at.
        let window = self.window();
        let eligible: Vec<u32> = window
            .filter(|&p| self.canvas[p] == self.mask)
            .map(|p| p as u32)
            .collect();
        let commits = |&idle: &usize| {
            let index = step.index + idle;
            let probability = config.schedule.probability(Step { index, ..step });
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

/// How many masks a step commits at least; exactly so many where counts alone decide.
fn floor(step: Step, config: &Config, published_mean: Option<f64>) -> usize {
    let is_open = config.steps == Steps::Open;
    let count = match published_mean {
        Some(mean) if step.index + 1 < step.steps => {
            (mean * config.schedule.probability(step)) as usize
        }
        _ if is_open && !config.schedule.keeps_idle_steps() => 1,
        _ => config.schedule.count(step),
    };
    let least = match config.cut {
        Cut::Count => count.max(config.min_commit.unwrap_or(0)),
        _ if is_open => config.min_commit.unwrap_or(1),
        _ => count.max(config.min_commit.unwrap_or(1)),
    };
    least.min(step.left)
}
