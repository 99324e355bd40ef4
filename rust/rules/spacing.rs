//! A thin stage behind the selector: of those that were chosen, none stands too near to a better one.

use super::cut::{Candidate, sort};
use crate::error::Result;
use crate::watch::Watch;
use std::collections::BTreeSet;

/// Walks the candidates in their order, the chosen ones (`count` of them) first and the others by key behind them, and takes
/// whoever stands at least `spacing` positions from everybody taken before: of the others only as long as fewer than `floor`
/// are. Where that leaves fewer than `floor`, the best of those that were passed over fill up. Puts the taken ones first, in
/// the order of the walk, and returns their number. Cost `O(n log n)`.
pub fn thin(
    candidates: &mut [Candidate],
    count: usize,
    floor: usize,
    spacing: u32,
    watch: &Watch<'_>,
) -> Result<usize> {
    if spacing <= 1 {
        return Ok(count);
    }
    sort(&mut candidates[count..], watch)?;
    let floor = floor.min(candidates.len());
    let (mut taken, mut places) = (vec![false; candidates.len()], BTreeSet::new());
    for (i, candidate) in candidates.iter().enumerate() {
        if i >= count && places.len() >= floor {
            break;
        }
        let (from, to) = (
            candidate.position.saturating_sub(spacing - 1),
            candidate.position.saturating_add(spacing - 1),
        );
        if places.range(from..=to).next().is_none() {
            places.insert(candidate.position);
            taken[i] = true;
        }
    }
    let mut lacking = floor.saturating_sub(places.len());
    for is_taken in &mut taken {
        if lacking > 0 && !*is_taken {
            *is_taken = true;
            lacking -= 1;
        }
    }
    let chosen = |wanted: bool| {
        let both = candidates.iter().zip(&taken);
        both.filter(move |&(_, &is_taken)| is_taken == wanted)
            .map(|(c, _)| *c)
    };
    let mut arranged: Vec<Candidate> = chosen(true).collect();
    let number = arranged.len();
    arranged.extend(chosen(false));
    candidates.copy_from_slice(&arranged);
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::super::cut::{Cut, select};
    use super::*;

    fn chosen(keys: &[f64], cut: Cut, floor: usize, spacing: u32) -> Vec<u32> {
        let make = |(i, &key): (usize, &f64)| Candidate {
            key,
            confidence: key,
            entropy: 0.0,
            index: i as u32,
            position: i as u32,
        };
        let mut all: Vec<Candidate> = keys.iter().enumerate().map(make).collect();
        let count = select(&mut all, cut, floor, &Watch::never()).unwrap();
        let count = thin(&mut all, count, floor, spacing, &Watch::never()).unwrap();
        all[..count].iter().map(|c| c.position).collect()
    }

    #[test]
    fn the_near_are_dropped_and_the_floor_is_kept() {
        let keys = [0.9, 0.8, 0.1, 0.7, 0.95];
        assert_eq!(chosen(&keys, Cut::Threshold(0.5), 1, 1), [4, 0, 1, 3]);
        assert_eq!(chosen(&keys, Cut::Threshold(0.5), 1, 2), [4, 0]);
        assert_eq!(chosen(&keys, Cut::Threshold(0.5), 3, 2), [4, 0, 2]);
        assert_eq!(chosen(&keys, Cut::Threshold(0.5), 4, 2), [4, 0, 1, 2]);
        assert_eq!(chosen(&keys, Cut::Count, 2, 2), [4, 0]);
        assert_eq!(chosen(&keys, Cut::Count, 3, 3), [4, 0, 1]);
        assert_eq!(chosen(&keys, Cut::Count, 2, u32::MAX), [4, 0]);
    }
}
