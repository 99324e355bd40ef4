//! What a row starts from.

use super::Wishes;
use crate::error::{Error, Result};
use crate::rng::Stream;
use crate::rules::Rule;
use crate::rules::noise::Noise;
use crate::rules::order::Order;

/// What a row starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// Tokens; masks are what may be written.
    pub canvas: Vec<u32>,
    /// Which positions may be written, where no mask says it.
    pub open: Option<Vec<bool>>,
    /// Randomness of the row.
    pub stream: Stream,
    /// Where its blocks are counted from.
    pub origin: usize,
    /// What it is told of the order of its positions.
    pub wishes: Wishes,
}

impl Start {
    /// Refuses a row of which nothing says, or two things say, what may be written.
    pub(super) fn check(&self, row: usize, rule: &Rule) -> Result<()> {
        let positions = self.canvas.len();
        match (&self.open, rule.mask) {
            (None, None) => Err(Error::Mismatch(format!(
                "a mask token is needed, got none for row {row}; pass mask_token_id (LLaDA 126336, Dream 151666, LLaDA2 156895, BERT 103), \
                 or open=, which says what is written"
            ))),
            (Some(_), Some(mask)) => Err(Error::Mismatch(format!(
                "the mask says which positions are open, got open= beside mask_token_id={mask} for row {row}; pass one of them"
            ))),
            (Some(open), None) if open.len() != positions => Err(Error::Mismatch(format!(
                "open must have a flag for each of the {positions} positions of row {row}, got {}; pass an array as long as the canvas",
                open.len()
            ))),
            _ if rule.shows != Noise::Mask && rule.shows.vocabulary().is_none() => {
                Err(Error::Order(
                    "noise needs the number of token ids that it is drawn from, got none; pass vocabulary=",
                ))
            }
            _ if rule.order == Order::Calibrated && rule.calibration.frequencies.is_none() => {
                Err(Error::Order(
                    "order 'calibrated' (PC-Sampler) needs to know how frequent each token is anywhere, got no token_frequencies; count \
                     them in some text of the model's language: token_frequencies=dllm_fast.TokenFrequencies.of(ids, vocabulary)",
                ))
            }
            (_, None) if matches!(rule.shows, Noise::Hybrid { .. }) => Err(Error::Order(
                "noise 'hybrid' shows masks among other tokens, got no mask; pass mask_token_id=",
            )),
            _ => Ok(()),
        }
    }
}
