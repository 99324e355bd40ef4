//! Arrays across the border: logits are borrowed in place, ids are checked.

use super::error::{bad_type, bad_value, fits, shown};
use super::signals::{ITEMS_BETWEEN, heard};
use super::values::is_flag;
use crate::logits::row::Logits;
use half::f16;
use numpy::{
    PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyMemoryView, PySet};

/// A borrowed matrix of logits.
pub(super) enum LogitsArray<'py> {
    F32(PyReadonlyArray2<'py, f32>),
    F16(PyReadonlyArray2<'py, f16>),
    /// bf16 as bits, because NumPy has no such type.
    Bf16(PyReadonlyArray2<'py, i16>),
}

impl<'py> LogitsArray<'py> {
    /// Borrows logits; tensors and anything else go through `dllm_fast.arrays.logits_matrix`, which also explains refusals.
    pub fn new(logits: &Bound<'py, PyAny>) -> PyResult<Self> {
        let matrix = logits
            .py()
            .import("dllm_fast.arrays")?
            .call_method1("logits_matrix", (logits,))?;
        if let Ok(array) = matrix.extract() {
            return Ok(Self::F32(array));
        }
        if let Ok(array) = matrix.extract() {
            return Ok(Self::F16(array));
        }
        Ok(Self::Bf16(matrix.extract()?))
    }

    /// Number of columns.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::F32(a) => a.shape()[1],
            Self::F16(a) => a.shape()[1],
            Self::Bf16(a) => a.shape()[1],
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::F32(a) => a.shape()[0],
            Self::F16(a) => a.shape()[0],
            Self::Bf16(a) => a.shape()[0],
        }
    }

    /// The values, row by row.
    pub fn view(&self) -> PyResult<Logits<'_>> {
        Ok(match self {
            Self::F32(a) => Logits::F32(a.as_slice()?),
            Self::F16(a) => {
                let halves = a.as_slice()?;
                // SAFETY: `f16` is a transparent wrapper around `u16`.
                Logits::F16(unsafe {
                    std::slice::from_raw_parts(halves.as_ptr().cast(), halves.len())
                })
            }
            Self::Bf16(a) => {
                let bits = a.as_slice()?;
                // SAFETY: `i16` and `u16` have the same layout.
                Logits::Bf16(unsafe {
                    std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len())
                })
            }
        })
    }
}

/// Integers from an array, a tensor or a sequence, each as `read` makes it.
fn read<T>(
    object: &Bound<'_, PyAny>,
    name: &str,
    read: impl Fn(i64) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    if let Some(few) = plain(object).filter(|array| array.len() < ITEMS_BETWEEN) {
        return few.as_slice()?.iter().map(|&value| read(value)).collect();
    }
    let convert = object.py().import("dllm_fast.arrays")?;
    let array = convert.call_method1("integer_array", (object, name))?;
    let Ok(array) = array.extract::<PyReadonlyArray1<'_, i64>>() else {
        return Err(bad_type(format!(
            "{name} must be one-dimensional, got shape {}; pass one row at a time",
            array.getattr("shape")?
        )));
    };
    let array = array.as_array();
    let mut values = Vec::with_capacity(array.len());
    for (i, &value) in array.iter().enumerate() {
        heard(object.py(), i)?;
        values.push(read(value)?);
    }
    Ok(values)
}

/// A plain array of integers, which is what a step's rows and tokens are: read where it lies, without any Python that could
/// change it meanwhile.
fn plain<'py>(object: &Bound<'py, PyAny>) -> Option<PyReadonlyArray1<'py, i64>> {
    // Others, masked ones among them, need more than a look.
    if !object
        .get_type()
        .is(PyUntypedArray::type_object(object.py()))
    {
        return None;
    }
    let array = object.cast::<PyArray1<i64>>().ok()?;
    let is_plain = array.is_c_contiguous() && array.data().is_aligned();
    is_plain.then(|| array.try_readonly().ok()).flatten()
}

fn natural(value: i64, name: &str, remedy: &str) -> PyResult<u32> {
    u32::try_from(value).map_err(|_| {
        bad_value(format!(
            "{name} must lie in [0, 2^32), got {value}; {remedy}"
        ))
    })
}

/// Those of a plain array where all lie in `[0, 2^32)`: at a glance, for steps of many rows. So many take no time worth a look
/// at signals.
fn narrow<T>(object: &Bound<'_, PyAny>, make: impl Fn(i64) -> T) -> Option<Vec<T>> {
    const MOST: usize = 1 << 16;
    let array = plain(object).filter(|array| array.len() <= MOST)?;
    let values = array.as_slice().ok()?;
    let bits = values.iter().fold(0, |bits, &value| bits | value);
    let fits = u32::try_from(bits).is_ok();
    fits.then(|| values.iter().map(|&value| make(value)).collect())
}

/// Ids or positions: integers in `[0, 2^32)`.
pub(super) fn ids(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<u32>> {
    if let Some(ids) = narrow(object, |value| value as u32) {
        return Ok(ids);
    }
    read(object, name, |value| {
        natural(value, name, "negative ids are no tokens")
    })
}

/// Canvases: a list of what `ids` takes.
pub(super) fn token_lists(canvases: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u32>>> {
    each(canvases, "canvases must be a list of int64 arrays", |one| {
        ids(one, "every canvas")
    })
}

/// For each of `n` rows what `flags` takes, or nothing for any.
pub(super) fn flag_lists(
    object: Option<&Bound<'_, PyAny>>,
    n: usize,
    name: &str,
) -> PyResult<Vec<Option<Vec<bool>>>> {
    let Some(object) = object else {
        return Ok(vec![None; n]);
    };
    let rule = format!("{name} must be a list of boolean arrays");
    let rows = each(object, &rule, |one| flags(one, name).map(Some))?;
    if rows.len() != n {
        return Err(bad_value(format!(
            "{name} must be one array for each of {n} rows, got {}; check its length",
            rows.len()
        )));
    }
    Ok(rows)
}

/// Something of every item of a list of rows.
pub(super) fn each<T>(
    rows: &Bound<'_, PyAny>,
    rule: &str,
    read: impl Fn(&Bound<'_, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    let py = rows.py();
    let Some(iterator) = fits(py, rows.try_iter())? else {
        return Err(bad_type(format!(
            "{rule}, got {}; wrap one canvas in a list",
            rows.get_type()
        )));
    };
    let one = |row: PyResult<Bound<'_, PyAny>>| {
        py.check_signals()?;
        read(&row?)
    };
    iterator.map(one).collect()
}

/// Flags from an array, a tensor or a list of True and False.
pub(super) fn flags(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<bool>> {
    let convert = object.py().import("dllm_fast.arrays")?;
    let array = convert.call_method1("flag_array", (object, name))?;
    Ok(array
        .extract::<PyReadonlyArray1<'_, bool>>()?
        .as_slice()?
        .to_vec())
}

/// Numbers from an array, a tensor or a list.
pub(super) fn numbers(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<f64>> {
    let convert = object.py().import("dllm_fast.arrays")?;
    let array = convert.call_method1("number_array", (object, name))?;
    Ok(array
        .extract::<PyReadonlyArray1<'_, f64>>()?
        .as_slice()?
        .to_vec())
}

/// Whole numbers from 0.
pub(super) fn whole_numbers(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<usize>> {
    read(object, name, |value| {
        usize::try_from(value).map_err(|_| {
            bad_value(format!(
                "{name} must hold whole numbers from 0, got {value}; check its signs"
            ))
        })
    })
}

/// Indices.
pub(super) fn indices(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<usize>> {
    if let Some(indices) = narrow(object, |value| value as usize) {
        return Ok(indices);
    }
    read(object, name, |value| {
        Ok(natural(value, name, "count from 0")? as usize)
    })
}

/// One value for all `n`, or one for each.
pub(super) fn one_or_each<'py, T: for<'a> FromPyObject<'a, 'py> + Clone>(
    object: &Bound<'py, PyAny>,
    n: usize,
    name: &str,
    what: &str,
) -> PyResult<Vec<T>> {
    let plain = |value: &Bound<'py, PyAny>| {
        if is_flag(value) {
            return Err(bad_type(format!(
                "{name} must be {what}, got {}; pass a number",
                shown(value)
            )));
        }
        fits(value.py(), value.extract::<T>())
    };
    if let Some(value) = plain(object)? {
        return Ok(vec![value; n]);
    }
    let bytes = object.is_instance_of::<PyBytes>()
        || object.is_instance_of::<PyByteArray>()
        || object.is_instance_of::<PyMemoryView>();
    if bytes || object.is_instance_of::<PySet>() || object.is_instance_of::<PyDict>() {
        return Err(bad_type(format!(
            "{name} must be {what}, or one for each row, got {}; pass a list",
            shown(object)
        )));
    }
    let Some(iterator) = fits(object.py(), object.try_iter())? else {
        return Err(bad_value(format!(
            "{name} must be {what}, or one for each row, got {}; negative numbers are not allowed",
            shown(object)
        )));
    };
    // One too many says that they are, and whether there is an end nobody has to know.
    let values: Vec<T> = iterator
        .take(n.saturating_add(1))
        .enumerate()
        .map(|(i, v)| {
            heard(object.py(), i)?;
            let v = v?;
            plain(&v)?.ok_or_else(|| {
                bad_value(format!(
                    "{name} must be {what}, got {}; negative numbers are not allowed",
                    shown(&v)
                ))
            })
        })
        .collect::<PyResult<_>>()?;
    if values.len() != n {
        return Err(bad_value(format!(
            "{name} must be one number, or one for each of {n} rows, got {}; check its length",
            values.len()
        )));
    }
    Ok(values)
}

/// Tokens as int64.
pub(super) fn tokens(
    py: Python<'_>,
    tokens: impl ExactSizeIterator<Item = u32>,
) -> Bound<'_, PyArray1<i64>> {
    PyArray1::from_iter(py, tokens.map(i64::from))
}

/// A list of Python objects, each made of an item.
pub(super) fn list<'py, T, O: IntoPyObject<'py>>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T>,
    make: impl Fn(T) -> O,
) -> PyResult<Bound<'py, PyList>> {
    let whole = PyList::empty(py);
    for (i, item) in items.into_iter().enumerate() {
        heard(py, i)?;
        whole.append(make(item))?;
    }
    Ok(whole)
}
