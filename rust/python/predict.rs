//! `mask_predict`.

use super::arrays::{LogitsArray, ids, one_or_each};
use super::error::{bad_value, raise};
use super::laws::RowLaws;
use super::prediction::Prediction;
use super::signals::detached;
use super::values::{NUMBER, convert};
use crate::error::Error;
use crate::logits::arith::Softcap;
use crate::logits::draw::Sampling;
use crate::logits::kernel::Isa;
use crate::logits::predict::{Law, Matrix, Site, predict};
use crate::logits::stats::Unusable;
use crate::rng::Stream;
use pyo3::prelude::*;
use std::sync::Arc;

/// See `dllm_fast.mask_predict`, which documents the arguments.
#[pyfunction]
#[pyo3(signature = (logits, *, temperature, top_k, top_p, min_p, softcap, suppress, current, seed, request, positions, step))]
#[allow(clippy::too_many_arguments)]
pub(super) fn mask_predict(
    py: Python<'_>,
    logits: &Bound<'_, PyAny>,
    temperature: &Bound<'_, PyAny>,
    top_k: Option<&Bound<'_, PyAny>>,
    top_p: Option<&Bound<'_, PyAny>>,
    min_p: Option<&Bound<'_, PyAny>>,
    softcap: Option<&Bound<'_, PyAny>>,
    suppress: &Bound<'_, PyAny>,
    current: Option<&Bound<'_, PyAny>>,
    seed: &Bound<'_, PyAny>,
    request: &Bound<'_, PyAny>,
    positions: Option<&Bound<'_, PyAny>>,
    step: &Bound<'_, PyAny>,
) -> PyResult<Prediction> {
    let softcap = softcap
        .map(|c| convert::<f64>(c, "softcap", NUMBER))
        .transpose()?;
    if let Some(cap) = softcap.filter(|cap| !Softcap::RANGE.contains(cap)) {
        let remedy = "Gemma's is 30; leave it out for logits as they are";
        return Err(raise(Error::setting(
            "softcap",
            "must lie in [0.001, 1000]",
            cap,
            remedy,
        )));
    }
    let softcap = softcap.map(Softcap::new);
    let array = LogitsArray::new(logits)?;
    let (n, vocabulary) = (array.rows(), array.vocabulary());
    let laws = RowLaws::new(n, temperature, top_k, top_p, min_p)?;
    let mut suppressed = ids(suppress, "suppress")?;
    suppressed.sort_unstable();
    suppressed.dedup();
    let in_vocabulary = |ids: &[u32], name: &str| match ids
        .iter()
        .find(|&&id| id as usize >= vocabulary)
    {
        Some(id) => Err(bad_value(format!(
            "{name} must be ids of the vocabulary, got {id} for {vocabulary} columns; check the tokenizer"
        ))),
        None => Ok(()),
    };
    in_vocabulary(&suppressed, "suppress")?;
    let per_row = |object: &Bound<'_, PyAny>, name: &str| {
        let values = ids(object, name)?;
        if values.len() == n {
            return Ok(values);
        }
        Err(bad_value(format!(
            "{name} must have one entry for each of the {n} rows of logits, got {}; check its length",
            values.len()
        )))
    };
    let current = current.map(|c| per_row(c, "current")).transpose()?;
    in_vocabulary(current.as_deref().unwrap_or(&[]), "current")?;
    let positions =
        positions.map_or_else(|| Ok((0..n as u32).collect()), |p| per_row(p, "positions"))?;
    let seeds: Vec<u64> = one_or_each(seed, n, "seed", "a whole number from 0 below 2^64")?;
    let requests: Vec<u32> =
        one_or_each(request, n, "request", "a whole number from 0 below 2^32")?;
    let steps: Vec<u32> = one_or_each(step, n, "step", "a whole number from 0 below 2^32")?;
    let sites: Vec<Site> = (0..n)
        .map(|row| Site {
            row,
            stream: Stream {
                seed: seeds[row],
                request: requests[row],
            },
            position: positions[row],
            step: steps[row],
            law: laws.index[row],
            current: current.as_ref().map(|c| c[row]),
        })
        .collect();
    let matrix = Matrix {
        logits: array.view()?,
        vocabulary,
        softcap,
    };
    let suppressed: Arc<[u32]> = suppressed.into();
    let law = |&sampling: &Sampling| Law {
        sampling,
        suppressed: Arc::clone(&suppressed),
        ..Law::default()
    };
    let laws: Vec<Law> = laws.distinct.iter().map(law).collect();
    let predictions = detached(py, |watch| {
        predict(&matrix, &sites, &laws, Isa::best(), watch)
    })?;
    let predictions = predictions.map_err(|(row, why)| {
        let position = None;
        raise(match why {
            Unusable::NotANumber(id) => Error::NotANumber { row, position, id },
            Unusable::NothingAllowed => Error::NothingAllowed { row, position },
            Unusable::Interrupted => Error::Interrupted,
        })
    })?;
    Ok(Prediction::from_core(py, &predictions, current.is_some()))
}
