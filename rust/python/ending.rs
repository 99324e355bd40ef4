//! The settings that say which tokens are kept away, and where a row ends.

use super::config::{get, setting};
use super::error::{bad_type, bad_value, fits, shown};
use super::values::{NUMBER, is_flag, unknown};
use crate::rules::eos::EosPolicy;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Token ids: None, one, or a sequence.
pub(super) fn id_list(config: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<u32>> {
    let value = setting(config, name)?;
    if value.is_none() {
        return Ok(vec![]);
    }
    // `SamplerConfig` keeps tuples; nothing else is gone through, for it may not end.
    let items = match value.cast::<PyTuple>() {
        Ok(tuple) => tuple.iter().collect(),
        Err(_) => vec![value.clone()],
    };
    if let Some(flag) = items.iter().find(|item| is_flag(item)) {
        return Err(bad_type(format!(
            "{name} must be token ids, whole numbers from 0, got {}; () says that there are none",
            shown(flag)
        )));
    }
    let id = |item: &Bound<'_, PyAny>| {
        fits(item.py(), item.extract::<u32>())?.ok_or_else(|| bad_value(format!("{name} must be token ids, whole numbers from 0, got {}; check them against the tokenizer", shown(&value))))
    };
    items.iter().map(id).collect()
}

/// Where end tokens may be written.
pub(super) fn eos(config: &Bound<'_, PyAny>) -> PyResult<EosPolicy> {
    let name: String = get(config, "eos_policy", "a name")?.unwrap_or_else(|| "allow".into());
    let penalty: Option<f64> = get(config, "eos_penalty", NUMBER)?;
    let found = EosPolicy::ALL
        .into_iter()
        .find(|policy| policy.name() == name);
    let known = EosPolicy::ALL.map(EosPolicy::name);
    let remedy = "allow is the default";
    match (
        found.ok_or_else(|| unknown("eos_policy", &known, &name, remedy))?,
        penalty,
    ) {
        (EosPolicy::Penalise(_), Some(penalty)) => Ok(EosPolicy::Penalise(penalty)),
        (EosPolicy::Penalise(_), None) => Err(bad_value(
            "eos_policy 'penalise' needs an eos_penalty, got none; pass how much the logits of end tokens are smaller, inf for never".into(),
        )),
        (policy, None) => Ok(policy),
        (policy, Some(penalty)) => Err(bad_value(format!(
            "eos_penalty is of eos_policy 'penalise', got {penalty} beside '{}'; leave it out, or pass eos_policy='penalise'",
            policy.name()
        ))),
    }
}

/// Sequences of ids that end a row; texts are the run's, which has a tokenizer.
pub(super) fn stops(config: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u32>>> {
    let value = setting(config, "stop")?;
    if value.is_none() {
        return Ok(vec![]);
    }
    let remedy = "give sample a tokenizer for texts, or pass ids: stop=5, [5, 6] for either, [[5, 6]] for one behind the other";
    let bad = |of: &Bound<'_, PyAny>| {
        let text = format!(
            "stop must be token ids here, or tuples of them, got {}; {remedy}",
            shown(of)
        );
        bad_type(text)
    };
    let id = |item: &Bound<'_, PyAny>| {
        if is_flag(item) {
            return Err(bad(item));
        }
        fits(item.py(), item.extract::<u32>())?.ok_or_else(|| bad(item))
    };
    let all = value.cast::<PyTuple>().map_err(|_| bad(&value))?;
    let one = |item: Bound<'_, PyAny>| match item.cast::<PyTuple>() {
        Ok(sequence) => sequence.iter().map(|item| id(&item)).collect(),
        Err(_) => id(&item).map(|id| vec![id]),
    };
    all.iter().map(one).collect()
}
