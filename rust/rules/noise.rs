//! What an open position shows to the model, and rules whose picks are only shown until their block is finished.

use super::config::{Config, Steps};
use super::cut::Cut;
use super::eos::EosPolicy;
use super::order::Order;
use super::revise::Revise;
use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::rng::{Draw, Stream};

/// What an open position shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Noise {
    /// The mask; without one, what the canvas came with.
    Mask,
    /// A token of the vocabulary, each as likely as any other, and a fresh one for every forward of its block.
    Uniform {
        /// Number of token ids; known at the latest when a row begins.
        vocabulary: Option<u32>,
    },
    /// The mask, or a token of the vocabulary that is not the mask (GIDD, von Rütte et al., 2503.04482).
    Hybrid {
        /// Number of token ids, the mask among them; known at the latest when a row begins.
        vocabulary: Option<u32>,
        /// Share of such tokens in the middle of the process, where they are most.
        share: f64,
    },
}

impl Noise {
    /// All of them, each at the place that is its number.
    pub const ALL: [Self; 3] = [
        Self::Mask,
        Self::Uniform { vocabulary: None },
        Self::Hybrid {
            vocabulary: None,
            share: 0.0,
        },
    ];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mask => "mask",
            Self::Uniform { .. } => "uniform",
            Self::Hybrid { .. } => "hybrid",
        }
    }

    /// Does every open position show a token that means nothing?
    pub fn is_uniform(self) -> bool {
        matches!(self, Self::Uniform { .. })
    }

    /// Number of token ids, where it is drawn from them.
    pub fn vocabulary(self) -> Option<u32> {
        match self {
            Self::Mask => None,
            Self::Uniform { vocabulary } | Self::Hybrid { vocabulary, .. } => vocabulary,
        }
    }

    /// Tokens that it may be.
    pub fn tokens(self) -> u32 {
        let vocabulary = self.vocabulary().unwrap_or(1);
        match self {
            Self::Hybrid { .. } => (vocabulary - 1).max(1),
            _ => vocabulary,
        }
    }

    /// A token of it for a position in a forward of its row, each but the mask as likely as any other.
    pub fn token(self, stream: Stream, position: u32, step: u32, mask: Option<u32>) -> u32 {
        let bits = stream.bits53(position, step, Draw::Noise);
        let token = ((u128::from(bits) * u128::from(self.tokens())) >> 53) as u32;
        token + u32::from(mask.is_some_and(|mask| token >= mask))
    }
}

/// Picks are drafts: shown to the model, decided anew in every step, and written once, with the most probable token at each
/// position of the block, when the block is finished (`DiffusionGemma`). It is with the last of its steps, or before, when
/// the most probable tokens are those of the steps before and the distributions are sure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drafts {
    /// They equal those of so many steps before.
    pub stable: usize,
    /// The mean entropy is less than this, in nats; 0 never is.
    pub entropy: f64,
}

impl Drafts {
    /// Checks the parameters.
    pub fn check(self) -> Result<()> {
        if self.entropy >= 0.0 {
            return Ok(());
        }
        Err(Error::setting(
            "stop_entropy",
            "must be at least 0 (nats)",
            self.entropy,
            "0.005 is DiffusionGemma's; 0 takes all steps",
        ))
    }
}

/// The temperature of a step with `left` steps to go, itself included, of `steps`: from `first` in the first one down (or up) to
/// `last`, which it never quite reaches; in float32, operation by operation, as transformers computes it.
pub fn temperature(first: f64, last: f64, left: usize, steps: usize) -> f64 {
    let share = left as f32 / steps as f32;
    f64::from(last as f32 + (first - last) as f32 * share)
}

/// Refuses what means nothing beside a reverse process that decides every position anew in each of its steps.
fn check_posterior(config: &Config) -> Result<()> {
    let filters = config.sampling.filters;
    let why = if filters.top_k.is_some() || filters.top_p.is_some() || filters.min_p.is_some() {
        "top_k, top_p or min_p beside it; leave them out: it needs the probability of the token that stands there"
    } else if config.drafts.is_some() {
        "drafts beside it; set order='entropy' for those"
    } else if matches!(config.eos, EosPolicy::Suffix | EosPolicy::Delay) {
        "an eos_policy that looks at what is written; use 'allow' or 'penalise': a block is written at once"
    } else if !matches!(config.schedule, Schedule::Even | Schedule::Linear { .. })
        && (matches!(config.shows, Noise::Hybrid { .. })
            || !matches!(config.schedule, Schedule::Cosine { .. }))
    {
        "a schedule that is none of its own; use 'linear' (or 'cosine' for noise 'uniform')"
    } else {
        return Ok(());
    };
    Err(Error::Mismatch(format!(
        "order 'ancestral' over noise decides every position anew in each step, got {why}"
    )))
}

/// Refuses a temperature that is none any more in float32, which tempered logits are divided by, and which changes.
fn check_temperatures(config: &Config) -> Result<()> {
    let sampled = config.sampling.temperature;
    let is_tempered = config.drafts.is_some() || config.follows_posterior();
    let (rule, remedy) = if config.temperature_end.is_some() {
        (
            "must be at least 0.001 and at most 1000000 where the temperature changes",
            "leave temperature_end out for one temperature",
        )
    } else {
        (
            "must be 0, or at least 0.001 and at most 1000000, for drafts and order 'ancestral' over noise, whose logits are divided by it",
            "1 is the model's own",
        )
    };
    for (name, value) in [
        ("temperature_end", config.temperature_end),
        ("temperature", config.temperature_end.map(|_| sampled)),
        (
            "temperature",
            (is_tempered && sampled > 0.0).then_some(sampled),
        ),
    ] {
        if let Some(value) = value.filter(|value| !(1e-3..=1e6).contains(value)) {
            return Err(Error::setting(name, rule, value, remedy));
        }
    }
    Ok(())
}

/// Refuses what means nothing beside noise, and beside drafts.
pub fn check(config: &Config) -> Result<()> {
    let refuse = |text: String| Err(Error::Mismatch(text));
    check_temperatures(config)?;
    if config.shows == Noise::Mask {
        // Drafts are looked at below.
    } else if config.as_published {
        return refuse(
            "as_published keeps quirks of loops over masks, got it beside noise; leave it out"
                .into(),
        );
    } else if config.order == Order::Ancestral {
        check_posterior(config)?;
    }
    if let Noise::Hybrid { vocabulary, share } = config.shows {
        if !(0.0..1.0).contains(&share) {
            let remedy = "0.1 and 0.2 are GIDD's; 0 shows masks alone";
            return Err(Error::setting(
                "noise_share",
                "must lie in [0, 1)",
                share,
                remedy,
            ));
        }
        if vocabulary.is_some_and(|v| v < 2) {
            let remedy = "leave it out for the model's own";
            return Err(Error::setting(
                "vocabulary",
                "must be at least 2, the mask and another",
                1,
                remedy,
            ));
        }
        if config.order != Order::Ancestral {
            return refuse(format!(
                "noise 'hybrid' is that of a reverse process, got order '{}' beside it; set order='ancestral', or noise='mask'",
                config.order.name()
            ));
        }
    }
    if let Noise::Uniform { vocabulary } = config.shows {
        if let Some(mask) = config.mask {
            return refuse(format!(
                "noise 'uniform' is for models that never saw a mask, got mask_token_id={mask} beside it; use noise='mask', or a model of \
                 uniform noise"
            ));
        }
        if vocabulary == Some(0) {
            let remedy = "leave it out for the model's own";
            return Err(Error::setting(
                "vocabulary",
                "must be at least 1",
                0,
                remedy,
            ));
        }
    }
    if config.schedule == Schedule::Cumulative && !config.shows.is_uniform() {
        return refuse(
            "schedule 'cumulative' spends forwards that may commit nothing, got it over masks, which would look the same in the next one; \
             use 'even', or noise='uniform'"
                .into(),
        );
    }
    config
        .drafts
        .map_or(Ok(()), |drafts| check_drafts(config, drafts))
}

/// Refuses what means nothing beside drafts.
fn check_drafts(config: &Config, drafts: Drafts) -> Result<()> {
    drafts.check()?;
    let why = if !config.shows.is_uniform() {
        "noise 'mask' beside them, which has no noise to show in place of what is not picked; set noise='uniform'"
    } else if config.steps == Steps::Open {
        "no number of steps; set steps_per_block (48 is DiffusionGemma's)"
    } else if config.cut == Cut::Count {
        "no threshold, factor or entropy_bound, which pick them; set entropy_bound=0.1"
    } else if matches!(config.eos, EosPolicy::Suffix | EosPolicy::Delay) {
        "an eos_policy that looks at what is written; use 'allow' or 'penalise': a block is written at once"
    } else if config.schedule != Schedule::Even {
        "a schedule, which says how many a step commits; leave it out"
    } else if config.gap_stop.is_some() {
        "gap_stop, which ends a block in a way of its own; leave it out: stop_stable and stop_entropy do"
    } else if config.revise != Revise::None {
        "edit_threshold beside them, which replaces written tokens; leave it out: drafts are decided anew in every step"
    } else {
        return Ok(());
    };
    Err(Error::Mismatch(format!(
        "drafts are shown until their block is finished, got {why}"
    )))
}
