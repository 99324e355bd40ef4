//! What a step asks of the model, as Python sees it.

use super::arrays::{indices, list, maybe_tokens, signed, token_lists, tokens};
use super::error::bad_value;
use super::signals::heard;
use super::values::flag;
use crate::error::Error;
use crate::rules::noise::Noise;
use crate::sampler::Sampler as Core;
use crate::watch::Watch;
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::collections::BTreeMap;
use std::ops::Range;

/// Where nothing was written in a canvas.
#[derive(Clone)]
enum Open {
    /// Where it shows this token: told when somebody asks, for a step asks nobody.
    Mask(u32),
    /// Flags of a canvas that shows no mask.
    Flags(Vec<bool>),
}

impl Open {
    fn flags(&self, canvas: &[u32]) -> Vec<bool> {
        match self {
            Self::Mask(mask) => canvas.iter().map(|token| token == mask).collect(),
            Self::Flags(flags) => flags.clone(),
        }
    }
}

/// What a step asks about one row.
#[derive(Clone)]
struct Asked {
    row: usize,
    canvas: Vec<u32>,
    positions: Vec<u32>,
    open: Open,
    temperature: f64,
    step: u32,
    block_step: u32,
    window: Range<usize>,
    is_causal: bool,
    proposed: Vec<u32>,
    asks_shadow: bool,
}

impl Asked {
    /// What the waiting step of a row asks.
    fn of(core: &Core, row: usize) -> Self {
        let rule = core.rule(row);
        Self {
            row,
            canvas: core.canvas(row).to_vec(),
            positions: core.positions(row).to_vec(),
            open: match (rule.mask, rule.shows) {
                (Some(mask), Noise::Mask) => Open::Mask(mask),
                _ => Open::Flags(core.open(row)),
            },
            temperature: core.temperature(row),
            step: core.forwards(row),
            block_step: core.block_steps(row),
            window: core.window(row),
            is_causal: core.is_causal(row),
            proposed: core.proposed(row),
            asks_shadow: core.asks_shadow(row),
        }
    }

    /// Which positions of its canvas nothing was written at.
    fn flags(&self) -> Vec<bool> {
        self.open.flags(&self.canvas)
    }

    /// The same question under the number `row`, in the canvas `canvas` (None for its own), where everything asked stands `by`
    /// further right.
    fn beside(&self, row: usize, canvas: Option<Vec<u32>>, by: i64) -> PyResult<Self> {
        let canvas = canvas.unwrap_or_else(|| self.canvas.clone());
        let shifted_to = |p: usize| (p as i64).checked_add(by);
        let inside = |p: &u32| {
            shifted_to(*p as usize).is_some_and(|p| (0..canvas.len() as i64).contains(&p))
        };
        let end = shifted_to(self.window.end).filter(|&end| end > 0 && end <= canvas.len() as i64);
        let Some(end) = end.filter(|_| self.positions.iter().all(inside)) else {
            return Err(bad_value(format!(
                "canvases must hold what is asked of their row, got {} tokens for row {}, moved by {by}; let what follows the prompt stand as it is",
                canvas.len(),
                self.row
            )));
        };
        // A window may begin with given tokens, of which there may be fewer.
        let begin = shifted_to(self.window.start).map_or(0, |begin| begin.max(0));
        let mut open = vec![false; canvas.len()];
        for (p, is_open) in self.flags().into_iter().enumerate() {
            let to = shifted_to(p).and_then(|to| usize::try_from(to).ok());
            if let Some(flag) = to.and_then(|to| open.get_mut(to)) {
                *flag = is_open;
            }
        }
        let positions = self.positions.iter().map(|&p| (i64::from(p) + by) as u32);
        Ok(Self {
            row,
            positions: positions.collect(),
            window: begin as usize..end as usize,
            open: Open::Flags(open),
            canvas,
            proposed: self.proposed.clone(),
            ..*self
        })
    }
}

/// What must be scored before the next step.
#[pyclass(frozen, module = "dllm_fast")]
pub(super) struct Request {
    asked: Vec<Asked>,
    step: u32,
}

impl Request {
    /// What the waiting rows ask; none where no row is left.
    pub(super) fn next(core: &mut Core, watch: &Watch<'_>) -> Result<Option<Self>, Error> {
        let rows = core.next(watch)?;
        let Some(&first) = rows.first() else {
            return Ok(None);
        };
        let mut asked = Vec::with_capacity(rows.len());
        for row in rows {
            if !watch.goes_on() {
                return Err(Error::Interrupted);
            }
            asked.push(Asked::of(core, row));
        }
        let step = core.forwards(first);
        Ok(Some(Self { asked, step }))
    }
}

#[pymethods]
impl Request {
    /// Indices of the rows that take part, int64.
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        tokens(py, self.asked.iter().map(|of| of.row as u32))
    }
    /// One int64 canvas for each such row.
    #[getter]
    fn canvases<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.asked, |of| tokens(py, of.canvas.iter().copied()))
    }
    /// The positions to score, one int64 array for each such row.
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.asked, |of| {
            tokens(py, of.positions.iter().copied())
        })
    }
    /// Which positions of each canvas nothing was written at, one bool array for each such row.
    #[getter]
    fn open<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.asked, |of| PyArray1::from_vec(py, of.flags()))
    }
    /// The temperature at which the tokens of each such row are drawn in this step, float64.
    #[getter]
    fn temperatures<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_iter(py, self.asked.iter().map(|of| of.temperature))
    }
    /// Forwards that each such row has behind it, int64.
    #[getter]
    fn steps<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        tokens(py, self.asked.iter().map(|of| of.step))
    }
    /// Those of them that were of the block being filled, int64.
    #[getter]
    fn block_steps<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        tokens(py, self.asked.iter().map(|of| of.block_step))
    }
    /// Which rows want a causal look: every position sees those before it and itself, and the line before a position predicts
    /// it, bool `[n]`.
    #[getter]
    fn causal<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        PyArray1::from_iter(py, self.asked.iter().map(|of| of.is_causal))
    }
    /// What the requested positions show in it, one int64 array for each such row; empty where they show what stands there.
    #[getter]
    fn proposed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.asked, |of| {
            tokens(py, of.proposed.iter().copied())
        })
    }
    /// Which rows ask what is written at their requested positions from behind a shadow, bool `[n]`: a mask at each of those
    /// positions, beside what stands there, that sees all but the token of its own position and is seen by such masks alone.
    #[getter]
    fn shadow<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        PyArray1::from_iter(py, self.asked.iter().map(|of| of.asks_shadow))
    }
    /// Forwards that the first of these rows has behind it. Rows that wait for room, or join later, have fewer than others.
    #[getter]
    fn step(&self) -> u32 {
        self.step
    }
    /// The block that each such row is filling, int64 `[n, 2]`: first position and the one behind the last.
    #[getter]
    fn windows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray2<i64>> {
        let windows = self.asked.iter().map(|of| &of.window);
        let flat = windows.flat_map(|w| [w.start as i64, w.end as i64]);
        let array = numpy::ndarray::Array2::from_shape_vec((self.asked.len(), 2), flat.collect());
        PyArray2::from_owned_array(py, array.expect("two numbers each"))
    }
    /// Length of the canvas of each such row, int64.
    #[getter]
    fn lengths<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        tokens(py, self.asked.iter().map(|of| of.canvas.len() as u32))
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
        #[pyo3(from_py_with = shifted)] shift: bool,
    ) -> PyResult<(Bound<'py, PyArray2<i64>>, Bound<'py, PyArray1<i64>>)> {
        let (begin, end) = (indices(begin, "begin")?, indices(end, "end")?);
        let rows = self.asked.len();
        let fits = |i: usize| begin[i] < end[i] && end[i] <= self.asked[i].canvas.len();
        if begin.len() != rows || end.len() != rows || !(0..rows).all(fits) {
            return Err(bad_value(format!(
                "begin and end must mark some positions of each of {rows} canvases, got {begin:?} and {end:?}; use windows and lengths"
            )));
        }
        let width = (0..rows).map(|i| end[i] - begin[i]).max().unwrap_or(0);
        let mut ids = numpy::ndarray::Array2::zeros((rows, width));
        let mut lines = Vec::new();
        for (i, of) in self.asked.iter().enumerate() {
            heard(py, i)?;
            for (slot, &token) in ids.row_mut(i).iter_mut().zip(&of.canvas[begin[i]..end[i]]) {
                *slot = i64::from(token);
            }
            for (&p, &token) in of.positions.iter().zip(&of.proposed) {
                let place = (p as usize).checked_sub(begin[i]);
                if let Some(place) = place.filter(|_| (p as usize) < end[i]) {
                    ids[[i, place]] = i64::from(token);
                }
            }
            let shift = shift || of.is_causal;
            for &p in &of.positions {
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
        #[pyo3(from_py_with = shifted)] shift: bool,
    ) -> PyResult<
        Vec<(
            Bound<'py, PyArray1<i64>>,
            Bound<'py, PyArray2<i64>>,
            Bound<'py, PyArray1<i64>>,
        )>,
    > {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, of) in self.asked.iter().enumerate() {
            groups.entry(of.canvas.len()).or_default().push(i);
        }
        let group = |(length, members): (usize, Vec<usize>)| {
            py.check_signals()?;
            let mut flat: Vec<i64> = Vec::with_capacity(members.len() * length);
            let mut lines: Vec<i64> = Vec::new();
            for (b, &i) in members.iter().enumerate() {
                let Asked {
                    canvas, positions, ..
                } = &self.asked[i];
                let first = (b * length) as i64;
                let line = |&p: &u32| first + i64::from(p.saturating_sub(u32::from(shift)));
                flat.extend(canvas.iter().map(|&token| i64::from(token)));
                lines.extend(positions.iter().map(line));
            }
            let canvases = numpy::ndarray::Array2::from_shape_vec((members.len(), length), flat);
            Ok((
                tokens(py, members.iter().map(|&i| self.asked[i].row as u32)),
                PyArray2::from_owned_array(py, canvases.expect("every member has this length")),
                PyArray1::from_vec(py, lines),
            ))
        };
        groups.into_iter().map(group).collect()
    }
    /// The same request about other tokens: rows, positions, windows and step are these, the canvases those, each as long as
    /// before. For a second forward about the same positions, as guidance needs one.
    fn with_canvases(&self, canvases: &Bound<'_, PyAny>) -> PyResult<Self> {
        let canvases = token_lists(canvases)?;
        let ours: Vec<usize> = self.asked.iter().map(|of| of.canvas.len()).collect();
        let theirs: Vec<usize> = canvases.iter().map(Vec::len).collect();
        if ours != theirs {
            let (n, more) = (ours.len(), theirs.len());
            let odd = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            let found = odd.map_or(format!("{more} canvases for {n} rows"), |i| {
                format!(
                    "{} tokens for the {} of row {}",
                    theirs[i], ours[i], self.asked[i].row
                )
            });
            return Err(bad_value(format!(
                "canvases must be one for each row of the request, as long as its own, got {found}; change tokens in place of adding any"
            )));
        }
        let other = |(of, canvas): (&Asked, Vec<u32>)| Asked {
            canvas,
            open: Open::Flags(of.flags()),
            ..of.clone()
        };
        Ok(Self {
            asked: self.asked.iter().zip(canvases).map(other).collect(),
            step: self.step,
        })
    }
    /// A request of other rows, each like one of these, the `places[i]`-th: under the number `rows[i]`, with the tokens
    /// `canvases[i]` (None for its own), in which everything asked stands `moves[i]` further right. For a row beside another
    /// one, as guidance needs it.
    fn with_rows(
        &self,
        places: &Bound<'_, PyAny>,
        rows: &Bound<'_, PyAny>,
        canvases: &Bound<'_, PyAny>,
        moves: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (places, rows) = (indices(places, "places")?, indices(rows, "rows")?);
        let (canvases, moves) = (maybe_tokens(canvases)?, signed(moves, "moves")?);
        let counts = [places.len(), rows.len(), canvases.len(), moves.len()];
        if counts.iter().any(|&n| n != rows.len()) {
            return Err(bad_value(format!(
                "places, rows, canvases and moves must be as many, got {counts:?}; check their lengths"
            )));
        }
        let mut asked = Vec::with_capacity(rows.len());
        for ((place, row), (canvas, by)) in places
            .into_iter()
            .zip(rows)
            .zip(canvases.into_iter().zip(moves))
        {
            let Some(of) = self.asked.get(place) else {
                return Err(bad_value(format!(
                    "places must be rows of this request, got {place} of {}; count from 0",
                    self.asked.len()
                )));
            };
            asked.push(of.beside(row, canvas, by)?);
        }
        Ok(Self {
            asked,
            step: self.step,
        })
    }
    fn __repr__(&self) -> String {
        let positions: usize = self.asked.iter().map(|of| of.positions.len()).sum();
        format!(
            "Request of step {}: {} rows, {positions} positions",
            self.step,
            self.asked.len()
        )
    }
}

fn shifted(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    flag(value, "shift")
}
