//! Canvases, and what rows are told of the order of their positions.

use super::VOCABULARY;
use super::dice::Dice;
use dllm_fast::canvas::Canvas;
use dllm_fast::rng::Stream;
use dllm_fast::rules::config::Config;
use dllm_fast::rules::order::Order;
use dllm_fast::rules::reach::Reach;
use dllm_fast::sampler::{Start, Wishes};

/// Which positions of a row are open when it begins.
pub fn open_at_first(config: &Config, start: &Start) -> Vec<bool> {
    Canvas::new(start.canvas.clone(), config.mask, start.open.as_deref()).which_open()
}

pub fn start(config: &Config, dice: &mut Dice) -> Start {
    let length = dice.below(14);
    let canvas = (0..length).map(|_| match config.mask {
        Some(mask) if dice.one_in(2) => mask,
        _ => dice.below(VOCABULARY) as u32,
    });
    let canvas: Vec<u32> = canvas.collect();
    let mut open = None;
    if config.mask.is_none() != dice.one_in(60) {
        open = Some((0..length).map(|_| dice.one_in(2)).collect());
    }
    let mut start = Start {
        stream: Stream {
            seed: dice.bits(),
            request: dice.below(3) as u32,
        },
        origin: dice.below(length + 3),
        wishes: Wishes::default(),
        canvas,
        open,
    };
    start.wishes = wishes(config, &open_at_first(config, &start), dice);
    if config.mask.is_none() && dice.one_in(60) {
        start.open.get_or_insert_default().push(true);
    }
    start
}

/// Ranks where the rule wants them, and positions that wait for others: nearly always for open ones on their left.
fn wishes(config: &Config, is_open: &[bool], dice: &mut Dice) -> Wishes {
    let mut wishes = Wishes::default();
    if (config.order == Order::Ranks) != dice.one_in(40) {
        let rank = |_| {
            if dice.one_in(200) {
                f64::NAN
            } else {
                dice.below(5) as f64 - 2.0
            }
        };
        wishes.ranks = Some((0..is_open.len()).map(rank).collect());
    }
    let open: Vec<u32> = (0..is_open.len() as u32)
        .filter(|&p| is_open[p as usize])
        .collect();
    let waits = config.order != Order::Ancestral
        && !config.cut.looks_twice()
        && config.reach == Reach::Block
        && !config.revise.takes_back();
    if open.len() > 1 && dice.one_in(if waits { 3 } else { 60 }) {
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
