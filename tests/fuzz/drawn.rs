//! Settings as somebody might send them, wild.

use super::VOCABULARY;
use super::dice::Dice;
use dllm_fast::logits::draw::Sampling;
use dllm_fast::logits::filter::Filters;
use dllm_fast::rules::calibration::{Calibration, Frequencies};
use dllm_fast::rules::config::{Config, Steps};
use dllm_fast::rules::credit::Credit;
use dllm_fast::rules::cut::Cut;
use dllm_fast::rules::eos::EosPolicy;
use dllm_fast::rules::gap::GapStop;
use dllm_fast::rules::length::Length;
use dllm_fast::rules::noise::{Drafts, Noise};
use dllm_fast::rules::order::{Order, OrderNoise};
use dllm_fast::rules::reach::Reach;
use dllm_fast::rules::remask::Sigma;
use dllm_fast::rules::revise::Revise;
use dllm_fast::rules::schedule::Schedule;

fn any_cut(dice: &mut Dice) -> Cut {
    match dice.below(11) {
        9 => Cut::Mixed {
            weight: dice.number(),
        },
        7 => Cut::EntropyThreshold(dice.number()),
        8 => Cut::Verified,
        0 => Cut::Threshold(dice.number()),
        1 => Cut::Factor {
            factor: dice.number(),
            as_published: dice.one_in(2),
        },
        2 => Cut::EntropyBound(dice.number()),
        3 => Cut::Neighbours {
            threshold: dice.number(),
            near: dice.number(),
            distance: dice.below(6) as u32,
        },
        4 => Cut::Runs {
            threshold: dice.number(),
            run: dice.number(),
        },
        5 => Cut::Steady {
            threshold: dice.number(),
            bar: dice.number(),
            steps: dice.below(4) as u32,
        },
        _ => Cut::Count,
    }
}

/// A table that fits few vocabularies, or each that is met.
fn calibration(dice: &mut Dice) -> Calibration {
    let size = dice.of(&[1, VOCABULARY, VOCABULARY + 4, VOCABULARY + 4]);
    let counts = (0..size).map(|_| dice.below(4) as u64).collect();
    Calibration {
        frequencies: Frequencies::new(counts).ok().filter(|_| dice.one_in(2)),
        decay: dice.number(),
        cap: dice.number(),
    }
}

/// Whether written tokens may change.
fn revise(dice: &mut Dice) -> Revise {
    match dice.below(9) {
        0 | 1 => Revise::Edit {
            threshold: dice.number(),
            most_post_steps: dice.size(),
        },
        2 => Revise::Resample {
            sigma: Sigma::ALL[dice.below(4)],
            eta: dice.number(),
        },
        3 => Revise::Plan { eta: dice.number() },
        4 => Revise::Drop,
        6 => Revise::Verify { bar: dice.number() },
        5 => Revise::Redo {
            budget: dice.size(),
        },
        _ => Revise::None,
    }
}

/// What open positions show.
fn shows(dice: &mut Dice) -> Noise {
    let tokens = [0, 1, 2, VOCABULARY as u32, VOCABULARY as u32, u32::MAX];
    let vocabulary = (!dice.one_in(12)).then(|| dice.of(&tokens));
    match dice.below(5) {
        0 => Noise::Uniform { vocabulary },
        1 => Noise::Hybrid {
            vocabulary,
            share: dice.number(),
        },
        _ => Noise::Mask,
    }
}

#[allow(clippy::too_many_lines)] // a field a line
pub fn config(dice: &mut Dice) -> Config {
    let as_published = dice.one_in(2);
    let schedule = match dice.below(8) {
        7 => Schedule::Cumulative,
        6 => Schedule::Dilated {
            dilation: dice.size(),
        },
        0 => Schedule::Even,
        1 => Schedule::Linear { as_published },
        2 => Schedule::Cosine { as_published },
        3 => Schedule::Dream {
            eps: if dice.one_in(3) { dice.number() } else { 1e-3 },
        },
        4 => Schedule::MaskGit,
        _ => Schedule::FirstHitting,
    };
    let steps = match dice.below(4) {
        0 => Steps::Open,
        1 => Steps::Total(dice.size()),
        2 => Steps::Total(12 * (1 + dice.below(4))),
        _ => Steps::PerBlock(dice.size()),
    };
    // A schedule that spreads a few masks over 2^60 steps looks at each of them. It ends, but not for us.
    let steps = match steps {
        Steps::Total(s) => Steps::Total(s.min(5000)),
        Steps::PerBlock(s) => Steps::PerBlock(s.min(5000)),
        Steps::Open => steps,
    };
    let cut = any_cut(dice);
    let order = dice.of(&[
        Order::Confidence,
        Order::Margin,
        Order::Entropy,
        Order::Random,
        Order::LeftToRight,
        Order::SampledConfidence,
        Order::Ancestral,
        Order::CertaintyPrior,
        Order::Ranks,
        Order::Calibrated,
    ]);
    let id = |dice: &mut Dice| {
        if dice.one_in(20) {
            u32::MAX
        } else {
            dice.below(VOCABULARY) as u32
        }
    };
    Config {
        mask: (!dice.one_in(5)).then(|| id(dice)),
        shows: shows(dice),
        drafts: dice.one_in(6).then(|| Drafts {
            stable: dice.below(4),
            entropy: dice.number(),
        }),
        temperature_end: dice.one_in(4).then(|| dice.number()),
        block_length: dice.maybe(Dice::size),
        steps,
        schedule,
        order,
        noise: OrderNoise {
            temperature: if dice.one_in(3) { dice.number() } else { 0.0 },
            annealed: dice.one_in(2),
        },
        position_penalty: if dice.one_in(4) { dice.number() } else { 0.0 },
        spacing: if dice.one_in(4) {
            dice.size() as u32
        } else {
            1
        },
        reach: match dice.below(8) {
            0 => Reach::Parts {
                length: dice.maybe(Dice::size),
                first_alone: dice.one_in(2),
            },
            1 => Reach::Sliding(dice.size()),
            2 => Reach::Several {
                add: dice.number(),
                activate: dice.number(),
            },
            _ => Reach::Block,
        },
        prior_sigma: if dice.one_in(4) { dice.number() } else { 2.0 },
        calibration: calibration(dice),
        lead: 0.0,
        cut,
        min_commit: dice.maybe(Dice::size),
        credit: dice.one_in(4).then(|| Credit {
            weight: dice.number(),
            power: dice.number(),
            decay: dice.number(),
        }),
        gap_stop: dice.one_in(4).then(|| GapStop {
            bar: dice.number(),
            answer: dice.maybe(|dice| (dice.below(14), dice.below(5))),
        }),
        revise: revise(dice),
        sampling: Sampling {
            temperature: if dice.one_in(2) { dice.number() } else { 1.0 },
            filters: Filters {
                top_k: dice.maybe(Dice::size),
                top_p: dice.maybe(Dice::number),
                min_p: dice.maybe(Dice::number),
            },
        },
        suppressed: (0..dice.below(3)).map(|_| id(dice)).collect(),
        ends: (0..dice.below(3)).map(|_| id(dice)).collect(),
        stop_at_end: dice.one_in(3),
        stops: (0..dice.below(3))
            .map(|_| (0..dice.below(4)).map(|_| id(dice)).collect())
            .collect(),
        eos: match dice.below(6) {
            0 => EosPolicy::Suffix,
            1 => EosPolicy::Delay,
            2 => EosPolicy::Penalise(dice.number()),
            _ => EosPolicy::Allow,
        },
        length: match dice.below(16) {
            0 => Length::Daedal {
                most: dice.size(),
                factor: dice.size(),
                checked: dice.size(),
                enough: dice.number(),
                certain: dice.number(),
                unsure: dice.number(),
            },
            1 => Length::Density {
                most: dice.size(),
                factor: dice.size(),
                low: dice.number(),
                high: dice.number(),
            },
            _ => Length::Fixed,
        },
        min_new_tokens: if dice.one_in(3) { dice.size() } else { 0 },
        as_published: dice.one_in(4),
    }
}
