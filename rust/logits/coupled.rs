//! One token from a row of logits at a temperature, by Gumbel noise that is the same in every forward: of a position and an id,
//! never of a step. Two rows of logits at one position draw the same token wherever their distributions leave room for it, which
//! is what accepting drafts lives on (APD, Israel et al., 2506.00413).

use super::arith::{TILE, ln};
use super::draw::Sampling;
use super::filter::View;
use super::row::Row;
use super::stats::{Scratch, Stats, Unusable};
use crate::rng::{Draw, Stream};

/// Bits of a uniform.
const BITS: u32 = 53;

/// The id with the largest `(x - max) / T + gumbel`, the lowest on a tie, of those that the filters keep. Temperature above 0.
/// `scratch` must hold the tiles of this row, as `stats` leaves them. Fails only where interrupted.
pub fn draw(
    row: &Row<'_>,
    stats: &Stats,
    sampling: &Sampling,
    place: (Stream, u32),
    scratch: &mut Scratch<'_>,
) -> Result<u32, Unusable> {
    let inv_t = ((1.0 / sampling.temperature) as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
    let view = View { row, stats, inv_t };
    let max = stats.max();
    let is_finite = max != f32::INFINITY;
    let cut = if is_finite {
        Some(view.cut(&sampling.filters, scratch)?)
    } else {
        None
    };
    let (stream, position) = place;
    // The most probable id is always kept: whoever cannot beat it need not be looked at.
    let first = stats.argmax;
    let (mut best, mut key) = (first, gumbel(stream, position, first));
    for t in 0..row.tiles() {
        scratch.goes_on_to(t)?;
        let values = row.tile(t, &mut scratch.values);
        for (j, &x) in values.iter().enumerate() {
            let id = (t * TILE + j) as u32;
            let gap = if is_finite {
                (f64::from(x) - f64::from(max)) / sampling.temperature
            } else if x == max {
                0.0
            } else {
                continue;
            };
            if id == first || gap + MOST < key {
                continue;
            }
            let bits = stream.bits53(position, id, Draw::Gumbel);
            if gap + bound(leading(bits)) < key {
                continue;
            }
            if let Some(cut) = &cut
                && !cut.keeps(x, id, view.distance(x))
            {
                continue;
            }
            let own = gap + noise(bits);
            if own > key || own == key && id < best {
                (best, key) = (id, own);
            }
        }
    }
    Ok(best)
}

/// The noise of an id at a position.
fn gumbel(stream: Stream, position: u32, id: u32) -> f64 {
    noise(stream.bits53(position, id, Draw::Gumbel))
}

fn noise(bits: u64) -> f64 {
    // The last one would be rounded up to 1.
    let middle = (bits as f64 + 0.5).min(((1u64 << BITS) - 1) as f64);
    -ln(-ln(middle * 0.5f64.powi(BITS as i32)))
}

/// How many of the first bits are 1.
fn leading(bits: u64) -> u32 {
    (!(bits << (64 - BITS))).leading_zeros().min(BITS)
}

/// More than any noise whose uniform begins with so many ones and then a 0.
///
/// The uniform lies below `1 - 2^-(n + 1)`, and `-ln(-ln u) <= -ln(1 - u)`.
fn bound(ones: u32) -> f64 {
    f64::from(ones + 1) * 0.694
}

/// More than any noise.
const MOST: f64 = (BITS + 1) as f64 * 0.694;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logits::arith::exp64;
    use crate::logits::filter::Filters;
    use crate::logits::kernel::Isa;
    use crate::logits::row::Logits;
    use crate::logits::stats::stats;

    fn drawn(x: &[f32], temperature: f64, filters: Filters, seed: u64, position: u32) -> u32 {
        let row = Row::new(Logits::F32(x), &[], Isa::best());
        let mut scratch = Scratch::new(Isa::best(), None);
        let stats = stats(&row, &mut scratch).unwrap();
        let sampling = Sampling {
            temperature,
            filters,
        };
        let stream = Stream { seed, request: 0 };
        draw(&row, &stats, &sampling, (stream, position), &mut scratch).unwrap()
    }

    fn values(n: u32) -> Vec<f32> {
        let part = |i: u32| i.wrapping_mul(2_654_435_761) >> 20;
        (0..n).map(|i| part(i) as f32 / 256.0).collect()
    }

    #[test]
    fn what_is_passed_over_could_not_have_won() {
        let n = if cfg!(miri) { 300 } else { 9000 };
        let x = values(n);
        let top = x.iter().copied().fold(f32::MIN, f32::max);
        for (seed, temperature) in [(0, 0.3), (1, 1.0), (2, 2.0), (3, 100.0)] {
            let stream = Stream { seed, request: 0 };
            let key = |id: usize| {
                let gap = (f64::from(x[id]) - f64::from(top)) / temperature;
                gap + gumbel(stream, 5, id as u32)
            };
            let keys: Vec<f64> = (0..x.len()).map(key).collect();
            let best = keys.iter().copied().fold(f64::MIN, f64::max);
            let expected = keys.iter().position(|&key| key == best).unwrap();
            let got = drawn(&x, temperature, Filters::default(), seed, 5);
            assert_eq!(got as usize, expected, "{seed} {temperature}");
        }
    }

    #[test]
    fn no_noise_is_above_its_bound() {
        for bits in [
            0,
            1,
            1 << 52,
            (1 << 53) - 1,
            (1 << 53) - 2,
            3 << 51,
            7 << 50,
        ] {
            assert!(noise(bits) < bound(leading(bits)), "{bits:#x}");
            assert!(noise(bits) < MOST);
        }
    }

    #[test]
    fn filters_leave_what_they_keep() {
        let x = values(600);
        let top = Filters {
            top_k: Some(1),
            ..Filters::default()
        };
        let best = x.iter().copied().fold(f32::MIN, f32::max);
        let got = drawn(&x, 50.0, top, 3, 1);
        assert_eq!(x[got as usize], best);
    }

    #[test]
    fn infinite_logits_share_the_mass() {
        let x = [1.0, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY];
        let mut seen = [0; 4];
        for position in 0..200 {
            seen[drawn(&x, 1.0, Filters::default(), 0, position) as usize] += 1;
        }
        assert!(seen[1] > 60 && seen[3] > 60 && seen[1] + seen[3] == 200);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let x = [0.0f32, 1.0, 2.0, -1.0];
        let weights = x.map(|v| exp64(f64::from(v) / 0.7 - 2.0 / 0.7));
        let sum: f64 = weights.iter().sum();
        let n = if cfg!(miri) { 200 } else { 20_000 };
        let mut seen = [0.0; 4];
        for position in 0..n {
            seen[drawn(&x, 0.7, Filters::default(), 9, position) as usize] += 1.0;
        }
        let cells = seen.iter().zip(weights);
        let chi: f64 = cells
            .map(|(s, w)| (s - w / sum * f64::from(n)).powi(2) / (w / sum * f64::from(n)))
            .sum();
        assert!(chi < 16.3, "{chi}"); // 0.001 of 3 degrees of freedom
    }
}
