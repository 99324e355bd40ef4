//! One token from a row of logits at a temperature, by the inverse of the cumulative distribution: one uniform a
//! position, float64 sums over tiles, integers inside a tile. Fewer random numbers than one Gumbel per id, and exact
//! tails: Gumbel noise in float32 cannot reach improbable ids (Zheng et al., 2409.02908, section 5).

use super::arith::{TILE, exp64};
use super::cut::{Cut, Filters, View, fixed};
use super::kernel;
use super::row::Row;
use super::stats::{Scratch, Stats};
use crate::error::{Error, Result};

/// How a token is chosen at a position.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable id.
    pub temperature: f64,
    /// Cuts applied after the temperature.
    pub filters: Filters,
}

impl Sampling {
    /// Checks the ranges.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::setting(
                "temperature",
                "must be at least 0 and finite",
                self.temperature,
                "0 is greedy",
            ));
        }
        self.filters.check()
    }
}

/// The id that the uniform `u` picks. `scratch` must hold the tiles of this row, as `stats` leaves them.
pub fn draw(
    row: &Row<'_>,
    stats: &Stats,
    sampling: &Sampling,
    u: f64,
    scratch: &mut Scratch,
) -> u32 {
    if stats.max() == f32::INFINITY {
        return nth_infinite(row, (u / stats.top1) as usize, scratch);
    }
    let view = View {
        row,
        stats,
        inv_t: ((1.0 / sampling.temperature) as f32).clamp(f32::MIN_POSITIVE, f32::MAX),
    };
    let cut = view.cut(&sampling.filters, scratch);
    let masses = masses(&view, &cut, scratch);
    let target = u * masses.iter().sum::<f64>();
    let mut before = 0.0;
    let mut chosen = None;
    for (t, &mass) in masses.iter().enumerate().filter(|(_, m)| **m > 0.0) {
        chosen = Some((t, ((target - before) / mass).min(1.0)));
        if target < before + mass {
            break;
        }
        before += mass;
    }
    let (t, share) = chosen.expect("the tile of the maximum has mass");
    within_tile(&view, &cut, t, share, scratch)
}

fn nth_infinite(row: &Row<'_>, n: usize, scratch: &mut Scratch) -> u32 {
    let mut last = 0;
    let mut seen = 0;
    for t in 0..row.tiles() {
        for (j, _) in row
            .tile(t, &mut scratch.values)
            .iter()
            .enumerate()
            .filter(|(_, v)| **v == f32::INFINITY)
        {
            last = (t * TILE + j) as u32;
            if seen == n {
                return last;
            }
            seen += 1;
        }
    }
    last
}

/// Mass of what is kept of each tile, relative to the maximum of the row.
fn masses(view: &View<'_>, cut: &Cut, scratch: &mut Scratch) -> Vec<f64> {
    let max = f64::from(view.max());
    (0..view.row.tiles())
        .map(|t| {
            let tile = scratch.tiles[t];
            if tile.max == f32::NEG_INFINITY {
                return 0.0;
            }
            let mass = if *cut == Cut::NONE && view.inv_t == 1.0 {
                tile.sums.mass
            } else if *cut == Cut::NONE {
                let x = view.row.tile(t, &mut scratch.values);
                kernel::sums(scratch.isa, x, tile.max, view.inv_t).mass
            } else {
                let n = kept_weights(view, cut, t, scratch);
                kernel::lane_sum(scratch.isa, &scratch.weights[..n])
            };
            exp64((f64::from(tile.max) - max) * f64::from(view.inv_t)) * f64::from(mass)
        })
        .collect()
}

/// Weights of tile `t` relative to its maximum into `scratch.weights`, 0 for what is cut; returns their number.
fn kept_weights(view: &View<'_>, cut: &Cut, t: usize, scratch: &mut Scratch) -> usize {
    let Scratch {
        isa,
        values,
        weights,
        tiles,
    } = scratch;
    let x = view.row.tile(t, values);
    let out = &mut weights[..x.len()];
    kernel::weights(*isa, x, tiles[t].max, view.inv_t, out);
    if *cut != Cut::NONE {
        kernel::drop_cut(
            *isa,
            x,
            view.max(),
            view.inv_t,
            *cut,
            (t * TILE) as u32,
            out,
        );
    }
    x.len()
}

fn within_tile(view: &View<'_>, cut: &Cut, t: usize, share: f64, scratch: &mut Scratch) -> u32 {
    let n = kept_weights(view, cut, t, scratch);
    let weights = &scratch.weights[..n];
    let total: u64 = weights.iter().map(|&w| fixed(w)).sum();
    let target = ((share * total as f64) as u64).min(total - 1);
    let mut sum = 0;
    let j = weights.iter().position(|&w| {
        sum += fixed(w);
        sum > target
    });
    (t * TILE + j.expect("the target lies below the total")) as u32
}
