//! What a caller gives back for a request, carried to the core.

use super::arrays::{LogitsArray, ids, indices, numbers};
use super::error::{bad_value, raise};
use super::sampler::Sampler;
use super::signals::{detached, heard};
use super::turns::Turn;
use crate::logits::predict::Prediction as One;
use crate::sampler::{Answer, Beside, Question, Sampler as Core};
use pyo3::prelude::*;

/// A question and its answer, from logits.
pub(super) struct Answered {
    pub rows: Vec<usize>,
    pub question: Question,
    pub predictions: Vec<One>,
    /// What rules with a memory want to know beside them; empty where none does.
    pub beside: Vec<Beside>,
}

impl Sampler {
    /// The question of `rows`, answered from logits. The sampler is free meanwhile: other calls may come.
    pub fn answered(
        &self,
        py: Python<'_>,
        logits: &Bound<'_, PyAny>,
        rows: Option<&Bound<'_, PyAny>>,
        index: Option<&Bound<'_, PyAny>>,
        unguided: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Answered> {
        let array = LogitsArray::new(logits)?;
        let rows = named(rows)?;
        let index = index.map(|i| indices(i, "index")).transpose()?;
        let (view, vocabulary) = (array.view()?, array.vocabulary());
        let unguided = unguided.map(LogitsArray::new).transpose()?;
        let unguided = unguided.as_ref().map(LogitsArray::view).transpose()?;
        let turn = self.0.take(py)?;
        let rows = rows.unwrap_or_else(|| turn.waiting());
        let question = turn.question(&rows, array.rows(), vocabulary, index.as_deref());
        drop(turn);
        let question = question.map_err(raise)?;
        let answered = detached(py, |watch| question.answer_led(view, unguided, watch))?;
        let (predictions, beside) = answered.map_err(raise)?;
        Ok(Answered {
            rows,
            question,
            predictions,
            beside,
        })
    }

    /// Carries out a step, if the rows still wait for an answer to `question`.
    pub fn commit(
        &self,
        py: Python<'_>,
        rows: Option<Vec<usize>>,
        answer: &Answer<'_>,
        question: Option<&Question>,
    ) -> PyResult<()> {
        let mut turn: Turn<'_, Core> = self.0.take(py)?;
        let core: &mut Core = &mut turn;
        let fed = detached(py, |watch| {
            question.map_or(Ok(()), |question| core.still_asks(question))?;
            core.feed(&rows.unwrap_or_else(|| core.waiting()), answer, watch)
        })?;
        drop(turn);
        fed.map_err(raise)
    }
}

/// Rows as the caller names them; all that wait if it does not.
pub(super) fn named(rows: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<usize>>> {
    rows.map(|rows| indices(rows, "rows")).transpose()
}

/// Tokens and scores of the caller's own.
pub(super) fn choice(
    tokens: &Bound<'_, PyAny>,
    scores: &Bound<'_, PyAny>,
) -> PyResult<Vec<(u32, f64)>> {
    let py = tokens.py();
    let tokens = ids(tokens, "tokens")?;
    let scores = numbers(scores, "scores")?;
    if tokens.len() != scores.len() {
        return Err(bad_value(format!(
            "tokens and scores must have one length, got {} and {}; give a score for every token",
            tokens.len(),
            scores.len()
        )));
    }
    tokens
        .into_iter()
        .zip(scores)
        .enumerate()
        .map(|(i, choice)| heard(py, i).map(|()| choice))
        .collect()
}
