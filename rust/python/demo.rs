//! Puzzles of the demo.
use pyo3::prelude::*;

/// Adds the functions of this file to the module.
pub(super) fn register(_m: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
