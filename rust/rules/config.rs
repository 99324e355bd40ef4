//! The settings of a sampler, checked once.

use super::calibration::Calibration;
use super::credit::Credit;
use super::cut::Cut;
use super::eos::EosPolicy;
use super::gap::GapStop;
use super::length::Length;
use super::nearby;
use super::noise::{self, Drafts, Noise};
use super::order::{Order, OrderNoise};
use super::reach::Reach;
use super::revise::Revise;
use super::schedule::Schedule;
use super::stops;
use crate::canvas::window::Blocks;
use crate::error::{Error, Result};
use crate::logits::draw::Sampling;

/// Number of forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// One token a forward, or as many as the cut lets through.
    Open,
    /// Over the whole canvas, dealt evenly to the blocks that hold masks.
    Total(usize),
    /// In each block.
    PerBlock(usize),
}

/// Everything that decides, but the canvases and the seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Token that marks what may be written; `None` where whoever begins a row says which positions are open.
    pub mask: Option<u32>,
    /// What an open position shows.
    pub shows: Noise,
    /// Are picks only shown until their block is finished?
    pub drafts: Option<Drafts>,
    /// Positions in a block; `None` makes the whole canvas one.
    pub block_length: Option<usize>,
    /// How far a step reaches.
    pub reach: Reach,
    /// Number of forwards.
    pub steps: Steps,
    /// How many masks each step commits.
    pub schedule: Schedule,
    /// What positions are ranked by.
    pub order: Order,
    /// Noise on the ranking.
    pub noise: OrderNoise,
    /// Standard deviation of the certainty prior, in positions.
    pub prior_sigma: f64,
    /// What the order `calibrated` makes of a probability.
    pub calibration: Calibration,
    /// What a key loses for each position between it and the first that may be written.
    pub position_penalty: f64,
    /// Positions that one step writes stand at least so far apart, but for the floor.
    pub spacing: u32,
    /// What ends the prefix of the ranking that is committed.
    pub cut: Cut,
    /// Masks committed at least in every forward; 1 where a cut decides, whatever the schedule says where it does.
    pub min_commit: Option<usize>,
    /// What tokens earn by standing first.
    pub credit: Option<Credit>,
    /// When everything left is committed at once.
    pub gap_stop: Option<GapStop>,
    /// What becomes of written tokens.
    pub revise: Revise,
    /// How a token is drawn.
    pub sampling: Sampling,
    /// The temperature goes to this one over the steps of a block.
    pub temperature_end: Option<f64>,
    /// Weight of guidance where it leads posteriors; others are led before they come here.
    pub lead: f64,
    /// Ids that count as -inf besides the mask.
    pub suppressed: Vec<u32>,
    /// Tokens that end an answer; the first also fills what follows it.
    pub ends: Vec<u32>,
    /// Does an end token finish its row?
    pub stop_at_end: bool,
    /// Sequences of tokens that finish their row.
    pub stops: Vec<Vec<u32>>,
    /// Where an end token may be written.
    pub eos: EosPolicy,
    /// Written positions before the first that an end token may have, or a stop.
    pub min_new_tokens: usize,
    /// Who decides how long an answer becomes.
    pub length: Length,
    /// Keep the quirks of the published loops.
    pub as_published: bool,
}

/// Steps of a row, or of a block. No canvas needs more, and ancestral sampling looks at the draws of each.
pub const MOST_STEPS: usize = 1 << 20;

/// Refuses more steps than `MOST_STEPS`.
pub fn too_many(name: &'static str, steps: usize) -> Error {
    let remedy = if name == "max_post_steps" {
        "16 is LLaDA2.1's"
    } else if name == "remask_budget" {
        "a few forwards a block are what it is for"
    } else {
        "no canvas needs more steps than it has masks; leave it out for one token a forward"
    };
    Error::setting(name, "must be at most 1048576", steps, remedy)
}

impl Config {
    /// Checks every range that does not depend on a canvas.
    pub fn check(&self) -> Result<()> {
        self.sampling.check()?;
        let noise = self.noise.temperature;
        if !(noise >= 0.0 && noise.is_finite()) {
            return Err(Error::setting(
                "order_temperature",
                "must be at least 0 and finite",
                noise,
                "0 adds no noise",
            ));
        }
        if self.block_length == Some(0) {
            return Err(Error::setting(
                "block_length",
                "must be at least 1",
                0,
                "leave it out for one block",
            ));
        }
        if self.min_commit == Some(0) {
            return Err(Error::setting(
                "min_commit",
                "must be at least 1",
                0,
                "a forward that commits nothing would repeat for ever",
            ));
        }
        match self.steps {
            Steps::Total(0) => {
                return Err(Error::setting(
                    "steps",
                    "must be at least 1",
                    0,
                    "leave it out for one token a forward",
                ));
            }
            Steps::PerBlock(0) => {
                return Err(Error::setting(
                    "steps_per_block",
                    "must be at least 1",
                    0,
                    "leave it out for one token a forward",
                ));
            }
            Steps::Total(steps) if steps > MOST_STEPS => return Err(too_many("steps", steps)),
            Steps::PerBlock(steps) if steps > MOST_STEPS => {
                return Err(too_many("steps_per_block", steps));
            }
            _ => {}
        }
        self.cut.check()?;
        if !(nearby::NARROWEST..=nearby::WIDEST).contains(&self.prior_sigma) {
            return Err(Error::setting(
                "prior_sigma",
                "must be at least 0.001 and at most 1000 positions",
                self.prior_sigma,
                "10 is d2Cache's",
            ));
        }
        self.gap_stop.map_or(Ok(()), GapStop::check)?;
        self.credit.map_or(Ok(()), Credit::check)?;
        self.schedule.check()?;
        self.reach.check()?;
        if !(0.0..=1e6).contains(&self.position_penalty) {
            return Err(Error::setting(
                "position_penalty",
                "must be at least 0 and at most 1000000",
                self.position_penalty,
                "0.02 is WeDLM's; 0 penalises nothing",
            ));
        }
        if self.spacing == 0 {
            return Err(Error::setting(
                "spacing",
                "must be at least 1",
                0,
                "1 keeps nothing apart",
            ));
        }
        self.revise.check()?;
        self.check_combinations()?;
        noise::check(self)?;
        if let Some(mask) = self.mask.filter(|mask| self.ends.contains(mask)) {
            return Err(Error::setting(
                "eos_token_id",
                "must differ from mask_token_id",
                mask,
                "check both ids",
            ));
        }
        stops::check(&self.stops, &self.excluded())?;
        self.check_eos()?;
        if self.stop_at_end && self.ends.is_empty() {
            return Err(Error::setting(
                "stop_at_eos",
                "needs an eos_token_id",
                "none",
                "pass eos_token_id, or stop_at_eos=False",
            ));
        }
        Ok(())
    }

    /// Does every step draw each open position from the posterior of a noise process?
    pub fn follows_posterior(&self) -> bool {
        self.order == Order::Ancestral && self.shows != Noise::Mask
    }

    /// Are posteriors led away from those without a prompt?
    pub fn is_led(&self) -> bool {
        self.lead > 0.0 && self.follows_posterior()
    }

    /// Does it need the probability of tokens that stand on the canvas?
    pub fn asks_current(&self) -> bool {
        self.revise.asks_current() || self.follows_posterior()
    }

    /// Does it ask which token is the most probable, whatever is drawn?
    pub fn asks_argmax(&self) -> bool {
        self.drafts.is_some() || self.length != Length::Fixed || self.inherits_argmax()
    }

    /// Is the first token of a block the most probable one, whatever is drawn elsewhere?
    pub fn inherits_argmax(&self) -> bool {
        let is_alone = matches!(
            self.reach,
            Reach::Parts {
                first_alone: true,
                ..
            }
        );
        is_alone && self.sampling.temperature > 0.0
    }

    /// Steps for one of the `blocks` blocks of a row that hold masks, the `index`-th from the left; `None` for open-ended.
    /// A total is dealt evenly, the remainder to the first blocks.
    pub fn steps_of_block(&self, index: usize, blocks: usize) -> Option<usize> {
        match self.steps {
            Steps::Open => None,
            Steps::PerBlock(steps) => Some(steps),
            Steps::Total(steps) => Some(steps / blocks + usize::from(index < steps % blocks)),
        }
    }

    /// Refuses a total of steps that leaves a block of a row without any, and more steps than draws can count.
    pub fn check_blocks(&self, row: usize, blocks: usize) -> Result<()> {
        if self.revise.takes_back() && self.mask.is_none() {
            return Err(Error::Mismatch(format!(
                "remask needs a mask token to put back, got none for row {row}; pass mask_token_id, or set remask to None"
            )));
        }
        if self.length != Length::Fixed && self.mask.is_none() {
            return Err(Error::Mismatch(format!(
                "length '{}' needs a mask token for what it adds, got none for row {row}; pass mask_token_id, or set length to 'fixed'",
                self.length.name()
            )));
        }
        let post = self.revise.most_extra();
        if post.saturating_mul(blocks) > u32::MAX as usize / 2 {
            return Err(Error::Mismatch(format!(
                "the post-steps of a row must be fewer than 2^31 in all, got {post} for each of the {blocks} blocks of row {row}; \
                 lower max_post_steps or remask_budget"
            )));
        }
        match self.steps {
            Steps::PerBlock(steps) if steps.saturating_mul(blocks) > u32::MAX as usize => {
                Err(Error::Mismatch(format!(
                    "the steps of a row must be fewer than 2^32 in all, got {steps} steps for each of the {blocks} blocks of row {row}; \
                 lower steps_per_block, or leave it out"
                )))
            }
            Steps::Total(steps) if steps < blocks => Err(Error::Mismatch(format!(
                "steps is the total of a row and must be at least the number of its blocks that hold masks, \
                 got {steps} steps for the {blocks} blocks of row {row}; use steps={blocks} or more, or steps_per_block"
            ))),
            _ => Ok(()),
        }
    }

    /// Blocks of a row with this origin.
    pub fn blocks(&self, origin: usize) -> Blocks {
        Blocks {
            origin,
            length: self.block_length,
        }
    }

    /// Rising ids that end a row, or would: the end tokens, and stops of one token.
    pub fn enders(&self) -> Vec<u32> {
        let single = self.stops.iter().filter(|stop| stop.len() == 1);
        let mut ids = self.ends.clone();
        ids.extend(single.flatten());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Does anything that is written finish a row?
    pub fn ends_early(&self) -> bool {
        self.stop_at_end || !self.stops.is_empty()
    }

    /// Rising ids that count as -inf: the mask and the suppressed ones.
    pub fn excluded(&self) -> Vec<u32> {
        let mut ids = self.suppressed.clone();
        ids.extend(self.mask);
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}
