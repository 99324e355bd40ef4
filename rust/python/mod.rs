//! The Python module `dllm_fast._core`: conversions only.
use pyo3::prelude::*;

mod demo;

/// The compiled core of `dllm_fast`.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    demo::register(m)?;
    Ok(())
}
