//! The sampler for people who own a model loop.

use super::answer::{choice, named};
use super::arrays::{indices, list, token_lists, tokens};
use super::beside::Known;
use super::edit::Edit;
use super::error::{bad_type, bad_value, raise};
use super::request::Request;
use super::signals::detached;
use super::start::Told;
use super::turns::Turns;
use super::values::{flag, whole};
use super::{config, prediction::Prediction};
use crate::canvas::edit;
use crate::error::Error;
use crate::logits::predict::Site;
use crate::rules::order::Proposal;
use crate::sampler::{Answer, Pace, Sampler as Core};
use crate::watch::Watch;
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Floors int32 and shares of steps float64, `[n]`.
type PaceArrays<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f64>>);

/// Fills the masks of canvases step by step; see `next` and `feed`. The caller owns the model.
///
/// Arguments are converted before a turn, and arrays are made behind it: both may run anybody's Python, which may call again.
#[pyclass(frozen, module = "dllm_fast")]
pub(super) struct Sampler(pub Turns<Core>, Configs);

/// The settings that callers gave, as they gave them.
struct Configs {
    /// Of the sampler.
    first: Py<PyAny>,
    /// Of rows that came with their own. Nobody runs Python while it is locked.
    own: Mutex<HashMap<usize, Py<PyAny>>>,
    /// Does any row ask for the most probable tokens of an answer? Else they need not be read.
    asks_argmax: AtomicBool,
}

impl Configs {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Py<PyAny>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn scored(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    flag(value, "score_all")
}

/// From where on something of each row is wanted.
fn each_since(rows: &[usize], since: &Bound<'_, PyAny>, of: &str) -> PyResult<Vec<usize>> {
    let since = indices(since, "since")?;
    if rows.len() == since.len() {
        return Ok(since);
    }
    Err(bad_value(format!(
        "since must have a number of {of} for each of {} rows, got {}; give one for every row",
        rows.len(),
        since.len()
    )))
}

fn index_of_row(row: &Bound<'_, PyAny>) -> PyResult<usize> {
    let remedy = "count from 0, or use what add() returned";
    whole(row, "row", (0, u64::from(u32::MAX)), remedy).map(|row| row as usize)
}

#[pymethods]
impl Sampler {
    #[new]
    #[pyo3(signature = (config, canvases, *, seed=None, request=None, block_start=None, open=None, order=None, eligible_after=None, score_all=false, max_rows=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        config: &Bound<'_, PyAny>,
        canvases: &Bound<'_, PyAny>,
        seed: Option<&Bound<'_, PyAny>>,
        request: Option<&Bound<'_, PyAny>>,
        block_start: Option<&Bound<'_, PyAny>>,
        open: Option<&Bound<'_, PyAny>>,
        order: Option<&Bound<'_, PyAny>>,
        eligible_after: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = scored)] score_all: bool,
        max_rows: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let remedy = "leave it out for all rows";
        let max_rows = max_rows.map(|most| whole(most, "max_rows", (1, 1 << 32), remedy));
        let max_rows = max_rows.transpose()?.map(|most| most as usize);
        let settings = config::config(config)?;
        let py = canvases.py();
        let canvases = token_lists(canvases)?;
        let starts = Told {
            seed,
            request,
            block_start,
            open,
            order,
            eligible_after,
        };
        let starts = starts.of_rows(py, canvases)?;
        let asks_argmax = AtomicBool::new(settings.asks_argmax());
        let core = detached(py, |watch| Core::new(settings, starts, score_all, watch))?;
        let core = core.map_err(raise)?;
        let configs = Configs {
            first: config.clone().unbind(),
            own: Mutex::default(),
            asks_argmax,
        };
        let core = core.with_most_rows(max_rows.unwrap_or(usize::MAX));
        Ok(Self(Turns::new(core), configs))
    }

    /// One more row, also while others wait for answers: it takes part from the next request on, as soon as there is room.
    ///
    /// `config` are its own settings; without them it has those that the sampler was made with. Returns its index.
    #[pyo3(signature = (canvas, config=None, *, seed=None, request=None, block_start=None, open=None, order=None, eligible_after=None))]
    #[allow(clippy::too_many_arguments)]
    fn add(
        &self,
        py: Python<'_>,
        canvas: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
        seed: Option<&Bound<'_, PyAny>>,
        request: Option<&Bound<'_, PyAny>>,
        block_start: Option<&Bound<'_, PyAny>>,
        open: Option<&Bound<'_, PyAny>>,
        order: Option<&Bound<'_, PyAny>>,
        eligible_after: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        let start = Told {
            seed,
            request,
            block_start,
            open,
            order,
            eligible_after,
        };
        let start = start.of_row(py, canvas)?;
        let settings = config.map(|config| config::config(config));
        let settings = settings.transpose()?;
        if settings
            .as_ref()
            .is_some_and(crate::rules::config::Config::asks_argmax)
        {
            self.1.asks_argmax.store(true, Ordering::Relaxed);
        }
        let own = config.map(|config| config.clone().unbind());
        let mut turn = self.0.take(py)?;
        let added = turn.add(settings, start);
        if let (Ok(row), Some(own)) = (&added, own) {
            self.1.lock().insert(*row, own);
        }
        drop(turn);
        added.map_err(raise)
    }

    /// The settings of a row, as they were given.
    fn config(&self, py: Python<'_>, row: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let row = index_of_row(row)?;
        self.asked(py, |core| core.is_done(row))?;
        let own = self.1.lock();
        Ok(own.get(&row).unwrap_or(&self.1.first).clone_ref(py))
    }

    /// The row takes no further part, and its canvas stays as it is; an answer that it waits for is not wanted any more.
    /// A row that is done stays as it is.
    fn cancel(&self, py: Python<'_>, row: &Bound<'_, PyAny>) -> PyResult<()> {
        let row = index_of_row(row)?;
        self.told(py, |core| core.cancel(row))
    }

    /// Is the row finished, or cancelled?
    fn is_done(&self, py: Python<'_>, row: &Bound<'_, PyAny>) -> PyResult<bool> {
        let row = index_of_row(row)?;
        self.asked(py, |core| core.is_done(row))
    }

    /// How many positions from the start of each of these canvases were written and can no longer change under the row's
    /// rule, int64 `[n]`.
    fn stable<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let rows = indices(rows, "rows")?;
        let stable = self.asked(py, |core| core.stable(&rows))?;
        Ok(tokens(py, stable.iter().map(|&n| n as u32)))
    }

    /// Ends a row at a position that was written and is final: what follows it is filled with the first end token (without one,
    /// with the token that stands there), and the row is finished.
    fn end(
        &self,
        py: Python<'_>,
        row: &Bound<'_, PyAny>,
        position: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let row = index_of_row(row)?;
        let remedy = "positions are counted from the start of the canvas";
        let position = whole(position, "position", (0, u64::from(u32::MAX)), remedy)? as usize;
        self.told(py, |core| core.end(row, position))
    }

    /// The positions of the first and the last token of what ended each of these rows, int64 `[n, 2]`; -1 where nothing did:
    /// an end token, a stop, or `end`.
    fn endings<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray2<i64>>> {
        let rows = indices(rows, "rows")?;
        let endings = self.asked(py, |core| core.endings(&rows))?;
        let flat = endings.iter().flat_map(|ending| {
            ending.map_or([-1, -1], |ending| [ending.first as i64, ending.last as i64])
        });
        let array = numpy::ndarray::Array2::from_shape_vec((endings.len(), 2), flat.collect());
        Ok(PyArray2::from_owned_array(
            py,
            array.expect("two numbers each"),
        ))
    }

    /// What must be scored next, or None when every row is finished. Asking again before the answer asks for the same.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Request>> {
        let mut turn = self.0.take(py)?;
        let core: &mut Core = &mut turn;
        let asked = detached(py, |watch| Request::next(core, watch))?;
        asked.map_err(raise)
    }

    /// What a draw at each requested position of `rows` depends on, in order: arrays `seed` uint64, `request`, `position` and
    /// `step` uint32 `[N]`, and the number of positions of each row, int64.
    #[allow(clippy::type_complexity)]
    fn sites<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<(
        Bound<'py, PyArray1<u64>>,
        Bound<'py, PyArray1<u32>>,
        Bound<'py, PyArray1<u32>>,
        Bound<'py, PyArray1<u32>>,
        Bound<'py, PyArray1<i64>>,
    )> {
        let rows = indices(rows, "rows")?;
        let (sites, counts) = self.asked(py, |core| {
            let sites = core.sites(&rows)?;
            let count = |&r: &usize| core.positions(r).len() as u32;
            Ok((sites, rows.iter().map(count).collect::<Vec<_>>()))
        })?;
        let word = |of: fn(&Site) -> u32| PyArray1::from_iter(py, sites.iter().map(of));
        Ok((
            PyArray1::from_iter(py, sites.iter().map(|s| s.stream.seed)),
            word(|s| s.stream.request),
            word(|s| s.position),
            word(|s| s.step),
            tokens(py, counts.into_iter()),
        ))
    }

    /// For each requested position of `rows`, in order, the token whose probability is wanted, int64, or -1 where it is not;
    /// None where it is nowhere.
    fn current<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyArray1<i64>>>> {
        let rows = indices(rows, "rows")?;
        let sites = self.asked(py, |core| core.sites(&rows))?;
        if sites.iter().all(|site| site.current.is_none()) {
            return Ok(None);
        }
        let current = sites.iter().map(|site| site.current.map_or(-1, i64::from));
        Ok(Some(PyArray1::from_iter(py, current)))
    }

    /// How many tokens the waiting step of each of `rows` commits at least, and the share of the block's steps that are done
    /// once it is; then the same for the step after it, or None unless that is as good as sure to come for all of them.
    #[allow(clippy::type_complexity)]
    fn pace<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<(PaceArrays<'py>, Option<PaceArrays<'py>>)> {
        let rows = indices(rows, "rows")?;
        let (now, then) = self.asked(py, |core| core.pace(&rows))?;
        let arrays = |of: &[Pace]| {
            (
                PyArray1::from_iter(py, of.iter().map(|p| p.floor as i32)),
                PyArray1::from_iter(py, of.iter().map(|p| p.progress)),
            )
        };
        Ok((arrays(&now), then.as_deref().map(arrays)))
    }

    /// Statistics and drawn tokens for the requested positions of `rows` (all that wait, by default) from logits `[N, V]`.
    /// `index` names the line of the logits for each position; without it they follow each other. Changes nothing.
    /// `unguided` has the logits `[n, V]` of the same positions without a prompt, where guidance leads posteriors.
    #[pyo3(signature = (logits, *, rows=None, index=None, unguided=None))]
    fn predict(
        &self,
        py: Python<'_>,
        logits: &Bound<'_, PyAny>,
        rows: Option<&Bound<'_, PyAny>>,
        index: Option<&Bound<'_, PyAny>>,
        unguided: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Prediction> {
        let of = self.answered(py, logits, rows, index, unguided)?;
        let made = Prediction::from_core(py, &of.predictions, of.question.asks_current());
        Ok(made.with(Known::from_core(of.beside)))
    }

    /// Answers the last request, whole or (with `rows`) in parts: with logits, with a prediction, or with tokens and scores
    /// of your own. A refused answer changes nothing.
    #[pyo3(signature = (logits=None, *, prediction=None, tokens=None, scores=None, rows=None, index=None))]
    #[allow(clippy::too_many_arguments)]
    fn feed(
        &self,
        py: Python<'_>,
        logits: Option<&Bound<'_, PyAny>>,
        prediction: Option<&Bound<'_, PyAny>>,
        tokens: Option<&Bound<'_, PyAny>>,
        scores: Option<&Bound<'_, PyAny>>,
        rows: Option<&Bound<'_, PyAny>>,
        index: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if logits.is_none() && index.is_some() {
            return Err(bad_value(
                "index names lines of logits, got it beside an answer without logits; leave it out"
                    .into(),
            ));
        }
        match (logits, prediction, tokens, scores) {
            (Some(logits), None, None, None) => {
                let of = self.answered(py, logits, rows, index, None)?;
                let proposals: Vec<Proposal> = of.predictions.iter().map(Proposal::from).collect();
                let answer = if of.beside.is_empty() {
                    Answer::Proposals(&proposals)
                } else {
                    Answer::Remembered(&proposals, &of.beside)
                };
                self.commit(py, Some(of.rows), &answer, Some(&of.question))
            }
            (None, Some(prediction), None, None) => {
                let Ok(prediction) = prediction.cast::<Prediction>() else {
                    return Err(bad_type(format!(
                        "prediction must be a Prediction, got {}; pass what predict or mask_predict returned",
                        prediction.get_type()
                    )));
                };
                let asks_argmax = self.1.asks_argmax.load(Ordering::Relaxed);
                let proposals = prediction.get().proposals(py, asks_argmax)?;
                let told = prediction.get().beside().told(py, proposals.len())?;
                let answer = match &told {
                    None => Answer::Proposals(&proposals),
                    Some(told) => Answer::Remembered(&proposals, told),
                };
                self.commit(py, named(rows)?, &answer, None)
            }
            (None, None, Some(tokens), Some(scores)) => {
                let choice = choice(tokens, scores)?;
                self.commit(py, named(rows)?, &Answer::Choice(&choice), None)
            }
            _ => Err(bad_value(
                "feed takes one answer: logits, or prediction=, or tokens= with scores=; pass exactly one of them".into(),
            )),
        }
    }

    /// The canvases as they stand, int64.
    #[getter]
    fn canvases<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let canvases = self.copied(py, |core, r| core.canvas(r).to_vec())?;
        list(py, canvases, |c| tokens(py, c.into_iter()))
    }

    /// Which positions of the canvases are open as they stand, bool.
    #[getter]
    fn open<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let open = self.copied(py, Core::open)?;
        list(py, open, |flags| PyArray1::from_vec(py, flags))
    }

    /// For each row, its edits so far, in order.
    #[getter]
    fn trajectory<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let rows: Vec<Vec<edit::Edit>> = self.copied(py, |core, r| core.trajectory(r).to_vec())?;
        let made = PyList::empty(py);
        for edits in rows {
            py.check_signals()?;
            made.append(list(py, edits, Edit)?)?;
        }
        Ok(made)
    }

    /// For each of `rows`, the tokens at the positions that `stable` counts, from the `since`-th on, int64.
    fn written<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
        since: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let rows = indices(rows, "rows")?;
        let since = each_since(&rows, since, "tokens")?;
        let written = self.asked(py, |core| core.written(&rows, &since))?;
        list(py, written, |row| tokens(py, row.into_iter()))
    }

    /// For each of `rows`, its edits from the `since`-th on, in order.
    fn edits<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
        since: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let rows = indices(rows, "rows")?;
        let since = each_since(&rows, since, "edits")?;
        let made = PyList::empty(py);
        for edits in self.asked(py, |core| core.edits(&rows, &since))? {
            made.append(list(py, edits, Edit)?)?;
        }
        Ok(made)
    }

    /// Forwards that each row has taken part in.
    #[getter]
    fn nfe_per_row(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        self.copied(py, Core::forwards)
    }
}

impl Sampler {
    /// What the core says, within a turn.
    fn asked<T>(&self, py: Python<'_>, of: impl FnOnce(&Core) -> Result<T, Error>) -> PyResult<T> {
        let turn = self.0.take(py)?;
        let said = of(&turn);
        drop(turn);
        said.map_err(raise)
    }

    /// Tells the core something, within a turn.
    fn told<T>(
        &self,
        py: Python<'_>,
        of: impl FnOnce(&mut Core) -> Result<T, Error>,
    ) -> PyResult<T> {
        let mut turn = self.0.take(py)?;
        let said = of(&mut turn);
        drop(turn);
        said.map_err(raise)
    }

    /// Something of every row.
    fn copied<T: Send>(
        &self,
        py: Python<'_>,
        of: impl Fn(&Core, usize) -> T + Sync,
    ) -> PyResult<Vec<T>> {
        let turn = self.0.take(py)?;
        let core: &Core = &turn;
        let copy = |watch: &Watch<'_>| {
            let row = |r| watch.goes_on().then(|| of(core, r));
            (0..core.len()).map(row).collect::<Option<_>>()
        };
        detached(py, copy)?.ok_or_else(|| raise(Error::Interrupted))
    }
}
