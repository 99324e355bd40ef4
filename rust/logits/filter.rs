//! Where top-k, top-p and min-p cut a row, found by counting and summing in bins: the vocabulary is never sorted.

use super::arith::{TILE, clamp, ln};
use super::cut::{Cut, Ids, fixed};
use super::kernel::{self, GROUP};
use super::row::Row;
use super::stats::{PIECE, Scratch, Stats, Unusable};
use crate::error::Error;

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
    pub fn check(&self) -> Result<(), Error> {
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

/// Bins of width 1/64 nat from the maximum down to `FLOOR`; the last holds only what weighs nothing.
const BINS: usize = FLOOR_BIN + 1;
const FLOOR_BIN: usize = 60 * BINS_PER_NAT as usize;
/// Bins per nat.
const BINS_PER_NAT: f32 = 64.0;

/// The bin of a clamped distance. It never falls as the logit falls.
fn bin(d: f32) -> usize {
    (-d * BINS_PER_NAT) as usize
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

    /// From an id to the maximum, scaled.
    pub fn distance(&self, x: f32) -> f32 {
        clamp((x - self.max()) * self.inv_t)
    }

    /// The cut that the filters make. Fails, like all here, only where interrupted.
    pub fn cut(&self, filters: &Filters, scratch: &mut Scratch<'_>) -> Result<Cut, Unusable> {
        let mut cut = Cut::NONE;
        if let Some(p) = filters.min_p.filter(|p| *p > 0.0) {
            cut.floor = ln(p) as f32;
        }
        let top_k = filters.top_k.filter(|&k| k < self.row.len());
        let top_p = filters.top_p.filter(|&p| p < 1.0);
        if top_k.is_none() && top_p.is_none() {
            return Ok(cut);
        }
        // Only ids above a bound are looked at one by one. The bound is a guess that cannot change the answer: if the
        // cut lies below it, everything is looked at.
        let bound = match top_k {
            Some(k) => self.bound_of_largest(k, scratch)?,
            None => self.likely_bound(),
        };
        let mut last = self.last_kept(top_k, top_p, bound, scratch)?;
        if last.is_none() {
            last = self.last_kept(top_k, top_p, f32::NEG_INFINITY, scratch)?;
        }
        if let Some(last) = last {
            (cut.x, cut.id) = (last.x, last.id);
        }
        Ok(cut)
    }

    /// Where the mass of a nucleus usually ends: a typical id has log-probability -entropy.
    fn likely_bound(&self) -> f32 {
        let below = self.stats.entropy + 6.0 + ln(self.stats.top1);
        self.max() - (below.max(0.0) / f64::from(self.inv_t)) as f32
    }

    /// A logit that at least `k` ids reach: the k-th largest of the maxima of small groups.
    fn bound_of_largest(&self, k: usize, scratch: &mut Scratch<'_>) -> Result<f32, Unusable> {
        if k > self.row.len() / GROUP {
            return Ok(f32::NEG_INFINITY);
        }
        let mut maxima = Vec::with_capacity(self.row.len() / GROUP + self.row.tiles());
        for t in 0..self.row.tiles() {
            scratch.goes_on_to(t)?;
            let x = self.row.tile(t, &mut scratch.values);
            kernel::group_maxima(scratch.isa, x, &mut maxima);
        }
        let (_, bound, _) = maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        Ok(*bound)
    }

    /// The last id that top-k and top-p keep, if it lies above `bound`; `None` too where nothing with weight is cut.
    fn last_kept(
        &self,
        top_k: Option<usize>,
        top_p: Option<f64>,
        bound: f32,
        scratch: &mut Scratch<'_>,
    ) -> Result<Option<Member>, Unusable> {
        let ids = self.ids_above(bound, scratch)?;
        let bins = self.histogram(&ids, scratch)?;
        let mut last = None;
        let mut total = None;
        if let Some(k) = top_k
            && let Some((member, sum)) =
                self.first_with(&ids, &bins, |sum| sum.count >= k as u64, scratch)?
        {
            last = Some(member);
            total = Some(sum.mass);
        }
        if let Some(p) = top_p {
            let total = match total {
                Some(total) => total,
                None => self.total_mass(scratch)?,
            };
            let target = p * total as f64;
            let found = self.first_with(&ids, &bins, |sum| sum.mass as f64 >= target, scratch)?;
            last = found.map(|(member, _)| member);
        }
        Ok(last)
    }

    fn total_mass(&self, scratch: &mut Scratch<'_>) -> Result<u64, Unusable> {
        let mut sum = 0;
        for t in 0..self.row.tiles() {
            scratch.goes_on_to(t)?;
            let x = self.row.tile(t, &mut scratch.values);
            sum += kernel::fixed_mass(scratch.isa, x, self.max(), self.inv_t);
        }
        Ok(sum)
    }

    /// Ids whose logit reaches `bound`, rising.
    fn ids_above(&self, bound: f32, scratch: &mut Scratch<'_>) -> Result<Ids, Unusable> {
        let mut ids = Ids::default();
        for t in 0..self.row.tiles() {
            scratch.goes_on_to(t)?;
            if scratch.tiles[t].max >= bound {
                let x = self.row.tile(t, &mut scratch.values);
                kernel::append_above(scratch.isa, x, bound, (t * TILE) as u32, &mut ids);
            }
        }
        ids.weights.resize(ids.x.len(), 0.0);
        let pieces = ids.x.chunks(PIECE).zip(ids.weights.chunks_mut(PIECE));
        for (x, weights) in pieces {
            scratch.goes_on()?;
            kernel::weights(scratch.isa, x, self.max(), self.inv_t, weights);
        }
        Ok(ids)
    }

    fn histogram(&self, ids: &Ids, scratch: &Scratch<'_>) -> Result<Vec<Bin>, Unusable> {
        let mut bins = vec![Bin::default(); BINS];
        for (x, weights) in ids.x.chunks(PIECE).zip(ids.weights.chunks(PIECE)) {
            scratch.goes_on()?;
            for (&x, &weight) in x.iter().zip(weights) {
                bins[bin(self.distance(x))].add(fixed(weight));
            }
        }
        Ok(bins)
    }

    /// The first id, in the order (logit falling, id rising), with which the running sum is enough, and that sum.
    fn first_with(
        &self,
        ids: &Ids,
        bins: &[Bin],
        enough: impl Fn(Bin) -> bool,
        scratch: &Scratch<'_>,
    ) -> Result<Option<(Member, Bin)>, Unusable> {
        let Some((b, mut sum)) = find(bins, &enough) else {
            return Ok(None);
        };
        let mut members = self.members(ids, b, scratch)?;
        // Halved by their values until they are few enough to be sorted in no time, or all equal.
        while members.len() > PIECE {
            let (mut low, mut high) = (u32::MAX, 0);
            for piece in members.chunks(PIECE) {
                scratch.goes_on()?;
                for member in piece {
                    (low, high) = (low.min(rank(member.x)), high.max(rank(member.x)));
                }
            }
            if low == high {
                break;
            }
            let middle = low + (high - low) / 2;
            let (mut upper, mut lower, mut with_upper) = (Vec::new(), Vec::new(), sum);
            for piece in members.chunks(PIECE) {
                scratch.goes_on()?;
                for &member in piece {
                    if rank(member.x) > middle {
                        with_upper.add(member.mass);
                        upper.push(member);
                    } else {
                        lower.push(member);
                    }
                }
            }
            if enough(with_upper) {
                members = upper;
            } else {
                (members, sum) = (lower, with_upper);
            }
        }
        // Stable: ids are already rising.
        members.sort_by_key(|member| !rank(member.x));
        for member in members {
            sum.add(member.mass);
            if enough(sum) {
                return Ok(Some((member, sum)));
            }
        }
        Ok(None)
    }

    /// Those of a bin, ids rising.
    fn members(&self, ids: &Ids, b: usize, scratch: &Scratch<'_>) -> Result<Vec<Member>, Unusable> {
        let mut members = Vec::new();
        for (piece, x) in ids.x.chunks(PIECE).enumerate() {
            scratch.goes_on()?;
            for (j, &x) in x.iter().enumerate() {
                if bin(self.distance(x)) == b {
                    let i = piece * PIECE + j;
                    let (id, mass) = (ids.id[i], fixed(ids.weights[i]));
                    members.push(Member { x, id, mass });
                }
            }
        }
        Ok(members)
    }
}

/// An integer that is larger for a larger logit; -0 and +0 are equal. Rows with NaN were refused.
fn rank(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

/// An id of a bin.
#[derive(Clone, Copy, Debug, PartialEq)]
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

impl Bin {
    fn add(&mut self, mass: u64) {
        self.count += 1;
        self.mass += mass;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logits::kernel::Isa;
    use crate::logits::row::Logits;
    use crate::logits::stats::stats;
    use crate::watch::Watch;

    /// Logits by the ten thousands that fall in one bin, on each side of 0 and among them -0; 30 lie above it.
    fn crowd() -> Vec<f32> {
        let n = if cfg!(miri) { 70_000 } else { 140_000 };
        let mut x: Vec<f32> = (0..n)
            .map(|i: u32| ((i.wrapping_mul(2_654_435_761) >> 17) as f32 - 16_384.0) * 1e-7)
            .collect();
        x[5] = -0.0;
        (0..30).for_each(|i| x[i * 2000] = 3.0);
        x
    }

    #[test]
    fn a_crowded_bin_is_cut_where_sorting_cuts_it() {
        let x = crowd();
        let watch = Watch::never();
        let mut scratch = Scratch::new(Isa::Portable, Some(&watch));
        let row = Row::new(Logits::F32(&x), &[], Isa::Portable);
        let stats = stats(&row, &mut scratch).unwrap();
        let view = View {
            row: &row,
            stats: &stats,
            inv_t: 1.0,
        };
        let mut sorted: Vec<usize> = (0..x.len()).collect();
        sorted.sort_by(|&a, &b| x[b].partial_cmp(&x[a]).unwrap());
        let mass = |id: usize| {
            let mut weight = [0.0];
            kernel::weights(Isa::Portable, &x[id..=id], view.max(), 1.0, &mut weight);
            fixed(weight[0])
        };
        for k in [1, 30, 31, 1000, x.len() / 2, x.len() - 1] {
            let top_k = Filters {
                top_k: Some(k),
                ..Filters::default()
            };
            let cut = view.cut(&top_k, &mut scratch).unwrap();
            let last = sorted[k - 1];
            assert_eq!((cut.x, cut.id), (x[last], last as u32), "top_k {k}");
        }
        let total: u64 = sorted.iter().map(|&id| mass(id)).sum();
        for p in [1e-3, 0.3, 0.5, 0.9] {
            let mut sum = 0;
            let reaches = |&id: &usize| {
                sum += mass(id);
                sum as f64 >= p * total as f64
            };
            let last = sorted.iter().copied().find(reaches).unwrap();
            let top_p = Filters {
                top_p: Some(p),
                ..Filters::default()
            };
            let cut = view.cut(&top_p, &mut scratch).unwrap();
            assert_eq!((cut.x, cut.id), (x[last], last as u32), "top_p {p}");
        }
    }
}
