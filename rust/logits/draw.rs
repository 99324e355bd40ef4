//! One token from a row of logits at a temperature, by the inverse of the cumulative distribution: one uniform a
//! position, float64 sums over tiles, integers inside a tile. Fewer random numbers than one Gumbel per id, and exact
//! tails: Gumbel noise in float32 cannot reach improbable ids (Zheng et al., 2409.02908, section 5).

use super::arith::{TILE, exp64};
use super::cut::{Cut, fixed};
use super::filter::{Filters, View};
use super::kernel;
use super::row::Row;
use super::stats::{Scratch, Stats, Unusable};
use crate::error::Error;

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
    pub fn check(&self) -> Result<(), Error> {
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

/// The distribution of one row at a temperature, cut and summed: ready for any number of draws.
pub struct Distribution<'r> {
    view: View<'r>,
    cut: Cut,
    /// Mass of what is kept of each tile, relative to the maximum of the row. Empty where ids are at +inf.
    masses: Vec<f64>,
}

impl<'r> Distribution<'r> {
    /// Temperature above 0. `scratch` must hold the tiles of this row, as `stats` leaves them. Fails only where interrupted.
    pub fn new(
        row: &'r Row<'r>,
        stats: &'r Stats,
        sampling: &Sampling,
        scratch: &mut Scratch<'_>,
    ) -> Result<Self, Unusable> {
        let inv_t = ((1.0 / sampling.temperature) as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
        let view = View { row, stats, inv_t };
        let mut made = Self {
            view,
            cut: Cut::NONE,
            masses: Vec::new(),
        };
        if stats.max() != f32::INFINITY {
            made.cut = made.view.cut(&sampling.filters, scratch)?;
            made.masses.reserve_exact(row.tiles());
            for t in 0..row.tiles() {
                scratch.goes_on_to(t)?;
                let mass = made.tile_mass(t, scratch);
                made.masses.push(mass);
            }
        }
        Ok(made)
    }

    /// The id that the uniform `u` in `[0, 1)` picks. Fails only where interrupted.
    pub fn draw(&self, u: f64, scratch: &mut Scratch<'_>) -> Result<u32, Unusable> {
        if self.masses.is_empty() {
            return nth_infinite(
                self.view.row,
                (u * self.view.stats.total()) as usize,
                scratch,
            );
        }
        let target = u * self.masses.iter().sum::<f64>();
        let mut before = 0.0;
        let mut chosen = None;
        for (t, &mass) in self.masses.iter().enumerate().filter(|(_, m)| **m > 0.0) {
            chosen = Some((t, ((target - before) / mass).min(1.0)));
            if target < before + mass {
                break;
            }
            before += mass;
        }
        let (t, share) = chosen.expect("the tile of the maximum has mass");
        Ok(self.draw_in_tile(t, share, scratch))
    }

    fn tile_mass(&self, t: usize, scratch: &mut Scratch<'_>) -> f64 {
        let View { row, inv_t, .. } = self.view;
        let tile = scratch.tiles[t];
        if tile.max == f32::NEG_INFINITY {
            return 0.0;
        }
        let mass = if self.cut != Cut::NONE {
            let n = self.kept_weights(t, scratch);
            kernel::lane_sum(scratch.isa, &scratch.weights[..n])
        } else if inv_t == 1.0 {
            tile.sums.mass
        } else {
            kernel::sums(
                scratch.isa,
                row.tile(t, &mut scratch.values),
                tile.max,
                inv_t,
            )
            .mass
        };
        let gap = f64::from(tile.max) - f64::from(self.view.max());
        exp64(gap * f64::from(inv_t)) * f64::from(mass)
    }

    /// Weights of tile `t` relative to its maximum into `scratch.weights`, 0 for what is cut; returns their number.
    fn kept_weights(&self, t: usize, scratch: &mut Scratch<'_>) -> usize {
        let View { row, inv_t, .. } = self.view;
        let Scratch {
            isa,
            values,
            weights,
            tiles,
            ..
        } = scratch;
        let x = row.tile(t, values);
        let out = &mut weights[..x.len()];
        kernel::weights(*isa, x, tiles[t].max, inv_t, out);
        if self.cut != Cut::NONE {
            let first_id = (t * TILE) as u32;
            kernel::drop_cut(*isa, x, self.view.max(), inv_t, self.cut, first_id, out);
        }
        x.len()
    }

    fn draw_in_tile(&self, t: usize, share: f64, scratch: &mut Scratch<'_>) -> u32 {
        let n = self.kept_weights(t, scratch);
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
}

fn nth_infinite(row: &Row<'_>, n: usize, scratch: &mut Scratch<'_>) -> Result<u32, Unusable> {
    let mut last = 0;
    let mut seen = 0;
    for t in 0..row.tiles() {
        scratch.goes_on_to(t)?;
        for (j, _) in row
            .tile(t, &mut scratch.values)
            .iter()
            .enumerate()
            .filter(|(_, v)| **v == f32::INFINITY)
        {
            last = (t * TILE + j) as u32;
            if seen == n {
                return Ok(last);
            }
            seen += 1;
        }
    }
    Ok(last)
}
