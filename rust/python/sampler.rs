//! The sampler for people who own a model loop.

use super::arrays::{LogitsArray, ids, indices, integers, one_or_each, tokens};
use super::config::{COUNT, convert};
use super::error::{bad_type, bad_value, raise};
use super::{config, edit::Edit, predict::Prediction};
use crate::logits::predict::Site;
use crate::rng::Stream;
use crate::sampler::{Answer, Pace, Sampler as Core, Start};
use numpy::{PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Floors int32 and shares of steps float64, `[n]`.
type PaceArrays<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f64>>);

/// What must be scored before the next step.
#[pyclass(frozen, module = "dllm_fast")]
pub(super) struct Request {
    rows: Vec<usize>,
    canvases: Vec<Vec<u32>>,
    positions: Vec<Vec<u32>>,
    windows: Vec<std::ops::Range<usize>>,
    step: u32,
}

#[pymethods]
impl Request {
    /// Indices of the rows that take part, int64.
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        tokens(py, self.rows.iter().map(|&r| r as u32))
    }
    /// One int64 canvas for each such row.
    #[getter]
    fn canvases<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyArray1<i64>>> {
        self.canvases
            .iter()
            .map(|c| tokens(py, c.iter().copied()))
            .collect()
    }
    /// The positions to score, one int64 array for each such row.
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyArray1<i64>>> {
        self.positions
            .iter()
            .map(|p| tokens(py, p.iter().copied()))
            .collect()
    }
    /// Forwards that the first of these rows has behind it. Without `max_rows` all have as many.
    #[getter]
    fn step(&self) -> u32 {
        self.step
    }
    /// The block that each such row is filling, int64 `[n, 2]`: first position and the one behind the last.
    #[getter]
    fn windows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray2<i64>> {
        let flat = self.windows.iter();
        let flat = flat.flat_map(|w| [w.start as i64, w.end as i64]).collect();
        let array = numpy::ndarray::Array2::from_shape_vec((self.windows.len(), 2), flat);
        PyArray2::from_owned_array(py, array.expect("two numbers each"))
    }
    /// Length of the canvas of each such row, int64.
    #[getter]
    fn lengths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        tokens(py, self.canvases.iter().map(|c| c.len() as u32))
    }
    /// One ragged batch: the tokens of each row from `begin` up to `end` as one int64 array `[n, Q]`, filled up with 0, and
    /// for each requested position the line of the features `[n * Q, H]` that predicts it (the one before it if `shift`).
    /// A line before `begin` is named `n * Q + i`, i the place of its row.
    #[pyo3(signature = (begin, end, *, shift=false))]
    #[allow(clippy::type_complexity)]
    fn batch<'py>(
        &self,
        py: Python<'py>,
        begin: &Bound<'_, PyAny>,
        end: &Bound<'_, PyAny>,
        shift: bool,
    ) -> PyResult<(Bound<'py, PyArray2<i64>>, Bound<'py, PyArray1<i64>>)> {
        let (begin, end) = (indices(begin, "begin")?, indices(end, "end")?);
        let rows = self.rows.len();
        let fits = |i: usize| begin[i] < end[i] && end[i] <= self.canvases[i].len();
        if begin.len() != rows || end.len() != rows || !(0..rows).all(fits) {
            return Err(bad_value(format!(
                "begin and end must mark some positions of each of {rows} canvases, got {begin:?} and {end:?}; use windows and lengths"
            )));
        }
        let width = (0..rows).map(|i| end[i] - begin[i]).max().unwrap_or(0);
        let mut ids = numpy::ndarray::Array2::zeros((rows, width));
        let mut lines = Vec::new();
        for i in 0..rows {
            for (slot, &token) in ids
                .row_mut(i)
                .iter_mut()
                .zip(&self.canvases[i][begin[i]..end[i]])
            {
                *slot = i64::from(token);
            }
            for &p in &self.positions[i] {
                let line = if shift { p.saturating_sub(1) } else { p } as usize;
                if line >= end[i] {
                    return Err(bad_value(format!(
                        "end must lie behind every requested position, got {} for position {p}; use windows",
                        end[i]
                    )));
                }
                let place = line.checked_sub(begin[i]);
                lines.push(place.map_or(rows * width + i, |place| i * width + place) as i64);
            }
        }
        Ok((
            PyArray2::from_owned_array(py, ids),
            PyArray1::from_vec(py, lines),
        ))
    }
    /// Rows of equal length share a forward: for each length, the rows, their canvases as one int64 array `[b, L]`, and for
    /// each requested position the line of the logits `[b * L, V]` that predicts it (the line before it if `shift`).
    #[pyo3(signature = (*, shift=false))]
    #[allow(clippy::type_complexity)]
    fn groups<'py>(
        &self,
        py: Python<'py>,
        shift: bool,
    ) -> PyResult<
        Vec<(
            Bound<'py, PyArray1<i64>>,
            Bound<'py, PyArray2<i64>>,
            Bound<'py, PyArray1<i64>>,
        )>,
    > {
        let mut lengths: Vec<usize> = self.canvases.iter().map(Vec::len).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let group = |length: usize| {
            let members: Vec<usize> = (0..self.rows.len())
                .filter(|&i| self.canvases[i].len() == length)
                .collect();
            let flat = members
                .iter()
                .flat_map(|&i| self.canvases[i].iter().map(|&t| i64::from(t)));
            let canvases =
                numpy::ndarray::Array2::from_shape_vec((members.len(), length), flat.collect());
            let lines = members.iter().enumerate().flat_map(|(b, &i)| {
                let line = move |&p: &u32| {
                    (b * length) as i64 + i64::from(if shift { p.saturating_sub(1) } else { p })
                };
                self.positions[i].iter().map(line)
            });
            Ok((
                tokens(py, members.iter().map(|&i| self.rows[i] as u32)),
                PyArray2::from_owned_array(py, canvases.expect("every member has this length")),
                PyArray1::from_vec(py, lines.collect()),
            ))
        };
        lengths.into_iter().map(group).collect()
    }
    fn __repr__(&self) -> String {
        let positions: usize = self.positions.iter().map(Vec::len).sum();
        format!(
            "Request of step {}: {} rows, {positions} positions",
            self.step,
            self.rows.len()
        )
    }
}

/// Fills the masks of canvases step by step; see `next` and `feed`. The caller owns the model.
#[pyclass(frozen, module = "dllm_fast")]
pub(super) struct Sampler(Mutex<Core>);

impl Sampler {
    /// The state. Waits without the interpreter lock: whoever holds the state may need that to finish.
    fn core(&self, py: Python<'_>) -> MutexGuard<'_, Core> {
        self.0
            .lock_py_attached(py)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn rows_or_waiting(rows: Option<&Bound<'_, PyAny>>, core: &Core) -> PyResult<Vec<usize>> {
    rows.map_or_else(|| Ok(core.waiting()), |rows| indices(rows, "rows"))
}

#[pymethods]
impl Sampler {
    #[new]
    #[pyo3(signature = (config, canvases, *, seed=None, request=None, block_start=None, score_all=false, max_rows=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        config: &Bound<'_, PyAny>,
        canvases: &Bound<'_, PyAny>,
        seed: Option<&Bound<'_, PyAny>>,
        request: Option<&Bound<'_, PyAny>>,
        block_start: Option<&Bound<'_, PyAny>>,
        score_all: bool,
        max_rows: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let max_rows = max_rows.map(|most| convert(most, "max_rows", COUNT));
        let max_rows: Option<usize> = max_rows.transpose()?;
        let settings = config::config(config, None)?;
        let Ok(iterator) = canvases.try_iter() else {
            return Err(bad_type(format!(
                "canvases must be a list of int64 arrays, got {}; wrap one canvas in a list",
                canvases.get_type()
            )));
        };
        let canvases: Vec<Vec<u32>> = iterator
            .map(|canvas| ids(&canvas?, "every canvas"))
            .collect::<PyResult<_>>()?;
        let n = canvases.len();
        let each = |object: Option<&Bound<'_, PyAny>>, name, what| {
            object.map_or_else(|| Ok(vec![0; n]), |o| one_or_each::<u64>(o, n, name, what))
        };
        let seeds = each(seed, "seed", "a whole number from 0 below 2^64")?;
        let requests = request.map_or_else(
            || Ok(vec![0; n]),
            |o| one_or_each::<u32>(o, n, "request", "a whole number from 0 below 2^32"),
        )?;
        let origins = each(block_start, "block_start", "a position from 0")?;
        let starts = canvases
            .into_iter()
            .enumerate()
            .map(|(i, canvas)| Start {
                canvas,
                stream: Stream {
                    seed: seeds[i],
                    request: requests[i],
                },
                origin: origins[i] as usize,
            })
            .collect();
        let core = Core::new(settings, starts, score_all).map_err(raise)?;
        Ok(Self(Mutex::new(
            core.with_most_rows(max_rows.unwrap_or(usize::MAX)),
        )))
    }

    /// What must be scored next, or None when every row is finished. Asking again before the answer asks for the same.
    fn next(&self, py: Python<'_>) -> Option<Request> {
        py.detach(|| {
            let mut core = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let rows = core.next();
            let step = core.forwards(*rows.first()?);
            let canvases = rows.iter().map(|&r| core.canvas(r).to_vec()).collect();
            let positions = rows.iter().map(|&r| core.positions(r).to_vec()).collect();
            let windows = rows.iter().map(|&r| core.window(r)).collect();
            Some(Request {
                rows,
                canvases,
                positions,
                windows,
                step,
            })
        })
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
        let core = self.core(py);
        let rows = rows_or_waiting(Some(rows), &core)?;
        let sites = core.sites(&rows).map_err(raise)?;
        let word = |of: fn(&Site) -> u32| PyArray1::from_iter(py, sites.iter().map(of));
        Ok((
            PyArray1::from_iter(py, sites.iter().map(|s| s.stream.seed)),
            word(|s| s.stream.request),
            word(|s| s.position),
            word(|s| s.step),
            tokens(py, rows.iter().map(|&r| core.positions(r).len() as u32)),
        ))
    }

    /// How many tokens the waiting step of each of `rows` commits at least, and the share of the block's steps that are done
    /// once it is; then the same for the step after it, or None unless that is as good as sure to come for all of them.
    #[allow(clippy::type_complexity)]
    fn pace<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<(PaceArrays<'py>, Option<PaceArrays<'py>>)> {
        let core = self.core(py);
        let rows = rows_or_waiting(Some(rows), &core)?;
        let (now, then) = core.pace(&rows).map_err(raise)?;
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
    #[pyo3(signature = (logits, *, rows=None, index=None))]
    fn predict(
        &self,
        py: Python<'_>,
        logits: &Bound<'_, PyAny>,
        rows: Option<&Bound<'_, PyAny>>,
        index: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Prediction> {
        let array = LogitsArray::new(logits)?;
        let core = self.core(py);
        let rows = rows_or_waiting(rows, &core)?;
        let index = index.map(|i| indices(i, "index")).transpose()?;
        let (view, vocabulary) = (array.view()?, array.vocabulary());
        let core: &Core = &core;
        let predictions = py
            .detach(|| core.predict(&rows, view, vocabulary, index.as_deref()))
            .map_err(raise)?;
        Ok(Prediction::from_core(py, &predictions, false))
    }

    /// Answers the last request, whole or (with `rows`) in parts: with logits, with a prediction, or with tokens and scores
    /// of your own. A refused answer changes nothing.
    #[pyo3(signature = (logits=None, *, prediction=None, tokens=None, scores=None, rows=None, index=None))]
    #[allow(clippy::too_many_arguments)]
    fn feed(
        &self,
        py: Python<'_>,
        logits: Option<&Bound<'_, PyAny>>,
        prediction: Option<Bound<'_, Prediction>>,
        tokens: Option<&Bound<'_, PyAny>>,
        scores: Option<&Bound<'_, PyAny>>,
        rows: Option<&Bound<'_, PyAny>>,
        index: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let prediction = match (logits, prediction, tokens, scores) {
            (Some(logits), None, None, None) => Bound::new(py, self.predict(py, logits, rows, index)?)?,
            (None, Some(prediction), None, None) => prediction,
            (None, None, Some(tokens), Some(scores)) => return self.feed_choice(tokens, scores, rows),
            _ => return Err(bad_value("feed takes one answer: logits, or prediction=, or tokens= with scores=; pass exactly one of them".into())),
        };
        let proposals = prediction.get().proposals(py)?;
        let mut core = self.core(py);
        let rows = rows_or_waiting(rows, &core)?;
        core.feed(&rows, &Answer::Proposals(&proposals))
            .map_err(raise)
    }

    /// The canvases as they stand, int64.
    #[getter]
    fn canvases<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyArray1<i64>>> {
        let core = self.core(py);
        (0..core.len())
            .map(|r| tokens(py, core.canvas(r).iter().copied()))
            .collect()
    }

    /// For each row, its edits so far, in order.
    #[getter]
    fn trajectory(&self, py: Python<'_>) -> Vec<Vec<Edit>> {
        let core = self.core(py);
        (0..core.len())
            .map(|r| core.trajectory(r).iter().copied().map(Edit).collect())
            .collect()
    }

    /// Forwards that each row has taken part in.
    #[getter]
    fn nfe_per_row(&self, py: Python<'_>) -> Vec<u32> {
        let core = self.core(py);
        (0..core.len()).map(|r| core.forwards(r)).collect()
    }
}

impl Sampler {
    fn feed_choice(
        &self,
        tokens: &Bound<'_, PyAny>,
        scores: &Bound<'_, PyAny>,
        rows: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = tokens.py();
        let tokens = integers(tokens, "tokens")?;
        let scores: Vec<f64> = match scores.extract::<PyReadonlyArray1<'_, f64>>() {
            Ok(array) => array.as_array().iter().copied().collect(),
            Err(_) => scores.extract().map_err(|_| {
                bad_type(format!(
                    "scores must be numbers, got {}; pass numpy float64",
                    scores.get_type()
                ))
            })?,
        };
        if tokens.len() != scores.len() {
            return Err(bad_value(format!(
                "tokens and scores must have one length, got {} and {}; give a score for every token",
                tokens.len(),
                scores.len()
            )));
        }
        let choice = tokens
            .into_iter()
            .zip(scores)
            .map(|(t, s)| match u32::try_from(t) {
                Ok(t) => Ok((t, s)),
                Err(_) => Err(bad_value(format!(
                    "tokens must lie in [0, 2^32), got {t}; negative ids are no tokens"
                ))),
            })
            .collect::<PyResult<Vec<_>>>()?;
        let mut core = self.core(py);
        let rows = rows_or_waiting(rows, &core)?;
        core.feed(&rows, &Answer::Choice(&choice)).map_err(raise)
    }
}
