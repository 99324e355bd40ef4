//! What a step asks of the model, apart from the sampler that asks: so that an answer can be worked out while the sampler does
//! something else.

use super::Sampler;
use super::beside::{Beside, Extra};
use crate::error::{Error, Result};
use crate::logits::kernel::Isa;
use crate::logits::predict::{Law, Matrix, Prediction, Site, predict, predict_by};
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
    /// Of each site, what is wanted beside its prediction; none where no rule remembers anything.
    pub(super) extras: Vec<Extra>,
}

/// A row that a question is about.
pub(super) struct Asked {
    pub row: usize,
    /// Its number of sites.
    pub count: usize,
    /// Are probabilities those of a softmax in the dtype of the logits?
    pub is_rounded: bool,
}

impl Sampler {
    /// The requested positions of `rows`, in order, and what a draw at each depends on; site i is of line i.
    pub fn sites(&self, rows: &[usize]) -> Result<Vec<Site>> {
        let mut sites = Vec::with_capacity(self.wanted(rows)?);
        for &r in rows {
            let row = &self.rows[r];
            sites.extend(self.positions(r).iter().map(|&position| Site {
                row: 0,
                stream: row.stream(),
                position,
                step: row.forwards(),
                law: 0,
                current: row.current(position),
            }));
        }
        for (i, site) in sites.iter_mut().enumerate() {
            site.row = i;
        }
        Ok(sites)
    }

    /// What must be known of the requested positions of `rows`, in order: it can be answered while the sampler is elsewhere.
    /// `lines` and `vocabulary` are the shape of the logits; `index` names the line for each position, without it they follow
    /// each other.
    pub fn question(
        &self,
        rows: &[usize],
        lines: usize,
        vocabulary: usize,
        index: Option<&[usize]>,
    ) -> Result<Question> {
        let wanted = self.wanted(rows)?;
        let (laws, law_of_row) = self.laws(rows);
        for law in &laws {
            if let Some(&id) = law.suppressed.last()
                && id as usize >= vocabulary
            {
                let name = if rows.iter().any(|&r| self.rule(r).mask == Some(id)) {
                    "mask_token_id"
                } else if rows.iter().any(|&r| self.rule(r).ends.contains(&id)) {
                    "eos_token_id"
                } else {
                    "suppress_tokens"
                };
                return Err(Error::Mismatch(format!(
                    "{name} must be an id of the vocabulary, got {id} for logits with {vocabulary} columns; check it against the tokenizer"
                )));
            }
        }
        for &r in rows {
            self.rule(r).calibration.fits(vocabulary)?;
        }
        let count = index.map_or(lines, <[_]>::len);
        if count != wanted {
            return Err(Error::Mismatch(format!(
                "logits must have one row for each requested position, got {count} for {wanted}{}; keep the order of Request.positions",
                self.withdrawn()
            )));
        }
        if let Some(bad) = index.into_iter().flatten().find(|&&i| i >= lines) {
            return Err(Error::Mismatch(format!(
                "index must name rows of the logits, got {bad} for {lines} rows; count from 0"
            )));
        }
        let mut sites = self.sites(rows)?;
        let written = sites.iter().filter_map(|site| site.current).max();
        if let Some(id) = written.filter(|&id| id as usize >= vocabulary) {
            return Err(Error::Mismatch(format!(
                "written tokens must be ids of the vocabulary, got {id} for logits with {vocabulary} columns; check it against the tokenizer"
            )));
        }
        for (site, &line) in sites.iter_mut().zip(index.into_iter().flatten()) {
            site.row = line;
        }
        let asked: Vec<Asked> = rows
            .iter()
            .map(|&row| Asked {
                row,
                count: self.positions(row).len(),
                is_rounded: self.rule(row).is_rounded(),
            })
            .collect();
        if laws.len() > 1 {
            let mut rest = &mut sites[..];
            for (asked, [law, early]) in asked.iter().zip(law_of_row) {
                let (own, others) = rest.split_at_mut(asked.count);
                rest = others;
                let begin = self.rows[asked.row].early();
                for site in own {
                    site.law = if (site.position as usize) < begin {
                        early
                    } else {
                        law
                    };
                }
            }
        }
        let mut extras = vec![];
        let asks_more = |&r: &usize| self.rule(r).keeps().anything() || self.rule(r).is_led();
        if rows.iter().any(asks_more) {
            let of_row = |&r: &usize| self.rows[r].extras(self.positions(r));
            extras = rows.iter().flat_map(of_row).collect();
            if extras.iter().all(Extra::is_empty) {
                extras = vec![];
            }
        }
        Ok(Question {
            sites,
            rows: asked,
            laws,
            vocabulary,
            extras,
        })
    }

    /// The laws of some rows, each once, and the indices of each row's: where any token may be proposed, and where it is too
    /// early for an end token.
    fn laws(&self, rows: &[usize]) -> (Vec<Law>, Vec<[u32; 2]>) {
        fn index<'a>(laws: &mut Vec<(&'a Law, f64)>, law: &'a Law, temperature: f64) -> u32 {
            let same = |&(known, at): &(&Law, f64)| {
                at == temperature && (std::ptr::eq(known, law) || known == law)
            };
            let found = laws.iter().position(same);
            found.unwrap_or_else(|| {
                laws.push((law, temperature));
                laws.len() - 1
            }) as u32
        }
        let mut laws = Vec::new();
        let of_row = rows.iter().map(|&r| {
            let (rule, temperature) = (self.rows[r].rule(), self.rows[r].temperature());
            let law = index(&mut laws, rule.law(), temperature);
            let early = rule.early_law();
            [
                law,
                early.map_or(law, |early| index(&mut laws, early, temperature)),
            ]
        });
        let of_row = of_row.collect();
        let law = |(law, temperature): (&Law, f64)| {
            let mut law = law.clone();
            law.sampling.temperature = temperature;
            law
        };
        (laws.into_iter().map(law).collect(), of_row)
    }

    /// Refuses a question whose rows do not wait for the answer to this very one any more.
    pub fn still_asks(&self, question: &Question) -> Result<()> {
        let rows: Vec<usize> = question.rows.iter().map(|asked| asked.row).collect();
        let same = |(a, b): (&Site, &Site)| (a.position, a.step) == (b.position, b.step);
        let still = self.sites(&rows).is_ok_and(|sites| {
            sites.len() == question.sites.len() && sites.iter().zip(&question.sites).all(same)
        });
        if still {
            return Ok(());
        }
        Err(match rows.iter().find(|&&r| self.rows[r].is_cancelled()) {
            Some(row) => Error::Mismatch(format!(
                "rows must wait until their answer comes, got row {row}, which was cancelled while these logits were read; \
                 feed those of the other rows again, with rows="
            )),
            None => Error::Order(
                "rows must be answered once, got an answer from elsewhere while these logits were read; call next() again",
            ),
        })
    }

    /// Statistics and drawn tokens for the requested positions of `rows`, in order: `question`, answered from logits.
    pub fn predict(
        &self,
        rows: &[usize],
        logits: Logits<'_>,
        vocabulary: usize,
        index: Option<&[usize]>,
        watch: &Watch<'_>,
    ) -> Result<Vec<Prediction>> {
        let lines = logits.len().checked_div(vocabulary).unwrap_or(0);
        self.question(rows, lines, vocabulary, index)?
            .answer(logits, watch)
    }
}

impl Question {
    /// Is the probability of a token that stands somewhere wanted?
    pub fn asks_current(&self) -> bool {
        self.sites.iter().any(|site| site.current.is_some())
    }

    /// Statistics and drawn tokens, one entry a site, from logits of the shape that the question was made for.
    pub fn answer(&self, logits: Logits<'_>, watch: &Watch<'_>) -> Result<Vec<Prediction>> {
        self.answer_whole(logits, watch)
            .map(|(predictions, _)| predictions)
    }

    /// The same, and what rules with a memory want to know of each site; none where no rule does.
    pub fn answer_whole(
        &self,
        logits: Logits<'_>,
        watch: &Watch<'_>,
    ) -> Result<(Vec<Prediction>, Vec<Beside>)> {
        self.answer_led(logits, None, watch)
    }

    /// The same where `unguided` has, for each site in order, its logits without the prompt: those that posteriors are led away
    /// from.
    pub fn answer_led(
        &self,
        logits: Logits<'_>,
        unguided: Option<Logits<'_>>,
        watch: &Watch<'_>,
    ) -> Result<(Vec<Prediction>, Vec<Beside>)> {
        let matrix = |logits| Matrix {
            logits,
            vocabulary: self.vocabulary,
            softcap: None,
        };
        self.check_unguided(unguided)?;
        let (matrix, unguided) = (matrix(logits), unguided.map(matrix));
        let failed = |(i, why): (usize, Unusable)| {
            let (row, position) = (self.row_of(i), Some(self.sites[i].position as usize));
            match why {
                Unusable::NotANumber(id) => Error::NotANumber { row, position, id },
                Unusable::NothingAllowed => Error::NothingAllowed { row, position },
                Unusable::Interrupted => Error::Interrupted,
            }
        };
        let (sites, laws, isa) = (&self.sites, &self.laws, Isa::best());
        let mut beside = vec![];
        let mut predictions = if self.extras.is_empty() {
            predict(&matrix, sites, laws, isa, watch).map_err(failed)?
        } else {
            let both = predict_by(&matrix, sites, laws, isa, watch, |i, row, law, scratch| {
                let twin = unguided.as_ref().map(|of| of.row_under(i, law, isa));
                self.extras[i].answer(row, twin, &sites[i], law, scratch)
            });
            let predictions;
            (predictions, beside) = both.map_err(failed)?.into_iter().unzip();
            predictions
        };
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
        Ok((predictions, beside))
    }

    /// Refuses logits without the prompt where nothing is led, none where something is, and others than are asked for.
    fn check_unguided(&self, unguided: Option<Logits<'_>>) -> Result<()> {
        let is_led = self.extras.iter().any(|extra| extra.lead.is_some());
        match unguided {
            None if is_led => Err(Error::Order(
                "guidance leads the posteriors of a reverse process over noise, which takes logits with and without the prompt, got those \
                 with it alone; predict with unguided=, and feed the prediction",
            )),
            Some(_) if !is_led => Err(Error::Order(
                "unguided logits are for guidance of a reverse process over noise, got them beside another rule; leave unguided out",
            )),
            Some(other) if other.len() != self.sites.len() * self.vocabulary => {
                Err(Error::Mismatch(format!(
                    "unguided must have a line of {} logits for each of {} positions, got {} numbers; keep the order of Request.positions",
                    self.vocabulary,
                    self.sites.len(),
                    other.len()
                )))
            }
            _ => Ok(()),
        }
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
