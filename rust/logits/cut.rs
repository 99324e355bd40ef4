//! Where top-k, top-p and min-p cut a row, found by counting and summing in bins: the vocabulary is never sorted.

use super::arith::{TILE, clamp, ln};
use super::kernel::{self, GROUP};
use super::row::Row;
use super::stats::{Scratch, Stats};
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
const BINS: usize = FLOOR_BIN + 1;
const FLOOR_BIN: usize = 60 * BINS_PER_NAT as usize;
/// Bins per nat.
const BINS_PER_NAT: f32 = 64.0;

/// The bin of a clamped distance. It never falls as the logit falls.
fn bin(d: f32) -> usize {
    (-d * BINS_PER_NAT) as usize
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
    pub stats: &'r Stats,
    pub inv_t: f32,
}

impl View<'_> {
    /// The largest logit.
    pub fn max(&self) -> f32 {
        self.stats.max()
    }

    fn distance(&self, x: f32) -> f32 {
        clamp((x - self.max()) * self.inv_t)
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
        // Only ids above a bound are looked at one by one. The bound is a guess that cannot change the answer: if the
        // cut lies below it, everything is looked at.
        let bound = top_k.map_or_else(
            || self.likely_bound(),
            |k| self.bound_of_largest(k, scratch),
        );
        let last = self.last_kept(top_k, top_p, bound, scratch);
        let last = last.or_else(|| self.last_kept(top_k, top_p, f32::NEG_INFINITY, scratch));
        if let Some((x, id)) = last {
            (cut.x, cut.id) = (x, id);
        }
        cut
    }

    /// Where the mass of a nucleus usually ends: a typical id has log-probability -entropy.
    fn likely_bound(&self) -> f32 {
        let below = self.stats.entropy + 6.0 + ln(self.stats.top1);
        self.max() - (below.max(0.0) / f64::from(self.inv_t)) as f32
    }

    /// A logit that at least `k` ids reach: the k-th largest of the maxima of small groups.
    fn bound_of_largest(&self, k: usize, scratch: &mut Scratch) -> f32 {
        if k > self.row.len() / GROUP {
            return f32::NEG_INFINITY;
        }
        let mut maxima = Vec::with_capacity(self.row.len() / GROUP + self.row.tiles());
        for t in 0..self.row.tiles() {
            let x = self.row.tile(t, &mut scratch.values);
            kernel::group_maxima(scratch.isa, x, &mut maxima);
        }
        *maxima
            .select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a))
            .1
    }

    /// The last id that top-k and top-p keep, if it lies above `bound`; `None` too where nothing with weight is cut.
    fn last_kept(
        &self,
        top_k: Option<usize>,
        top_p: Option<f64>,
        bound: f32,
        scratch: &mut Scratch,
    ) -> Option<(f32, u32)> {
        let ids = self.ids_above(bound, scratch);
        let bins = self.histogram(&ids);
        let mut last = None;
        let mut total = None;
        if let Some(k) = top_k
            && let Some((b, before)) = find(&bins, |sum| sum.count >= k as u64)
        {
            let members = self.members(&ids, b);
            let kept = &members[..(k as u64 - before.count) as usize];
            last = kept.last().map(|m| (m.x, m.id));
            total = Some(before.mass + kept.iter().map(|m| m.mass).sum::<u64>());
        }
        if let Some(p) = top_p {
            let target = p * total.unwrap_or_else(|| self.total_mass(scratch)) as f64;
            let (b, before) = find(&bins, |sum| sum.mass as f64 >= target)?;
            let mut sum = before.mass;
            for member in self.members(&ids, b) {
                sum += member.mass;
                last = Some((member.x, member.id));
                if sum as f64 >= target {
                    break;
                }
            }
        }
        last
    }

    fn total_mass(&self, scratch: &mut Scratch) -> u64 {
        let tile_mass = |t| {
            let x = self.row.tile(t, &mut scratch.values);
            kernel::fixed_mass(scratch.isa, x, self.max(), self.inv_t)
        };
        (0..self.row.tiles()).map(tile_mass).sum()
    }

    /// Ids whose logit reaches `bound`, rising.
    fn ids_above(&self, bound: f32, scratch: &mut Scratch) -> Ids {
        let mut ids = Ids::default();
        for t in 0..self.row.tiles() {
            if scratch.tiles[t].max >= bound {
                let x = self.row.tile(t, &mut scratch.values);
                kernel::append_above(scratch.isa, x, bound, (t * TILE) as u32, &mut ids);
            }
        }
        ids.weights.resize(ids.x.len(), 0.0);
        kernel::weights(
            scratch.isa,
            &ids.x,
            self.max(),
            self.inv_t,
            &mut ids.weights,
        );
        ids
    }

    fn histogram(&self, ids: &Ids) -> Vec<Bin> {
        let mut bins = vec![Bin::default(); BINS];
        for (&x, &weight) in ids.x.iter().zip(&ids.weights) {
            let bin = &mut bins[bin(self.distance(x))];
            bin.count += 1;
            bin.mass += fixed(weight);
        }
        bins
    }

    /// Those of a bin in the order (logit falling, id rising).
    fn members(&self, ids: &Ids, b: usize) -> Vec<Member> {
        let mut members: Vec<Member> = (0..ids.x.len())
            .filter(|&i| bin(self.distance(ids.x[i])) == b)
            .map(|i| Member {
                x: ids.x[i],
                id: ids.id[i],
                mass: fixed(ids.weights[i]),
            })
            .collect();
        // Stable: ids are already rising. -0 and +0 are equal logits.
        members.sort_by(|a, b| b.x.partial_cmp(&a.x).expect("rows with NaN were refused"));
        members
    }
}

/// Some ids of a row, column by column.
#[derive(Default)]
pub struct Ids {
    /// Their logits.
    pub x: Vec<f32>,
    /// The ids.
    pub id: Vec<u32>,
    weights: Vec<f32>,
}

/// An id of a bin.
struct Member {
    x: f32,
    id: u32,
    mass: u64,
}

/// What lies in a bin, or in all bins before one.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    count: u64,
    mass: u64,
}

/// First bin with which the running sum passes, and the sum before it. The last bin is left out: what lies there weighs
/// nothing, and a cut there changes nothing.
fn find(bins: &[Bin], pass: impl Fn(Bin) -> bool) -> Option<(usize, Bin)> {
    let mut before = Bin::default();
    for (b, bin) in bins[..FLOOR_BIN].iter().enumerate() {
        let sum = Bin {
            count: before.count + bin.count,
            mass: before.mass + bin.mass,
        };
        if pass(sum) {
            return Some((b, before));
        }
        before = sum;
    }
    None
}
