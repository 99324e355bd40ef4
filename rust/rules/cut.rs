//! The one selector: order the candidates by key, keep the longest prefix that passes the cut, clamp its length.

use super::nearby;
use crate::error::{Error, Result};
use crate::watch::Watch;
use std::cmp::Ordering;

/// A position that could be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Sorted by this, the highest first; ties go to the lower index.
    pub key: f64,
    /// Tested by threshold and factor.
    pub confidence: f64,
    /// Summed by the entropy bound, in nats.
    pub entropy: f64,
    /// Index of the candidate; rises with the position.
    pub index: u32,
    /// Where it stands in the canvas.
    pub position: u32,
}

/// The test that ends the prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// The floor alone decides.
    Count,
    /// Every confidence is at least this (Fast-dLLM, Wu et al., 2505.22618).
    Threshold(f64),
    /// `(n + 1) (1 - c_n) < factor` for the n-th confidence (Fast-dLLM).
    Factor {
        /// The bound.
        factor: f64,
        /// Commit also the last candidate if it is the only one that fails, and let equality pass, as the published code does.
        as_published: bool,
    },
    /// Sum of the entropies minus their maximum is at most this (EB-Sampler, Ben-Hamu et al., 2505.24857).
    EntropyBound(f64),
    /// Each entropy is below this (`WeDLM`, 2512.22737; d3LLM, 2601.07568).
    EntropyThreshold(f64),
    /// Each by itself: a confidence of at least `threshold`, an anchor, or of at least `near` with an anchor no further away
    /// than `distance` (`LocalLeap`, Kong et al., 2510.07081).
    Neighbours {
        /// What makes an anchor.
        threshold: f64,
        /// What is asked around anchors.
        near: f64,
        /// In positions, to both sides.
        distance: u32,
    },
    /// Each by itself: a confidence of at least `threshold`, or the best of a maximal run of neighbouring candidates if it is
    /// at least `run` (hierarchical decoding of dInfer, 2510.08666).
    Runs {
        /// What anybody needs.
        threshold: f64,
        /// What the best of a run needs.
        run: f64,
    },
    /// Each by itself: a confidence of at least `threshold`, and a distribution that stayed closer than `bar` to the one before
    /// it in each of the last `steps` forwards (`steady.rs`; KLASS, Kim et al., 2511.05664). The floor counts those that pass.
    Steady {
        /// What anybody needs.
        threshold: f64,
        /// Divergences must be below this.
        bar: f64,
        /// So many of them.
        steps: u32,
    },
    /// The prefix in which what was drafted is what a causal look at it says, and the first that it says otherwise: a
    /// candidate whose confidence is above 0 agrees (`LinearSpec` of `SGLang`).
    Verified,
    /// The prefix in which what was drafted is what a mixture of its logits and those of another model, which reads causally,
    /// says with the same noise; the first in any case (APD, Israel et al., 2506.00413). The caller mixes; a candidate whose
    /// confidence is above 0 agrees.
    Mixed {
        /// Share of the model that drafts. At 1 everything agrees, and nobody else is asked.
        weight: f64,
    },
}

impl Cut {
    /// All of them, each at the place that is its number, with bounds that mean nothing.
    pub const ALL: [Self; 11] = [
        Self::Count,
        Self::Threshold(0.0),
        Self::Factor {
            factor: 0.0,
            as_published: false,
        },
        Self::Factor {
            factor: 0.0,
            as_published: true,
        },
        Self::EntropyBound(0.0),
        Self::Neighbours {
            threshold: 0.0,
            near: 0.0,
            distance: 0,
        },
        Self::Runs {
            threshold: 0.0,
            run: 0.0,
        },
        Self::EntropyThreshold(0.0),
        Self::Steady {
            threshold: 0.0,
            bar: 0.0,
            steps: 1,
        },
        Self::Verified,
        Self::Mixed { weight: 0.0 },
    ];

    /// Checks the parameters.
    pub fn check(self) -> Result<()> {
        match self {
            Cut::Threshold(t)
            | Cut::Neighbours { threshold: t, .. }
            | Cut::Runs { threshold: t, .. }
            | Cut::Steady { threshold: t, .. }
                if t.is_nan() =>
            {
                Err(Error::setting(
                    "threshold",
                    "must be a number",
                    t,
                    "0.9 is Fast-dLLM's; above 1 commits one a forward, 0 all at once",
                ))
            }
            Cut::Factor { factor, .. } if factor.is_nan() || factor < 0.0 => Err(Error::setting(
                "factor",
                "must be at least 0",
                factor,
                "1 is Fast-dLLM's; 0 commits one a forward",
            )),
            Cut::EntropyBound(bound) if bound.is_nan() || bound < 0.0 => Err(Error::setting(
                "entropy_bound",
                "must be at least 0 (nats)",
                bound,
                "0.1 is common; 0 commits one a forward",
            )),
            Cut::EntropyThreshold(bar) if bar.is_nan() => Err(Error::setting(
                "entropy_threshold",
                "must be a number (nats)",
                bar,
                "0.4 is WeDLM's; 0 commits one a forward",
            )),
            Cut::Neighbours {
                near, threshold, ..
            } if near.is_nan() || near > threshold => Err(Error::setting(
                "neighbour_threshold",
                "must be a number, at most the threshold",
                near,
                "0.75 below a threshold of 0.9 is LocalLeap's; the threshold itself is the rule without neighbours",
            )),
            Cut::Steady { bar, .. } if bar.is_nan() || bar < 0.0 => Err(Error::setting(
                "kl_threshold",
                "must be a number, at least 0",
                bar,
                "0.01 is KLASS's; 0 commits one a forward",
            )),
            Cut::Steady { steps: 0, .. } => Err(Error::setting(
                "kl_steps",
                "must be at least 1",
                0,
                "2 is KLASS's",
            )),
            Cut::Mixed { weight } if !(0.0..=1.0).contains(&weight) => Err(Error::setting(
                "verifier_mixture",
                "must lie in [0, 1]",
                weight,
                "0.7 is in the middle of APD's; 1 accepts every draft",
            )),
            Cut::Runs { run, .. } if run.is_nan() => Err(Error::setting(
                "run_threshold",
                "must be a number",
                run,
                "0.4 is dInfer's; above 1 only the threshold counts",
            )),
            _ => Ok(()),
        }
    }

    /// Are tokens drafted in one forward, and looked at causally in another before they are written?
    pub fn looks_twice(self) -> bool {
        matches!(self, Self::Verified | Self::Mixed { .. })
    }

    /// Its name: that of the setting, where there is one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Threshold(_) => "threshold",
            Self::Factor {
                as_published: false,
                ..
            } => "factor",
            Self::Factor {
                as_published: true, ..
            } => "factor as published",
            Self::EntropyBound(_) => "entropy_bound",
            Self::EntropyThreshold(_) => "entropy_threshold",
            Self::Neighbours { .. } => "neighbour_threshold",
            Self::Runs { .. } => "run_threshold",
            Self::Steady { .. } => "kl_threshold",
            Self::Verified => "verify",
            Self::Mixed { .. } => "verifier_mixture",
        }
    }
}

/// Puts the chosen candidates first, best first, and returns their number: the prefix that passes `cut`, at least
/// `floor`, at most all. Where candidates pass each by itself, the best `floor` and all that pass (under `Steady`, all that
/// pass, and the best of the others up to `floor`); they must come in the order of their positions then. Keys must not be NaN.
/// Cost `O(n)` plus sorting what is chosen for counts, `O(n log n)` otherwise. Fails only where `watch` stops it.
pub fn select(
    candidates: &mut [Candidate],
    cut: Cut,
    floor: usize,
    watch: &Watch<'_>,
) -> Result<usize> {
    let floor = floor.min(candidates.len());
    if cut == Cut::Count {
        if floor > 0 && floor < candidates.len() {
            candidates.select_nth_unstable_by(floor - 1, order);
        }
        sort(&mut candidates[..floor], watch)?;
        return Ok(floor);
    }
    if nearby::mark(candidates, cut) {
        sort(candidates, watch)?;
        if let Cut::Steady { .. } = cut {
            return Ok(bring_forward(candidates).max(floor));
        }
        return Ok(floor + bring_forward(&mut candidates[floor..]));
    }
    sort(candidates, watch)?;
    Ok(passing(candidates, cut).max(floor))
}

/// Puts the marked candidates before the others, each in the order in which they were, and returns their number.
fn bring_forward(candidates: &mut [Candidate]) -> usize {
    candidates.sort_by_key(|c| c.confidence != nearby::MARKED);
    candidates.partition_point(|c| c.confidence == nearby::MARKED)
}

/// Many are sorted in pieces, then in pieces of pieces, where the sorting finds what is in order already: so that nobody waits
/// long for an answer to Ctrl-C.
pub(super) fn sort(candidates: &mut [Candidate], watch: &Watch<'_>) -> Result<()> {
    const PIECE: usize = 1 << 16;
    if candidates.len() <= PIECE {
        candidates.sort_unstable_by(order);
        return Ok(());
    }
    let mut piece = PIECE;
    loop {
        for part in candidates.chunks_mut(piece) {
            if !watch.goes_on() {
                return Err(Error::Interrupted);
            }
            part.sort_by(order);
        }
        if piece >= candidates.len() {
            return Ok(());
        }
        piece *= 16;
    }
}

/// The better candidate first; ties go to the lower index.
pub fn order(a: &Candidate, b: &Candidate) -> Ordering {
    let by_key = b.key.partial_cmp(&a.key).expect("keys are numbers");
    by_key.then(a.index.cmp(&b.index))
}

/// Length of the longest prefix that passes.
fn passing(sorted: &[Candidate], cut: Cut) -> usize {
    let prefix = |pass: &mut dyn FnMut(usize, &Candidate) -> bool| {
        sorted
            .iter()
            .enumerate()
            .position(|(i, c)| !pass(i + 1, c))
            .unwrap_or(sorted.len())
    };
    match cut {
        Cut::Count | Cut::Neighbours { .. } | Cut::Runs { .. } | Cut::Steady { .. } => 0,
        Cut::Threshold(t) => prefix(&mut |_, c| c.confidence >= t),
        Cut::EntropyThreshold(bar) => prefix(&mut |_, c| c.entropy < bar),
        Cut::Verified => (prefix(&mut |_, c| c.confidence > 0.0) + 1).min(sorted.len()),
        Cut::Mixed { .. } => prefix(&mut |_, c| c.confidence > 0.0),
        Cut::Factor {
            factor,
            as_published: false,
        } => prefix(&mut |n, c| (n + 1) as f64 * (1.0 - c.confidence) < factor),
        Cut::Factor {
            factor,
            as_published: true,
        } => {
            // The first is never tested.
            let passed =
                prefix(&mut |n, c| n == 1 || c.confidence >= 1.0 - factor / (n + 1) as f64);
            if passed + 1 == sorted.len() {
                sorted.len()
            } else {
                passed
            }
        }
        Cut::EntropyBound(bound) => {
            let (mut sum, mut largest) = (0.0, 0.0f64);
            prefix(&mut |_, c| {
                sum += c.entropy;
                largest = largest.max(c.entropy);
                sum - largest <= bound
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(confidences: &[f64]) -> Vec<Candidate> {
        let make = |(index, &c)| Candidate {
            key: c,
            confidence: c,
            entropy: 1.0 - c,
            index: index as u32,
            position: index as u32,
        };
        confidences.iter().enumerate().map(make).collect()
    }

    fn chosen(confidences: &[f64], cut: Cut, floor: usize) -> Vec<u32> {
        let mut all = candidates(confidences);
        let n = select(&mut all, cut, floor, &Watch::never()).unwrap();
        all[..n].iter().map(|c| c.index).collect()
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(
            chosen(&[0.5, 0.9, 0.5, 0.9, 0.5], Cut::Count, 4),
            [1, 3, 0, 2]
        );
        assert_eq!(chosen(&[0.5; 5], Cut::Count, 3), [0, 1, 2]);
        assert_eq!(chosen(&[-0.0, 0.0, -0.0], Cut::Count, 2), [0, 1]);
    }

    #[test]
    fn the_floor_is_kept_and_clamped() {
        assert_eq!(chosen(&[0.1, 0.2], Cut::Threshold(0.9), 1), [1]);
        assert_eq!(chosen(&[0.1, 0.2], Cut::Threshold(0.9), 9), [1, 0]);
        assert_eq!(chosen(&[], Cut::Threshold(0.9), 1), Vec::<u32>::new());
        assert_eq!(
            chosen(&[0.1, 0.95, 0.2, 0.9], Cut::Threshold(0.9), 1),
            [1, 3]
        );
    }

    #[test]
    fn factor_as_the_rule_says_and_as_published() {
        let c = [0.9, 0.8, 0.1];
        let rule = |as_published| Cut::Factor {
            factor: 1.0,
            as_published,
        };
        assert_eq!(chosen(&c, rule(false), 1), [0, 1]);
        assert_eq!(
            chosen(&c, rule(true), 1),
            [0, 1, 2],
            "only the last fails, so the published loop takes it too"
        );
    }

    #[test]
    fn entropy_bound_leaves_out_the_largest() {
        // entropies 0.1, 0.2, 0.3: sums minus maximum 0, 0.1, 0.3
        let c = [0.9, 0.8, 0.7];
        for (bound, n) in [(0.0, 1), (0.11, 2), (0.2, 2), (0.31, 3)] {
            assert_eq!(chosen(&c, Cut::EntropyBound(bound), 1).len(), n, "{bound}");
        }
    }
}
