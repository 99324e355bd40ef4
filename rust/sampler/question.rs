//! What a step asks of the model, apart from the sampler that asks: so that an answer can be worked out while the sampler does
//! something else.

use crate::error::{Error, Result};
use crate::logits::draw::Sampling;
use crate::logits::kernel::Isa;
use crate::logits::predict::{Matrix, Prediction, Site, predict};
use crate::logits::row::Logits;
use crate::logits::stats::Unusable;
use crate::watch::Watch;
use std::sync::Arc;

/// The requested positions of some rows, and all that their predictions depend on but the logits.
pub struct Question {
    pub(super) sites: Vec<Site>,
    /// Rows of the batch, each with its number of sites.
    pub(super) rows: Vec<(usize, usize)>,
    pub(super) excluded: Arc<[u32]>,
    pub(super) vocabulary: usize,
    pub(super) sampling: Sampling,
    /// Are probabilities those of a softmax in the dtype of the logits?
    pub(super) is_rounded: bool,
}

impl Question {
    /// Statistics and drawn tokens, one entry a site, from logits of the shape that the question was made for.
    pub fn answer(&self, logits: Logits<'_>, watch: &Watch<'_>) -> Result<Vec<Prediction>> {
        let matrix = Matrix {
            logits,
            vocabulary: self.vocabulary,
            suppressed: &self.excluded,
            softcap: None,
        };
        let mut predictions = predict(&matrix, &self.sites, &self.sampling, Isa::best(), watch)
            .map_err(|(i, why)| {
                let (row, position) = (self.row_of(i), Some(self.sites[i].position as usize));
                match why {
                    Unusable::NotANumber(id) => Error::NotANumber { row, position, id },
                    Unusable::NothingAllowed => Error::NothingAllowed { row, position },
                    Unusable::Interrupted => Error::Interrupted,
                }
            })?;
        if self.is_rounded {
            for p in &mut predictions {
                *p = p.rounded(logits.dtype());
            }
        }
        Ok(predictions)
    }

    fn row_of(&self, site: usize) -> usize {
        let mut end = 0;
        let holds = |&&(_, count): &&(usize, usize)| {
            end += count;
            site < end
        };
        self.rows
            .iter()
            .find(holds)
            .expect("every site has a row")
            .0
    }
}
