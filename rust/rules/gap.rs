//! Prophet's stop (Li et al., 2508.19982): where the answer is sure enough, everything left is committed at once.

use super::order::Proposal;
use crate::error::{Error, Result};
use crate::logits::arith::ln;
use std::ops::Range;

/// The mean gap between the two largest logits that stops a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GapStop {
    /// In the last third of the steps; twice as much in the second, three times in the first.
    pub bar: f64,
    /// First position of the answer, counted from where blocks are, and how many it has; without, all open positions count.
    pub answer: Option<(usize, usize)>,
}

impl GapStop {
    /// Checks the parameters.
    pub fn check(self) -> Result<()> {
        if self.bar.is_nan() || self.bar < 0.0 {
            return Err(Error::setting(
                "gap_stop",
                "must be a number, at least 0",
                self.bar,
                "2.5 is Prophet's; infinity never stops, None neither",
            ));
        }
        if matches!(self.answer, Some((_, 0))) {
            let remedy = "5 is Prophet's";
            return Err(Error::setting(
                "gap_length",
                "must be at least 1",
                0,
                remedy,
            ));
        }
        Ok(())
    }

    /// The positions whose gaps count, of a canvas of this length whose blocks are counted from `origin`; None for those of
    /// the block that are open.
    pub fn span(self, origin: usize, length: usize) -> Option<Range<usize>> {
        let (first, count) = self.answer?;
        let first = origin.saturating_add(first).min(length);
        Some(first..first.saturating_add(count).min(length))
    }

    /// Is the mean of these gaps large enough, once `progress` of the block's steps are done? Never where there are none.
    pub fn is_reached(self, gaps: impl Iterator<Item = f64>, progress: f64) -> bool {
        let (mut sum, mut count) = (0.0, 0usize);
        for gap in gaps {
            sum += gap;
            count += 1;
        }
        let times = if progress < 0.33 {
            3.0
        } else if progress < 0.67 {
            2.0
        } else {
            1.0
        };
        count > 0 && sum / count as f64 >= times * self.bar
    }
}

/// The gap between the two largest logits; probabilities below the smallest normal number count as that.
pub fn gap(proposal: &Proposal) -> f64 {
    let of = |p: f64| ln(p.max(f64::MIN_POSITIVE));
    of(proposal.top1) - of(proposal.top2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_asked_the_later_it_is() {
        let stop = GapStop {
            bar: 2.5,
            answer: None,
        };
        let reached =
            |gap: f64, progress| stop.is_reached([gap - 1.0, gap + 1.0].into_iter(), progress);
        assert!(reached(7.5, 0.1) && !reached(7.4, 0.32) && reached(5.0, 0.33));
        assert!(!reached(4.9, 0.66) && reached(2.5, 0.67) && !reached(2.4, 1.0));
        assert!(!stop.is_reached(std::iter::empty(), 1.0));
    }

    #[test]
    fn the_answer_is_counted_from_where_blocks_are() {
        let stop = |answer| GapStop { bar: 1.0, answer };
        assert_eq!(stop(Some((2, 3))).span(4, 20), Some(6..9));
        assert_eq!(stop(Some((2, 3))).span(4, 7), Some(6..7));
        assert_eq!(stop(Some((usize::MAX, 3))).span(4, 7), Some(7..7));
        assert_eq!(stop(None).span(4, 7), None);
    }
}
