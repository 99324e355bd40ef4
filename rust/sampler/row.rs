//! One row of the batch: its canvas, its rule, where it is in its schedule. `step.rs` has its steps.

use super::Start;
use super::block::Block;
use super::drafts::Last;
use super::length;
use super::memory::Memory;
use super::step::{Pending, Planned};
use super::wishes::Heeded;
use crate::canvas::edit::{Edit, Kind};
use crate::canvas::window::Blocks;
use crate::canvas::{Canvas, State};
use crate::rng::Stream;
use crate::rules::Rule;
use crate::rules::ends::{Ends, Standing};
use crate::rules::length::Length;
use crate::rules::reach::{Reach, active, live};
use crate::rules::schedule::{Schedule, Step, levels};
use crate::rules::stops::Ending;
use std::ops::Range;
use std::sync::Arc;

pub struct Row {
    pub(super) rule: Arc<Rule>,
    pub(super) canvas: Canvas,
    pub(super) stream: Stream,
    blocks: Blocks,
    pub(super) wishes: Heeded,
    /// Number of blocks with open positions at the start.
    block_count: usize,
    pub(super) block: Option<Block>,
    pub(super) forwards: u32,
    /// Steps of the schedule so far, those passed over without a forward included.
    pub(super) scheduled: u32,
    pub(super) time: f64,
    pub(super) pending: Option<Pending>,
    pub(super) trajectory: Vec<Edit>,
    /// While its blocks are filled, and where its rule keeps something.
    pub(super) memory: Option<Box<Memory>>,
    pub(super) is_cancelled: bool,
    /// Before this position stand too few that are written for an end token, or a stop.
    pub(super) early: usize,
    /// What ended it before its last position.
    pub(super) ending: Option<Ending>,
}

impl Row {
    /// The row of that number.
    pub fn new(rule: Arc<Rule>, start: Start, index: usize) -> crate::error::Result<Self> {
        let canvas = Canvas::new(start.canvas, rule.mask, start.open.as_deref());
        let blocks = rule.blocks(start.origin);
        length::check(&rule, &canvas, index)?;
        let early = match rule.min_new_tokens {
            0 => 0,
            least if rule.length != Length::Fixed => canvas.answer().start + least,
            least => canvas.place_of(least),
        };
        let wishes = Heeded::new(start.wishes, &rule, &canvas, blocks, index)?;
        let mut row = Self {
            block_count: blocks.count(canvas.states(), canvas.len()),
            rule,
            canvas,
            stream: start.stream,
            blocks,
            wishes,
            block: None,
            forwards: 0,
            scheduled: 0,
            time: f64::NAN,
            pending: None,
            trajectory: Vec::new(),
            memory: None,
            is_cancelled: false,
            early,
            ending: None,
        };
        row.show_first();
        Ok(row)
    }

    /// The temperature at which tokens of the waiting step are drawn.
    pub fn temperature(&self) -> f64 {
        let (left, steps) = match &self.block {
            Some(block) => (block.steps.saturating_sub(block.index).max(1), block.steps),
            None => (1, 1),
        };
        self.rule.temperature(left, steps)
    }

    /// Forwards that its block has behind it.
    pub fn block_forwards(&self) -> u32 {
        let since = self.block.as_ref().map_or(self.forwards, |b| b.since);
        self.forwards - since
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
            self.memory = None;
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

    /// Their tokens, from the `since`-th on.
    pub fn written(&self, since: usize) -> Vec<u32> {
        let count = self.stable();
        let places = self
            .canvas
            .positions(0..self.canvas.len(), State::Written)
            .take(count);
        let tokens = self.canvas.tokens();
        places.skip(since).map(|p| tokens[p as usize]).collect()
    }

    pub fn stream(&self) -> Stream {
        self.stream
    }

    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// The block being filled, or the blocks that are: all positions while there is none.
    pub fn window(&self) -> Range<usize> {
        // Other rules look for no open position here: they ask in every step, of canvases of any length.
        if let Reach::Several { add, .. } = self.rule.reach
            && let Some(first) = self.canvas.first_open()
        {
            return live(self.blocks, self.canvas.states(), first, add);
        }
        let whole = 0..self.canvas.len();
        self.block.as_ref().map_or(whole, |b| b.window.clone())
    }

    /// The blocks that a step must write in, where it may write in several.
    pub(super) fn active(&self) -> Vec<Range<usize>> {
        match self.rule.reach {
            Reach::Several { activate, .. } => {
                active(self.blocks, self.canvas.states(), &self.window(), activate)
            }
            _ => Vec::new(),
        }
    }

    /// Where blocks are counted from.
    pub(super) fn origin(&self) -> usize {
        self.blocks.origin
    }

    /// Forwards so far.
    pub fn forwards(&self) -> u32 {
        self.forwards
    }

    pub fn trajectory(&self) -> &[Edit] {
        &self.trajectory
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
        let mut window = self.blocks.around(first, self.canvas.len());
        if let Reach::Several { .. } = self.rule.reach {
            window.end = self.canvas.len();
        }
        let left = self.canvas.count(window.clone(), State::Open);
        if self.memory.is_none() {
            self.memory = Memory::new(self.rule.keeps(), self.canvas.len());
        }
        let index = self.blocks.count(self.canvas.states(), window.start);
        let steps = match self.rule.schedule {
            Schedule::Dilated { dilation } => Some(levels(window.len(), dilation).1),
            _ => self.rule.steps_of_block(index, self.block_count),
        };
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
            redo_forwards: 0,
            is_redone: false,
            is_finished: false,
            since: self.forwards,
            last: Last::default(),
            proposed: None,
        });
        block.step()
    }

    /// Carries out the waiting step as `plan` has it.
    pub fn commit(&mut self, mut planned: Planned) {
        self.pending = None;
        let notes = planned.notes.as_mut();
        let proposed = notes.and_then(|notes| notes.proposed.take());
        let is_draft = proposed.is_some();
        let revise = self.rule.revise;
        let block = self.block.as_mut().expect("a step is of a block");
        // Those behind the last open position are no steps of the schedule.
        let is_post_step = block.left == 0;
        block.post_steps += usize::from(is_post_step);
        block.redo_forwards += usize::from(block.is_redone);
        let has_changed = !planned.edits.is_empty();
        if let (Some(memory), Some(notes)) = (&mut self.memory, planned.notes) {
            memory.learn(*notes);
        }
        self.carry_out_within(&planned.edits);
        let has_padded = self.fill_behind_end(&planned.edits);
        if let Some(block) = self.block.as_mut().filter(|_| has_padded) {
            block.left = self.canvas.count(block.window.clone(), State::Open);
        }
        let is_counted = revise.takes_back();
        if is_counted {
            self.count_steps(1);
            if revise.ends() == Ends::Steps {
                self.pass_quiet_steps();
            }
            self.redo();
        }
        let block = self.block.as_mut().expect("a step is of a block");
        let done = block.index + usize::from(!is_counted);
        block.proposed = proposed;
        block.is_finished = revise.ends().is_over(Standing {
            open: block.left,
            steps_left: block.steps.saturating_sub(done),
            post_steps: block.post_steps,
            has_changed,
        });
        // A token that may still change ends nothing.
        if self.rule.ends_early()
            && (block.is_finished || !revise.looks_back())
            && let Some(ending) = self.find_ending()
        {
            self.end(ending, self.forwards);
        }
        if let Some(change) = planned.change {
            self.change_length(change);
        }
        self.forwards += 1;
        self.show(planned.shown.as_deref());
        let argmax = planned
            .shown
            .map(|shown| shown.argmax)
            .filter(|a| !a.is_empty());
        if let (Some(block), Some(argmax)) = (&mut self.block, argmax) {
            block.last.note(argmax);
        }
        if !is_post_step && !is_counted && !is_draft {
            self.count_steps(1);
        }
        if self.memory.is_some() && self.is_done() {
            self.memory = None;
        }
    }

    /// The token whose probability is wanted at a requested position, where the rule asks for that.
    pub fn current(&self, position: u32) -> Option<u32> {
        let p = position as usize;
        let is_asked = match self.canvas.states()[p] {
            State::Given => false,
            State::Written => self.rule.revise.asks_current(),
            State::Open => self.rule.follows_posterior(),
        };
        is_asked.then(|| self.canvas.tokens()[p])
    }

    pub(super) fn edit(&self, position: u32, token: u32, probability: f64, kind: Kind) -> Edit {
        Edit {
            step: self.forwards,
            position,
            token,
            probability,
            kind,
            time: self.time,
        }
    }

    pub(super) fn carry_out(&mut self, plan: &[Edit]) {
        self.canvas.apply(plan);
        self.trajectory.extend_from_slice(plan);
    }

    /// Carries out edits of the block that is being filled.
    pub(super) fn carry_out_within(&mut self, edits: &[Edit]) {
        let open = self.canvas.open();
        self.carry_out(edits);
        if let Some(block) = &mut self.block {
            block.left = block.left + self.canvas.open() - open;
        }
        if let Some(memory) = &mut self.memory {
            memory.note(edits);
        }
    }

    /// Looks again at where the block ends and what of it is open, once the length has changed.
    pub(super) fn measure_block(&mut self) {
        let Some(block) = &mut self.block else {
            return;
        };
        block.window = self.blocks.around(block.window.start, self.canvas.len());
        block.left = self.canvas.count(block.window.clone(), State::Open);
        block.is_finished = block.left == 0;
    }

    pub(super) fn count_steps(&mut self, steps: usize) {
        self.scheduled += steps as u32;
        if let Some(block) = &mut self.block {
            block.index += steps;
        }
    }
}
