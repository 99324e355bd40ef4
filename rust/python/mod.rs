//! The Python module `dllm_fast._core`: conversions only.

mod arrays;
mod config;
mod demo;
mod error;
mod predict;
mod sampler;

use crate::pool;
use pyo3::prelude::*;

/// Masks that each of `steps` steps commits.
#[pyfunction]
fn schedule(name: &str, masks: usize, steps: usize, eps: f64) -> PyResult<Vec<usize>> {
    let schedule = config::schedule(name, eps)?;
    schedule.check().map_err(error::raise)?;
    Ok(schedule.counts(masks, steps))
}

/// Number of threads from now on; None takes RAYON_NUM_THREADS, or else one per core.
#[pyfunction]
#[pyo3(signature = (threads=None))]
fn set_threads(threads: Option<usize>) {
    pool::set_threads(threads);
}

/// The compiled core of `dllm_fast`.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(schedule, m)?)?;
    m.add_function(wrap_pyfunction!(set_threads, m)?)?;
    m.add_function(wrap_pyfunction!(config::check_config, m)?)?;
    m.add_function(wrap_pyfunction!(predict::mask_predict, m)?)?;
    m.add_class::<predict::Prediction>()?;
    m.add_class::<sampler::Edit>()?;
    m.add_class::<sampler::Request>()?;
    m.add_class::<sampler::Sampler>()?;
    demo::register(m)
}
