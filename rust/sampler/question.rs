//! What a step asks of the model, apart from the sampler that asks: so that an answer can be worked out while the sampler does
//! something else.

use crate::error::{Error, Result};
use crate::logits::kernel::Isa;
use crate::logits::predict::{Law, Matrix, Prediction, Site, predict};
use crate::logits::row::Logits;
use crate::logits::stats::Unusable;
use crate::watch::Watch;

/// The requested positions of some rows, and all that their predictions depend on but the logits.
pub struct Question {
    pub(super) sites: Vec<Site>,
    /// Rows of the batch, in the order of their sites.
    pub(super) rows: Vec<Asked>,
    /// What the sites' `law` counts in.
    pub(super) laws: Vec<Law>,
    pub(super) vocabulary: usize,
}

/// A row that a question is about.
pub(super) struct Asked {
    pub row: usize,
    /// Its number of sites.
    pub count: usize,
    /// Are probabilities those of a softmax in the dtype of the logits?
    pub is_rounded: bool,
}

impl Question {
    /// Statistics and drawn tokens, one entry a site, from logits of the shape that the question was made for.
    pub fn answer(&self, logits: Logits<'_>, watch: &Watch<'_>) -> Result<Vec<Prediction>> {
        let matrix = Matrix {
            logits,
            vocabulary: self.vocabulary,
            softcap: None,
        };
        let mut predictions = predict(&matrix, &self.sites, &self.laws, Isa::best(), watch)
            .map_err(|(i, why)| {
                let (row, position) = (self.row_of(i), Some(self.sites[i].position as usize));
                match why {
                    Unusable::NotANumber(id) => Error::NotANumber { row, position, id },
                    Unusable::NothingAllowed => Error::NothingAllowed { row, position },
                    Unusable::Interrupted => Error::Interrupted,
                }
            })?;
        let mut rest = &mut predictions[..];
        for asked in &self.rows {
            let (own, others) = rest.split_at_mut(asked.count);
            rest = others;
            if asked.is_rounded {
                for p in own {
                    *p = p.rounded(logits.dtype());
                }
            }
        }
        Ok(predictions)
    }

    fn row_of(&self, site: usize) -> usize {
        let mut end = 0;
        let holds = |asked: &&Asked| {
            end += asked.count;
            site < end
        };
        self.rows
            .iter()
            .find(holds)
            .expect("every site has a row")
            .row
    }
}
