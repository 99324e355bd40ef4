//! What a row shows at its open positions: noise, and drafts among it.

use super::Answer;
use super::block::Block;
use super::row::Row;
use super::step::Pending;
use crate::canvas::State;
use crate::canvas::edit::{Edit, Kind};
use crate::logits::lead::Lead;
use crate::rng::Draw;
use crate::rules::noise::Drafts;
use crate::rules::order::Proposal;
use crate::rules::posterior::{Route, lead, led_masses, masses, route};

/// What a step leaves on open positions.
#[derive(Default)]
pub struct Shown {
    /// Position and token of what is not noise.
    pub tokens: Vec<(u32, u32)>,
    /// The most probable token of every position that was asked for.
    pub argmax: Vec<u32>,
}

/// The last most probable tokens of a block, and how many steps in a row have had them.
#[derive(Default)]
pub struct Last {
    argmax: Vec<u32>,
    times: usize,
}

impl Last {
    /// Are they these, and were they in each of `steps` steps before?
    fn is(&self, argmax: &[u32], steps: usize) -> bool {
        steps == 0 || self.times >= steps && self.argmax == argmax
    }

    pub(super) fn note(&mut self, argmax: Vec<u32>) {
        if self.argmax == argmax {
            self.times += 1;
        } else {
            *self = Self { argmax, times: 1 };
        }
    }
}

impl Row {
    /// What the posteriors of the waiting step are led by, where they are.
    pub(super) fn lead(&self) -> Option<Lead> {
        let (rule, block) = (&self.rule, self.block.as_ref()?);
        let lead = || {
            lead(
                rule.shows,
                rule.schedule,
                block.step(),
                rule.mask,
                rule.lead,
            )
        };
        rule.is_led().then(lead)
    }

    /// Is what is proposed in the waiting step noise among other tokens, which may be any of the vocabulary?
    pub(super) fn proposes_noise(&self) -> bool {
        let is_last = |block: &Block| block.index + 1 >= block.steps;
        self.rule.is_led() && !self.block.as_ref().is_some_and(is_last)
    }

    /// What stands on the canvas where nothing is written yet, before the first forward.
    pub(super) fn show_first(&mut self) {
        if self.rule.shows.is_uniform() {
            self.show_noise(0..self.canvas.len());
        }
    }

    /// Fresh noise at the open positions of the block for the next forward, and what else is shown there.
    pub(super) fn show(&mut self, shown: Option<&Shown>) {
        if self.rule.shows.is_uniform() {
            self.show_noise(self.window());
        }
        if let Some(shown) = shown {
            for &(position, token) in &shown.tokens {
                self.canvas.show(position, token);
            }
        }
    }

    fn noise(&self, position: u32, step: u32) -> u32 {
        let rule = &self.rule;
        rule.shows.token(self.stream, position, step, rule.mask)
    }

    fn show_noise(&mut self, window: std::ops::Range<usize>) {
        let open: Vec<u32> = self.canvas.positions(window, State::Open).collect();
        for position in open {
            let token = self.noise(position, self.forwards);
            self.canvas.show(position, token);
        }
    }

    /// The step of a reverse process over noise: every open position goes on to what it shows next, and the last step writes
    /// the drawn tokens.
    pub(super) fn go_on(&self, pending: &Pending, answer: &Answer<'_>) -> (Vec<Edit>, Shown) {
        let proposals = answer.proposals().expect("scores were refused");
        let (rule, step) = (
            &self.rule,
            self.block.as_ref().expect("a step is of a block").step(),
        );
        let places = pending.positions.iter().zip(proposals);
        if step.index + 1 >= step.steps {
            let edit = |(&p, made): (&u32, &Proposal)| {
                self.edit(p, made.token, made.probability, Kind::Commit)
            };
            return (places.map(edit).collect(), Shown::default());
        }
        let is_greedy = self.temperature() == 0.0;
        let next = |(&p, made): (&u32, &Proposal)| {
            let token = self.canvas.tokens()[p as usize];
            let current = if is_greedy {
                f64::from(u8::from(token == made.token))
            } else {
                made.current
            };
            let masses = if rule.is_led() {
                led_masses(
                    rule.shows,
                    rule.schedule,
                    step,
                    rule.mask,
                    token,
                    made.current,
                )
            } else {
                masses(rule.shows, rule.schedule, step, rule.mask, token, current)
            };
            let u = self.stream.uniform(p, self.forwards, Draw::Commit);
            let next = match route(masses, u) {
                Route::Clean => made.token,
                Route::Stay => token,
                Route::Mask => rule.mask.expect("hybrid noise has one"),
                Route::Uniform => self.noise(p, self.forwards + 1),
            };
            (p, next)
        };
        let tokens = places.map(next).collect();
        (
            vec![],
            Shown {
                tokens,
                argmax: vec![],
            },
        )
    }

    /// The step of a rule with drafts: `picks` are shown, or the block is finished and its most probable tokens are written.
    pub(super) fn draft(
        &self,
        drafts: Drafts,
        pending: &Pending,
        picks: &[usize],
        answer: &Answer<'_>,
    ) -> (Vec<Edit>, Shown) {
        let proposals = answer.proposals().expect("scores were refused");
        let argmax = |i: usize| proposals[i].argmax.expect("checked before");
        let argmax: Vec<u32> = (0..proposals.len()).map(argmax).collect();
        let mean = proposals.iter().map(|p| p.entropy).sum::<f64>() / proposals.len() as f64;
        let block = self.block.as_ref().expect("a step is of a block");
        let is_last = block.index + 1 >= block.steps;
        let is_sure = mean < drafts.entropy && block.last.is(&argmax, drafts.stable);
        if is_last || is_sure {
            let edit = |(i, &token): (usize, &u32)| {
                let p = pending.positions[i];
                self.edit(p, token, proposals[i].top1, Kind::Commit)
            };
            return (
                argmax.iter().enumerate().map(edit).collect(),
                Shown::default(),
            );
        }
        let token = |&i: &usize| (pending.positions[i], proposals[i].token);
        let tokens = picks.iter().map(token).collect();
        (vec![], Shown { tokens, argmax })
    }
}
