//! Statistics of one row of logits in one pass over memory: argmax, the two largest probabilities, entropy,
//! log-sum-exp. ARCHITECTURE.md, "The arithmetic that decides", is the definition.

use super::arith::{TILE, exp64, ln, ln_1p};
use super::kernel::{self, Isa, Sums, TopTwo};
use super::row::Row;
use crate::watch::Watch;

/// Why a row has no statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// NaN at this id.
    NotANumber(usize),
    /// Only -inf.
    NothingAllowed,
    /// Nobody waits for them any more.
    Interrupted,
}

/// What the decisions need to know about a row of logits. Probabilities are those of its softmax at temperature 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// Most probable id; the lowest on a tie.
    pub argmax: u32,
    /// Its probability.
    pub top1: f64,
    /// The second largest probability; equal to `top1` on a tie.
    pub top2: f64,
    /// Entropy in nats.
    pub entropy: f64,
    /// Logarithm of the sum of the exponentials.
    pub logsumexp: f64,
    max: f32,
    /// 1 plus the mass of all ids but `argmax`, relative to the mass of `argmax`; the number of +inf where there are any.
    total: f64,
}

impl Stats {
    /// Probability of an id whose logit is `x`.
    pub fn probability(&self, x: f32) -> f64 {
        if x == self.max {
            1.0 / self.total
        } else {
            exp64(f64::from(x) - f64::from(self.max)) / self.total
        }
    }

    /// Mass of all ids relative to that of the argmax; the number of ids at +inf where there are any.
    pub fn total(&self) -> f64 {
        self.total
    }

    /// The largest logit.
    pub fn max(&self) -> f32 {
        self.max
    }
}

/// What a tile of the row adds to the row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub max: f32,
    pub sums: Sums,
}

/// Memory that one worker needs, reused from row to row, and who may stop it.
pub struct Scratch<'w> {
    /// Instruction set to compute with.
    pub isa: Isa,
    pub(super) values: Box<[f32; TILE]>,
    pub(super) weights: Box<[f32; TILE]>,
    /// Tiles of the last row whose statistics were taken.
    pub(super) tiles: Vec<Tile>,
    watch: Option<&'w Watch<'w>>,
}

/// After so many tiles, some 20 microseconds, it is asked whether the work goes on.
const TILES_BETWEEN: usize = 16;
/// Elements that are gone through between two such questions, where there are no tiles.
pub(super) const PIECE: usize = TILES_BETWEEN * TILE;

impl<'w> Scratch<'w> {
    /// Memory for rows of any length. Without a `watch` nobody stops the work within a row.
    pub fn new(isa: Isa, watch: Option<&'w Watch<'w>>) -> Self {
        Self {
            isa,
            values: Box::new([0.0; TILE]),
            weights: Box::new([0.0; TILE]),
            tiles: Vec::new(),
            watch,
        }
    }

    /// To be asked between pieces.
    pub(super) fn goes_on(&self) -> Result<(), Unusable> {
        if self.watch.is_none_or(Watch::goes_on) {
            Ok(())
        } else {
            Err(Unusable::Interrupted)
        }
    }

    /// To be asked before tile `t` of a row.
    #[inline]
    pub(super) fn goes_on_to(&self, t: usize) -> Result<(), Unusable> {
        if (t + 1).is_multiple_of(TILES_BETWEEN) {
            self.goes_on()
        } else {
            Ok(())
        }
    }
}

/// Statistics of a row. Cost: one pass over its logits, plus one over the tile that holds the maximum.
pub fn stats(row: &Row<'_>, scratch: &mut Scratch<'_>) -> Result<Stats, Unusable> {
    let isa = scratch.isa;
    scratch.tiles.clear();
    let mut top = TopTwo {
        first: f32::NEG_INFINITY,
        second: f32::NEG_INFINITY,
    };
    let mut suspicious = false;
    for t in 0..row.tiles() {
        scratch.goes_on_to(t)?;
        let x = row.tile(t, &mut scratch.values);
        let two = kernel::top_two(isa, x);
        // NaN never is a maximum, but it always reaches the moment; a tile without a finite maximum has none to reach.
        let sums = if two.first.is_finite() {
            kernel::sums(isa, x, two.first, 1.0)
        } else {
            suspicious = true;
            Sums {
                mass: 0.0,
                moment: 0.0,
            }
        };
        suspicious |= sums.moment.is_nan();
        top = top.merge(two);
        scratch.tiles.push(Tile {
            max: two.first,
            sums,
        });
    }
    if suspicious && let Some(id) = first_nan(row, scratch)? {
        return Err(Unusable::NotANumber(id));
    }
    if top.first == f32::NEG_INFINITY {
        return Err(Unusable::NothingAllowed);
    }
    if top.first == f32::INFINITY {
        return infinite(row, scratch);
    }
    Ok(finite(row, scratch, top))
}

fn first_nan(row: &Row<'_>, scratch: &mut Scratch<'_>) -> Result<Option<usize>, Unusable> {
    for t in 0..row.tiles() {
        scratch.goes_on_to(t)?;
        let x = row.tile(t, &mut scratch.values);
        if let Some(j) = x.iter().position(|v| v.is_nan()) {
            return Ok(Some(t * TILE + j));
        }
    }
    Ok(None)
}

fn finite(row: &Row<'_>, scratch: &mut Scratch<'_>, top: TopTwo) -> Stats {
    let winner = scratch
        .tiles
        .iter()
        .position(|t| t.max == top.first)
        .expect("some tile holds the maximum");
    let x = row.tile(winner, &mut scratch.values);
    let j = x
        .iter()
        .position(|&v| v == top.first)
        .expect("the tile holds its maximum");
    let others = &mut scratch.weights[..x.len()];
    others.copy_from_slice(x);
    others[j] = f32::NEG_INFINITY;
    let others = kernel::sums(scratch.isa, others, top.first, 1.0);

    let max = f64::from(top.first);
    let (mut rest, mut moment) = (0.0, 0.0);
    for (t, tile) in scratch.tiles.iter().enumerate() {
        if tile.max == f32::NEG_INFINITY {
            continue;
        }
        let sums = if t == winner { others } else { tile.sums };
        let gap = f64::from(tile.max) - max;
        let weight = exp64(gap);
        let mass = f64::from(sums.mass);
        rest += weight * mass;
        moment += weight * (f64::from(sums.moment) + gap * mass);
    }
    let total = 1.0 + rest;
    let log_total = ln_1p(rest);
    Stats {
        argmax: (winner * TILE + j) as u32,
        top1: 1.0 / total,
        top2: exp64(f64::from(top.second) - max) / total,
        entropy: (log_total - moment / total).max(0.0),
        logsumexp: max + log_total,
        max: top.first,
        total,
    }
}

/// Ids at +inf share all the mass evenly.
fn infinite(row: &Row<'_>, scratch: &mut Scratch<'_>) -> Result<Stats, Unusable> {
    let (mut count, mut argmax) = (0u32, 0);
    for t in 0..row.tiles() {
        scratch.goes_on_to(t)?;
        for (j, _) in row
            .tile(t, &mut scratch.values)
            .iter()
            .enumerate()
            .filter(|(_, v)| **v == f32::INFINITY)
        {
            if count == 0 {
                argmax = (t * TILE + j) as u32;
            }
            count += 1;
        }
    }
    let total = f64::from(count);
    Ok(Stats {
        argmax,
        top1: 1.0 / total,
        top2: if count > 1 { 1.0 / total } else { 0.0 },
        entropy: ln(total),
        logsumexp: f64::INFINITY,
        max: f32::INFINITY,
        total,
    })
}
