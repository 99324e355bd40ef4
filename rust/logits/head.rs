//! The most probable ids of a row: what is kept of a distribution by rules that compare it with the next one.

use super::row::Row;
use super::stats::{Scratch, Stats, Unusable};
use std::sync::Arc;

/// Ids that are kept of a distribution.
pub const HEAD: usize = 64;

/// The `HEAD` most probable ids of a distribution (of equal ones the lower), fewer where fewer are above -inf.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// Ids, rising, each with its probability; shared by who keeps it.
    pub cells: Arc<[(u32, f64)]>,
}

/// The head of a row whose statistics are `stats`. One pass over its logits.
pub fn head(row: &Row<'_>, stats: &Stats, scratch: &mut Scratch<'_>) -> Result<Head, Unusable> {
    // The largest first; of equal ones the lower id, which came first.
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(HEAD + 1);
    let mut floor = f32::NEG_INFINITY;
    let mut first = 0;
    for t in 0..row.tiles() {
        scratch.goes_on_to(t)?;
        let values = row.tile(t, &mut scratch.values);
        for (id, &x) in (first..).zip(values) {
            if x > floor {
                best.insert(best.partition_point(|&(y, _)| y >= x), (x, id));
                best.truncate(HEAD);
                if best.len() == HEAD {
                    floor = best[HEAD - 1].0;
                }
            }
        }
        first += values.len() as u32;
    }
    let cell = |(x, id): (f32, u32)| (id, stats.probability(x));
    let mut cells: Vec<(u32, f64)> = best.into_iter().map(cell).collect();
    cells.sort_unstable_by_key(|&(id, _)| id);
    Ok(Head {
        cells: cells.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logits::kernel::Isa;
    use crate::logits::row::Logits;
    use crate::logits::stats::stats;

    fn of(x: &[f32], suppressed: &[u32]) -> Head {
        let row = Row::new(Logits::F32(x), suppressed, Isa::Portable);
        let mut scratch = Scratch::new(Isa::Portable, None);
        let stats = stats(&row, &mut scratch).unwrap();
        head(&row, &stats, &mut scratch).unwrap()
    }

    #[test]
    fn the_largest_are_kept_and_of_equal_ones_the_lower_ids() {
        let mut x = vec![0.0; 9000];
        x[8000] = 5.0;
        x[3] = 4.0;
        let kept = of(&x, &[1, 5]);
        let ids: Vec<u32> = kept.cells.iter().map(|cell| cell.0).collect();
        let expected: Vec<u32> = (0..66).filter(|id| ![1, 5].contains(id)).take(63).collect();
        assert_eq!(ids[..63], expected);
        assert_eq!(ids[63], 8000);
        assert!(kept.cells[63].1 > 0.01 && kept.cells[0].1 == kept.cells[1].1);
    }

    #[test]
    fn what_has_no_mass_is_not_kept() {
        let x = [f32::NEG_INFINITY, 1.0, 1.0, 7.0];
        assert_eq!(of(&x, &[3]).cells[..], [(1, 0.5), (2, 0.5)]);
        assert_eq!(
            of(&[1.0, f32::INFINITY], &[]).cells[..],
            [(0, 0.0), (1, 1.0)]
        );
    }
}
