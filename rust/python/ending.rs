//! The settings that say which tokens are kept away, where a row ends and how long it becomes.

use super::config::{get, setting};
use super::error::{bad_type, bad_value, fits, raise, shown};
use super::values::{COUNT, FROM_ZERO, NUMBER, is_flag, unknown};
use crate::rules::eos::EosPolicy;
use crate::rules::length::Length;
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
        (policy, _) => Ok(policy),
    }
}

/// Who decides how long an answer becomes, which is at most `max_new_tokens`.
pub(super) fn length(config: &Bound<'_, PyAny>) -> PyResult<Length> {
    const LONGEST: usize = 2048; // of both papers
    let name: String = get(config, "length", "a name")?.unwrap_or_else(|| "fixed".into());
    let least = get(config, "min_new_tokens", FROM_ZERO)?
        .unwrap_or(0)
        .max(1);
    let most = get(config, "max_new_tokens", COUNT)?.unwrap_or(LONGEST.max(least));
    let number = |name, usual| Ok::<f64, PyErr>(get(config, name, NUMBER)?.unwrap_or(usual));
    let count = |name, usual| Ok::<usize, PyErr>(get(config, name, COUNT)?.unwrap_or(usual));
    let factor = count("expansion_factor", 8)?;
    let daedal = Length::Daedal {
        most,
        factor,
        checked: count("eos_check_tokens", 32)?,
        enough: number("eos_confidence_threshold", 0.5)?,
        certain: number("expand_eos_confidence_threshold", 0.9)?,
        unsure: number("low_confidence_threshold", 0.1)?,
    };
    let density = Length::Density {
        most,
        factor,
        low: number("low_density_threshold", 0.4)?,
        high: number("high_density_threshold", 0.6)?,
    };
    // Whether or not it decides: a number that is out of range is never meant.
    daedal.check().map_err(raise)?;
    density.check().map_err(raise)?;
    let known = [Length::Fixed, daedal, density];
    let found = known.into_iter().find(|length| length.name() == name);
    let remedy = "fixed is the usual one";
    let found = found.ok_or_else(|| unknown("length", &Length::NAMES, &name, remedy))?;
    let Some(first) = get::<usize>(config, "initial_length", COUNT)? else {
        return Ok(found);
    };
    if found != Length::Fixed && !(least..=most).contains(&first) {
        return Err(bad_value(format!(
            "initial_length must be at least min_new_tokens (and 1) and at most max_new_tokens, got {first} for {least} to {most}; \
             64 is that of both papers"
        )));
    }
    Ok(found)
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
