//! Answers that nobody should give, and questions about logits that nobody should make.

use super::VOCABULARY;
use super::dice::Dice;
use dllm_fast::logits::row::Logits;
use dllm_fast::rules::order::Proposal;
use dllm_fast::sampler::{Answer, Sampler};
use dllm_fast::watch::Watch;

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

/// Answers that must be refused, or may be taken: then the run goes on from there.
pub fn provoke(sampler: &mut Sampler, dice: &mut Dice) {
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
            argmax: dice.maybe(|dice| dice.below(VOCABULARY) as u32),
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
pub fn predict(sampler: &Sampler, dice: &mut Dice) {
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
