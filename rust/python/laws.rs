//! Temperature and filters as callers give them: one for all rows, or one for each.

use super::arrays::{numbers, whole_numbers};
use super::error::{bad_value, fits, raise};
use super::values::{COUNT, NUMBER, convert, whole};
use crate::error::Error;
use crate::logits::draw::Sampling;
use crate::logits::filter::Filters;
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyList, PyTuple};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// How tokens are drawn in some rows.
pub(super) struct RowLaws {
    /// Those that differ, in the order in which rows first name them.
    pub distinct: Vec<Sampling>,
    /// For each row, which of these.
    pub index: Vec<u32>,
}

/// One for all, or one for each.
enum Given<T> {
    All(Option<T>),
    Each(Vec<T>),
}

impl<T: Copy> Given<T> {
    fn of(&self, row: usize) -> Option<T> {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => Some(values[row]),
        }
    }

    fn is_each(&self) -> bool {
        matches!(self, Self::Each(_))
    }
}

/// Is it an array or a list rather than a number?
fn is_many(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    if object.is_exact_instance_of::<PyFloat>() || object.is_exact_instance_of::<PyInt>() {
        return Ok(false);
    }
    if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        return Ok(true);
    }
    let dimensions = object.getattr("ndim").and_then(|n| n.extract::<usize>());
    Ok(fits(object.py(), dimensions)?.is_some_and(|n| n > 0))
}

fn given<'py, T: for<'a> FromPyObject<'a, 'py>>(
    object: Option<&Bound<'py, PyAny>>,
    n: usize,
    (name, what): (&str, &str),
    each: fn(&Bound<'_, PyAny>, &str) -> PyResult<Vec<T>>,
) -> PyResult<Given<T>> {
    let Some(object) = object else {
        return Ok(Given::All(None));
    };
    if !is_many(object)? {
        return Ok(Given::All(Some(convert(object, name, what)?)));
    }
    let values = each(object, name)?;
    if values.len() != n {
        return Err(bad_value(format!(
            "{name} must be one number, or one for each of {n} rows, got {}; check its length",
            values.len()
        )));
    }
    Ok(Given::Each(values))
}

/// The error of one row of many, for which nothing can be left out.
fn of_row(error: Error, row: usize) -> Error {
    match error {
        Error::Setting {
            name,
            rule,
            value,
            remedy,
        } => Error::Setting {
            name,
            rule,
            value: format!("{value} for row {row}"),
            remedy: if name == "top_k" {
                "the size of the vocabulary keeps every id of a row"
            } else {
                remedy
            },
        },
        other => other,
    }
}

impl RowLaws {
    /// Reads and checks what `mask_predict` takes for `n` rows.
    pub fn new(
        n: usize,
        temperature: &Bound<'_, PyAny>,
        top_k: Option<&Bound<'_, PyAny>>,
        top_p: Option<&Bound<'_, PyAny>>,
        min_p: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let temperature = given(Some(temperature), n, ("temperature", NUMBER), numbers)?;
        let top_k: Given<usize> = given(top_k, n, ("top_k", COUNT), whole_numbers)?;
        let top_p = given(top_p, n, ("top_p", NUMBER), numbers)?;
        let min_p = given(min_p, n, ("min_p", NUMBER), numbers)?;
        let of = |row: usize| Sampling {
            temperature: temperature.of(row).unwrap_or(0.0),
            filters: Filters {
                top_k: top_k.of(row),
                top_p: top_p.of(row),
                min_p: min_p.of(row),
            },
        };
        let is_each =
            temperature.is_each() || top_k.is_each() || top_p.is_each() || min_p.is_each();
        if !is_each {
            let law = of(0);
            law.check().map_err(raise)?;
            return Ok(Self {
                distinct: vec![law],
                index: vec![0; n],
            });
        }
        let mut made = Self {
            distinct: Vec::new(),
            index: Vec::with_capacity(n),
        };
        let mut known = HashMap::new();
        for row in 0..n {
            let law = of(row);
            let Filters {
                top_k,
                top_p,
                min_p,
            } = law.filters;
            let bits = |x: Option<f64>| x.map(f64::to_bits);
            let key = (law.temperature.to_bits(), top_k, bits(top_p), bits(min_p));
            let index = match known.entry(key) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    law.check().map_err(|error| raise(of_row(error, row)))?;
                    made.distinct.push(law);
                    *new.insert(made.distinct.len() as u32 - 1)
                }
            };
            made.index.push(index);
        }
        Ok(made)
    }
}

type Distinct = Vec<(f64, Option<usize>, Option<f64>, Option<f64>)>;

/// The laws of `rows` rows that differ, as (temperature, top_k, top_p, min_p), and for each row which of these, int32: checked,
/// from what `dllm_fast.mask_predict` takes.
#[pyfunction]
#[pyo3(signature = (rows, *, temperature, top_k, top_p, min_p))]
pub(super) fn row_laws<'py>(
    py: Python<'py>,
    rows: &Bound<'py, PyAny>,
    temperature: &Bound<'py, PyAny>,
    top_k: Option<&Bound<'py, PyAny>>,
    top_p: Option<&Bound<'py, PyAny>>,
    min_p: Option<&Bound<'py, PyAny>>,
) -> PyResult<(Distinct, Bound<'py, PyArray1<i32>>)> {
    let rows = whole(rows, "rows", (0, 1 << 27), "ask for fewer at a time")? as usize;
    let laws = RowLaws::new(rows, temperature, top_k, top_p, min_p)?;
    let plain = |law: &Sampling| {
        let Filters {
            top_k,
            top_p,
            min_p,
        } = law.filters;
        (law.temperature, top_k, top_p, min_p)
    };
    let index = PyArray1::from_iter(py, laws.index.iter().map(|&i| i as i32));
    Ok((laws.distinct.iter().map(plain).collect(), index))
}
