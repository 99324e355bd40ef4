//! The machine driven by made-up statistics.

use super::*;
use crate::decide::config::Steps;
use crate::decide::schedule::Schedule;
use crate::decide::score::OrderNoise;
use crate::logits::draw::Sampling;

const MASK: u32 = 9;

fn config() -> Config {
    Config {
        mask: MASK,
        block_length: None,
        steps: Steps::Open,
        schedule: Schedule::Even,
        order: Order::Confidence,
        noise: OrderNoise {
            temperature: 0.0,
            annealed: false,
        },
        cut: Cut::Count,
        min_commit: None,
        sampling: Sampling::default(),
        suppressed: vec![],
        ends: vec![],
        stop_at_end: false,
        as_published: false,
    }
}

fn start(canvas: &[u32], seed: u64) -> Start {
    Start {
        canvas: canvas.to_vec(),
        stream: Stream { seed, request: 0 },
        origin: 0,
    }
}

/// Statistics that are a function of the position: token `p % 7`, confidence falling to the right.
fn proposal(p: u32) -> Proposal {
    let top1 = 0.95 - 0.1 * f64::from(p % 8);
    Proposal {
        token: p % 7,
        probability: top1,
        top1,
        top2: (1.0 - top1) / 2.0,
        entropy: 1.0 - top1,
    }
}

/// Runs to the end and returns the forwards of each row.
fn run(sampler: &mut Sampler) -> Vec<u32> {
    loop {
        let rows = sampler.next();
        if rows.is_empty() {
            return (0..sampler.len()).map(|r| sampler.forwards(r)).collect();
        }
        for r in rows {
            let proposals: Vec<_> = sampler.positions(r).iter().map(|&p| proposal(p)).collect();
            sampler.feed(&[r], &Answer::Proposals(&proposals)).unwrap();
        }
    }
}

#[test]
fn one_token_a_forward_by_default_best_first() {
    let mut sampler =
        Sampler::new(config(), vec![start(&[1, MASK, 2, MASK, MASK], 0)], false).unwrap();
    assert_eq!(run(&mut sampler), [3]);
    assert_eq!(sampler.canvas(0), [1, 1, 2, 3, 4]);
    let order: Vec<u32> = sampler.trajectory(0).iter().map(|e| e.position).collect();
    assert_eq!(order, [1, 3, 4]);
}

#[test]
fn rows_finish_on_their_own_and_empty_rows_cost_nothing() {
    let starts = vec![
        start(&[MASK; 5], 0),
        start(&[1, 2], 0),
        start(&[], 0),
        start(&[MASK, 3], 0),
    ];
    let mut sampler = Sampler::new(config(), starts, false).unwrap();
    assert_eq!(run(&mut sampler), [5, 0, 0, 1]);
}

#[test]
fn total_steps_are_shared_by_the_blocks_that_hold_masks() {
    let of = |steps| Config {
        block_length: Some(4),
        steps: Steps::Total(steps),
        ..config()
    };
    let canvas = [1, 1, 1, 1, MASK, MASK, MASK, 1, MASK, MASK];
    let committed = |steps| {
        let mut sampler = Sampler::new(of(steps), vec![start(&canvas, 0)], false).unwrap();
        assert_eq!(run(&mut sampler), [steps as u32]);
        let of_step = |s| sampler.trajectory(0).iter().filter(|e| e.step == s).count();
        (0..steps as u32).map(of_step).collect::<Vec<_>>()
    };
    assert_eq!(committed(2), [3, 2]);
    assert_eq!(committed(3), [2, 1, 2]);
    assert_eq!(committed(4), [2, 1, 1, 1]);
    let starts = vec![start(&canvas[..8], 0), start(&canvas, 0), start(&canvas, 0)];
    let error = Sampler::new(of(1), starts, false)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("got 1 steps for the 2 blocks of row 1")
            && error.contains("steps=2 or more"),
        "{error}"
    );
}

#[test]
fn more_steps_than_masks_cost_no_idle_forwards_except_under_dream() {
    let even = Config {
        steps: Steps::Total(10),
        ..config()
    };
    let mut sampler = Sampler::new(even.clone(), vec![start(&[MASK; 4], 0)], false).unwrap();
    assert_eq!(run(&mut sampler), [4]);
    let dream = Config {
        schedule: Schedule::Dream { eps: 1e-3 },
        ..even
    };
    let mut sampler = Sampler::new(dream, vec![start(&[MASK; 4], 0)], false).unwrap();
    assert_eq!(run(&mut sampler), [10]);
}

#[test]
fn blind_orders_ask_only_for_what_they_commit() {
    for order in [Order::Random, Order::LeftToRight, Order::Ancestral] {
        let config = Config {
            order,
            steps: Steps::Total(3),
            schedule: Schedule::Linear {
                as_published: false,
            },
            ..config()
        };
        let starts = || vec![start(&[MASK; 12], 4)];
        let mut lean = Sampler::new(config.clone(), starts(), false).unwrap();
        let mut full = Sampler::new(config, starts(), true).unwrap();
        lean.next();
        full.next();
        assert!(lean.positions(0).len() < 12 && full.positions(0).len() == 12);
        run(&mut lean);
        run(&mut full);
        assert_eq!(
            format!("{:?}", lean.trajectory(0)),
            format!("{:?}", full.trajectory(0))
        );
    }
}

#[test]
fn the_end_of_the_answer_finishes_the_row() {
    let config = Config {
        ends: vec![4],
        stop_at_end: true,
        order: Order::LeftToRight,
        ..config()
    };
    let mut sampler = Sampler::new(
        config,
        vec![start(&[4, 1, MASK, MASK, MASK, MASK, MASK], 0)],
        false,
    )
    .unwrap();
    assert_eq!(run(&mut sampler), [3]);
    assert_eq!(sampler.canvas(0), [4, 1, 2, 3, 4, 4, 4]);
    assert_eq!(sampler.trajectory(0).last().unwrap().kind.name(), "pad");
}

#[test]
fn a_refused_answer_changes_nothing() {
    let mut sampler = Sampler::new(config(), vec![start(&[MASK; 3], 0)], false).unwrap();
    sampler.next();
    let nan = Proposal {
        top1: f64::NAN,
        ..proposal(0)
    };
    let mask = Proposal {
        token: MASK,
        ..proposal(0)
    };
    for bad in [
        vec![proposal(0)],
        vec![proposal(0), nan, proposal(2)],
        vec![mask, proposal(1), proposal(2)],
    ] {
        assert!(sampler.feed(&[0], &Answer::Proposals(&bad)).is_err());
    }
    assert!(
        sampler.feed(&[1], &Answer::Choice(&[])).is_err()
            && sampler.feed(&[0, 0], &Answer::Choice(&[])).is_err()
    );
    assert_eq!(
        (sampler.canvas(0), sampler.waiting()),
        (&[MASK; 3][..], vec![0])
    );
    assert_eq!(run(&mut sampler), [3]);
}

#[test]
fn first_hitting_times_fall() {
    let config = Config {
        order: Order::Random,
        schedule: Schedule::FirstHitting,
        ..config()
    };
    let mut sampler = Sampler::new(config, vec![start(&[MASK; 20], 3)], false).unwrap();
    assert_eq!(run(&mut sampler), [20]);
    let times: Vec<f64> = sampler.trajectory(0).iter().map(|e| e.time).collect();
    assert!(times.windows(2).all(|w| w[0] > w[1]) && times[0] < 1.0 && times[19] > 0.0);
}
