//! What a step asks of the model, as Python sees it.

use super::arrays::{indices, list, token_lists, tokens};
use super::asked::Asked;
use super::error::bad_value;
use super::signals::heard;
use super::twin;
use super::values::flag;
use crate::error::Error;
use crate::sampler::Sampler as Core;
use crate::watch::Watch;
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;
use std::collections::{BTreeMap, HashMap};

/// What must be scored before the next step.
///
/// Lists of arrays are made when they are first asked for, and are the same for everybody who asks: copy what you write into.
#[pyclass(frozen, module = "dllm_fast")]
pub(super) struct Request {
    asked: Vec<Asked>,
    step: u32,
    made: Lists,
}

/// What has an array for each row, made when somebody first asks for it.
struct Lists {
    canvases: PyOnceLock<Py<PyList>>,
    positions: PyOnceLock<Py<PyList>>,
    open: PyOnceLock<Py<PyList>>,
    proposed: PyOnceLock<Py<PyList>>,
}

impl Request {
    fn new(asked: Vec<Asked>, step: u32) -> Self {
        Self {
            asked,
            step,
            made: Lists {
                canvases: PyOnceLock::new(),
                positions: PyOnceLock::new(),
                open: PyOnceLock::new(),
                proposed: PyOnceLock::new(),
            },
        }
    }

    /// The list that was made, or one of an array for each row.
    fn once<'py, O: IntoPyObject<'py>>(
        &self,
        py: Python<'py>,
        known: &PyOnceLock<Py<PyList>>,
        make: impl Fn(&Asked) -> O,
    ) -> PyResult<Bound<'py, PyList>> {
        let whole = known.get_or_try_init(py, || list(py, &self.asked, make).map(Bound::unbind))?;
        Ok(whole.bind(py).clone())
    }

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
        Ok(Some(Self::new(asked, step)))
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
        self.once(py, &self.made.canvases, |of| {
            tokens(py, of.canvas.iter().copied())
        })
    }
    /// The positions to score, one int64 array for each such row.
    #[getter]
    fn positions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.once(py, &self.made.positions, |of| {
            tokens(py, of.positions.iter().copied())
        })
    }
    /// How many they are of each such row, int64.
    #[getter]
    fn counts<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        tokens(py, self.asked.iter().map(|of| of.positions.len() as u32))
    }
    /// Which positions of each canvas nothing was written at, one bool array for each such row.
    #[getter]
    fn open<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.once(py, &self.made.open, |of| PyArray1::from_vec(py, of.flags()))
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
        self.once(py, &self.made.proposed, |of| {
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
        let others = self.asked.iter().zip(canvases);
        let asked = others.map(|(of, canvas)| of.about(canvas)).collect();
        Ok(Self::new(asked, self.step))
    }
    /// A request of other rows, each like one of these, the `places[i]`-th: under the number `rows[i]`, with the tokens of its
    /// own, or those of `twins[i]` (None for its own). For a row beside another one, as guidance needs it.
    #[pyo3(signature = (places, rows, twins=None))]
    fn with_rows(
        &self,
        places: &Bound<'_, PyAny>,
        rows: &Bound<'_, PyAny>,
        twins: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let (places, rows) = (indices(places, "places")?, indices(rows, "rows")?);
        let twins = match twins {
            Some(twins) => twin::twins(twins)?,
            None => rows.iter().map(|_| None).collect(),
        };
        let counts = [places.len(), rows.len(), twins.len()];
        if counts.iter().any(|&n| n != rows.len()) {
            return Err(bad_value(format!(
                "places, rows and twins must be as many, got {counts:?}; check their lengths"
            )));
        }
        let mut asked = Vec::with_capacity(rows.len());
        for ((place, row), twin) in places.into_iter().zip(rows).zip(&twins) {
            let Some(of) = self.asked.get(place) else {
                return Err(bad_value(format!(
                    "places must be rows of this request, got {place} of {}; count from 0",
                    self.asked.len()
                )));
            };
            asked.push(of.beside(row, twin.as_ref().map(Py::get))?);
        }
        Ok(Self::new(asked, self.step))
    }
    /// The shadow of some rows, by their numbers: its positions int64 `[n, S]`, each row's rising, then -1; and for each position
    /// requested of them, in order, the place in the shadow of its row where that is what answers for it, else -1, int64. None
    /// where none of them asks from behind one.
    #[allow(clippy::type_complexity)]
    fn shadow_of<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'_, PyAny>,
    ) -> PyResult<Option<(Bound<'py, PyArray2<i64>>, Bound<'py, PyArray1<i64>>)>> {
        let rows = indices(rows, "rows")?;
        if !self.asked.iter().any(|of| of.asks_shadow) {
            return Ok(None);
        }
        let known: HashMap<usize, &Asked> = self.asked.iter().map(|of| (of.row, of)).collect();
        let some = rows.iter().map(|row| {
            known.get(row).copied().ok_or_else(|| {
                bad_value(format!(
                    "rows must be of this request, got {row}; use Request.rows"
                ))
            })
        });
        let some: Vec<&Asked> = some.collect::<PyResult<_>>()?;
        let asking = some.iter().filter(|of| of.asks_shadow);
        let Some(width) = asking.map(|of| of.positions.len()).max() else {
            return Ok(None);
        };
        let mut shown = numpy::ndarray::Array2::from_elem((some.len(), width), -1);
        let mut read = Vec::new();
        for (i, of) in some.into_iter().enumerate() {
            heard(py, i)?;
            for (place, &position) in of.positions.iter().enumerate() {
                let is_behind = of.asks_shadow && !of.is_open(position as usize);
                read.push(if is_behind { place as i64 } else { -1 });
                if of.asks_shadow {
                    shown[[i, place]] = i64::from(position);
                }
            }
        }
        Ok(Some((
            PyArray2::from_owned_array(py, shown),
            PyArray1::from_vec(py, read),
        )))
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
