//! An edit of a trajectory: a value that pickles, and that JSON can keep.

use super::error::bad_value;
use super::values::{NUMBER, convert};
use crate::canvas::edit::{Edit as One, Kind};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyTuple, PyType};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

type Six = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

/// One change of a canvas: `step, position, token, probability, kind, time`, by name or unpacked, in order of these.
#[pyclass(frozen, eq, ord, hash, module = "dllm_fast")]
#[derive(Clone)]
pub(super) struct Edit(pub One);

impl Edit {
    /// What makes it the edit it is, in order: nan is nan, above all numbers, and 0 is -0.
    fn key(&self) -> (u32, u32, u32, i64, u8, i64) {
        // Bits that are ordered as the numbers are.
        let bits = |x: f64| {
            let bits = if x.is_nan() { f64::NAN } else { x + 0.0 }.to_bits() as i64;
            bits ^ ((bits >> 63) as u64 >> 1) as i64
        };
        let edit = &self.0;
        let (probability, time) = (bits(edit.probability), bits(edit.time));
        let (step, position, token) = (edit.step, edit.position, edit.token);
        (step, position, token, probability, edit.kind as u8, time)
    }

    /// Its values in order.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let edit = &self.0;
        let (step, position, token) = (edit.step, edit.position, edit.token);
        (
            step,
            position,
            token,
            edit.probability,
            edit.kind.name(),
            edit.time,
        )
            .into_pyobject(py)
    }

    /// What `new` takes.
    fn arguments<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let arguments = PyDict::new(py);
        arguments.set_item("step", self.0.step)?;
        arguments.set_item("position", self.0.position)?;
        arguments.set_item("token", self.0.token)?;
        arguments.set_item("probability", self.0.probability)?;
        arguments.set_item("kind", self.0.kind.name())?;
        arguments.set_item("time", self.0.time)?;
        Ok(arguments)
    }
}

impl PartialEq for Edit {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl PartialOrd for Edit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.key().cmp(&other.key()))
    }
}

impl Hash for Edit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

#[pymethods]
impl Edit {
    /// What a pattern of `match` takes by place.
    #[classattr]
    #[pyo3(name = "__match_args__")]
    fn places() -> Six {
        ("step", "position", "token", "probability", "kind", "time")
    }

    #[new]
    #[pyo3(signature = (*, step, position, token, probability, kind, time=None))]
    fn new(
        step: &Bound<'_, PyAny>,
        position: &Bound<'_, PyAny>,
        token: &Bound<'_, PyAny>,
        probability: &Bound<'_, PyAny>,
        kind: &Bound<'_, PyAny>,
        time: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        const WHOLE: &str = "a whole number from 0 below 2^32";
        let name: String = convert(kind, "kind", "a name")?;
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
            let known = Kind::ALL.map(Kind::name).join(", ");
            return Err(bad_value(format!(
                "kind must be one of {known}, got '{name}'; a mask that is filled is a commit"
            )));
        };
        let time = time.map(|time| convert(time, "time", NUMBER)).transpose()?;
        Ok(Self(One {
            step: convert(step, "step", WHOLE)?,
            position: convert(position, "position", WHOLE)?,
            token: convert(token, "token", WHOLE)?,
            probability: convert(probability, "probability", NUMBER)?,
            kind,
            time: time.unwrap_or(f64::NAN),
        }))
    }
    /// Forward of the row, from 0.
    #[getter]
    fn step(&self) -> u32 {
        self.0.step
    }
    /// Position from the start of the canvas.
    #[getter]
    fn position(&self) -> u32 {
        self.0.position
    }
    /// Token that stands there now.
    #[getter]
    fn token(&self) -> u32 {
        self.0.token
    }
    /// Probability of the token, or the caller's own score; nan for padding.
    #[getter]
    fn probability(&self) -> f64 {
        self.0.probability
    }
    /// commit, edit, remask, renoise, pad, insert (what stands there moves right) or delete (what follows moves left).
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.name()
    }
    /// Time of the reverse process, from 1 to 0; nan where the schedule has none.
    #[getter]
    fn time(&self) -> f64 {
        self.0.time
    }
    #[allow(clippy::unused_self)] // a protocol of Python
    fn __len__(&self) -> usize {
        6
    }
    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        place: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.values(py)?.as_any().get_item(place)
    }
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.values(py)?.try_iter()
    }
    fn __repr__(&self) -> String {
        let One {
            step,
            position,
            token,
            probability,
            kind,
            ..
        } = self.0;
        format!(
            "Edit(step={step}, position={position}, token={token}, probability={probability:.4}, kind='{}')",
            kind.name()
        )
    }

    /// Every field, as `json.dumps` takes it: None for nan, "inf" and "-inf" for the infinities.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let plain = py.import("dllm_fast.records")?.getattr("plain")?;
        plain.call1((self.arguments(py)?,))
    }

    /// The edit that `to_dict` wrote.
    #[classmethod]
    fn from_dict<'py>(
        cls: &Bound<'py, PyType>,
        values: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let read = cls.py().import("dllm_fast.records")?.getattr("edit")?;
        cls.call((), Some(read.call1((values,))?.cast::<PyDict>()?))
    }

    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        Ok((PyTuple::empty(py), self.arguments(py)?))
    }
}
