//! Answers of a request: checked whole, then carried out.

use super::row::Row;
use super::{Answer, Sampler, going_on};
use crate::error::{Error, Result};
use crate::rules::order::Order;
use crate::watch::Watch;
use std::collections::HashSet;

impl Sampler {
    /// Carries out the step of `rows` with what is known of their requested positions, in order. Everything is checked
    /// before anything changes, and what `watch` stops has changed nothing.
    pub fn feed(&mut self, rows: &[usize], answer: &Answer<'_>, watch: &Watch<'_>) -> Result<()> {
        let wanted = self.wanted(rows)?;
        if answer.len() != wanted {
            return Err(Error::Mismatch(format!(
                "an answer needs one entry for each requested position, got {} for {wanted}{}; keep the order of Request.positions",
                answer.len(),
                self.withdrawn()
            )));
        }
        if matches!(answer, Answer::Choice(_)) {
            let needs = rows.iter().find_map(|&r| self.rule(r).beyond_scores());
            if let Some(why) = needs {
                return Err(Error::Order(why));
            }
        }
        let mut from = 0;
        going_on(watch)?;
        for &row in rows {
            let to = from + self.positions(row).len();
            self.check_answer(row, &answer.part(from..to), watch)?;
            from = to;
        }
        let mut from = 0;
        let mut plans = Vec::with_capacity(rows.len());
        for &r in rows {
            going_on(watch)?;
            let to = from + self.positions(r).len();
            plans.push(self.rows[r].plan(&answer.part(from..to), watch)?);
            from = to;
        }
        for (&r, plan) in rows.iter().zip(plans) {
            self.rows[r].commit(plan);
        }
        Ok(())
    }

    /// Refuses an answer of a row that says something it must not, or not all that the rule asks.
    fn check_answer(&self, row: usize, answer: &Answer<'_>, watch: &Watch<'_>) -> Result<()> {
        let (rule, early) = (self.rule(row), self.rows[row].early());
        if let Some((position, missing)) = self.rows[row].missing(answer) {
            return Err(Error::Mismatch(format!(
                "a prediction needs {missing} for this rule, got none for row {row}, position {position}; \
                 predict with Sampler.predict"
            )));
        }
        // What few rules want is looked at only for those.
        let asks_more = rule.asks_current()
            || rule.asks_argmax()
            || early > 0
            || rule.order == Order::Calibrated;
        if !asks_more && answer.is_usable(|token| rule.excludes(token), watch) {
            return Ok(());
        }
        for (i, &position) in self.positions(row).iter().enumerate() {
            if i % (1 << 16) == (1 << 16) - 1 {
                going_on(watch)?;
            }
            if let Some(value) = answer.unusable(i) {
                return Err(Error::Mismatch(format!(
                    "scores must be numbers and statistics finite, got {value} for row {row}, position {position}; \
                     give a bad position a low score"
                )));
            }
            let (token, _) = answer.token(i);
            if rule.excludes(token) && !self.rows[row].proposes_noise() {
                return Err(Error::Mismatch(format!(
                    "a proposed token must not be the mask or suppressed, got {token} for row {row}, position {position}; choose another id"
                )));
            }
            if asks_more {
                self.check_more(row, answer, i, early)?;
            }
        }
        Ok(())
    }

    /// The same for the position `i` of the answer, where the rule has drafts, wants to know what stands there, or bars end
    /// tokens before a position (`early`).
    #[inline(never)]
    fn check_more(&self, row: usize, answer: &Answer<'_>, i: usize, early: usize) -> Result<()> {
        let (rule, position) = (self.rule(row), self.positions(row)[i]);
        if rule.asks_current()
            && self.rows[row].current(position).is_some()
            && let Some(p) = answer.proposals()
            && !p[i].current.is_finite()
        {
            return Err(Error::Mismatch(format!(
                "a prediction needs `current`, the probability of the token that stands there, got {} for row {row}, \
                 position {position}; predict with Sampler.predict, or mask_predict with current=",
                p[i].current
            )));
        }
        let (token, _) = answer.token(i);
        if let Some(table) = &rule.calibration.frequencies {
            // An inherited token is the most probable one, which need not be the one that was drawn.
            let told = answer.proposals().filter(|_| rule.inherits_argmax());
            let told = told.and_then(|p| p[i].argmax);
            let id = token.max(told.unwrap_or(token));
            if id as usize >= table.counts().len() {
                return Err(Error::Mismatch(format!(
                    "token_frequencies must have a count for each id of the vocabulary, got {} for a proposed token {id} of row {row}, \
                     position {position}; count with TokenFrequencies.of(ids, vocabulary)",
                    table.counts().len()
                )));
            }
        }
        let is_noise = self.rows[row].proposes_noise();
        let is_barred = |id| (position as usize) < early && rule.is_end(id) && !is_noise;
        if is_barred(token) {
            return Err(Error::Mismatch(format!(
                "a proposed token must not end its row so early (min_new_tokens, or eos_policy 'suffix'), got {token} for row {row}, position {position}; \
                 choose another id"
            )));
        }
        if let Some(p) = answer.proposals()
            && rule.asks_argmax()
        {
            match p[i].argmax {
                Some(id) if !(rule.excludes(id) || is_barred(id)) => {}
                found => {
                    let found = found.map_or("none".into(), |id| id.to_string());
                    let who = if rule.drafts.is_some() {
                        "drafts need"
                    } else if rule.inherits_argmax() {
                        "inherit_token needs"
                    } else {
                        "length needs"
                    };
                    return Err(Error::Mismatch(format!(
                        "{who} the most probable token of every position, which is neither the mask nor suppressed, got {found} \
                         for row {row}, position {position}; feed logits, or a prediction with argmax="
                    )));
                }
            }
        }
        Ok(())
    }

    /// Why an answer may be longer than what is asked: names a row that was cancelled since `next`.
    pub(super) fn withdrawn(&self) -> String {
        let cancelled = |&&r: &&usize| self.rows[r].is_cancelled();
        let row = self.active.iter().find(cancelled);
        row.map_or(String::new(), |row| format!(", row {row} being cancelled"))
    }

    /// Number of positions requested of `rows`, which must be distinct and waiting.
    pub(super) fn wanted(&self, rows: &[usize]) -> Result<usize> {
        // A long life leaves many rows behind, so nothing here is as long as all of them.
        let is_rising = rows.is_sorted_by(|a, b| a < b);
        let mut seen = HashSet::new();
        for &r in rows {
            if !self.is_waiting(r) || !is_rising && !seen.insert(r) {
                let remedy = if self.rows.get(r).is_some_and(Row::is_cancelled) {
                    "it was cancelled; leave it out"
                } else {
                    "call next() first and answer each row once"
                };
                return Err(Error::Mismatch(format!(
                    "rows must be distinct rows of the last request, got {r}; {remedy}"
                )));
            }
        }
        Ok(rows.iter().map(|&r| self.positions(r).len()).sum())
    }
}
