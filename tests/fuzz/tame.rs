//! Settings that are mostly accepted, of every family of rules.

use super::VOCABULARY;
use super::dice::Dice;
use dllm_fast::rules::calibration::Frequencies;
use dllm_fast::rules::config::{Config, Steps};
use dllm_fast::rules::cut::Cut;
use dllm_fast::rules::eos::EosPolicy;
use dllm_fast::rules::gap::GapStop;
use dllm_fast::rules::length::Length;
use dllm_fast::rules::noise::{Drafts, Noise};
use dllm_fast::rules::order::Order;
use dllm_fast::rules::reach::Reach;
use dllm_fast::rules::revise::Revise;
use dllm_fast::rules::schedule::Schedule;

/// With a way to change written tokens that fits the rest, or the rest that fits it.
fn tame_revise(config: &mut Config) {
    let range = |x: f64, low: f64, high: f64| {
        if x.is_finite() {
            x.abs().clamp(low, high)
        } else {
            low
        }
    };
    config.revise = match config.revise {
        Revise::Edit {
            threshold,
            most_post_steps,
        } => Revise::Edit {
            threshold: range(threshold, 0.0, f64::INFINITY),
            most_post_steps: most_post_steps % 21,
        },
        Revise::Resample { sigma, eta } => Revise::Resample {
            sigma,
            eta: range(eta, 0.0, 1.0),
        },
        Revise::Plan { eta } => Revise::Plan {
            eta: range(eta, 0.0, 1e9),
        },
        Revise::Verify { bar } => Revise::Verify {
            bar: range(bar, 0.0, 2.0),
        },
        Revise::Redo { budget } => Revise::Redo {
            budget: budget % 21,
        },
        Revise::Drop | Revise::None => config.revise,
    };
    if config.schedule == Schedule::FirstHitting
        || config.order == Order::Ancestral && !matches!(config.revise, Revise::Resample { .. })
    {
        config.revise = Revise::None;
    }
    if config.revise.takes_back() {
        plain(config);
    }
    match config.revise {
        Revise::Resample { .. } => {
            config.order = Order::Ancestral;
            config.schedule = Schedule::Even;
        }
        Revise::Verify { .. } => {
            (config.steps, config.schedule) = (Steps::Open, Schedule::Even);
            config.gap_stop = None;
            if config.cut == Cut::Count {
                config.cut = Cut::Threshold(0.3);
            }
        }
        Revise::Plan { .. } | Revise::Drop => {
            config.order = Order::SampledConfidence;
            (config.cut, config.noise.temperature, config.gap_stop) = (Cut::Count, 0.0, None);
            if let Revise::Plan { .. } = config.revise {
                config.schedule = Schedule::Linear {
                    as_published: false,
                };
                config.min_commit = None;
            }
        }
        _ => {}
    }
}

fn range(x: f64, low: f64, high: f64) -> f64 {
    if x.is_nan() { low } else { x.clamp(low, high) }
}

fn tame_cut(cut: Cut) -> Cut {
    match cut {
        Cut::Threshold(t) => Cut::Threshold(range(t, f64::NEG_INFINITY, f64::INFINITY)),
        Cut::Factor {
            factor,
            as_published,
        } => Cut::Factor {
            factor: range(factor, 0.0, f64::INFINITY),
            as_published,
        },
        Cut::EntropyBound(b) => Cut::EntropyBound(range(b, 0.0, f64::INFINITY)),
        Cut::EntropyThreshold(b) => {
            Cut::EntropyThreshold(range(b, f64::NEG_INFINITY, f64::INFINITY))
        }
        Cut::Neighbours {
            threshold,
            near,
            distance,
        } => {
            let threshold = range(threshold, f64::NEG_INFINITY, f64::INFINITY);
            Cut::Neighbours {
                threshold,
                near: range(near, f64::NEG_INFINITY, threshold),
                distance,
            }
        }
        Cut::Runs { threshold, run } => Cut::Runs {
            threshold: range(threshold, f64::NEG_INFINITY, f64::INFINITY),
            run: range(run, f64::NEG_INFINITY, f64::INFINITY),
        },
        Cut::Steady {
            threshold,
            bar,
            steps,
        } => Cut::Steady {
            threshold: range(threshold, f64::NEG_INFINITY, f64::INFINITY),
            bar: range(bar, 0.0, f64::INFINITY),
            steps: steps.max(1),
        },
        Cut::Mixed { weight } => Cut::Mixed {
            weight: range(weight, 0.0, 1.0),
        },
        Cut::Count | Cut::Verified => cut,
    }
}

/// A table of each vocabulary that is met, where the order wants one.
fn calibrate(config: &mut Config) {
    config.calibration.decay = range(config.calibration.decay, 0.0, 1e6);
    config.calibration.cap = range(config.calibration.cap, 1e-300, f64::INFINITY);
    if config.order != Order::Calibrated {
        config.calibration.frequencies = None;
    } else if config.calibration.frequencies.is_none()
        || config.calibration.fits(VOCABULARY + 4).is_err()
    {
        config.calibration.frequencies = Frequencies::new(vec![3; VOCABULARY + 4]).ok();
    }
}

/// Settings that are mostly accepted: what `config` makes, with the numbers in range.
pub fn tame(mut config: Config, dice: &mut Dice) -> Config {
    // Rows whose length changes are drawn in tests/property/test_lengths.py.
    config.length = Length::Fixed;
    config.sampling.temperature = range(config.sampling.temperature, 0.0, 1e300);
    config.noise.temperature = range(config.noise.temperature, 0.0, 1e300);
    let filters = &mut config.sampling.filters;
    filters.top_k = filters.top_k.map(|k| k.max(1));
    filters.top_p = filters.top_p.map(|p| range(p, 1e-12, 1.0));
    filters.min_p = filters.min_p.map(|p| range(p, 0.0, 1.0));
    config.cut = tame_cut(config.cut);
    if let Some(credit) = &mut config.credit {
        credit.weight = range(credit.weight, 0.0, 1000.0);
        credit.power = range(credit.power, 0.0, 1000.0);
        credit.decay = range(credit.decay, 0.0, 1.0);
    }
    config.prior_sigma = range(config.prior_sigma, 1e-3, 20.0);
    config.as_published &= config.gap_stop.is_none();
    if let Some(stop) = &mut config.gap_stop {
        stop.bar = range(stop.bar, 0.0, f64::INFINITY);
    }
    if let Schedule::Dream { eps } = config.schedule {
        config.schedule = Schedule::Dream {
            eps: range(eps, 1e-300, 0.999),
        };
    }
    config.block_length = config.block_length.map(|b| b.max(1));
    config.min_commit = config.min_commit.map(|c| c.max(1));
    config.steps = match config.steps {
        Steps::Total(s) if dice.one_in(4) => Steps::Total(s.max(1)),
        Steps::Total(s) | Steps::PerBlock(s) => Steps::PerBlock(s.max(1)),
        Steps::Open => Steps::Open,
    };
    tame_revise(&mut config);
    // Settings that would do nothing beside others are refused.
    if config.order == Order::Ancestral {
        (config.cut, config.min_commit, config.noise.temperature) = (Cut::Count, None, 0.0);
        (config.gap_stop, config.credit) = (None, None);
        if config.schedule == Schedule::FirstHitting {
            config.schedule = Schedule::Even;
        }
    }
    if config.schedule == Schedule::FirstHitting {
        config.steps = Steps::Open;
        (config.gap_stop, config.credit) = (None, None);
    }
    if let Some(stop) = config.gap_stop.filter(|stop| stop.answer.is_some()) {
        if dice.one_in(2) {
            config.block_length = None;
        } else {
            config.gap_stop = Some(GapStop {
                answer: None,
                ..stop
            });
        }
    }
    if config.noise.annealed
        && matches!(
            config.order,
            Order::Entropy | Order::LeftToRight | Order::Ranks | Order::Calibrated
        )
    {
        config.noise.temperature = 0.0;
    }
    place(&mut config, &range);
    of_a_family(&mut config, dice);
    let mask = config.mask;
    config.ends.retain(|&e| Some(e) != mask);
    // Rarely are all of them so: then nothing would be left to end with.
    let excluded = config.excluded();
    config.stops.retain(|stop| {
        !stop.is_empty() && !stop.iter().any(|t| excluded.contains(t)) || dice.one_in(20)
    });
    if config.enders().is_empty() && !dice.one_in(20) {
        config.eos = EosPolicy::Allow;
    }
    if let EosPolicy::Penalise(penalty) = config.eos {
        config.eos = EosPolicy::Penalise(range(penalty, 0.0, f64::INFINITY));
    }
    config.stop_at_end &= !config.ends.is_empty();
    calibrate(&mut config);
    config
}

/// Puts in range, or takes away, what says which positions are written.
fn place(config: &mut Config, range: &dyn Fn(f64, f64, f64) -> f64) {
    config.position_penalty = range(config.position_penalty, 0.0, 1e6);
    config.spacing = config.spacing.max(1);
    config.reach = match config.reach {
        Reach::Parts {
            length,
            first_alone,
        } => Reach::Parts {
            length: length.map(|length| length.max(1)),
            first_alone,
        },
        Reach::Sliding(length) => Reach::Sliding(length.max(1)),
        Reach::Several { add, activate } => Reach::Several {
            add: range(add, 0.01, 1.0),
            activate: range(activate, 0.01, 1.0),
        },
        Reach::Block => Reach::Block,
    };
    if let Schedule::Dilated { dilation } = &mut config.schedule {
        *dilation = (*dilation).max(2);
        (config.order, config.steps) = (Order::LeftToRight, Steps::Open);
        (config.cut, config.min_commit, config.gap_stop) = (Cut::Count, None, None);
        (config.noise.temperature, config.position_penalty) = (0.0, 0.0);
        (config.spacing, config.reach, config.revise) = (1, Reach::Block, Revise::None);
        config.credit = None;
    }
    if config.order == Order::Ancestral || config.schedule == Schedule::FirstHitting {
        (config.position_penalty, config.spacing, config.reach) = (0.0, 1, Reach::Block);
    }
    if config.reach != Reach::Block {
        (config.schedule, config.steps) = (Schedule::Even, Steps::Open);
        (config.gap_stop, config.revise) = (None, Revise::None);
        if let Reach::Several { .. } = config.reach {
            config.min_commit = None;
        }
    }
}

/// What belongs to a family of rules and goes with no other: verified drafts, noise instead of a mask, or neither.
fn of_a_family(config: &mut Config, dice: &mut Dice) {
    let vocabulary = config.shows.vocabulary();
    let vocabulary = vocabulary.filter(|&v| v > 1).or(Some(VOCABULARY as u32));
    if let Some(last) = config.temperature_end {
        let sampling = &mut config.sampling;
        sampling.temperature = range(sampling.temperature, 1e-3, 1e6);
        config.temperature_end = Some(range(last, 1e-3, 1e6));
    }
    if config.revise.takes_back() {
        config.temperature_end = None;
    }
    let is_placed = config.reach != Reach::Block
        || matches!(config.schedule, Schedule::Dilated { .. })
        || config.revise.takes_back();
    match dice.below(8) {
        0 if config.drafts.is_some() || config.shows != Noise::Mask => drafts(config, dice),
        1 | 2 => posterior(config, vocabulary, dice),
        3 if !is_placed => {
            (config.mask, config.as_published) = (None, false);
            config.shows = Noise::Uniform { vocabulary };
            config.drafts = None;
            if config.order == Order::Ancestral {
                config.order = Order::Confidence;
            }
        }
        4 => verified(config, dice),
        _ => {
            config.shows = Noise::Mask;
            config.drafts = None;
        }
    }
    // Each of them is a forward here, in every block.
    let spends =
        config.drafts.is_some() || config.shows != Noise::Mask || config.revise.takes_back();
    if let Steps::Total(steps) | Steps::PerBlock(steps) = &mut config.steps
        && spends
    {
        *steps = (*steps).min(24);
    }
    if !config.shows.is_uniform() {
        let needs_mask = config.shows != Noise::Mask || config.revise.takes_back();
        if needs_mask && config.mask.is_none() {
            config.mask = Some(2);
        }
        if config.schedule == Schedule::Cumulative {
            config.schedule = Schedule::Even;
        }
    }
    let is_tempered =
        config.drafts.is_some() || config.order == Order::Ancestral && config.shows != Noise::Mask;
    if is_tempered && config.sampling.temperature > 0.0 {
        config.sampling.temperature = range(config.sampling.temperature, 1e-3, 1e6);
    }
    if config.cut.looks_twice() && config.order != Order::LeftToRight {
        config.cut = Cut::Threshold(0.5);
    }
}

/// Nothing placed, remembered or stopped.
fn plain(config: &mut Config) {
    (config.reach, config.spacing, config.position_penalty) = (Reach::Block, 1, 0.0);
    (config.gap_stop, config.credit) = (None, None);
    config.as_published = false;
    if let Cut::Steady { .. } = config.cut {
        config.cut = Cut::Threshold(0.5);
    }
    if matches!(config.eos, EosPolicy::Suffix | EosPolicy::Delay) {
        config.eos = EosPolicy::Allow;
    }
}

fn drafts(config: &mut Config, dice: &mut Dice) {
    plain(config);
    config.revise = Revise::None;
    config.mask = None;
    config.shows = Noise::Uniform {
        vocabulary: Some(VOCABULARY as u32),
    };
    let drafts = config.drafts.map_or(0.5, |drafts| drafts.entropy);
    config.drafts = Some(Drafts {
        stable: dice.below(4),
        entropy: range(drafts, 0.0, f64::INFINITY),
    });
    config.schedule = Schedule::Even;
    if config.steps == Steps::Open {
        config.steps = Steps::PerBlock(1 + dice.below(9));
    }
    if config.cut == Cut::Count || config.cut.looks_twice() {
        config.cut = Cut::EntropyBound(0.5);
    }
    if config.order == Order::Ancestral {
        config.order = Order::Entropy;
    }
}

fn posterior(config: &mut Config, vocabulary: Option<u32>, dice: &mut Dice) {
    plain(config);
    config.revise = Revise::None;
    config.drafts = None;
    config.order = Order::Ancestral;
    (config.cut, config.min_commit, config.noise.temperature) = (Cut::Count, None, 0.0);
    let filters = &mut config.sampling.filters;
    (filters.top_k, filters.top_p, filters.min_p) = (None, None, None);
    let as_published = false;
    let mut schedules = vec![Schedule::Even, Schedule::Linear { as_published }];
    if dice.one_in(2) {
        config.mask = None;
        config.shows = Noise::Uniform { vocabulary };
        schedules.push(Schedule::Cosine { as_published });
    } else {
        let share = match config.shows {
            Noise::Hybrid { share, .. } => range(share, 0.0, 0.999),
            _ => 0.2,
        };
        config.shows = Noise::Hybrid { vocabulary, share };
    }
    config.schedule = dice.of(&schedules);
}

fn verified(config: &mut Config, dice: &mut Dice) {
    let temperature = config.sampling.temperature;
    plain(config);
    config.revise = Revise::None;
    (config.shows, config.drafts) = (Noise::Mask, None);
    (config.cut, config.order, config.min_commit) = (Cut::Verified, Order::LeftToRight, None);
    (config.schedule, config.steps) = (Schedule::Even, Steps::Open);
    (config.noise.temperature, config.sampling.temperature) = (0.0, 0.0);
    config.temperature_end = None;
    if dice.one_in(2) {
        let weight = dice.of(&[0.0, 0.5, 1.0]);
        (config.cut, config.sampling.temperature) = (Cut::Mixed { weight }, temperature);
        if dice.one_in(2) {
            config.reach = Reach::Sliding(1 + dice.below(5));
        }
    }
}
