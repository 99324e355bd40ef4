//! A fuzz loop over `Config::check`, `Sampler::next`, `predict`, `feed`, `add` and `cancel`: wild settings, canvases and answers (NaN, the
//! infinities, ties, nonsense lengths). Nothing may panic, and what holds for every run must hold here: given tokens stay,
//! the mask is never written, a refused answer changes nothing, every run ends in time, and a row does not notice its
//! neighbours.
//!
//! `FUZZ_SECONDS` is how long each test searches (default 2), `FUZZ_SEED` where it begins. A failure names its case, and
//! `FUZZ_CASE` runs only that one.

mod answers;
mod dice;
mod drawn;
mod provoked;
mod starts;
mod tame;

use answers::{answer, fits_logits};
use dice::Dice;
use dllm_fast::canvas::Canvas;
use dllm_fast::canvas::edit::Kind;
use dllm_fast::rng::Stream;
use dllm_fast::rules::Rule;
use dllm_fast::rules::config::{Config, Steps};
use dllm_fast::rules::cut::Cut;
use dllm_fast::rules::eos::EosPolicy;
use dllm_fast::rules::length::Length;
use dllm_fast::rules::noise::Noise;
use dllm_fast::rules::order::Order;
use dllm_fast::rules::reach::Reach;
use dllm_fast::rules::revise::Revise;
use dllm_fast::rules::schedule::Schedule;
use dllm_fast::sampler::{Sampler, Start, Wishes};
use dllm_fast::watch::Watch;
use drawn::config;
use provoked::{predict, provoke};
use starts::{open_at_first, start};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tame::tame;

/// Ids that settings and canvases name.
const VOCABULARY: usize = 9;

/// The bound on the forwards of a row that its rule states.
fn bound(config: &Config, start: &Start) -> usize {
    let canvas = Canvas::new(start.canvas.clone(), config.mask, start.open.as_deref());
    let blocks = config.blocks(start.origin);
    let blocks = blocks.count(canvas.states(), canvas.len());
    let rule = Rule::new(config.clone()).expect("a sampler was made with it");
    rule.most_forwards(canvas.open(), blocks, !start.wishes.after.is_empty())
}

/// Runs rows to the end and checks what must hold on the way; `provoked` throws in answers that are wrong.
fn run(
    config: &Config,
    starts: &[Start],
    score_all: bool,
    by_logits: bool,
    mut provoked: Option<&mut Dice>,
) -> Option<Sampler> {
    let watch = Watch::never();
    let mut sampler = match Sampler::new(config.clone(), starts.to_vec(), score_all, &watch) {
        Ok(sampler) => sampler,
        Err(error) => {
            assert!(error.to_string().contains("; "), "{error}");
            return None;
        }
    };
    loop {
        let waiting = sampler.next(&watch).unwrap();
        assert_eq!(
            sampler.next(&watch).unwrap(),
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
        let waiting = sampler.waiting();
        sampler.pace(&waiting).expect("they wait");
        for r in waiting {
            step(config, &starts[r], &mut sampler, r, score_all, by_logits);
        }
    }
    for (r, start) in starts.iter().enumerate() {
        told_truly(config, start, &sampler, r);
    }
    Some(sampler)
}

/// Answers a row that waits, and checks what must hold of any step.
fn step(
    config: &Config,
    start: &Start,
    sampler: &mut Sampler,
    r: usize,
    score_all: bool,
    by_logits: bool,
) {
    let positions = sampler.positions(r).to_vec();
    assert!(positions.is_sorted() || !score_all, "{positions:?}");
    let (before, first) = (sampler.open(r), open_at_first(config, start));
    for p in positions.iter().map(|&p| p as usize) {
        let looks = config.revise.looks_back() || config.gap_stop.is_some();
        assert!(before[p] || looks && first[p]);
    }
    let open = |open: &[bool]| open.iter().filter(|&&is_open| is_open).count();
    let is_full = open(&before[sampler.window(r)]) == 0;
    let answered = answer(sampler, &[r], |_| (config, start), by_logits);
    answered.unwrap_or_else(|error| panic!("a right answer: {error}, {config:?}"));
    let may_wait = config.schedule.keeps_idle_steps()
        || config.revise.takes_back()
        || sampler.rule(r).redecides()
        || config.cut.looks_twice();
    assert!(
        open(&sampler.open(r)) < open(&before) || may_wait || is_full,
        "every forward commits while there is something to fill"
    );
    assert!(
        sampler.forwards(r) as usize <= bound(config, start),
        "{} forwards, at most {}: {config:?} {start:?}",
        sampler.forwards(r),
        bound(config, start),
    );
}

/// The edits of a finished row are all that happened to it, and each of them may be.
fn told_truly(config: &Config, start: &Start, sampler: &Sampler, r: usize) {
    let first = open_at_first(config, start);
    let (mut open, mut replayed) = (first.clone(), start.canvas.clone());
    for edit in sampler.trajectory(r) {
        let p = edit.position as usize;
        assert!(first[p], "given tokens stay");
        assert_eq!(
            Some(edit.token) == config.mask,
            edit.kind == Kind::Remask,
            "the mask is never written but back"
        );
        match edit.kind {
            Kind::Commit => {
                assert!(open[p], "an open position is filled once");
                assert!(!config.suppressed.contains(&edit.token));
            }
            Kind::Edit => {
                assert!(config.revise.looks_back() && !open[p]);
                assert!(edit.token != replayed[p] && !config.suppressed.contains(&edit.token));
            }
            Kind::Remask => assert!(config.revise.takes_back() && !open[p]),
            Kind::Pad => {
                assert!(config.ends_early() || config.eos == EosPolicy::Suffix);
                assert!(config.ends.first().is_none_or(|&end| edit.token == end));
            }
            Kind::Renoise | Kind::Insert | Kind::Delete => {
                panic!("this is no edit of these rules")
            }
        }
        open[p] = edit.kind == Kind::Remask;
        replayed[p] = edit.token;
    }
    assert!(!open.contains(&true), "nothing is left open");
    assert!(!sampler.open(r).contains(&true));
    let canvas = sampler.canvas(r);
    assert_eq!(replayed, canvas, "the trajectory tells the whole story");
    let written = first.iter().filter(|&&is_open| is_open).count();
    assert_eq!(sampler.stable(&[r]).unwrap(), [written]);
    let own = canvas.iter().zip(&first).filter(|(_, is_open)| **is_open);
    let own: Vec<u32> = own.map(|(&token, _)| token).collect();
    assert_eq!(sampler.written(&[r], &[0]).unwrap(), [own]);
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
    let by_logits = dice.one_in(2) && starts.iter().all(|start| fits_logits(&config, start));
    run(&config, &starts, dice.one_in(2), by_logits, Some(dice));
    company(case);
    // A row alone and in company; only Dream's published mean over the batch makes a difference.
    let together = run(&config, &starts, false, by_logits, None);
    if let Some(together) = together
        && !(config.as_published && config.schedule.keeps_idle_steps())
    {
        for (r, start) in starts.iter().enumerate() {
            let start = std::slice::from_ref(start);
            let alone = run(&config, start, dice.one_in(2), by_logits, None);
            let alone = alone.expect("what a batch accepts, each of its rows accepts");
            let told = |s: &Sampler, r| format!("{:?}", s.trajectory(r));
            assert_eq!(told(&alone, 0), told(&together, r), "row {r} alone");
        }
    }
}

/// Rows of different rules that come, wait for room, are answered together or in parts, ended and cancelled: each writes
/// what it writes alone.
fn company(case: u64) {
    let dice = &mut Dice::new(case, 1);
    let by_logits = dice.one_in(2);
    let mut cases: Vec<(Config, Start, Sampler)> = Vec::new();
    for _ in 0..=dice.below(4) {
        let config = tame(config(dice), dice);
        let start = start(&config, dice);
        if by_logits && !fits_logits(&config, &start) {
            continue;
        }
        let alone = run(
            &config,
            std::slice::from_ref(&start),
            false,
            by_logits,
            None,
        );
        if let Some(alone) = alone {
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
    let mut left = vec![false; cases.len()];
    loop {
        if sampler.len() < cases.len() && dice.one_in(2) {
            let (config, start, _) = &cases[sampler.len()];
            let added = sampler.add(Some(config.clone()), start.clone());
            assert_eq!(added, Ok(sampler.len() - 1));
        }
        if dice.one_in(12) {
            let r = dice.below(sampler.len());
            left[r] |= !sampler.is_done(r).unwrap();
            left[r] |= leave(&mut sampler, r, dice);
        }
        let mut waiting = sampler.next(&watch).unwrap();
        if waiting.is_empty() && sampler.len() == cases.len() {
            break;
        }
        while !waiting.is_empty() {
            let mut rows = vec![];
            for _ in 0..=dice.below(waiting.len()) {
                rows.push(waiting.swap_remove(dice.below(waiting.len())));
            }
            let stable = sampler.stable(&rows).unwrap();
            let of = |r: usize| (&cases[r].0, &cases[r].1);
            answer(&mut sampler, &rows, of, by_logits).expect("a right answer");
            let after = sampler.stable(&rows).unwrap();
            let stays = after
                .iter()
                .zip(&stable)
                .all(|(after, before)| after >= before);
            assert!(stays, "what is stable stays so");
        }
    }
    for (r, (_, _, alone)) in cases.iter().enumerate() {
        let until = sampler.forwards(r);
        assert!(left[r] || until == alone.forwards(0));
        let whole = alone.trajectory(0).iter();
        let told: Vec<_> = whole.take_while(|edit| edit.step < until).collect();
        let mut ours: Vec<_> = sampler.trajectory(r).iter().collect();
        if left[r] {
            // Whoever ends a row fills what follows.
            assert!(
                ours.split_off(told.len().min(ours.len()))
                    .iter()
                    .all(|edit| edit.kind == Kind::Pad)
            );
        }
        assert_eq!(format!("{ours:?}"), format!("{told:?}"), "row {r}");
    }
}

/// A row is cancelled, or ended somewhere; was it ended?
fn leave(sampler: &mut Sampler, r: usize, dice: &mut Dice) -> bool {
    let before = sampler.canvas(r).to_vec();
    if dice.one_in(2) {
        let position = dice.below(before.len() + 1);
        let stable = sampler.stable(&[r]).unwrap();
        if sampler.end(r, position).is_ok() {
            assert!(stable[0] > 0 && sampler.is_done(r).unwrap());
            assert_eq!(sampler.canvas(r)[..=position], before[..=position]);
            assert!(!sampler.open(r)[position..].contains(&true));
            return true;
        }
        assert_eq!(sampler.canvas(r), before);
    }
    sampler.cancel(r).unwrap();
    assert!(sampler.is_done(r).unwrap() && sampler.canvas(r) == before);
    assert!(sampler.cancel(sampler.len()).is_err());
    false
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
            length: Length::Fixed,
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
        let sampler = run(&config, &[start], false, false, None).expect("usable settings");
        assert_eq!(sampler.forwards(0), 1, "{length}");
    }
}
