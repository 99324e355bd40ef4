//! Values that callers give: what they must be, and what is said where they are not.

use super::error::{bad_type, bad_value, shown};
use pyo3::exceptions::{PyException, PyOverflowError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};

pub(super) const COUNT: &str = "a whole number, at least 1";
pub(super) const FROM_ZERO: &str = "a whole number, at least 0";
pub(super) const NUMBER: &str = "a number";
pub(super) const FLAG: &str = "True or False";
pub(super) const ID: &str = "a token id, a whole number from 0";

/// A name that is none of the known ones; says which one it looks like, else the remedy.
pub(super) fn unknown(setting: &str, known: &[&str], name: &str, remedy: &str) -> PyErr {
    let nearest = known.iter().min_by_key(|word| edits(word, name));
    let remedy = match nearest {
        // Half of the letters may be wrong, as in the hints on the names of presets and settings.
        Some(word) if 2 * edits(word, name) <= word.len() => format!("did you mean '{word}'?"),
        _ => remedy.into(),
    };
    let known = known.join(", ");
    bad_value(format!(
        "{setting} must be one of {known}, got '{name}'; {remedy}"
    ))
}

/// Letters to insert, drop or replace to get from one word to the other (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, other) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    *row.last().expect("one more than letters")
}

/// Is it True or False, of Python, NumPy or torch? They would pass for the numbers 1 and 0, and for the tokens of these ids.
pub(super) fn is_flag(value: &Bound<'_, PyAny>) -> bool {
    if value.is_instance_of::<PyBool>() {
        return true;
    }
    // Most values are one of these, and asking them for a dtype makes an exception each time.
    let is_plain = value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>()
        || value.is_instance_of::<PyString>();
    let name = || value.getattr("dtype").and_then(|dtype| dtype.str());
    !is_plain && name().is_ok_and(|name| matches!(name.to_str(), Ok("bool" | "torch.bool")))
}

/// A value of the caller's.
///
/// A number that does not fit its type (a negative count) is a bad value, anything else a wrong type.
pub(super) fn convert<'py, T: for<'a> FromPyObject<'a, 'py>>(
    value: &Bound<'py, PyAny>,
    name: &str,
    what: &str,
) -> PyResult<T> {
    let text = || {
        format!(
            "{name} must be {what}, got {}; pass another value or leave it out",
            shown(value)
        )
    };
    if what != FLAG && is_flag(value) {
        return Err(bad_type(text()));
    }
    value.extract::<T>().map_err(|error| {
        let error: PyErr = error.into();
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            bad_value(text())
        } else if error.is_instance_of::<PyException>(value.py()) {
            bad_type(text())
        } else {
            error // an interrupt is no wrong type
        }
    })
}

/// True or False.
pub(super) fn flag(value: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    convert(value, name, FLAG)
}

/// A whole number from `least` to `most`.
pub(super) fn whole(
    value: &Bound<'_, PyAny>,
    name: &str,
    (least, most): (u64, u64),
    remedy: &str,
) -> PyResult<u64> {
    let rule = format!("a whole number, at least {least} and at most {most}");
    let number: u64 = convert(value, name, &rule)?;
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(bad_value(format!(
        "{name} must be {rule}, got {number}; {remedy}"
    )))
}
