//! What a step asks about one row.

use super::error::bad_value;
use super::twin::Twin;
use crate::rules::noise::Noise;
use crate::sampler::Sampler as Core;
use pyo3::prelude::*;
use std::ops::Range;

/// Where nothing was written in a canvas.
#[derive(Clone)]
enum Open {
    /// Where it shows this token: told when somebody asks, for a step asks nobody.
    Mask(u32),
    /// Flags of a canvas that shows no mask.
    Flags(Vec<bool>),
}

/// What a step asks about one row.
#[derive(Clone)]
pub(super) struct Asked {
    pub row: usize,
    pub canvas: Vec<u32>,
    pub positions: Vec<u32>,
    open: Open,
    pub temperature: f64,
    /// Forwards that the row has behind it, and those of the block being filled.
    pub step: u32,
    pub block_step: u32,
    pub window: Range<usize>,
    pub is_causal: bool,
    pub proposed: Vec<u32>,
    pub asks_shadow: bool,
}

impl Asked {
    /// What the waiting step of a row asks.
    pub fn of(core: &Core, row: usize) -> Self {
        let rule = core.rule(row);
        Self {
            row,
            canvas: core.canvas(row).to_vec(),
            positions: core.positions(row).to_vec(),
            open: match (rule.mask, rule.shows) {
                (Some(mask), Noise::Mask) => Open::Mask(mask),
                _ => Open::Flags(core.open(row)),
            },
            temperature: core.temperature(row),
            step: core.forwards(row),
            block_step: core.block_steps(row),
            window: core.window(row),
            is_causal: core.is_causal(row),
            proposed: core.proposed(row),
            asks_shadow: core.asks_shadow(row),
        }
    }

    /// Which positions of its canvas nothing was written at.
    pub fn flags(&self) -> Vec<bool> {
        let positions = 0..self.canvas.len();
        positions.map(|position| self.is_open(position)).collect()
    }

    /// Was nothing written at a position?
    pub fn is_open(&self, position: usize) -> bool {
        let token = &self.canvas[position];
        match &self.open {
            Open::Mask(mask) => token == mask,
            Open::Flags(flags) => flags[position],
        }
    }

    /// The same question about other tokens, as many.
    pub fn about(&self, canvas: Vec<u32>) -> Self {
        Self {
            canvas,
            open: Open::Flags(self.flags()),
            ..self.clone()
        }
    }

    /// The same question under the number `row`, in the canvas of its twin, or in its own.
    pub fn beside(&self, row: usize, twin: Option<&Twin>) -> PyResult<Self> {
        let Some(twin) = twin else {
            return Ok(Self {
                row,
                ..self.clone()
            });
        };
        let (canvas, by) = (twin.canvas_of(&self.canvas)?, twin.moved());
        let shifted_to = |p: usize| (p as i64).checked_add(by);
        let inside = |p: &u32| {
            shifted_to(*p as usize).is_some_and(|p| (0..canvas.len() as i64).contains(&p))
        };
        let end = shifted_to(self.window.end).filter(|&end| end > 0 && end <= canvas.len() as i64);
        let Some(end) = end.filter(|_| self.positions.iter().all(inside)) else {
            return Err(bad_value(format!(
                "a twin must hold what is asked of its row, got {} tokens for row {}, moved by {by}; let what follows the prompt stand as it is",
                canvas.len(),
                self.row
            )));
        };
        // A window may begin with given tokens, of which there may be fewer.
        let begin = shifted_to(self.window.start).map_or(0, |begin| begin.max(0));
        let mut open = vec![false; canvas.len()];
        for (p, is_open) in self.flags().into_iter().enumerate() {
            let to = shifted_to(p).and_then(|to| usize::try_from(to).ok());
            if let Some(flag) = to.and_then(|to| open.get_mut(to)) {
                *flag = is_open;
            }
        }
        let positions = self.positions.iter().map(|&p| (i64::from(p) + by) as u32);
        Ok(Self {
            row,
            positions: positions.collect(),
            window: begin as usize..end as usize,
            open: Open::Flags(open),
            canvas,
            proposed: self.proposed.clone(),
            ..*self
        })
    }
}
