//! A fuzz loop over `Config::check`, `Sampler::next`, `predict`, `feed`, `add` and `cancel`: wild settings, canvases and answers (NaN, the
//! infinities, ties, nonsense lengths). Nothing may panic, and what holds for every run must hold here: given tokens stay,
//! the mask is never written, a refused answer changes nothing, every run ends in time, and a row does not notice its
//! neighbours.
//!
//! `FUZZ_SECONDS` is how long each test searches (default 2), `FUZZ_SEED` where it begins. A failure names its case, and
//! `FUZZ_CASE` runs only that one.

use dllm_fast::canvas::Canvas;
use dllm_fast::canvas::edit::Kind;
use dllm_fast::logits::draw::Sampling;
use dllm_fast::logits::filter::Filters;
use dllm_fast::logits::head::Head;
use dllm_fast::logits::row::Logits;
use dllm_fast::rng::{Draw, Stream};
use dllm_fast::rules::Rule;
use dllm_fast::rules::config::{Config, Steps};
use dllm_fast::rules::credit::Credit;
use dllm_fast::rules::cut::Cut;
use dllm_fast::rules::eos::EosPolicy;
use dllm_fast::rules::gap::GapStop;
use dllm_fast::rules::noise::Noise;
use dllm_fast::rules::order::{Order, OrderNoise, Proposal};
use dllm_fast::rules::reach::Reach;
use dllm_fast::rules::remask::Sigma;
use dllm_fast::rules::revise::Revise;
use dllm_fast::rules::schedule::Schedule;
use dllm_fast::sampler::{Answer, Beside, Sampler, Start, Wishes};
use dllm_fast::watch::Watch;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Random choices, a function of the case.
struct Dice {
    stream: Stream,
    thrown: u32,
}

impl Dice {
    fn new(case: u64, purpose: u32) -> Self {
        let stream = Stream {
            seed: case,
            request: purpose,
        };
        Self { stream, thrown: 0 }
    }

    fn bits(&mut self) -> u64 {
        self.thrown += 1;
        self.stream.bits53(self.thrown, 0, Draw::Order)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn unit(&mut self) -> f64 {
        self.bits() as f64 * 0.5f64.powi(53)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A number that somebody might pass; often one that nobody should.
    fn number(&mut self) -> f64 {
        const ODD: [f64; 14] = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            1e-300,
            1.0 + f64::EPSILON,
            1.0 - f64::EPSILON,
        ];
        if self.one_in(3) {
            self.of(&ODD)
        } else {
            self.unit() * self.of(&[1.0, 1.0, 3.0, 100.0])
        }
    }

    /// A statistic: coarse, so that ties are common, and sometimes odd.
    fn statistic(&mut self) -> f64 {
        if self.one_in(40) {
            self.number()
        } else {
            self.below(9) as f64 / 8.0
        }
    }

    fn size(&mut self) -> usize {
        if self.one_in(8) {
            self.of(&[
                0,
                1,
                usize::MAX,
                usize::MAX / 2,
                usize::MAX / 2 + 1,
                1 << 32,
                (1 << 32) - 1,
            ])
        } else {
            1 + self.below(20)
        }
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(2).then(|| make(self))
    }
}

const VOCABULARY: usize = 9;

fn any_cut(dice: &mut Dice) -> Cut {
    match dice.below(9) {
        7 => Cut::EntropyThreshold(dice.number()),
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
        5 => Revise::Redo {
            budget: dice.size(),
        },
        _ => Revise::None,
    }
}

#[allow(clippy::too_many_lines)] // a field a line
fn config(dice: &mut Dice) -> Config {
    let as_published = dice.one_in(2);
    let schedule = match dice.below(7) {
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
    ]);
    let id = |dice: &mut Dice| {
        if dice.one_in(20) {
            u32::MAX
        } else {
            dice.below(VOCABULARY) as u32
        }
    };
    Config {
        mask: Some(id(dice)),
        shows: Noise::Mask,
        drafts: None,
        temperature_end: None,
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
        min_new_tokens: if dice.one_in(3) { dice.size() } else { 0 },
        as_published: dice.one_in(4),
    }
}

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
        config.as_published = false;
    }
    match config.revise {
        Revise::Resample { .. } => {
            config.order = Order::Ancestral;
            config.schedule = Schedule::Even;
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
        Cut::Count | Cut::Verified => cut,
    }
}

/// Settings that are mostly accepted: what `config` makes, with the numbers in range.
fn tame(mut config: Config, dice: &mut Dice) -> Config {
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
            Order::Entropy | Order::LeftToRight | Order::Ranks
        )
    {
        config.noise.temperature = 0.0;
    }
    place(&mut config, &range);
    let mask = mask_of(&config);
    config.ends.retain(|&e| e != mask);
    config.stop_at_end &= !config.ends.is_empty();
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

/// The mask of settings that have one, as all of ours do.
fn mask_of(config: &Config) -> u32 {
    config.mask.expect("drawn with one")
}

fn start(config: &Config, dice: &mut Dice) -> Start {
    let mask = mask_of(config);
    let length = dice.below(14);
    let canvas = (0..length).map(|_| {
        if dice.one_in(2) {
            mask
        } else {
            dice.below(VOCABULARY) as u32
        }
    });
    let canvas: Vec<u32> = canvas.collect();
    let wishes = wishes(config, &canvas, dice);
    Start {
        stream: Stream {
            seed: dice.bits(),
            request: dice.below(3) as u32,
        },
        origin: dice.below(length + 3),
        wishes,
        canvas,
        open: None,
    }
}

/// Ranks where the rule wants them, and positions that wait for others: nearly always for open ones on their left.
fn wishes(config: &Config, canvas: &[u32], dice: &mut Dice) -> Wishes {
    let mut wishes = Wishes::default();
    if (config.order == Order::Ranks) != dice.one_in(40) {
        let rank = |_| {
            if dice.one_in(200) {
                f64::NAN
            } else {
                dice.below(5) as f64 - 2.0
            }
        };
        wishes.ranks = Some((0..canvas.len()).map(rank).collect());
    }
    let open: Vec<u32> = (0..canvas.len() as u32)
        .filter(|&p| canvas[p as usize] == mask_of(config))
        .collect();
    if open.len() > 1 && dice.one_in(3) {
        for _ in 0..dice.below(6) {
            let (a, b) = (dice.below(open.len()), dice.below(open.len()));
            let (earlier, later) = if dice.one_in(60) {
                (b, a)
            } else {
                (a.min(b), a.max(b))
            };
            if earlier != later || dice.one_in(60) {
                wishes.after.push((open[later], vec![open[earlier]]));
            }
        }
    }
    wishes
}

/// What a caller answers for a position: a function of the row's seed, its step and the position, whoever else is there.
fn proposal(config: &Config, stream: Stream, step: u32, position: u32) -> Proposal {
    let mut dice = Dice::new(
        stream.seed,
        stream
            .request
            .wrapping_add(1000 * step)
            .wrapping_add(1_000_003 * position),
    );
    let mut excluded = config.excluded();
    let may_be_barred = matches!(config.eos, EosPolicy::Suffix | EosPolicy::Penalise(_));
    if config.min_new_tokens > 0 || may_be_barred {
        excluded.extend(config.enders());
    }
    let token = (0..).map(|_| dice.below(VOCABULARY + 4) as u32);
    let token = token.into_iter().find(|t| !excluded.contains(t));
    let number = |dice: &mut Dice| {
        let x = dice.statistic();
        if x.is_finite() { x } else { 0.5 }
    };
    Proposal {
        token: token.expect("some id is free"),
        probability: number(&mut dice),
        top1: number(&mut dice),
        top2: number(&mut dice),
        entropy: number(&mut dice),
        current: number(&mut dice),
        argmax: None,
    }
}

/// What rules with a memory want to know of it besides: mostly the same from step to step.
fn beside(stream: Stream, step: u32, position: u32) -> Beside {
    let seed = stream.request.wrapping_add(1_000_003 * position);
    let mut dice = Dice::new(stream.seed, seed.wrapping_add(step / 3));
    let count = 1 + dice.below(4) as u32;
    let cells = (0..count).map(|id| (2 * id, dice.below(5) as f64 / 4.0));
    let cells = cells.collect();
    Beside {
        head: Head { cells },
        leader: Some((
            dice.below(VOCABULARY + 4) as u32,
            dice.below(5) as f64 / 4.0,
        )),
    }
}

/// Everything that can be seen of a sampler.
fn state(sampler: &Sampler) -> String {
    let row = |r| {
        (
            sampler.canvas(r).to_vec(),
            sampler.trajectory(r).to_vec(),
            sampler.forwards(r),
            sampler.positions(r).to_vec(),
        )
    };
    format!("{:?}", (0..sampler.len()).map(row).collect::<Vec<_>>())
}

fn masks(canvas: &[u32], mask: u32) -> usize {
    canvas.iter().filter(|&&t| t == mask).count()
}

/// The bound on the forwards of a row that its rule states.
fn bound(config: &Config, start: &Start) -> usize {
    let canvas = Canvas::new(start.canvas.clone(), config.mask, None);
    let blocks = config.blocks(start.origin);
    let blocks = blocks.count(canvas.states(), canvas.len());
    let rule = Rule::new(config.clone()).expect("a sampler was made with it");
    rule.most_forwards(canvas.open(), blocks, !start.wishes.after.is_empty())
}

/// Answers that must be refused, or may be taken: then the run goes on from there.
fn provoke(sampler: &mut Sampler, dice: &mut Dice) {
    let waiting = sampler.waiting();
    let mut rows = waiting.clone();
    match dice.below(5) {
        0 => rows.push(dice.below(sampler.len() + 2)),
        1 => rows.reverse(),
        2 => rows.extend(waiting.iter().take(1)),
        3 => rows.push(usize::MAX),
        _ => {}
    }
    let wanted: usize = waiting.iter().map(|&r| sampler.positions(r).len()).sum();
    let length = match dice.below(4) {
        0 => dice.below(wanted + 3),
        1 => 0,
        _ => wanted,
    };
    let before = state(sampler);
    let taken = if dice.one_in(2) {
        let any = |dice: &mut Dice| Proposal {
            token: dice.below(VOCABULARY) as u32,
            probability: dice.number(),
            top1: dice.number(),
            top2: dice.number(),
            entropy: dice.number(),
            current: dice.number(),
            argmax: None,
        };
        let proposals: Vec<_> = (0..length).map(|_| any(dice)).collect();
        sampler.feed(&rows, &Answer::Proposals(&proposals), &Watch::never())
    } else {
        let any = |dice: &mut Dice| (dice.below(VOCABULARY) as u32, dice.number());
        let choice: Vec<_> = (0..length).map(|_| any(dice)).collect();
        sampler.feed(&rows, &Answer::Choice(&choice), &Watch::never())
    };
    if let Err(error) = taken {
        let text = error.to_string();
        assert!(text.contains("; "), "an error names a remedy: {text}");
        assert_eq!(state(sampler), before, "a refused answer changes nothing");
    }
}

/// `predict` on logits that nobody should make.
fn predict(sampler: &Sampler, dice: &mut Dice) {
    let vocabulary = dice.of(&[0, 1, 5, VOCABULARY, VOCABULARY, 70, 300]);
    let rows = sampler.waiting();
    let wanted: usize = rows.iter().map(|&r| sampler.positions(r).len()).sum();
    let lines = if dice.one_in(4) {
        dice.below(wanted + 3)
    } else {
        wanted
    };
    let length = lines * vocabulary + usize::from(dice.one_in(10));
    let value = |dice: &mut Dice| {
        if dice.one_in(30) {
            dice.number() as f32
        } else {
            (dice.below(33) as f32 - 16.0) * 0.5
        }
    };
    let single: Vec<f32> = (0..length).map(|_| value(dice)).collect();
    let half: Vec<u16> = (0..length).map(|_| dice.below(1 << 16) as u16).collect();
    let index: Vec<usize> = (0..wanted).map(|_| dice.below(lines + 1)).collect();
    let logits = [
        Logits::F32(&single),
        Logits::F16(&half),
        Logits::Bf16(&half),
    ];
    let logits = logits[dice.of(&[0, 0, 0, 1, 2])];
    let index = dice.one_in(3).then_some(index.as_slice());
    let before = state(sampler);
    match sampler.predict(&rows, logits, vocabulary, index, &Watch::never()) {
        Err(error) => assert!(error.to_string().contains("; "), "{error}"),
        Ok(predictions) => {
            assert_eq!(predictions.len(), wanted);
            for p in predictions {
                assert!((p.token as usize) < vocabulary, "{p:?}");
                assert!(!sampler.rule(0).excludes(p.token), "{p:?}");
                assert!(
                    0.0 <= p.probability && p.probability <= p.top1 && p.top1 <= 1.0,
                    "{p:?}"
                );
                assert!(0.0 <= p.top2 && p.top2 <= p.top1, "{p:?}");
                assert!(p.entropy >= 0.0 && !p.logsumexp.is_nan(), "{p:?}");
            }
        }
    }
    assert_eq!(state(sampler), before, "predict changes nothing");
}

/// Runs rows to the end and checks what must hold on the way; `provoked` throws in answers that are wrong.
fn run(
    config: &Config,
    starts: &[Start],
    score_all: bool,
    mut provoked: Option<&mut Dice>,
) -> Option<Sampler> {
    let mut sampler =
        match Sampler::new(config.clone(), starts.to_vec(), score_all, &Watch::never()) {
            Ok(sampler) => sampler,
            Err(error) => {
                assert!(error.to_string().contains("; "), "{error}");
                return None;
            }
        };
    loop {
        let waiting = sampler.next(&Watch::never()).unwrap();
        assert_eq!(
            sampler.next(&Watch::never()).unwrap(),
            waiting,
            "asking twice changes nothing"
        );
        if waiting.is_empty() {
            break;
        }
        if let Some(dice) = provoked.as_deref_mut() {
            predict(&sampler, dice);
            if dice.one_in(2) {
                provoke(&mut sampler, dice);
            }
        }
        for r in sampler.waiting() {
            let (step, positions) = (sampler.forwards(r), sampler.positions(r).to_vec());
            assert!(positions.is_sorted() || !score_all, "{positions:?}");
            let before = sampler.canvas(r).to_vec();
            let is_written = |p: usize| before[p] != starts[r].canvas[p];
            for p in positions.iter().map(|&p| p as usize) {
                let is_open = before[p] == mask_of(config);
                let looks = config.revise.looks_back() || config.gap_stop.is_some();
                assert!(is_open || looks && is_written(p));
            }
            let is_full = masks(&before[sampler.window(r)], mask_of(config)) == 0;
            let answer: Vec<_> = positions
                .iter()
                .map(|&p| proposal(config, starts[r].stream, step, p))
                .collect();
            let told: Vec<_> = positions
                .iter()
                .map(|&p| beside(starts[r].stream, step, p))
                .collect();
            sampler
                .feed(&[r], &Answer::Remembered(&answer, &told), &Watch::never())
                .expect("a right answer");
            let after = sampler.canvas(r);
            assert!(
                masks(after, mask_of(config)) < masks(&before, mask_of(config))
                    || config.schedule.keeps_idle_steps()
                    || config.revise.takes_back()
                    || is_full,
                "every forward commits while there is something to fill"
            );
            assert!(
                sampler.forwards(r) as usize <= bound(config, &starts[r]),
                "{} forwards, at most {}: {config:?} {:?}",
                sampler.forwards(r),
                bound(config, &starts[r]),
                starts[r]
            );
        }
    }
    for (r, start) in starts.iter().enumerate() {
        let canvas = sampler.canvas(r);
        assert_eq!(masks(canvas, mask_of(config)), 0, "no mask is left");
        let mut replayed = start.canvas.clone();
        for edit in sampler.trajectory(r) {
            let p = edit.position as usize;
            assert_eq!(start.canvas[p], mask_of(config), "given tokens stay");
            assert_eq!(
                edit.token == mask_of(config),
                edit.kind == Kind::Remask,
                "the mask is never written but back"
            );
            match edit.kind {
                Kind::Commit => {
                    assert_eq!(replayed[p], mask_of(config), "a mask is filled once");
                    assert!(!config.suppressed.contains(&edit.token));
                }
                Kind::Edit => {
                    assert!(config.revise.looks_back() && replayed[p] != mask_of(config));
                    assert!(edit.token != replayed[p] && !config.suppressed.contains(&edit.token));
                }
                Kind::Remask => {
                    assert!(config.revise.takes_back() && replayed[p] != mask_of(config));
                }
                Kind::Pad => {
                    assert!(config.ends_early() || config.eos == EosPolicy::Suffix);
                    assert!(config.ends.first().is_none_or(|&end| edit.token == end));
                }
                Kind::Renoise => panic!("a renoise is no edit of these rules"),
            }
            replayed[p] = edit.token;
        }
        assert_eq!(replayed, canvas, "the trajectory tells the whole story");
    }
    Some(sampler)
}

fn drive(case: u64) {
    let dice = &mut Dice::new(case, 0);
    let wild = config(dice);
    if let Err(error) = wild.check() {
        let text = error.to_string();
        assert!(text.contains(", got ") && text.contains("; "), "{text}");
    }
    let config = if dice.one_in(8) {
        wild
    } else {
        tame(wild, dice)
    };
    let starts: Vec<Start> = (0..dice.below(5)).map(|_| start(&config, dice)).collect();
    run(&config, &starts, dice.one_in(2), Some(dice));
    company(case);
    // A row alone and in company; only Dream's published mean over the batch makes a difference.
    let together = run(&config, &starts, false, None);
    if let Some(together) = together
        && !(config.as_published && config.schedule.keeps_idle_steps())
    {
        for (r, start) in starts.iter().enumerate() {
            let alone = run(&config, std::slice::from_ref(start), dice.one_in(2), None);
            let alone = alone.expect("what a batch accepts, each of its rows accepts");
            let told = |s: &Sampler, r| format!("{:?}", s.trajectory(r));
            assert_eq!(told(&alone, 0), told(&together, r), "row {r} alone");
        }
    }
}

/// Rows of different rules that come, wait for room, are answered in parts and cancelled: each writes what it writes alone.
fn company(case: u64) {
    let dice = &mut Dice::new(case, 1);
    let mut cases: Vec<(Config, Start, Sampler)> = Vec::new();
    for _ in 0..=dice.below(4) {
        let config = tame(config(dice), dice);
        let start = start(&config, dice);
        if let Some(alone) = run(&config, std::slice::from_ref(&start), false, None) {
            cases.push((config, start, alone));
        }
    }
    let Some((config, start, _)) = cases.first() else {
        return;
    };
    let watch = Watch::never();
    let score_all = dice.one_in(2);
    let sampler = Sampler::new(config.clone(), vec![start.clone()], score_all, &watch);
    let mut sampler = sampler
        .expect("it ran alone")
        .with_most_rows(1 + dice.below(4));
    let mut cancelled = vec![false; cases.len()];
    loop {
        if sampler.len() < cases.len() && dice.one_in(2) {
            let (config, start, _) = &cases[sampler.len()];
            let added = sampler.add(Some(config.clone()), start.clone());
            assert_eq!(added, Ok(sampler.len() - 1));
        }
        if dice.one_in(12) {
            let r = dice.below(sampler.len());
            cancelled[r] |= !sampler.is_done(r).unwrap();
            let before = sampler.canvas(r).to_vec();
            sampler.cancel(r).unwrap();
            assert!(sampler.is_done(r).unwrap() && sampler.canvas(r) == before);
            assert!(sampler.cancel(sampler.len()).is_err());
        }
        let mut waiting = sampler.next(&watch).unwrap();
        if waiting.is_empty() && sampler.len() == cases.len() {
            break;
        }
        while !waiting.is_empty() {
            let r = waiting.swap_remove(dice.below(waiting.len()));
            let (config, start, _) = &cases[r];
            let step = sampler.forwards(r);
            let answer: Vec<_> = sampler
                .positions(r)
                .iter()
                .map(|&p| proposal(config, start.stream, step, p))
                .collect();
            let told: Vec<_> = sampler
                .positions(r)
                .iter()
                .map(|&p| beside(start.stream, step, p))
                .collect();
            let stable = sampler.stable(&[r]).unwrap()[0];
            let answered = sampler.feed(&[r], &Answer::Remembered(&answer, &told), &watch);
            answered.expect("a right answer");
            assert!(
                sampler.stable(&[r]).unwrap()[0] >= stable,
                "what is stable stays so"
            );
        }
    }
    for (r, (_, _, alone)) in cases.iter().enumerate() {
        let until = sampler.forwards(r);
        assert!(cancelled[r] || until == alone.forwards(0));
        let whole = alone.trajectory(0).iter();
        let told: Vec<_> = whole.take_while(|edit| edit.step < until).collect();
        let ours: Vec<_> = sampler.trajectory(r).iter().collect();
        assert_eq!(format!("{ours:?}"), format!("{told:?}"), "row {r}");
    }
}

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |value| {
        value.parse().ok().expect("FUZZ_* are whole numbers")
    })
}

#[test]
fn nothing_panics_and_every_run_keeps_its_promises() {
    if let Ok(case) = std::env::var("FUZZ_CASE") {
        return drive(case.parse().expect("FUZZ_CASE is a number"));
    }
    // Where a panic came from is known only to the hook. The search goes on, and ends with the first case of each place.
    let place = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&place);
    std::panic::set_hook(Box::new(move |info| {
        *seen.lock().expect("one thread") = info.to_string();
    }));
    let until = Instant::now() + Duration::from_secs(variable("FUZZ_SECONDS", 2));
    let first: u64 = variable("FUZZ_SEED", 0);
    let mut case = first;
    let mut found = BTreeMap::new();
    while Instant::now() < until {
        if catch_unwind(AssertUnwindSafe(|| drive(case))).is_err() {
            let text = place.lock().expect("one thread").clone();
            let line = text.lines().next().unwrap_or_default().to_string();
            found
                .entry(line)
                .or_insert_with(|| format!("FUZZ_CASE={case}: {text}"));
        }
        case += 1;
    }
    drop(std::panic::take_hook());
    println!("{} cases", case - first);
    let found: Vec<_> = found.into_values().collect();
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}

/// Found by the loop above: lengths that do not fit a signed number made empty windows.
#[test]
fn a_block_longer_than_any_canvas_is_one_block() {
    let dice = &mut Dice::new(0, 0);
    let config = tame(config(dice), dice);
    for length in [usize::MAX, usize::MAX / 2, usize::MAX / 2 + 1, 1 << 62] {
        let config = Config {
            mask: Some(0),
            shows: Noise::Mask,
            drafts: None,
            temperature_end: None,
            block_length: Some(length),
            steps: Steps::Open,
            cut: Cut::Threshold(0.0),
            schedule: Schedule::Even,
            order: Order::LeftToRight,
            revise: Revise::None,
            reach: Reach::Block,
            gap_stop: None,
            ends: vec![],
            stop_at_end: false,
            stops: vec![],
            eos: EosPolicy::Allow,
            min_new_tokens: 0,
            suppressed: vec![],
            ..config.clone()
        };
        let start = Start {
            canvas: vec![1, 0, 0, 0],
            open: None,
            stream: Stream {
                seed: 0,
                request: 0,
            },
            origin: 1,
            wishes: Wishes::default(),
        };
        let sampler = run(&config, &[start], false, None).expect("usable settings");
        assert_eq!(sampler.forwards(0), 1, "{length}");
    }
}
