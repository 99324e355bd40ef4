//! `dllm_fast.SamplerConfig` as the core's `Config`.

use super::changing::{noise, revise};
use super::choosing::{cut, gap_stop, reach};
use super::ending::{eos, id_list, length, stops};
use super::error::{bad_type, bad_value, raise};
use super::frequencies::calibration;
use super::values::{COUNT, FLAG, FROM_ZERO, ID, NUMBER, convert, unknown, whole};
use crate::error::Error;
use crate::logits::draw::Sampling;
use crate::logits::filter::Filters;
use crate::rules::Rule;
use crate::rules::config::{Config, Steps};
use crate::rules::credit::Credit;
use crate::rules::order::{Order, OrderNoise};
use crate::rules::schedule::Schedule;
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// A schedule by its name.
pub(super) fn schedule(
    name: &str,
    eps: f64,
    dilation: usize,
    as_published: bool,
) -> PyResult<Schedule> {
    // Whatever the schedule: a number that is out of range is never meant.
    Schedule::Dream { eps }.check().map_err(raise)?;
    Schedule::Dilated { dilation }.check().map_err(raise)?;
    let found = Schedule::ALL.into_iter().find(|s| s.name() == name);
    let known = Schedule::ALL.map(Schedule::name);
    let schedule = found.ok_or_else(|| unknown("schedule", &known, name, "even is LLaDA's"))?;
    Ok(schedule.with(eps, dilation, as_published))
}

fn order(name: &str) -> PyResult<Order> {
    let found = Order::ALL.into_iter().find(|order| order.name() == name);
    let known = Order::ALL.map(Order::name);
    found.ok_or_else(|| unknown("order", &known, name, "confidence is the usual one"))
}

/// A setting of a `SamplerConfig`.
pub(super) fn setting<'py>(config: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    // Interned as the attributes are, so that the type looks it up among the names it knows.
    config.getattr(PyString::intern(config.py(), name)).map_err(|error| {
        if error.is_instance_of::<PyAttributeError>(config.py()) {
            let kind = config.get_type();
            let kind = kind.name().map_or_else(|_| "something".into(), |name| name.to_string());
            bad_type(format!(
                "config must be a SamplerConfig, got {kind}; make one with dllm_fast.SamplerConfig(mask_token_id=...)"
            ))
        } else {
            error
        }
    })
}

/// The attribute of a configuration, `None` where it is None.
pub(super) fn get<'py, T: for<'a> FromPyObject<'a, 'py>>(
    config: &Bound<'py, PyAny>,
    name: &str,
    what: &str,
) -> PyResult<Option<T>> {
    let value = setting(config, name)?;
    if value.is_none() {
        Ok(None)
    } else {
        convert(&value, name, what).map(Some)
    }
}

/// More than any model can hold, and little enough to allocate.
const MOST_NEW_TOKENS: usize = 1 << 24;

/// `CreditDecoding`.
fn credit(config: &Bound<'_, PyAny>) -> PyResult<Option<Credit>> {
    let weight: Option<f64> = get(config, "credit", NUMBER)?;
    let power = get(config, "credit_power", NUMBER)?.unwrap_or(0.2);
    let decay = get(config, "credit_decay", NUMBER)?.unwrap_or(0.8);
    let credit = |weight| Credit {
        weight,
        power,
        decay,
    };
    credit(0.0).check().map_err(raise)?;
    Ok(weight.map(credit))
}

fn steps(config: &Bound<'_, PyAny>) -> PyResult<Steps> {
    match (
        get::<usize>(config, "steps", COUNT)?,
        get::<usize>(config, "steps_per_block", COUNT)?,
    ) {
        (None, None) => Ok(Steps::Open),
        (Some(total), None) => Ok(Steps::Total(total)),
        (None, Some(each)) => Ok(Steps::PerBlock(each)),
        (Some(total), Some(each)) => Err(bad_value(format!(
            "steps is the total and steps_per_block the number in each block, got steps={total} and steps_per_block={each}; give one of them"
        ))),
    }
}

/// Reads a `SamplerConfig`.
pub(super) fn config(object: &Bound<'_, PyAny>) -> PyResult<Config> {
    let flag = |name| get::<bool>(object, name, FLAG).map(|b| b.unwrap_or(false));
    let as_published = flag("as_published")?;
    let mask = get::<u32>(object, "mask_token_id", ID)?;
    let name: String = get(object, "schedule", "a name")?.unwrap_or_else(|| "even".into());
    let eps = get(object, "eps", NUMBER)?.unwrap_or(1e-3);
    let dilation = get(object, "dilation", COUNT)?.unwrap_or(2);
    let schedule = schedule(&name, eps, dilation, as_published)?;
    let (shows, drafts) = noise(object)?;
    let mut read = Config {
        lead: 0.0,
        mask,
        shows,
        drafts,
        temperature_end: get(object, "temperature_end", NUMBER)?,
        block_length: get(object, "block_length", COUNT)?,
        steps: steps(object)?,
        schedule,
        order: order(
            &get::<String>(object, "order", "a name")?.unwrap_or_else(|| "confidence".into()),
        )?,
        noise: OrderNoise {
            temperature: get(object, "order_temperature", NUMBER)?.unwrap_or(0.0),
            annealed: schedule == Schedule::MaskGit,
        },
        position_penalty: get(object, "position_penalty", NUMBER)?.unwrap_or(0.0),
        spacing: get(object, "spacing", COUNT)?.unwrap_or(1),
        reach: reach(object)?,
        prior_sigma: get(object, "prior_sigma", NUMBER)?.unwrap_or(10.0),
        calibration: calibration(object)?,
        cut: cut(object, as_published)?,
        min_commit: get(object, "min_commit", COUNT)?,
        credit: credit(object)?,
        gap_stop: gap_stop(object)?,
        revise: revise(object)?,
        sampling: Sampling {
            temperature: get(object, "temperature", NUMBER)?.unwrap_or(0.0),
            filters: Filters {
                top_k: get(object, "top_k", COUNT)?,
                top_p: get(object, "top_p", NUMBER)?,
                min_p: get(object, "min_p", NUMBER)?,
            },
        },
        suppressed: id_list(object, "suppress_tokens")?,
        ends: id_list(object, "eos_token_id")?,
        stop_at_end: flag("stop_at_eos")?,
        stops: stops(object)?,
        eos: eos(object)?,
        length: length(object)?,
        min_new_tokens: get(object, "min_new_tokens", FROM_ZERO)?.unwrap_or(0),
        as_published,
    };
    flag("shift")?;
    if let Some(many) =
        get::<usize>(object, "max_new_tokens", COUNT)?.filter(|&n| n > MOST_NEW_TOKENS)
    {
        return Err(raise(Error::setting(
            "max_new_tokens",
            "must be at most 2^24",
            many,
            "sample in several calls",
        )));
    }
    let most = get::<usize>(object, "max_new_tokens", COUNT)?;
    if let Some(most) = most.filter(|&most| most > 0 && most < read.min_new_tokens) {
        return Err(bad_value(format!(
            "min_new_tokens must be at most max_new_tokens, got {} and {most}; lower the one or raise the other",
            read.min_new_tokens
        )));
    }
    if most == Some(0) {
        return Err(raise(Error::setting(
            "max_new_tokens",
            "must be at least 1",
            0,
            "use infill to fill masks in place",
        )));
    }
    if read.follows_posterior() {
        read.lead = get(object, "guidance", NUMBER)?.unwrap_or(0.0);
    }
    read.check().map_err(raise)?;
    Ok(read)
}

/// Does a rule need the probability of written tokens beside what is proposed?
#[pyfunction]
pub(super) fn asks_current(config: &Bound<'_, PyAny>) -> PyResult<bool> {
    self::config(config).map(|config| config.asks_current())
}

/// Checks every setting that does not depend on a canvas.
#[pyfunction]
pub(super) fn check_config(object: &Bound<'_, PyAny>) -> PyResult<()> {
    config(object).map(drop)
}

/// The most forwards that a row of these settings takes, with so many masks in so many blocks.
#[pyfunction]
pub(super) fn most_forwards(
    object: &Bound<'_, PyAny>,
    masks: &Bound<'_, PyAny>,
    blocks: &Bound<'_, PyAny>,
) -> PyResult<usize> {
    let rule = Rule::new(config(object)?).map_err(raise)?;
    let most = MOST_NEW_TOKENS as u64;
    let masks = whole(masks, "masks", (0, most), "no canvas has more")?;
    let remedy = "a block that counts holds a mask";
    let blocks = whole(blocks, "blocks", (0, masks), remedy)?;
    Ok(rule.most_forwards(masks as usize, blocks as usize, false))
}
