//! Where top-k, top-p and min-p cut a row, found by counting and summing in bins: the vocabulary is never sorted.

use super::arith::{TILE, clamp, exp32, ln};
use super::kernel;
use super::row::Row;
use super::stats::Scratch;
use crate::error::{Error, Result};

/// Restrictions of the distribution before a draw, applied in this order after the temperature.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Filters {
    /// Keep the k largest logits.
    pub top_k: Option<usize>,
    /// Keep the shortest prefix, largest first, that holds at least this share of what top-k left.
    pub top_p: Option<f64>,
    /// Keep ids at least this fraction as probable as the most probable one.
    pub min_p: Option<f64>,
}

impl Filters {
    /// Checks the ranges.
    pub fn check(&self) -> Result<()> {
        if self.top_k == Some(0) {
            return Err(Error::setting(
                "top_k",
                "must be at least 1",
                0,
                "leave it out to keep every id",
            ));
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(Error::setting(
                "top_p",
                "must lie in (0, 1]",
                p,
                "1 keeps every id; for greedy use temperature=0",
            ));
        }
        if let Some(p) = self.min_p.filter(|p| !(*p >= 0.0 && *p <= 1.0)) {
            return Err(Error::setting(
                "min_p",
                "must lie in [0, 1]",
                p,
                "0 keeps every id",
            ));
        }
        Ok(())
    }
}

/// The last id that is kept in the order (logit falling, id rising), and the smallest `d` that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Logit of the last id kept.
    pub x: f32,
    /// The last id kept.
    pub id: u32,
    /// Smallest scaled distance to the maximum that is kept.
    pub floor: f32,
}

impl Cut {
    /// Keeps everything.
    pub const NONE: Self = Self {
        x: f32::NEG_INFINITY,
        id: u32::MAX,
        floor: f32::NEG_INFINITY,
    };

    /// Is `id` with logit `x`, at scaled distance `d` from the maximum, kept?
    #[inline(always)]
    pub fn keeps(&self, x: f32, id: u32, d: f32) -> bool {
        (x > self.x || (x == self.x && id <= self.id)) && d >= self.floor
    }
}

/// Bins of width 1/64 nat from the maximum down to `FLOOR`; the last holds only what weighs nothing.
pub const BINS: usize = FLOOR_BIN + 1;
const FLOOR_BIN: usize = 60 * BINS_PER_NAT as usize;
/// Bins per nat.
pub const BINS_PER_NAT: f32 = 64.0;

/// The bin of a clamped distance. It never falls as the logit falls.
#[inline(always)]
pub fn bin(d: f32) -> u16 {
    (-d * BINS_PER_NAT) as u16
}

/// A weight as a fixed-point integer: sums of these do not depend on their order.
#[inline(always)]
pub fn fixed(weight: f32) -> u64 {
    // Adding 2^52 rounds to the nearest integer, ties to even, and leaves it in the low bits.
    const SHIFT: f64 = 4_503_599_627_370_496.0;
    (f64::from(weight) * 1_099_511_627_776.0 + SHIFT).to_bits() & 0x000f_ffff_ffff_ffff
}

/// A row seen from its maximum at a temperature.
pub(super) struct View<'r> {
    pub row: &'r Row<'r>,
    pub max: f32,
    pub inv_t: f32,
}

impl View<'_> {
    fn distance(&self, x: f32) -> f32 {
        clamp((x - self.max) * self.inv_t)
    }

    /// The cut that the filters make.
    pub fn cut(&self, filters: &Filters, scratch: &mut Scratch) -> Cut {
        let mut cut = Cut::NONE;
        if let Some(p) = filters.min_p.filter(|p| *p > 0.0) {
            cut.floor = ln(p) as f32;
        }
        let top_k = filters.top_k.filter(|&k| k < self.row.len());
        let top_p = filters.top_p.filter(|&p| p < 1.0);
        if top_k.is_none() && top_p.is_none() {
            return cut;
        }
        let bins = self.histogram(scratch);
        let mut total: u64 = bins.iter().map(|b| b.mass).sum();
        if let Some(k) = top_k {
            let (b, before) = find(&bins, |sum| sum.count >= k as u64);
            if b < FLOOR_BIN {
                let ids = self.members(b, scratch);
                let last = (k as u64 - before.count) as usize;
                (cut.x, cut.id) = ids[last - 1];
                total = before.mass + ids[..last].iter().map(|&(x, _)| self.mass(x)).sum::<u64>();
            }
        }
        if let Some(p) = top_p {
            let target = p * total as f64;
            let (b, before) = find(&bins, |sum| sum.mass as f64 >= target);
            if b < FLOOR_BIN {
                let mut sum = before.mass;
                for (x, id) in self.members(b, scratch) {
                    sum += self.mass(x);
                    (cut.x, cut.id) = (x, id);
                    if sum as f64 >= target {
                        break;
                    }
                }
            }
        }
        cut
    }

    fn mass(&self, x: f32) -> u64 {
        fixed(exp32(self.distance(x)))
    }

    fn histogram(&self, scratch: &mut Scratch) -> Vec<Bin> {
        let mut bins = vec![Bin::default(); BINS];
        let mut which = [0u16; TILE];
        for t in 0..self.row.tiles() {
            let x = self.row.tile(t, &mut scratch.values);
            let weights = &mut scratch.weights[..x.len()];
            kernel::weights(scratch.isa, x, self.max, self.inv_t, weights);
            kernel::bins(scratch.isa, x, self.max, self.inv_t, &mut which[..x.len()]);
            for (&b, &w) in which.iter().zip(&*weights) {
                let bin = &mut bins[b as usize];
                bin.count += 1;
                bin.mass += fixed(w);
            }
        }
        bins
    }

    /// Ids of a bin in the order (logit falling, id rising), with their logits.
    fn members(&self, b: usize, scratch: &mut Scratch) -> Vec<(f32, u32)> {
        let mut members = Vec::new();
        let mut which = [0u16; TILE];
        for t in 0..self.row.tiles() {
            let x = self.row.tile(t, &mut scratch.values);
            kernel::bins(scratch.isa, x, self.max, self.inv_t, &mut which[..x.len()]);
            let here = which
                .iter()
                .zip(x)
                .enumerate()
                .filter(|(_, (w, _))| **w as usize == b);
            members.extend(here.map(|(j, (_, &x))| (x, (t * TILE + j) as u32)));
        }
        // Stable: ids are already rising. -0 and +0 are equal logits.
        members.sort_by(|a, b| b.0.partial_cmp(&a.0).expect("rows with NaN were refused"));
        members
    }
}

/// What lies in a bin, or in all bins before one.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    count: u64,
    mass: u64,
}

/// First bin with which the running sum passes, and the sum before it; the last bin if none does.
fn find(bins: &[Bin], pass: impl Fn(Bin) -> bool) -> (usize, Bin) {
    let mut before = Bin::default();
    for (b, bin) in bins.iter().enumerate() {
        let sum = Bin {
            count: before.count + bin.count,
            mass: before.mass + bin.mass,
        };
        if pass(sum) || b + 1 == bins.len() {
            return (b, before);
        }
        before = sum;
    }
    unreachable!("there is at least one bin")
}
