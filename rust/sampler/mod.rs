//! The state machine behind every run: `next` says which positions must be scored, `feed` turns scores into edits. It
//! does no input or output of its own, so a model, a table of numbers or another engine can drive it.

mod question;
mod row;

use crate::decide::config::Config;
use crate::decide::plan::Edit;
use crate::decide::score::{Order, Proposal};
use crate::decide::select::Cut;
use crate::error::{Error, Result};
use crate::logits::predict::{Law, Prediction, Site};
use crate::logits::row::Logits;
use crate::rng::Stream;
use crate::watch::Watch;
use question::Asked;
pub use question::Question;
pub use row::Pace;
use row::Row;
use std::sync::Arc;

/// What a row starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// Tokens; masks are what may be written.
    pub canvas: Vec<u32>,
    /// Randomness of the row.
    pub stream: Stream,
    /// Where its blocks are counted from.
    pub origin: usize,
}

/// A batch of canvases on their way to being filled. Rows have lengths of their own and finish independently.
pub struct Sampler {
    config: Config,
    excluded: Arc<[u32]>,
    rows: Vec<Row>,
    score_all: bool,
    most_rows: usize,
    /// Was `next` stopped among the rows? Then those that wait are no request yet.
    is_advancing: bool,
}

/// What a caller knows about the requested positions of some rows, position by position.
pub enum Answer<'a> {
    /// Statistics of the model's distribution.
    Proposals(&'a [Proposal]),
    /// Tokens and scores of the caller's own choice; a score stands for key and confidence alike.
    Choice(&'a [(u32, f64)]),
}

impl Answer<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Proposals(p) => p.len(),
            Self::Choice(c) => c.len(),
        }
    }

    fn token(&self, i: usize) -> u32 {
        match self {
            Self::Proposals(p) => p[i].token,
            Self::Choice(c) => c[i].0,
        }
    }

    /// A number that no order can deal with. Orders subtract statistics, so those must be finite; a score only has to have a
    /// place in an order.
    fn unusable(&self, i: usize) -> Option<f64> {
        match self {
            Self::Proposals(p) => {
                let p = &p[i];
                [p.probability, p.top1, p.top2, p.entropy]
                    .into_iter()
                    .find(|x| !x.is_finite())
            }
            Self::Choice(c) => Some(c[i].1).filter(|x| x.is_nan()),
        }
    }
}

impl Sampler {
    /// A sampler over these rows. With `score_all` every eligible position is asked for, also where the rule chooses
    /// positions without looking at the model; the edits are the same.
    pub fn new(
        config: Config,
        starts: Vec<Start>,
        score_all: bool,
        watch: &Watch<'_>,
    ) -> Result<Self> {
        config.check()?;
        let row = |start| going_on(watch).map(|()| Row::new(&config, start));
        let rows: Vec<Row> = starts.into_iter().map(row).collect::<Result<_>>()?;
        let counts = rows.iter().map(Row::block_count).enumerate();
        if let Some((row, blocks)) = counts.max_by_key(|&(row, blocks)| (blocks, usize::MAX - row))
        {
            config.check_blocks(row, blocks)?;
        }
        Ok(Self {
            excluded: config.excluded().into(),
            config,
            rows,
            score_all,
            most_rows: usize::MAX,
            is_advancing: false,
        })
    }

    /// At most so many rows take part in a request; a row that finishes makes room for the next.
    #[must_use]
    pub fn with_most_rows(mut self, most_rows: usize) -> Self {
        self.most_rows = most_rows.max(1);
        self
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Rows that wait for an answer. Once all of the last request are answered, every unfinished row (the first
    /// `most_rows` of them) moves to its next forward. Empty when all is done. Asked again after `watch` has stopped it, it goes
    /// on where it was.
    pub fn next(&mut self, watch: &Watch<'_>) -> Result<Vec<usize>> {
        let waiting = self.waiting();
        if !waiting.is_empty() {
            return Ok(waiting);
        }
        self.is_advancing = true;
        let mean = self.published_mean();
        let mut active = 0;
        for row in &mut self.rows {
            if active == self.most_rows {
                break;
            }
            going_on(watch)?;
            row.advance(&self.config, mean, self.score_all);
            active += usize::from(row.pending().is_some());
        }
        self.is_advancing = false;
        Ok(self.waiting())
    }

    /// Rows that wait for an answer.
    pub fn waiting(&self) -> Vec<usize> {
        (0..self.rows.len())
            .filter(|&r| self.is_waiting(r))
            .collect()
    }

    fn is_waiting(&self, row: usize) -> bool {
        let row = self.rows.get(row);
        !self.is_advancing && row.is_some_and(|row| row.pending().is_some())
    }

    /// Dream's published loop takes the count from the mean number of masks over the batch.
    fn published_mean(&self) -> Option<f64> {
        let quirk = self.config.as_published && self.config.schedule.keeps_idle_steps();
        quirk.then(|| {
            self.rows.iter().map(Row::masks).sum::<usize>() as f64 / self.rows.len().max(1) as f64
        })
    }

    /// Tokens of a row.
    pub fn canvas(&self, row: usize) -> &[u32] {
        self.rows[row].canvas()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// No rows at all?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Positions of a waiting row that must be scored.
    pub fn positions(&self, row: usize) -> &[u32] {
        self.rows[row].pending().map_or(&[], |p| &p.positions)
    }

    /// The block of a waiting row that is being filled.
    pub fn window(&self, row: usize) -> std::ops::Range<usize> {
        self.rows[row].window()
    }

    /// Forwards that a row has taken part in.
    pub fn forwards(&self, row: usize) -> u32 {
        self.rows[row].forwards()
    }

    /// The waiting steps of `rows`, and those after them where these are as good as sure to come for all.
    pub fn pace(&self, rows: &[usize]) -> Result<(Vec<Pace>, Option<Vec<Pace>>)> {
        self.wanted(rows)?;
        let rows = || rows.iter().map(|&r| &self.rows[r]);
        let now = rows().filter_map(Row::pace).collect();
        Ok((now, rows().map(|row| row.next_pace(&self.config)).collect()))
    }

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
                current: None,
            }));
        }
        for (i, site) in sites.iter_mut().enumerate() {
            site.row = i;
        }
        Ok(sites)
    }

    /// All edits of a row, in order.
    pub fn trajectory(&self, row: usize) -> &[Edit] {
        self.rows[row].trajectory()
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
        if let Some(&id) = self
            .excluded
            .last()
            .filter(|&&id| id as usize >= vocabulary)
        {
            let name = if id == self.config.mask {
                "mask_token_id"
            } else {
                "suppress_tokens"
            };
            return Err(Error::Mismatch(format!(
                "{name} must be an id of the vocabulary, got {id} for logits with {vocabulary} columns; check it against the tokenizer"
            )));
        }
        let count = index.map_or(lines, <[_]>::len);
        if count != wanted {
            return Err(Error::Mismatch(format!(
                "logits must have one row for each requested position, got {count} for {wanted}; keep the order of Request.positions"
            )));
        }
        if let Some(bad) = index.into_iter().flatten().find(|&&i| i >= lines) {
            return Err(Error::Mismatch(format!(
                "index must name rows of the logits, got {bad} for {lines} rows; count from 0"
            )));
        }
        let mut sites = self.sites(rows)?;
        for (site, &line) in sites.iter_mut().zip(index.into_iter().flatten()) {
            site.row = line;
        }
        let asked = |&row: &usize| Asked {
            row,
            count: self.positions(row).len(),
            // The published count loops take the softmax in the dtype of the logits, so that sure positions tie.
            is_rounded: self.config.as_published && self.config.cut == Cut::Count,
        };
        let law = Law {
            sampling: self.config.sampling,
            suppressed: Arc::clone(&self.excluded),
        };
        Ok(Question {
            sites,
            rows: rows.iter().map(asked).collect(),
            laws: vec![law],
            vocabulary,
        })
    }

    /// Do its rows still wait for the answer to this very question?
    pub fn still_asks(&self, question: &Question) -> bool {
        let rows: Vec<usize> = question.rows.iter().map(|asked| asked.row).collect();
        let same = |(a, b): (&Site, &Site)| (a.position, a.step) == (b.position, b.step);
        self.sites(&rows).is_ok_and(|sites| {
            sites.len() == question.sites.len() && sites.iter().zip(&question.sites).all(same)
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

    /// Carries out the step of `rows` with what is known of their requested positions, in order. Everything is checked
    /// before anything changes, and what `watch` stops has changed nothing.
    pub fn feed(&mut self, rows: &[usize], answer: &Answer<'_>, watch: &Watch<'_>) -> Result<()> {
        let wanted = self.wanted(rows)?;
        if answer.len() != wanted {
            return Err(Error::Mismatch(format!(
                "an answer needs one entry for each requested position, got {} for {wanted}; keep the order of Request.positions",
                answer.len()
            )));
        }
        if matches!(
            (answer, self.config.cut),
            (Answer::Choice(_), Cut::EntropyBound(_))
        ) {
            return Err(Error::Order(
                "entropy_bound needs entropies, got scores; feed logits or a prediction, or choose another cut",
            ));
        }
        for i in 0..wanted {
            if i.is_multiple_of(1 << 16) {
                going_on(watch)?;
            }
            if let Some(value) = answer.unusable(i) {
                let (row, position) = self.site_of(rows, i);
                return Err(Error::Mismatch(format!(
                    "scores must be numbers and statistics finite, got {value} for row {row}, position {position}; \
                     give a bad position a low score"
                )));
            }
            if self.excluded.binary_search(&answer.token(i)).is_ok() {
                let (row, position) = self.site_of(rows, i);
                return Err(Error::Mismatch(format!(
                    "a proposed token must not be the mask or suppressed, got {} for row {row}, position {position}; choose another id",
                    answer.token(i)
                )));
            }
        }
        let mut from = 0;
        let mut plans = Vec::with_capacity(rows.len());
        for &r in rows {
            going_on(watch)?;
            let to = from + self.positions(r).len();
            let part = match answer {
                Answer::Proposals(p) => Answer::Proposals(&p[from..to]),
                Answer::Choice(c) => Answer::Choice(&c[from..to]),
            };
            plans.push(self.rows[r].plan(&self.config, &part, watch)?);
            from = to;
        }
        for (&r, plan) in rows.iter().zip(&plans) {
            self.rows[r].commit(&self.config, plan);
        }
        Ok(())
    }

    /// Number of positions requested of `rows`, which must be distinct and waiting.
    fn wanted(&self, rows: &[usize]) -> Result<usize> {
        let mut seen = vec![false; self.rows.len()];
        for &r in rows {
            if !self.is_waiting(r) || std::mem::replace(&mut seen[r], true) {
                return Err(Error::Mismatch(format!(
                    "rows must be distinct rows of the last request, got {r}; call next() first and answer each row once"
                )));
            }
        }
        Ok(rows.iter().map(|&r| self.positions(r).len()).sum())
    }

    /// Row and position of the i-th requested position of `rows`.
    fn site_of(&self, rows: &[usize], i: usize) -> (usize, usize) {
        let mut from = 0;
        for &r in rows {
            let positions = self.positions(r);
            if i < from + positions.len() {
                return (r, positions[i - from] as usize);
            }
            from += positions.len();
        }
        unreachable!("{i} lies among the requested positions")
    }
}

fn going_on(watch: &Watch<'_>) -> Result<()> {
    if watch.goes_on() {
        Ok(())
    } else {
        Err(Error::Interrupted)
    }
}

impl Config {
    /// Can the positions be chosen before the model is asked?
    fn chooses_blindly(&self) -> bool {
        self.order.is_blind() && (self.cut == Cut::Count || self.order == Order::Ancestral)
    }
}

#[cfg(test)]
mod tests;
