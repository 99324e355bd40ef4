//! Errors of the core as exceptions of `dllm_fast.errors`.

use crate::error::Error;
use pyo3::PyErr;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

pyo3::import_exception!(dllm_fast.errors, DllmFastError);
pyo3::import_exception!(dllm_fast.errors, InvalidTypeError);
pyo3::import_exception!(dllm_fast.errors, InvalidValueError);

/// Every error of the core is about a value; wrong types are found while converting.
#[allow(clippy::needless_pass_by_value)] // it is what `map_err` hands over
pub(super) fn raise(error: Error) -> PyErr {
    InvalidValueError::new_err(error.to_string())
}

/// A bad value, found while converting.
pub(super) fn bad_value(text: String) -> PyErr {
    InvalidValueError::new_err(text)
}

/// A call that cannot be made now.
pub(super) fn bad_call(text: &'static str) -> PyErr {
    DllmFastError::new_err(text)
}

/// A wrong type.
pub(super) fn bad_type(text: String) -> PyErr {
    InvalidTypeError::new_err(text)
}

/// What a conversion made; `None` where the value does not fit. What is no `Exception` (an interrupt, the end of the program)
/// says nothing about a value, and goes on as it is.
pub(super) fn fits<T>(py: Python<'_>, made: Result<T, impl Into<PyErr>>) -> PyResult<Option<T>> {
    match made.map_err(Into::into) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A value as errors show it, of bounded length; `errors.shown` decides.
pub(super) fn shown(value: &Bound<'_, PyAny>) -> String {
    let errors = value.py().import("dllm_fast.errors");
    let text = errors.and_then(|m| m.call_method1("shown", (value,))?.extract());
    text.unwrap_or_else(|_| "a value without a representation".into())
}
