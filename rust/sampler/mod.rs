//! The state machine behind every run: `next` says which positions must be scored, `feed` turns scores into edits. It
//! does no input or output of its own, so a model, a table of numbers or another engine can drive it.

mod answer;
mod beside;
mod block;
mod drafts;
mod eligible;
mod ending;
mod eos;
mod feed;
mod length;
mod looks;
mod memory;
mod pace;
mod pick;
mod question;
mod recall;
mod remask;
mod row;
mod start;
mod step;
mod trail;
mod wishes;

use crate::canvas::edit::Edit;
use crate::error::{Error, Result};
use crate::rules::Rule;
use crate::rules::config::Config;
use crate::rules::stops::Ending;
use crate::watch::Watch;
pub use answer::Answer;
pub use beside::Beside;
pub use pace::Pace;
pub use question::Question;
use row::Row;
pub use start::Start;
use std::collections::VecDeque;
use std::sync::Arc;
pub use wishes::Wishes;

/// Canvases on their way to being filled. Rows have rules, seeds and lengths of their own; they come, finish and are cancelled
/// one by one, and what one writes depends on no other.
///
/// There is one exception, which is meant: the published loop of Dream takes its counts from the mean over its batch, so
/// `as_published` does, too. The batch is what a sampler was made with; a row that joins later is a batch of its own.
pub struct Sampler {
    rule: Arc<Rule>,
    rows: Vec<Row>,
    /// Rows that take part, rising; who is done is taken out by `next`.
    active: Vec<usize>,
    /// Rows from this one on have not taken part yet: they wait for room, in the order in which they came.
    admitted: usize,
    /// Rules of rows that joined, each once; a few of the last, so that a long life costs nothing.
    recent: VecDeque<Arc<Rule>>,
    /// Rows that it was made with.
    first_rows: usize,
    score_all: bool,
    most_rows: usize,
    /// Was `next` stopped among the rows? Then those that wait are no request yet.
    is_advancing: bool,
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
        let rule = Arc::new(Rule::new(config)?);
        let row = |(i, start): (usize, Start)| {
            going_on(watch)?;
            start.check(i, &rule)?;
            Row::new(Arc::clone(&rule), start, i)
        };
        let starts = starts.into_iter().enumerate();
        let rows: Vec<Row> = starts.map(row).collect::<Result<_>>()?;
        let counts = rows.iter().map(Row::block_count).enumerate();
        if let Some((row, blocks)) = counts.max_by_key(|&(row, blocks)| (blocks, usize::MAX - row))
        {
            rule.check_blocks(row, blocks)?;
        }
        Ok(Self {
            rule,
            active: Vec::new(),
            admitted: 0,
            recent: VecDeque::new(),
            first_rows: rows.len(),
            rows,
            score_all,
            most_rows: usize::MAX,
            is_advancing: false,
        })
    }

    /// One more row, of its own rule or of that of the rows the sampler was made with; returns its index. It takes part from
    /// the next request on, or waits for room.
    pub fn add(&mut self, config: Option<Config>, start: Start) -> Result<usize> {
        let rule = match config {
            None => Arc::clone(&self.rule),
            Some(config) => self.shared(config)?,
        };
        let index = self.rows.len();
        start.check(index, &rule)?;
        let row = Row::new(Arc::clone(&rule), start, index)?;
        rule.check_blocks(index, row.block_count())?;
        self.rows.push(row);
        Ok(index)
    }

    /// The rule of a configuration: the very one of other rows, where one of the last that came has it.
    fn shared(&mut self, config: Config) -> Result<Arc<Rule>> {
        const RECENT: usize = 16;
        let mut known = std::iter::once(&self.rule).chain(&self.recent);
        if let Some(rule) = known.find(|rule| *rule.config() == config) {
            return Ok(Arc::clone(rule));
        }
        let rule = Arc::new(Rule::new(config)?);
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(Arc::clone(&rule));
        Ok(rule)
    }

    /// The row takes no further part, and its canvas stays as it is. A row that is done stays what it is.
    pub fn cancel(&mut self, row: usize) -> Result<()> {
        self.known(row)?;
        self.rows[row].cancel();
        Ok(())
    }

    /// Ends a row at a position that was written and can no longer change: what follows it is filled like behind an end token,
    /// and the row is finished.
    pub fn end(&mut self, row: usize, position: usize) -> Result<()> {
        self.known(row)?;
        self.rows[row].end_at(position).map_err(|why| {
            Error::Mismatch(format!(
                "a row ends at a position that was written and can no longer change, got position {position} of row {row}: {why}; \
                 ask stable() first"
            ))
        })
    }

    /// For each of `rows`, what ended it before its last position.
    pub fn endings(&self, rows: &[usize]) -> Result<Vec<Option<Ending>>> {
        let ending = |&row| self.known(row).map(|()| self.rows[row].ending());
        rows.iter().map(ending).collect()
    }

    /// Is it finished, or cancelled?
    pub fn is_done(&self, row: usize) -> Result<bool> {
        self.known(row).map(|()| self.rows[row].is_done())
    }

    /// For each of `rows`, how many positions from the start of its canvas that were not given can no longer change.
    pub fn stable(&self, rows: &[usize]) -> Result<Vec<usize>> {
        let stable = |&row| self.known(row).map(|()| self.rows[row].stable());
        rows.iter().map(stable).collect()
    }

    /// For each of `rows`, the tokens at the positions that `stable` counts, from the `since`-th on.
    pub fn written(&self, rows: &[usize], since: &[usize]) -> Result<Vec<Vec<u32>>> {
        let of_row = |(&row, &since): (&usize, &usize)| {
            self.known(row)?;
            Ok(self.rows[row].written(since))
        };
        rows.iter().zip(since).map(of_row).collect()
    }

    /// For each of `rows`, its edits from the `since`-th on.
    pub fn edits(&self, rows: &[usize], since: &[usize]) -> Result<Vec<Vec<Edit>>> {
        let of_row = |(&row, &since): (&usize, &usize)| {
            self.known(row)?;
            Ok(self
                .trajectory(row)
                .get(since..)
                .unwrap_or_default()
                .to_vec())
        };
        rows.iter().zip(since).map(of_row).collect()
    }

    /// Refuses a row that does not exist.
    fn known(&self, row: usize) -> Result<()> {
        if row < self.rows.len() {
            return Ok(());
        }
        Err(Error::Mismatch(format!(
            "a row must be one of the sampler's, got {row} of {} rows; count from 0, or use what add() returned",
            self.rows.len()
        )))
    }

    /// At most so many rows take part in a request; a row that finishes makes room for the next.
    #[must_use]
    pub fn with_most_rows(mut self, most_rows: usize) -> Self {
        self.most_rows = most_rows.max(1);
        self
    }

    /// The rule of a row.
    pub fn rule(&self, row: usize) -> &Rule {
        self.rows[row].rule()
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
        self.admit();
        let mean = self.published_mean();
        for &r in &self.active {
            going_on(watch)?;
            let row = &mut self.rows[r];
            let mean = match mean {
                Some(mean) if r < self.first_rows => Some(mean),
                _ => row
                    .rule()
                    .counts_by_mean()
                    .then(|| row.canvas().open() as f64),
            };
            row.advance(mean, self.score_all);
        }
        self.is_advancing = false;
        Ok(self.waiting())
    }

    /// Those that are done make room for those that wait for it.
    fn admit(&mut self) {
        self.active.retain(|&r| !self.rows[r].is_done());
        // Rows of two models are asked by one of them at a time.
        if self
            .active
            .iter()
            .any(|&r| self.rows[r].is_between_models())
        {
            return;
        }
        while self.active.len() < self.most_rows && self.admitted < self.rows.len() {
            if !self.rows[self.admitted].is_done() {
                self.active.push(self.admitted);
            }
            self.admitted += 1;
        }
    }

    /// Rows that wait for an answer.
    pub fn waiting(&self) -> Vec<usize> {
        let active = self.active.iter().copied();
        active.filter(|&r| self.is_waiting(r)).collect()
    }

    fn is_waiting(&self, row: usize) -> bool {
        let row = self.rows.get(row);
        !self.is_advancing && row.is_some_and(|row| row.pending().is_some())
    }

    /// Mean number of open positions over the batch that the sampler was made with, but for cancelled rows.
    fn published_mean(&self) -> Option<f64> {
        if !self.rule.counts_by_mean() {
            return None;
        }
        let batch = self.rows[..self.first_rows].iter();
        let open: Vec<usize> = batch
            .filter(|row| !row.is_cancelled())
            .map(|row| row.canvas().open())
            .collect();
        Some(open.iter().sum::<usize>() as f64 / open.len().max(1) as f64)
    }

    /// Which positions of a row are open.
    pub fn open(&self, row: usize) -> Vec<bool> {
        self.rows[row].canvas().which_open()
    }

    /// Tokens of a row.
    pub fn canvas(&self, row: usize) -> &[u32] {
        self.rows[row].canvas().tokens()
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

    /// Is the waiting step of a row a causal look at what it shows?
    pub fn is_causal(&self, row: usize) -> bool {
        self.rows[row].pending().is_some_and(|p| p.is_causal)
    }

    /// Are the written ones among the positions of a waiting row asked from behind a mask that does not see them?
    pub fn asks_shadow(&self, row: usize) -> bool {
        self.rows[row].asks_shadow()
    }

    /// What the positions of a waiting row show, where that was drafted.
    pub fn proposed(&self, row: usize) -> Vec<u32> {
        let proposed = self.rows[row].pending().map_or(&[][..], |p| &p.proposed);
        proposed.iter().map(|&(token, _)| token).collect()
    }

    /// The block of a waiting row that is being filled.
    pub fn window(&self, row: usize) -> std::ops::Range<usize> {
        self.rows[row].window()
    }

    /// The temperature of the step that a row waits for.
    pub fn temperature(&self, row: usize) -> f64 {
        self.rows[row].temperature()
    }

    /// Forwards that the block of a row has behind it.
    pub fn block_steps(&self, row: usize) -> u32 {
        self.rows[row].block_forwards()
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
        Ok((now, rows().map(Row::next_pace).collect()))
    }

    /// All edits of a row, in order.
    pub fn trajectory(&self, row: usize) -> &[Edit] {
        self.rows[row].trajectory()
    }
}

fn going_on(watch: &Watch<'_>) -> Result<()> {
    if watch.goes_on() {
        Ok(())
    } else {
        Err(Error::Interrupted)
    }
}

#[cfg(test)]
mod tests;
