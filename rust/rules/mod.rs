//! What a row obeys: order x cut x schedule x reach x revise x memory x ends, each in a file of its own. No logits here, only
//! numbers made from them.
//!
//! Names of variants stand beside the variants, and nowhere else: `names` gives them to Python and to CUDA.
pub mod calibration;
mod combinations;
pub mod config;
pub mod credit;
pub mod cut;
pub mod ends;
pub mod eos;
pub mod gap;
pub mod length;
pub mod memory;
pub mod nearby;
pub mod noise;
pub mod order;
pub mod posterior;
pub mod reach;
pub mod remask;
pub mod revise;
pub mod schedule;
pub mod spacing;
pub mod steady;
pub mod stops;

use crate::canvas::edit::Kind;
use crate::error::Result;
use crate::logits::predict::Law;
use config::{Config, Steps};
use cut::Cut;
use eos::EosPolicy;
use length::Length;
use memory::Keeps;
use nearby::Prior;
use order::Order;
use remask::Chances;
use revise::{Revise, remasks};
use schedule::{Schedule, Step};
use std::ops::Deref;

/// A checked configuration, as rows share it.
#[derive(Debug)]
pub struct Rule {
    config: Config,
    law: Law,
    /// The same without end tokens, where positions may be too early for one.
    early: Option<Law>,
    /// Rising ids that end a row.
    enders: Vec<u32>,
    /// Where the order asks it.
    prior: Option<Prior>,
}

impl Rule {
    /// Checks every range and combination that does not depend on a canvas.
    pub fn new(config: Config) -> Result<Self> {
        config.check()?;
        let enders = config.enders();
        let endless = || {
            let mut suppressed = [config.excluded(), enders.clone()].concat();
            suppressed.sort_unstable();
            suppressed.dedup();
            suppressed
        };
        let mut law = Law {
            sampling: config.sampling,
            suppressed: config.excluded().into(),
            is_tempered: config.drafts.is_some() || config.follows_posterior(),
            is_coupled: matches!(config.cut, Cut::Mixed { .. }),
            ..Law::default()
        };
        match config.eos {
            EosPolicy::Penalise(penalty) if (penalty as f32).is_infinite() => {
                law.suppressed = endless().into();
            }
            EosPolicy::Penalise(penalty) if penalty > 0.0 => {
                law.penalised = enders.clone().into();
                law.penalty = penalty as f32;
            }
            _ => {}
        }
        let bars_ends = config.min_new_tokens > 0 || config.eos == EosPolicy::Suffix;
        let early = bars_ends.then(|| Law {
            suppressed: endless().into(),
            ..law.clone()
        });
        let prior = config.order == Order::CertaintyPrior;
        Ok(Self {
            prior: prior.then(|| Prior::new(config.prior_sigma)),
            config,
            law,
            early,
            enders,
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How much around a position is known, where the order asks it.
    pub fn prior(&self) -> Option<&Prior> {
        self.prior.as_ref()
    }

    /// How tokens are drawn.
    pub fn law(&self) -> &Law {
        &self.law
    }

    /// How tokens are drawn where no end token may stand yet; None where there is no such place.
    pub fn early_law(&self) -> Option<&Law> {
        self.early.as_ref()
    }

    /// Does this id end a row, or would?
    pub fn is_end(&self, token: u32) -> bool {
        self.enders.binary_search(&token).is_ok()
    }

    /// Is this an id that is never proposed: the mask, or a suppressed one?
    pub fn excludes(&self, token: u32) -> bool {
        self.law.suppressed.binary_search(&token).is_ok()
    }

    /// What it keeps of positions between steps.
    pub fn keeps(&self) -> Keeps {
        Keeps {
            heads: matches!(self.cut, Cut::Steady { .. }),
            credits: self.credit.is_some(),
            confidence: self.revise.keeps_confidence(),
        }
    }

    /// What an ancestral step does with each position.
    pub fn chances(&self, step: Step) -> Chances {
        match self.revise {
            Revise::Resample { sigma, eta } => sigma.chances(eta, self.schedule, step),
            _ => Chances {
                fill: self.schedule.probability(step),
                back: 0.0,
            },
        }
    }

    /// How many positions of a block stand behind a step, where the rule says that and not how many are written.
    pub fn standing(&self, step: Step) -> Option<usize> {
        let is_planned = matches!(self.revise, Revise::Plan { .. });
        is_planned.then(|| step.masks - self.schedule.left_behind(step))
    }

    /// Can the positions be chosen before the model is asked?
    pub fn chooses_blindly(&self) -> bool {
        let looks = self.gap_stop.is_some()
            || self.credit.is_some()
            || self.revise == Revise::Drop
            || self.length != Length::Fixed;
        let is_counted = self.cut == Cut::Count && !looks && self.eos != EosPolicy::Delay;
        self.order.is_blind()
            && !self.follows_posterior()
            && (is_counted || self.order == Order::Ancestral)
    }

    /// Is every open position of a block decided anew in each of its steps?
    pub fn redecides(&self) -> bool {
        self.drafts.is_some() || self.follows_posterior()
    }

    /// The temperature of a step with `left` of `steps` to go, itself included.
    pub fn temperature(&self, left: usize, steps: usize) -> f64 {
        let first = self.sampling.temperature;
        match self.temperature_end {
            None => first,
            Some(last) => noise::temperature(first, last, left, steps),
        }
    }

    /// Are probabilities those of a softmax in the dtype of the logits? The published count loops take it so, and sure
    /// positions tie.
    pub fn is_rounded(&self) -> bool {
        self.as_published && self.cut == Cut::Count
    }

    /// Does Dream's published loop take the count from the mean number of masks over its batch?
    pub fn counts_by_mean(&self) -> bool {
        self.as_published && matches!(self.schedule, Schedule::Dream { .. })
    }

    /// Why tokens and scores are no answer for it, where it asks more of a position.
    pub fn beyond_scores(&self) -> Option<&'static str> {
        if self.drafts.is_some() {
            Some(
                "drafts need the statistics of every position, got scores; feed logits or a prediction",
            )
        } else if self.follows_posterior() {
            Some(
                "order 'ancestral' over noise needs the probability of the token that stands there, got scores; feed logits or a prediction",
            )
        } else if matches!(self.cut, Cut::EntropyThreshold(_)) {
            Some(
                "entropy_threshold needs entropies, got scores; feed logits or a prediction, or choose another cut",
            )
        } else if matches!(self.cut, Cut::EntropyBound(_)) {
            Some(
                "entropy_bound needs entropies, got scores; feed logits or a prediction, or choose another cut",
            )
        } else if self.gap_stop.is_some() {
            Some(
                "gap_stop needs the two largest probabilities, got scores; feed logits or a prediction, or set gap_stop to None",
            )
        } else if self.length != Length::Fixed {
            Some(
                "length needs the most probable token of every position, got scores; feed logits or a prediction, or set length to 'fixed'",
            )
        } else if self.order == Order::CertaintyPrior {
            Some(
                "order 'certainty-prior' needs probabilities, got scores; feed logits or a prediction, or choose another order",
            )
        } else if self.order == Order::Calibrated {
            Some(
                "order 'calibrated' needs probabilities, got scores; feed logits or a prediction, or choose another order",
            )
        } else if self.keeps().heads || self.keeps().credits {
            Some(
                "kl_threshold and credit need more than scores of the distributions; feed logits, or what Sampler.predict returned",
            )
        } else if self.revise.asks_current() {
            Some(
                "this rule needs the probability of the tokens that stand there, got scores; feed logits, or a prediction with current",
            )
        } else {
            None
        }
    }

    /// How many open positions a step commits at least; exactly so many where counts alone decide. `mean` is that of the
    /// batch, where the rule counts by it.
    pub fn floor(&self, step: Step, mean: Option<f64>) -> usize {
        let is_open = self.steps == Steps::Open;
        let count = match mean {
            Some(mean) if step.index + 1 < step.steps => {
                (mean * self.schedule.probability(step)) as usize
            }
            _ if is_open && !self.schedule.keeps_idle_steps() => 1,
            _ => self.schedule.count(step),
        };
        let least = match self.cut {
            // Each forward of it takes back fewer than it writes, so two at least.
            Cut::Count if self.revise == Revise::Drop => count.max(self.min_commit.unwrap_or(2)),
            Cut::Count => count.max(self.min_commit.unwrap_or(0)),
            _ if is_open || self.redecides() => self.min_commit.unwrap_or(1),
            // Over noise a forward that commits nothing is followed by another one about other tokens.
            _ if self.schedule == Schedule::Cumulative => count.max(self.min_commit.unwrap_or(0)),
            _ => count.max(self.min_commit.unwrap_or(1)),
        };
        least.min(step.left)
    }

    /// The most forwards that a row can take, with `open` open positions in `blocks` blocks when it began.
    ///
    /// Every forward of a block that is not full commits at least one position, so there are at most `open` of them, and no
    /// more than the steps that were asked for; under a schedule that spends forwards on idle steps, and where what is filled may
    /// be taken back, all of those. Where drafts are verified, there are two forwards for each that commits. Where written
    /// tokens are revised, each block may take so many more as `Revise::most_extra` says. Where positions wait for others
    /// (`waits`), a step may find fewer than it commits, and what is left behind the last step comes one by one at worst. Where
    /// the length changes, as many as the longest answer has positions, and those that only add masks.
    pub fn most_forwards(&self, open: usize, blocks: usize, waits: bool) -> usize {
        if let Some(most) = self.length.most() {
            return most.max(open) + self.length.most_growing();
        }
        let asked = match self.steps {
            Steps::Open => open,
            Steps::Total(steps) => steps,
            Steps::PerBlock(steps) => steps.saturating_mul(blocks),
        };
        if let (Schedule::Dilated { dilation }, Some(length)) = (self.schedule, self.block_length) {
            // As many as a block has levels: strides fall by the dilation at least, and a power of it ends with stride 1.
            let strides = length.saturating_sub(1).max(1).ilog(dilation.max(2)) as usize;
            return blocks.saturating_mul(strides + 1);
        }
        let fills_again = matches!(self.revise, Revise::Resample { .. } | Revise::Plan { .. });
        let spends = self.redecides() || self.schedule.keeps_idle_steps() || fills_again;
        let filling = match (spends, waits) {
            (true, true) => asked.saturating_add(open),
            (true, false) if self.steps != Steps::Open => asked,
            (false, true) => open,
            (_, false) => asked.min(open),
        };
        let is_alone = matches!(self.cut, Cut::Mixed { weight } if weight >= 1.0);
        if self.cut.looks_twice() && !is_alone {
            return filling.saturating_mul(2);
        }
        filling + blocks * self.revise.most_extra()
    }
}

impl Deref for Rule {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

/// For each kind of names, all of them; the place of a name is its number wherever numbers stand for names.
pub fn names() -> [(&'static str, Vec<&'static str>); 7] {
    [
        ("order", Order::ALL.map(Order::name).to_vec()),
        ("cut", Cut::ALL.map(Cut::name).to_vec()),
        ("schedule", Schedule::ALL.map(Schedule::name).to_vec()),
        ("eos_policy", EosPolicy::ALL.map(EosPolicy::name).to_vec()),
        ("remask", remasks()),
        ("length", Length::NAMES.to_vec()),
        ("kind", Kind::ALL.map(Kind::name).to_vec()),
    ]
}
