//! The machine driven by made-up statistics.

use super::*;
use crate::logits::draw::Sampling;
use crate::logits::row::Logits;
use crate::rng::Stream;
use crate::rules::calibration::Calibration;
use crate::rules::config::Steps;
use crate::rules::cut::Cut;
use crate::rules::eos::EosPolicy;
use crate::rules::length::Length;
use crate::rules::noise::Noise;
use crate::rules::order::{Order, OrderNoise, Proposal};
use crate::rules::revise::Revise;
use crate::rules::schedule::Schedule;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MASK: u32 = 9;

fn config() -> Config {
    Config {
        mask: Some(MASK),
        shows: Noise::Mask,
        drafts: None,
        temperature_end: None,
        block_length: None,
        steps: Steps::Open,
        schedule: Schedule::Even,
        order: Order::Confidence,
        noise: OrderNoise {
            temperature: 0.0,
            annealed: false,
        },
        prior_sigma: 10.0,
        lead: 0.0,
        calibration: Calibration::default(),
        cut: Cut::Count,
        credit: None,
        gap_stop: None,
        reach: crate::rules::reach::Reach::Block,
        position_penalty: 0.0,
        spacing: 1,
        min_commit: None,
        revise: Revise::None,
        sampling: Sampling::default(),
        suppressed: vec![],
        ends: vec![],
        stop_at_end: false,
        stops: vec![],
        eos: EosPolicy::Allow,
        length: Length::Fixed,
        min_new_tokens: 0,
        as_published: false,
    }
}

fn start(canvas: &[u32], seed: u64) -> Start {
    Start {
        canvas: canvas.to_vec(),
        open: None,
        stream: Stream { seed, request: 0 },
        origin: 0,
        wishes: Wishes::default(),
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
        current: f64::NAN,
        argmax: None,
    }
}

/// Runs to the end and returns the forwards of each row.
fn run(sampler: &mut Sampler) -> Vec<u32> {
    loop {
        let rows = sampler.next(&Watch::never()).unwrap();
        if rows.is_empty() {
            return (0..sampler.len()).map(|r| sampler.forwards(r)).collect();
        }
        for r in rows {
            let proposals: Vec<_> = sampler.positions(r).iter().map(|&p| proposal(p)).collect();
            sampler
                .feed(&[r], &Answer::Proposals(&proposals), &Watch::never())
                .unwrap();
        }
    }
}

#[test]
fn one_token_a_forward_by_default_best_first() {
    let mut sampler = Sampler::new(
        config(),
        vec![start(&[1, MASK, 2, MASK, MASK], 0)],
        false,
        &Watch::never(),
    )
    .unwrap();
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
    let mut sampler = Sampler::new(config(), starts, false, &Watch::never()).unwrap();
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
        let mut sampler =
            Sampler::new(of(steps), vec![start(&canvas, 0)], false, &Watch::never()).unwrap();
        assert_eq!(run(&mut sampler), [steps as u32]);
        let of_step = |s| sampler.trajectory(0).iter().filter(|e| e.step == s).count();
        (0..steps as u32).map(of_step).collect::<Vec<_>>()
    };
    assert_eq!(committed(2), [3, 2]);
    assert_eq!(committed(3), [2, 1, 2]);
    assert_eq!(committed(4), [2, 1, 1, 1]);
    let starts = vec![start(&canvas[..8], 0), start(&canvas, 0), start(&canvas, 0)];
    let error = Sampler::new(of(1), starts, false, &Watch::never())
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
    let mut sampler = Sampler::new(
        even.clone(),
        vec![start(&[MASK; 4], 0)],
        false,
        &Watch::never(),
    )
    .unwrap();
    assert_eq!(run(&mut sampler), [4]);
    let dream = Config {
        schedule: Schedule::Dream { eps: 1e-3 },
        ..even
    };
    let mut sampler =
        Sampler::new(dream, vec![start(&[MASK; 4], 0)], false, &Watch::never()).unwrap();
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
        let mut lean = Sampler::new(config.clone(), starts(), false, &Watch::never()).unwrap();
        let mut full = Sampler::new(config, starts(), true, &Watch::never()).unwrap();
        lean.next(&Watch::never()).unwrap();
        full.next(&Watch::never()).unwrap();
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
        stops: vec![],
        eos: EosPolicy::Allow,
        length: Length::Fixed,
        min_new_tokens: 0,
        order: Order::LeftToRight,
        ..config()
    };
    let mut sampler = Sampler::new(
        config,
        vec![start(&[4, 1, MASK, MASK, MASK, MASK, MASK], 0)],
        false,
        &Watch::never(),
    )
    .unwrap();
    assert_eq!(run(&mut sampler), [3]);
    assert_eq!(sampler.canvas(0), [4, 1, 2, 3, 4, 4, 4]);
    assert_eq!(sampler.trajectory(0).last().unwrap().kind.name(), "pad");
}

#[test]
fn a_refused_answer_changes_nothing() {
    let mut sampler =
        Sampler::new(config(), vec![start(&[MASK; 3], 0)], false, &Watch::never()).unwrap();
    sampler.next(&Watch::never()).unwrap();
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
        assert!(
            sampler
                .feed(&[0], &Answer::Proposals(&bad), &Watch::never())
                .is_err()
        );
    }
    assert!(
        sampler
            .feed(&[1], &Answer::Choice(&[]), &Watch::never())
            .is_err()
            && sampler
                .feed(&[0, 0], &Answer::Choice(&[]), &Watch::never())
                .is_err()
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
    let mut sampler =
        Sampler::new(config, vec![start(&[MASK; 20], 3)], false, &Watch::never()).unwrap();
    assert_eq!(run(&mut sampler), [20]);
    let times: Vec<f64> = sampler.trajectory(0).iter().map(|e| e.time).collect();
    assert!(times.windows(2).all(|w| w[0] > w[1]) && times[0] < 1.0 && times[19] > 0.0);
}

/// A watch that stops at the question number `after`, and how often it was asked.
fn stopping<T>(after: usize, work: impl FnOnce(&Watch<'_>) -> T) -> (T, usize) {
    let asked = AtomicUsize::new(0);
    let go_on = || asked.fetch_add(1, Ordering::Relaxed) < after;
    let done = work(&Watch::new(Duration::ZERO, &go_on));
    (done, asked.into_inner())
}

#[test]
fn an_interrupted_run_goes_on_as_if_nothing_had_been() {
    let starts = || (0..5).map(|_| start(&[MASK; 6], 0)).collect::<Vec<_>>();
    let mut whole = Sampler::new(config(), starts(), false, &Watch::never()).unwrap();
    let forwards = run(&mut whole);
    for after in 0..5 {
        let made = |watch: &Watch<'_>| Sampler::new(config(), starts(), false, watch).err();
        assert_eq!(stopping(after, made), (Some(Error::Interrupted), after + 1));
    }
    let mut sampler = Sampler::new(config(), starts(), false, &Watch::never()).unwrap();
    loop {
        for after in 0..5 {
            let (stopped, asked) = stopping(after, |watch| sampler.next(watch));
            if asked > 0 {
                assert_eq!((stopped, asked), (Err(Error::Interrupted), after + 1));
                assert!(sampler.waiting().is_empty(), "no request until it is whole");
                assert!(
                    sampler
                        .feed(&[0], &Answer::Choice(&[]), &Watch::never())
                        .is_err()
                );
            }
        }
        let rows = sampler.next(&Watch::never()).unwrap();
        if rows.is_empty() {
            break;
        }
        let positions = rows.iter().flat_map(|&r| sampler.positions(r));
        let proposals: Vec<_> = positions.map(|&p| proposal(p)).collect();
        let answer = Answer::Proposals(&proposals);
        let canvases = |s: &Sampler| (0..5).map(|r| s.canvas(r).to_vec()).collect::<Vec<_>>();
        let before = canvases(&sampler);
        for after in 0..6 {
            let (stopped, _) = stopping(after, |watch| sampler.feed(&rows, &answer, watch));
            assert_eq!(stopped, Err(Error::Interrupted));
            assert_eq!(
                (canvases(&sampler), sampler.waiting()),
                (before.clone(), rows.clone())
            );
        }
        sampler.feed(&rows, &answer, &Watch::never()).unwrap();
    }
    for (r, &expected) in forwards.iter().enumerate() {
        assert_eq!(
            (sampler.canvas(r), sampler.forwards(r)),
            (whole.canvas(r), expected)
        );
        assert_eq!(
            format!("{:?}", sampler.trajectory(r)),
            format!("{:?}", whole.trajectory(r))
        );
    }
}

#[test]
fn a_question_is_for_the_step_that_asked_it() {
    let mut config = config();
    config.steps = Steps::Total(2);
    let mut sampler =
        Sampler::new(config, vec![start(&[MASK; 4], 0)], false, &Watch::never()).unwrap();
    sampler.next(&Watch::never()).unwrap();
    let question = sampler.question(&[0], 4, 10, None).unwrap();
    let logits = [0.0; 40];
    let answer = || question.answer(Logits::F32(&logits), &Watch::never());
    assert_eq!(answer().unwrap().len(), 4);
    assert!(sampler.still_asks(&question).is_ok());
    let proposals = [0, 1, 2, 3].map(proposal);
    sampler
        .feed(&[0], &Answer::Proposals(&proposals), &Watch::never())
        .unwrap();
    assert!(sampler.still_asks(&question).is_err(), "answered");
    sampler.next(&Watch::never()).unwrap();
    let late = sampler.still_asks(&question).unwrap_err().to_string();
    assert!(late.contains("got an answer from elsewhere"), "{late}");
    assert_eq!(answer().unwrap().len(), 4, "it stands on its own");
    let question = sampler.question(&[0], 2, 10, None).unwrap();
    sampler.cancel(0).unwrap();
    let late = sampler.still_asks(&question).unwrap_err().to_string();
    assert!(
        late.contains("got row 0, which was cancelled while"),
        "{late}"
    );
}

#[test]
fn rows_come_with_rules_of_their_own_and_leave() {
    let watch = Watch::never();
    let mut sampler = Sampler::new(config(), vec![start(&[MASK; 3], 0)], false, &watch).unwrap();
    let wide = Config {
        cut: Cut::Threshold(0.0),
        ..config()
    };
    assert_eq!(sampler.next(&watch), Ok(vec![0]));
    assert_eq!(sampler.add(Some(wide.clone()), start(&[MASK; 4], 0)), Ok(1));
    assert_eq!(sampler.add(Some(wide), start(&[MASK; 4], 0)), Ok(2));
    assert!(
        std::ptr::eq(sampler.rule(1), sampler.rule(2)),
        "equal rules are one"
    );
    assert_eq!(sampler.next(&watch), Ok(vec![0]), "the request stays");
    let answer = [0, 1, 2].map(proposal);
    sampler
        .feed(&[0], &Answer::Proposals(&answer), &watch)
        .unwrap();
    assert_eq!(sampler.next(&watch), Ok(vec![0, 1, 2]));
    sampler.cancel(1).unwrap();
    assert_eq!(sampler.waiting(), [0, 2]);
    assert!(sampler.is_done(1).unwrap() && !sampler.is_done(0).unwrap());
    assert_eq!(run(&mut sampler), [3, 0, 1]);
    assert_eq!(sampler.canvas(1), [MASK; 4]);
    assert_eq!(sampler.stable(&[0, 1, 2]), Ok(vec![3, 0, 4]));
}

#[test]
fn a_written_token_gives_way_until_its_block_stays_as_it_is() {
    let watch = Watch::never();
    let editing = Config {
        cut: Cut::Threshold(0.0),
        block_length: Some(2),
        revise: Revise::Edit {
            threshold: 0.5,
            most_post_steps: 9,
        },
        ..config()
    };
    let mut sampler = Sampler::new(editing, vec![start(&[MASK; 4], 0)], false, &watch).unwrap();
    let mut stable = Vec::new();
    for tokens in [[5, 0], [5, 1], [5, 1], [6, 6], [6, 6]] {
        assert_eq!(sampler.next(&watch), Ok(vec![0]));
        assert_eq!(
            sampler.positions(0).len(),
            2,
            "written ones are asked for, too"
        );
        let choice = tokens.map(|token| (token, 0.6));
        sampler
            .feed(&[0], &Answer::Choice(&choice), &watch)
            .unwrap();
        stable.push(sampler.stable(&[0]).unwrap()[0]);
    }
    assert_eq!(sampler.next(&watch), Ok(vec![]));
    assert_eq!(sampler.canvas(0), [5, 1, 6, 6]);
    let told: Vec<_> = sampler
        .trajectory(0)
        .iter()
        .map(|e| (e.step, e.position, e.kind.name()))
        .collect();
    let filled = |step, p| [(step, p, "commit"), (step, p + 1, "commit")];
    let [a, b] = filled(0, 0);
    let [c, d] = filled(3, 2);
    assert_eq!(told, [a, b, (1, 1, "edit"), c, d]);
    assert_eq!(stable, [0, 0, 2, 2, 4]);
}
