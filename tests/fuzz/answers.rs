//! What a caller answers: a function of the row's seed, its step and the position, whoever else is there.

use super::VOCABULARY;
use super::dice::Dice;
use dllm_fast::error::Result;
use dllm_fast::logits::head::Head;
use dllm_fast::logits::row::Logits;
use dllm_fast::rng::Stream;
use dllm_fast::rules::config::Config;
use dllm_fast::rules::eos::EosPolicy;
use dllm_fast::rules::order::Proposal;
use dllm_fast::sampler::{Answer, Beside, Sampler, Start};
use dllm_fast::watch::Watch;

/// Ids that answers are of; those that settings and canvases name are fewer, so that some id is free.
const COLUMNS: usize = VOCABULARY + 4;

/// Statistics of a position.
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
    let mut free = || {
        let mut tokens = (0..).map(|_| dice.below(COLUMNS) as u32);
        let token = tokens.find(|t| !excluded.contains(t));
        token.expect("some id is free")
    };
    let (token, argmax) = (free(), Some(free()));
    let number = |dice: &mut Dice| {
        let x = dice.statistic();
        if x.is_finite() { x } else { 0.5 }
    };
    Proposal {
        token,
        probability: number(&mut dice),
        top1: number(&mut dice),
        top2: number(&mut dice),
        entropy: number(&mut dice),
        current: number(&mut dice),
        argmax,
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
        leader: Some((dice.below(COLUMNS) as u32, dice.below(5) as f64 / 4.0)),
    }
}

/// Logits of a position, with ties, sometimes with infinities.
fn line(stream: Stream, step: u32, position: u32) -> Vec<f32> {
    let request = stream
        .request
        .wrapping_add(1000 * step)
        .wrapping_add(1_000_003 * position);
    let mut dice = Dice::new(stream.seed ^ 1, request);
    let value = |_| match dice.below(40) {
        0 => f32::INFINITY,
        _ => dice.below(17) as f32 * 0.5 - 4.0,
    };
    (0..COLUMNS).map(value).collect()
}

/// Can these settings be answered by logits of so few ids?
pub fn fits_logits(config: &Config, start: &Start) -> bool {
    let mut ids = [config.excluded(), config.enders(), start.canvas.clone()].concat();
    ids.extend(config.shows.vocabulary().map(|v| v.saturating_sub(1)));
    ids.iter().all(|&id| (id as usize) < COLUMNS) && config.calibration.fits(COLUMNS).is_ok()
}

/// Answers rows together, in this order: by statistics, or by logits. `of` says what a row is.
pub fn answer<'a>(
    sampler: &mut Sampler,
    rows: &[usize],
    of: impl Fn(usize) -> (&'a Config, &'a Start),
    by_logits: bool,
) -> Result<()> {
    let watch = Watch::never();
    let mut sites = vec![];
    for &r in rows {
        let ((config, start), step) = (of(r), sampler.forwards(r));
        let positions = sampler.positions(r).iter();
        sites.extend(positions.map(|&p| (config, start.stream, step, p)));
    }
    if by_logits {
        let lines = sites.iter().flat_map(|&(_, s, t, p)| line(s, t, p));
        let lines: Vec<f32> = lines.collect();
        let question = sampler.question(rows, sites.len(), COLUMNS, None)?;
        let (predictions, told) = question.answer_whole(Logits::F32(&lines), &watch)?;
        sampler.still_asks(&question)?;
        let proposals: Vec<Proposal> = predictions.iter().map(Proposal::from).collect();
        return if told.is_empty() {
            sampler.feed(rows, &Answer::Proposals(&proposals), &watch)
        } else {
            sampler.feed(rows, &Answer::Remembered(&proposals, &told), &watch)
        };
    }
    let proposals = sites.iter().map(|&(c, s, t, p)| proposal(c, s, t, p));
    let proposals: Vec<Proposal> = proposals.collect();
    let told: Vec<Beside> = sites.iter().map(|&(_, s, t, p)| beside(s, t, p)).collect();
    sampler.feed(rows, &Answer::Remembered(&proposals, &told), &watch)
}
