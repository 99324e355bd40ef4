//! What a row remembers from one step to the next: nothing, unless its rule asks.

use super::looks::Proposed;
use super::trail::{Rest, Trail};
use crate::canvas::edit::{Edit, Kind};
use crate::logits::head::Head;
use crate::rules::credit::Credit;
use crate::rules::memory::Keeps;
use std::collections::HashSet;

/// The stores of a row, by position of its canvas. They come with its first block and go when it is done.
#[derive(Debug)]
pub struct Memory {
    confidence: Vec<f64>,
    trails: Vec<Trail>,
    credits: Vec<Vec<(u32, f64)>>,
    /// Positions that were taken back once already, each with its neighbours.
    redone: HashSet<u32>,
}

/// What the memory is told once a step is carried out, by store. A plan only names it, so a refused answer changes nothing.
#[derive(Debug, Default)]
pub struct Notes {
    /// Of open positions, the head of this forward, and whether it is close to the last one, where somebody asked.
    pub heads: Vec<(u32, Head, Option<bool>)>,
    /// When they have come to rest.
    pub rest: Option<Rest>,
    /// Of open positions, which id stood first, and its probability.
    pub leaders: Vec<(u32, (u32, f64))>,
    /// By which credit is earned.
    pub credit: Option<Credit>,
    /// What was proposed at the positions of the step, and is to be looked at before anything is committed. The block keeps it.
    pub proposed: Option<Vec<Proposed>>,
}

impl Memory {
    /// The stores of a rule for a canvas of `len` positions; none where it keeps nothing.
    pub fn new(keeps: Keeps, len: usize) -> Option<Box<Self>> {
        fn of<T: Clone>(is_kept: bool, len: usize, value: T) -> Vec<T> {
            vec![value; if is_kept { len } else { 0 }]
        }
        keeps.anything().then(|| {
            Box::new(Self {
                confidence: of(keeps.confidence, len, f64::NAN),
                trails: of(keeps.heads, len, Trail::default()),
                credits: of(keeps.credits, len, vec![]),
                redone: HashSet::new(),
            })
        })
    }

    /// The probability that the token at a position had when it was written; NaN where none is.
    pub fn confidence(&self, position: u32) -> f64 {
        self.confidence[position as usize]
    }

    /// What is known of the distribution at a position; nothing in the first forward of a block.
    pub fn trail(&self, position: u32) -> &Trail {
        &self.trails[position as usize]
    }

    /// What ids have earned at a position, by rising id.
    pub fn credits(&self, position: u32) -> &[(u32, f64)] {
        &self.credits[position as usize]
    }

    /// What a position had while it was open. A block ends when all of it is written, so nothing outlives it.
    fn forget_open(&mut self, p: usize) {
        if let Some(trail) = self.trails.get_mut(p) {
            *trail = Trail::default();
        }
        if let Some(credits) = self.credits.get_mut(p) {
            *credits = vec![];
        }
    }

    /// Mean of those of all that is written; none where nothing is.
    pub fn mean_confidence(&self) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0u32);
        for confidence in self.confidence.iter().filter(|c| !c.is_nan()) {
            (sum, count) = (sum + confidence, count + 1);
        }
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Among written positions, the least sure one that was not taken back for that before; ties go to the lower one.
    pub fn take_least_sure(&mut self, positions: impl Iterator<Item = u32>) -> Option<u32> {
        let fresh = positions.filter(|p| !self.redone.contains(p));
        let least = fresh.min_by(|&a, &b| self.confidence(a).total_cmp(&self.confidence(b)))?;
        self.redone.insert(least);
        Some(least)
    }

    /// What the plan of a step noted; its edits come next.
    pub fn learn(&mut self, notes: Notes) {
        for (position, head, is_close) in notes.heads {
            let rest = notes.rest.expect("heads are noted where they come to rest");
            self.trails[position as usize].push(head, is_close, rest);
        }
        for (position, (leader, probability)) in notes.leaders {
            let credits = &mut self.credits[position as usize];
            let rule = notes.credit.expect("leaders are noted where they earn");
            rule.earn(credits, leader, probability);
        }
    }

    /// Edits were carried out.
    pub fn note(&mut self, edits: &[Edit]) {
        if self.confidence.is_empty() && self.trails.is_empty() && self.credits.is_empty() {
            return;
        }
        for edit in edits {
            let p = edit.position as usize;
            self.forget_open(p);
            if let Some(confidence) = self.confidence.get_mut(p) {
                *confidence = match edit.kind {
                    Kind::Remask => f64::NAN,
                    _ => edit.probability,
                };
            }
        }
    }
}
