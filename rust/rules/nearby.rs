//! What the neighbours of a position decide: anchors that pull them along, the best of each run, and how much around it is known.

use super::cut::{Candidate, Cut, order};
use crate::error::{Error, Result};
use crate::logits::arith::exp64;
use crate::watch::Watch;

/// The confidence of a candidate that passes by itself, once `mark` has looked at it.
pub(super) const MARKED: f64 = f64::INFINITY;
/// Instead of the confidence of a candidate whose distribution has not come to rest.
pub const NOT_STEADY: f64 = f64::NEG_INFINITY;

/// Marks the candidates that pass, where a cut asks each by itself; else false, and nothing has changed. They come in the order
/// of their positions.
pub(super) fn mark(candidates: &mut [Candidate], cut: Cut) -> bool {
    match cut {
        Cut::Neighbours {
            threshold,
            near,
            distance,
        } => mark_around_anchors(candidates, threshold, near, distance),
        Cut::Runs { threshold, run } => mark_best_of_runs(candidates, threshold, run),
        Cut::Steady { threshold, .. } => {
            for candidate in candidates {
                let is_steady = candidate.confidence != NOT_STEADY;
                set(candidate, is_steady && candidate.confidence >= threshold);
            }
        }
        Cut::Count
        | Cut::Threshold(_)
        | Cut::Factor { .. }
        | Cut::EntropyBound(_)
        | Cut::EntropyThreshold(_)
        | Cut::Verified
        | Cut::Mixed { .. } => return false,
    }
    true
}

fn set(candidate: &mut Candidate, passes: bool) {
    candidate.confidence = if passes { MARKED } else { -MARKED };
}

fn mark_around_anchors(candidates: &mut [Candidate], threshold: f64, near: f64, distance: u32) {
    let anchors = candidates.iter().filter(|c| c.confidence >= threshold);
    let anchors: Vec<u32> = anchors.map(|c| c.position).collect();
    for candidate in candidates {
        let first = candidate.position.saturating_sub(distance);
        let last = candidate.position.saturating_add(distance);
        let found = anchors.get(anchors.partition_point(|&anchor| anchor < first));
        let is_near = found.is_some_and(|&anchor| anchor <= last);
        let bar = if is_near { near } else { threshold };
        set(candidate, candidate.confidence >= bar);
    }
}

fn mark_best_of_runs(candidates: &mut [Candidate], threshold: f64, run: f64) {
    for neighbours in candidates.chunk_by_mut(|a, b| a.position + 1 == b.position) {
        let best = neighbours.iter().enumerate().min_by(|a, b| order(a.1, b.1));
        let best = best.map_or(0, |(i, _)| i);
        for (i, candidate) in neighbours.iter_mut().enumerate() {
            let least = if i == best {
                run.min(threshold)
            } else {
                threshold
            };
            set(candidate, candidate.confidence >= least);
        }
    }
}

/// Positions that count on each side are at most so many standard deviations away.
const REACH: f64 = 6.0;
/// The narrowest Gaussian, which sees its own position alone, long before its square is no number.
pub(super) const NARROWEST: f64 = 1e-3;
/// The widest one.
pub(super) const WIDEST: f64 = 1000.0;

/// How much around a position is known: the share of known positions, weighed by a Gaussian around it (d2Cache, 2509.23094).
/// What lies before the canvas is known, what lies behind it is if the last position is.
#[derive(Debug)]
pub struct Prior {
    /// By distance.
    weights: Vec<f64>,
    /// Of both sides.
    total: f64,
}

impl Prior {
    /// Of a Gaussian of this standard deviation.
    pub fn new(sigma: f64) -> Self {
        let reach = (REACH * sigma).ceil() as usize;
        let weight = |d: usize| exp64(-((d * d) as f64) / (2.0 * sigma * sigma));
        let weights: Vec<f64> = (0..=reach).map(weight).collect();
        let total = weights[1..].iter().fold(weights[0], |sum, w| sum + w + w);
        Self { weights, total }
    }

    /// For each of `positions`, which rise.
    pub fn density(
        &self,
        is_open: impl Fn(usize) -> bool,
        length: usize,
        positions: &[u32],
        watch: &Watch<'_>,
    ) -> Result<Vec<f64>> {
        // Each adds up in the same order, the nearest first and the left before the right; several at once do not wait for
        // each other's sums. What is not known adds 0, which changes no bit.
        const LANES: usize = 8;
        let (Some(&first), Some(&last)) = (positions.first(), positions.last()) else {
            return Ok(vec![]);
        };
        let reach = self.weights.len() - 1;
        let ends_known = !is_open(length - 1);
        // Around them: that of position `first - reach` comes first.
        let share = |i: usize| {
            let is_known = match (first as usize + i).checked_sub(reach) {
                Some(p) if p < length => !is_open(p),
                Some(_) => ends_known,
                None => true,
            };
            f64::from(u8::from(is_known))
        };
        let shares: Vec<f64> = (0..=(last - first) as usize + 2 * reach)
            .map(share)
            .collect();
        let mut densities = Vec::with_capacity(positions.len());
        for some in positions.chunks(LANES) {
            if !watch.goes_on() {
                return Err(Error::Interrupted);
            }
            // The last ones again where there are no more.
            let place = |lane: usize| {
                let position = some.get(lane).unwrap_or(&some[some.len() - 1]);
                (position - first) as usize + reach
            };
            let places: [usize; LANES] = std::array::from_fn(place);
            let mut known = places.map(|p| self.weights[0] * shares[p]);
            let (left, right) = (&shares[places[0] - reach..], &shares[places[0]..]);
            if some.len() == LANES && places[LANES - 1] - places[0] == LANES - 1 {
                for (d, &w) in self.weights.iter().enumerate().skip(1) {
                    let (left, right) = (&left[reach - d..][..LANES], &right[d..][..LANES]);
                    for ((sum, l), r) in known.iter_mut().zip(left).zip(right) {
                        *sum += w * l;
                        *sum += w * r;
                    }
                }
            } else {
                for (d, &w) in self.weights.iter().enumerate().skip(1) {
                    for (sum, &p) in known.iter_mut().zip(&places) {
                        *sum += w * shares[p - d];
                        *sum += w * shares[p + d];
                    }
                }
            }
            densities.extend(known[..some.len()].iter().map(|known| known / self.total));
        }
        Ok(densities)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cut::select;
    use super::*;

    fn chosen(all: &[(u32, f64)], cut: Cut, floor: usize) -> Vec<u32> {
        let make = |(index, &(position, c)): (usize, &(u32, f64))| Candidate {
            key: c,
            confidence: c,
            entropy: 0.0,
            index: index as u32,
            position,
        };
        let mut candidates: Vec<Candidate> = all.iter().enumerate().map(make).collect();
        let n = select(&mut candidates, cut, floor, &Watch::never()).unwrap();
        candidates[..n].iter().map(|c| c.position).collect()
    }

    #[test]
    fn anchors_pull_their_neighbours_along() {
        let cut = |distance| Cut::Neighbours {
            threshold: 0.9,
            near: 0.7,
            distance,
        };
        let all = [(3, 0.8), (4, 0.6), (6, 0.9), (9, 0.75), (11, 0.8)];
        assert_eq!(chosen(&all, cut(3), 1), [6, 3, 9]);
        assert_eq!(chosen(&all, cut(0), 1), [6]);
        assert_eq!(chosen(&all, cut(u32::MAX), 1), [6, 3, 11, 9]);
        let without = [(3, 0.8), (4, 0.85)];
        assert_eq!(chosen(&without, cut(4), 1), [4], "no anchor, no neighbours");
        assert_eq!(chosen(&all, cut(3), 2), [6, 3, 9], "beside the floor");
        assert_eq!(chosen(&all, cut(3), 3), [6, 3, 11, 9]);
    }

    #[test]
    fn the_best_of_each_run_passes_where_it_is_sure_enough() {
        let cut = Cut::Runs {
            threshold: 0.9,
            run: 0.4,
        };
        let all = [
            (0, 0.5),
            (1, 0.5),
            (2, 0.92),
            (3, 0.91),
            (5, 0.3),
            (7, 0.6),
            (8, 0.6),
        ];
        assert_eq!(chosen(&all, cut, 1), [2, 3, 7]);
        assert_eq!(chosen(&[(0, 0.1), (2, 0.2)], cut, 1), [2]);
        assert_eq!(chosen(&[], cut, 1), [0; 0]);
    }

    #[test]
    fn what_is_known_around_a_position() {
        let known = |pattern: &str, at: u32| {
            let is_open = |p: usize| pattern.as_bytes()[p] == b'.';
            Prior::new(1.0)
                .density(is_open, pattern.len(), &[at], &Watch::never())
                .unwrap()[0]
        };
        assert_eq!(known("xxx", 1), 1.0);
        let side: f64 = (1..=6).map(|d| f64::from(-d * d) / 2.0).map(f64::exp).sum();
        let all = 1.0 + 2.0 * side;
        assert!((known(".xxxxxx", 0) - 2.0 * side / all).abs() < 1e-12);
        assert!(
            (known(".......", 0) - side / all).abs() < 1e-12,
            "before it all is known"
        );
        assert!(known(".......x", 6) > known(".......x", 0) - 1e-12);
    }

    #[test]
    fn many_positions_are_told_what_each_is_told_alone() {
        let pattern: Vec<bool> = (0..90usize).map(|p| p * p % 7 < 3).collect();
        let is_open = |p: usize| pattern[p];
        for sigma in [0.3, 2.0, 10.0, 40.0] {
            let prior = Prior::new(sigma);
            let alone = |p| prior.density(is_open, 90, &[p], &Watch::never()).unwrap()[0];
            for positions in [
                (0..90).collect(),
                (3..90).step_by(5).collect(),
                (70..79).collect::<Vec<u32>>(),
                vec![4, 11],
                vec![],
            ] {
                let together = prior.density(is_open, 90, &positions, &Watch::never());
                let expected: Vec<f64> = positions.iter().map(|&p| alone(p)).collect();
                assert_eq!(together.unwrap(), expected);
            }
        }
    }
}
