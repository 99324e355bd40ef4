//! What a row remembers from one step to the next: nothing, unless its rule asks.

use crate::canvas::edit::{Edit, Kind};
use crate::rules::memory::Keeps;

/// The stores of a row, by position of its canvas. They come with its first block and go when it is done.
#[derive(Debug)]
pub struct Memory {
    confidence: Vec<f64>,
}

/// What the memory is told once a step is carried out, by store. A plan only names it, so a refused answer changes nothing.
#[derive(Debug, Default)]
pub struct Notes {}

impl Memory {
    /// The stores of a rule for a canvas of `len` positions; none where it keeps nothing.
    pub fn new(keeps: Keeps, len: usize) -> Option<Box<Self>> {
        let of = |is_kept: bool| vec![f64::NAN; if is_kept { len } else { 0 }];
        keeps.anything().then(|| {
            Box::new(Self {
                confidence: of(keeps.confidence),
            })
        })
    }

    #[expect(dead_code, reason = "the first rule that asks comes next")]
    /// The probability that the token at a position had when it was written; NaN where none is.
    pub fn confidence(&self, position: u32) -> f64 {
        self.confidence[position as usize]
    }

    /// A step was carried out.
    pub fn note(&mut self, edits: &[Edit], _notes: Notes) {
        if self.confidence.is_empty() {
            return;
        }
        for edit in edits {
            self.confidence[edit.position as usize] = match edit.kind {
                Kind::Remask => f64::NAN,
                _ => edit.probability,
            };
        }
    }
}
