//! The Python module `dllm_fast._core`: conversions only.

mod answer;
mod arrays;
mod asked;
mod beside;
mod changing;
mod choosing;
mod config;
mod demo;
mod edit;
mod ending;
mod error;
mod frequencies;
mod laws;
mod locks;
mod predict;
mod prediction;
mod request;
mod sampler;
mod signals;
mod start;
mod turns;
mod twin;
mod values;

use crate::error::Error;
use crate::rules::config::{MOST_STEPS, too_many};
use crate::{openmp, pool, rules};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use values::{COUNT, FLAG, NUMBER, convert};

/// See `dllm_fast.schedule`, which documents the arguments.
#[pyfunction]
fn schedule(
    name: &Bound<'_, PyAny>,
    masks: &Bound<'_, PyAny>,
    steps: &Bound<'_, PyAny>,
    eps: &Bound<'_, PyAny>,
    as_published: &Bound<'_, PyAny>,
) -> PyResult<Vec<usize>> {
    let name: String = convert(name, "name", "a name")?;
    let as_published = convert(as_published, "as_published", FLAG)?;
    let schedule = config::schedule(&name, convert(eps, "eps", NUMBER)?, 2, as_published)?;
    if let rules::schedule::Schedule::Dilated { .. } = schedule {
        return Err(error::bad_value(
            "a schedule must say how many masks each step commits, got 'dilated', which says which positions; choose another".into(),
        ));
    }
    schedule.check().map_err(error::raise)?;
    let remedy = "no canvas has more";
    let masks = values::whole(masks, "masks", (0, u64::from(u32::MAX)), remedy)? as usize;
    let steps: usize = convert(steps, "steps", COUNT)?;
    if steps == 0 {
        let remedy = "give one step for each mask to commit one a step";
        return Err(error::raise(Error::setting(
            "steps",
            "must be at least 1",
            steps,
            remedy,
        )));
    }
    if steps > MOST_STEPS {
        return Err(error::raise(too_many("steps", steps)));
    }
    Ok(schedule.counts(masks, steps))
}

/// For each kind of names (orders, cuts, schedules, kinds of edits) all of them; the place of a name is its number.
#[pyfunction]
fn names() -> BTreeMap<&'static str, Vec<&'static str>> {
    rules::names().into()
}

/// Number of threads from now on, of our own; None takes RAYON_NUM_THREADS, or else the threads of torch, or else one per core.
#[pyfunction]
#[pyo3(signature = (threads=None))]
fn set_threads(threads: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let threads = threads.map(|threads| convert(threads, "threads", COUNT));
    let threads: Option<usize> = threads.transpose()?;
    if let Some(count) = threads.filter(|&count| count == 0 || count > pool::MOST_THREADS) {
        return Err(error::raise(Error::setting(
            "threads",
            "must be at least 1 and at most 1024",
            count,
            "leave it away for as many as torch uses",
        )));
    }
    pool::set_threads(threads);
    Ok(())
}

/// The compiled core of `dllm_fast`.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    pool::watch_forks();
    openmp::allow();
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(schedule, m)?)?;
    m.add_function(wrap_pyfunction!(names, m)?)?;
    m.add_function(wrap_pyfunction!(set_threads, m)?)?;
    m.add_function(wrap_pyfunction!(config::check_config, m)?)?;
    m.add_function(wrap_pyfunction!(config::most_forwards, m)?)?;
    m.add_function(wrap_pyfunction!(config::asks_current, m)?)?;
    m.add_function(wrap_pyfunction!(predict::mask_predict, m)?)?;
    m.add_function(wrap_pyfunction!(laws::row_laws, m)?)?;
    m.add_class::<prediction::Prediction>()?;
    m.add_class::<edit::Edit>()?;
    m.add_class::<frequencies::TokenFrequencies>()?;
    m.add_class::<locks::Lock>()?;
    m.add_class::<request::Request>()?;
    m.add_class::<sampler::Sampler>()?;
    m.add_class::<twin::Twin>()?;
    demo::register(m)
}
