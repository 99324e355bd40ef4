//! The length of a row, where it changes while its answer is written.

use super::Answer;
use super::row::Row;
use super::step::Pending;
use crate::canvas::edit::{Edit, Kind};
use crate::canvas::{Canvas, State};
use crate::error::{Error, Result};
use crate::rules::Rule;
use crate::rules::length::{ADJUSTED_FORWARDS, Length, adjustment, certainty, removable};
use std::ops::Range;

/// What becomes of the length behind a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Where masks are added, or up to where some are taken away.
    position: usize,
    /// How many are added; below 0, taken away.
    by: isize,
}

/// Refuses a row whose answer cannot change its length: its positions must lie side by side, and be no more than the most.
pub(super) fn check(rule: &Rule, canvas: &Canvas, row: usize) -> Result<()> {
    let Some(most) = rule.length.most() else {
        return Ok(());
    };
    let answer = canvas.answer();
    let name = rule.length.name();
    if rule.enders().is_empty() {
        return Err(Error::Mismatch(format!(
            "length '{name}' needs an end token, whose probability says how long an answer becomes, got none for row {row}; pass \
             eos_token_id, or set length to 'fixed'"
        )));
    }
    if canvas.open() != answer.len() {
        return Err(Error::Mismatch(format!(
            "length '{name}' is for one run of masks, which an answer fills, got masks of row {row} with given tokens between them; \
             use length='fixed', or gaps= of infill for gaps of unknown length"
        )));
    }
    if answer.len() > most {
        return Err(Error::Mismatch(format!(
            "length '{name}' begins with at most as many masks as max_new_tokens, got {} masks in row {row} and {most}; \
             begin with fewer, or raise max_new_tokens",
            answer.len()
        )));
    }
    Ok(())
}

impl Row {
    /// The positions that say how long the answer becomes, which are all scored.
    pub(super) fn measured(&self) -> Vec<u32> {
        let answer = self.canvas.answer();
        if self.rule.length.looks_at_written() {
            return (answer.start as u32..answer.end as u32).collect();
        }
        self.canvas.positions(answer, State::Open).collect()
    }

    /// How the length changes behind a step that writes at the places `picks` of its positions; empties those where masks are
    /// only added.
    pub(super) fn change_of_length(
        &self,
        pending: &Pending,
        answer: &Answer<'_>,
        picks: &mut Vec<usize>,
    ) -> Option<Change> {
        let length = self.rule.length;
        let most = length.most()?;
        let proposals = answer.proposals()?;
        let is_end = |i: usize| proposals[i].argmax.is_some_and(|id| self.rule.is_end(id));
        let own = self.canvas.answer();
        let room = most - own.len();
        let add = |position, wanted: usize| {
            let by = wanted.min(room) as isize;
            (by > 0).then_some(Change { position, by })
        };
        match length {
            Length::Fixed => None,
            Length::Daedal {
                factor,
                checked,
                enough,
                certain,
                unsure,
                ..
            } => {
                let ends = (0..proposals.len()).rev().filter(|&i| is_end(i));
                let sure = certainty(ends.map(|i| proposals[i].top1), checked);
                let is_fresh = self.canvas.open() == own.len();
                if is_fresh && sure < enough && room > 0 {
                    picks.clear();
                    return add(own.end, factor);
                }
                if sure >= certain {
                    return None;
                }
                let left = self.left_behind(pending, picks);
                let confidence = |i: usize| self.rule.order.confidence(&proposals[i]);
                let weakest = left
                    .filter(|&i| confidence(i) < unsure)
                    .min_by(|&a, &b| confidence(a).total_cmp(&confidence(b)))?;
                add(pending.positions[weakest] as usize + 1, factor - 1)
            }
            Length::Density {
                factor, low, high, ..
            } => {
                if self.forwards >= ADJUSTED_FORWARDS {
                    return None;
                }
                let masks = proposals.len();
                let ends = (0..masks).filter(|&i| is_end(i)).count();
                let by = adjustment(ends, masks, factor, low, high);
                if by >= 0 {
                    return add(own.end, by.unsigned_abs());
                }
                // What was written stays, and what would become another token.
                let written = written(pending, picks);
                let goes = |&(i, p): &(usize, usize)| {
                    pending.positions[i] as usize == p && is_end(i) && !written[i]
                };
                let places = (0..masks).rev().zip((own.start..own.end).rev());
                let last = places.take_while(goes).count();
                let count = removable(ends, masks, low, last.min(by.unsigned_abs()));
                (count > 0).then_some(Change {
                    position: own.end,
                    by: -(count as isize),
                })
            }
        }
    }

    /// The places of those open positions of the block that a step does not write, rising.
    fn left_behind(&self, pending: &Pending, picks: &[usize]) -> impl Iterator<Item = usize> {
        let written = written(pending, picks);
        let window = self.window();
        let states = self.canvas.states();
        let is_left = |i: usize| {
            let p = pending.positions[i] as usize;
            !written[i] && window.contains(&p) && states[p] == State::Open
        };
        let left: Vec<usize> = (0..pending.positions.len())
            .filter(|&i| is_left(i))
            .collect();
        left.into_iter()
    }

    /// Changes the length behind a step, unless that has ended the row.
    pub(super) fn change_length(&mut self, change: Change) {
        if self.ending().is_some() {
            return;
        }
        let mask = self.rule.mask.expect("checked: such a rule has a mask");
        let count = change.by.unsigned_abs();
        let (kind, places): (Kind, Box<dyn Iterator<Item = usize>>) = if change.by > 0 {
            let added: Range<usize> = change.position..change.position + count;
            (Kind::Insert, Box::new(added))
        } else {
            let taken: Range<usize> = change.position - count..change.position;
            (Kind::Delete, Box::new(taken.rev()))
        };
        let plan: Vec<Edit> = places
            .map(|p| self.edit(p as u32, mask, f64::NAN, kind))
            .collect();
        self.carry_out(&plan);
        self.measure_block();
    }
}

/// Which of the positions a step writes.
fn written(pending: &Pending, picks: &[usize]) -> Vec<bool> {
    let mut written = vec![false; pending.positions.len()];
    for &pick in picks {
        written[pick] = true;
    }
    written
}
