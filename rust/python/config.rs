//! `dllm_fast.SamplerConfig` as the core's `Config`.

use super::error::{bad_type, bad_value, fits, raise, shown};
use crate::error::Error;
use crate::logits::draw::Sampling;
use crate::logits::filter::Filters;
use crate::rules::Rule;
use crate::rules::config::{Config, Steps};
use crate::rules::credit::Credit;
use crate::rules::cut::Cut;
use crate::rules::eos::EosPolicy;
use crate::rules::gap::GapStop;
use crate::rules::noise::{Drafts, Noise};
use crate::rules::order::{Order, OrderNoise};
use crate::rules::reach::Reach;
use crate::rules::remask::Sigma;
use crate::rules::revise::{Revise, remasks};
use crate::rules::schedule::Schedule;
use pyo3::exceptions::{PyAttributeError, PyException, PyOverflowError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};

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

/// A name that is none of the known ones; says which one it looks like, else the remedy.
fn unknown(setting: &str, known: &[&str], name: &str, remedy: &str) -> PyErr {
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

fn order(name: &str) -> PyResult<Order> {
    let found = Order::ALL.into_iter().find(|order| order.name() == name);
    let known = Order::ALL.map(Order::name);
    found.ok_or_else(|| unknown("order", &known, name, "confidence is the usual one"))
}

/// Is it True or False, of Python, NumPy or torch? They would pass for the numbers 1 and 0, and for the tokens of these ids.
pub(super) fn is_flag(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyBool>()
        || value
            .getattr("dtype")
            .and_then(|dtype| dtype.str())
            .is_ok_and(|name| matches!(name.to_str(), Ok("bool" | "torch.bool")))
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

/// A setting of a `SamplerConfig`.
fn setting<'py>(config: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    config.getattr(name).map_err(|error| {
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
fn get<'py, T: for<'a> FromPyObject<'a, 'py>>(
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
pub(super) const COUNT: &str = "a whole number, at least 1";
const FROM_ZERO: &str = "a whole number, at least 0";
pub(super) const NUMBER: &str = "a number";
pub(super) const FLAG: &str = "True or False";
const ID: &str = "a token id, a whole number from 0";

fn cut(config: &Bound<'_, PyAny>, as_published: bool) -> PyResult<Cut> {
    let least = get::<f64>(config, "threshold", NUMBER)?;
    let factor = get::<f64>(config, "factor", NUMBER)?.map(|factor| Cut::Factor {
        factor,
        as_published,
    });
    let bound = get::<f64>(config, "entropy_bound", NUMBER)?.map(Cut::EntropyBound);
    let bar = get::<f64>(config, "entropy_threshold", NUMBER)?.map(Cut::EntropyThreshold);
    let verified = get::<bool>(config, "verify", FLAG)?.unwrap_or(false);
    let verified = verified.then_some(Cut::Verified);
    let mut given = [least.map(Cut::Threshold), factor, bound, bar, verified]
        .into_iter()
        .flatten();
    let first = given.next().unwrap_or(Cut::Count);
    if given.next().is_some() {
        return Err(bad_value(
            "at most one of threshold, factor, entropy_bound and entropy_threshold, or verify, can decide what is committed, got several; set the others to None".into(),
        ));
    }
    let distance = get::<u32>(config, "neighbour_distance", FROM_ZERO)?.unwrap_or(4);
    let near = get::<f64>(config, "neighbour_threshold", NUMBER)?.map(|near| Cut::Neighbours {
        threshold: least.unwrap_or(f64::INFINITY),
        near,
        distance,
    });
    let runs = get::<f64>(config, "run_threshold", NUMBER)?.map(|run| Cut::Runs {
        threshold: least.unwrap_or(f64::INFINITY),
        run,
    });
    let steps = get::<u32>(config, "kl_steps", COUNT)?.unwrap_or(2);
    let steady = |threshold, bar| Cut::Steady {
        threshold,
        bar,
        steps,
    };
    // Whether or not it decides: a number that is out of range is never meant.
    steady(0.0, 0.0).check().map_err(raise)?;
    let kl = get::<f64>(config, "kl_threshold", NUMBER)?;
    let steady = kl.map(|bar| steady(least.unwrap_or(f64::INFINITY), bar));
    if [near, runs, steady].iter().flatten().count() > 1 {
        return Err(bad_value(
            "at most one of neighbour_threshold, run_threshold and kl_threshold can decide what is committed beside the threshold, \
             got several; set the others to None"
                .into(),
        ));
    }
    match (near.or(steady), runs) {
        (None, None) => Ok(first),
        (Some(Cut::Steady { .. }), None) if least.is_none() => Err(bad_value(
            "kl_threshold is for positions that pass the threshold, got no threshold; KLASS's is 0.9, and 0 lets all pass".into(),
        )),
        (Some(_), None) if least.is_none() => Err(bad_value(
            "neighbour_threshold is for neighbours of positions that pass the threshold, got no threshold; LocalLeap's is 0.9".into(),
        )),
        (_, Some(_)) if least.is_none() && first != Cut::Count => Err(bad_value(
            "run_threshold goes with a threshold or with nothing, got a factor, entropy_bound or verify beside it; set that to None".into(),
        )),
        (other, runs) => Ok(other.or(runs).unwrap_or(first)),
    }
}

/// Prophet's stop.
fn gap_stop(config: &Bound<'_, PyAny>) -> PyResult<Option<GapStop>> {
    let bar = get::<f64>(config, "gap_stop", NUMBER)?;
    let start = get::<usize>(config, "gap_start", FROM_ZERO)?;
    let length = get::<usize>(config, "gap_length", COUNT)?.unwrap_or(5);
    let stop = |bar, start: Option<usize>| GapStop {
        bar,
        answer: start.map(|start| (start, length)),
    };
    // Whether or not anything stops: a number that is out of range is never meant.
    stop(0.0, Some(0)).check().map_err(raise)?;
    if bar.is_none() && start.is_some() {
        return Err(bad_value(
            "gap_start says where gap_stop looks, got no gap_stop; 2.5 is Prophet's".into(),
        ));
    }
    Ok(bar.map(|bar| stop(bar, start)))
}

/// How far a step reaches, where any setting says it.
fn reach(config: &Bound<'_, PyAny>) -> PyResult<Reach> {
    let length = get::<usize>(config, "sub_block_length", COUNT)?;
    let first_alone = get::<bool>(config, "inherit_token", FLAG)?.unwrap_or(false);
    let parts = (first_alone || length.is_some()).then_some(Reach::Parts {
        length,
        first_alone,
    });
    let sliding = get::<usize>(config, "window_length", COUNT)?.map(Reach::Sliding);
    let activate = get::<f64>(config, "activate_block_at", NUMBER)?;
    let add = get::<f64>(config, "add_block_at", NUMBER)?;
    let several = add.map(|add| Reach::Several {
        add,
        activate: activate.unwrap_or(1.0),
    });
    if activate.is_some() && several.is_none() {
        return Err(bad_value(
            "activate_block_at is about blocks that add_block_at adds, got no add_block_at; give both, D2F's are 0.95 and 0.1".into(),
        ));
    }
    let mut given = [parts, sliding, several].into_iter().flatten();
    let first = given.next().unwrap_or(Reach::Block);
    match given.next() {
        None => Ok(first),
        Some(other) => Err(bad_value(format!(
            "at most one of sub_block_length (or inherit_token), window_length and add_block_at can say how far a step reaches, \
             got {} and {}; leave one of them out",
            first.name(),
            other.name()
        ))),
    }
}

fn revise(config: &Bound<'_, PyAny>) -> PyResult<Revise> {
    let most_post_steps = get(config, "max_post_steps", FROM_ZERO)?.unwrap_or(16);
    let threshold: Option<f64> = get(config, "edit_threshold", NUMBER)?;
    let edit = |threshold| Revise::Edit {
        threshold,
        most_post_steps,
    };
    // Whether or not anything is edited: a number that is out of range is never meant.
    edit(0.0).check().map_err(raise)?;
    let remask = remask(config)?;
    if threshold.is_some() && remask != Revise::None {
        return Err(bad_value(
            "edit_threshold replaces written tokens and remask takes them back, got both; set one of them to None".into(),
        ));
    }
    Ok(threshold.map_or(remask, edit))
}

/// How written tokens are taken back.
fn remask(config: &Bound<'_, PyAny>) -> PyResult<Revise> {
    let name = get::<String>(config, "remask", "a name")?;
    let eta = get::<f64>(config, "remask_eta", NUMBER)?;
    let budget = get::<usize>(config, "remask_budget", FROM_ZERO)?;
    let sigma = Sigma::ALL
        .into_iter()
        .find(|sigma| name.as_deref() == Some(sigma.name()));
    let found = match (name.as_deref(), sigma) {
        (None, _) => Revise::None,
        (_, Some(sigma)) => Revise::Resample {
            sigma,
            eta: eta.unwrap_or(sigma.default_eta()),
        },
        (Some("planner"), _) => Revise::Plan {
            eta: eta.unwrap_or(1.0),
        },
        (Some("confidence-drop"), _) => Revise::Drop,
        (Some("low-confidence"), _) => Revise::Redo {
            budget: budget.unwrap_or(8),
        },
        (Some(name), _) => return Err(unknown("remask", &remasks(), name, "planner is P2's")),
    };
    let has_eta = matches!(found, Revise::Resample { .. } | Revise::Plan { .. });
    if eta.is_some() && !has_eta {
        return Err(bad_value(
            "remask_eta says how much a remask of ReMDM or the planner takes back, got no such remask; leave it out, or pass remask='planner'".into(),
        ));
    }
    if budget.is_some() && !matches!(found, Revise::Redo { .. }) {
        return Err(bad_value(
            "remask_budget bounds the forwards of remask='low-confidence', got another remask or none; leave it out".into(),
        ));
    }
    Ok(found)
}

fn noise(config: &Bound<'_, PyAny>) -> PyResult<(Noise, Option<Drafts>)> {
    let name: String = get(config, "noise", "a name")?.unwrap_or_else(|| "mask".into());
    let known = Noise::ALL.map(Noise::name);
    let found = Noise::ALL.into_iter().find(|noise| noise.name() == name);
    let found = found.ok_or_else(|| unknown("noise", &known, &name, "mask is the usual one"))?;
    let vocabulary = get::<u32>(config, "vocabulary", COUNT)?;
    let share: Option<f64> = get(config, "noise_share", NUMBER)?;
    if let Some(share) = share.filter(|_| !matches!(found, Noise::Hybrid { .. })) {
        return Err(bad_value(format!(
            "noise_share is that of tokens among masks, got {share} beside noise '{name}'; leave it out, or set noise='hybrid'"
        )));
    }
    let shows = match found {
        Noise::Mask => found,
        Noise::Hybrid { .. } => Noise::Hybrid {
            vocabulary,
            share: share.unwrap_or(0.2),
        },
        Noise::Uniform { .. } => Noise::Uniform { vocabulary },
    };
    // Whether or not there are any: a number that is out of range is never meant.
    let drafts = Drafts {
        stable: get(config, "stop_stable", FROM_ZERO)?.unwrap_or(1),
        entropy: get(config, "stop_entropy", NUMBER)?.unwrap_or(0.005),
    };
    drafts.check().map_err(raise)?;
    let has_drafts = get::<bool>(config, "drafts", FLAG)?.unwrap_or(false);
    Ok((shows, has_drafts.then_some(drafts)))
}

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

/// Token ids: None, one, or a sequence.
fn id_list(config: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<u32>> {
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
fn eos(config: &Bound<'_, PyAny>) -> PyResult<EosPolicy> {
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
fn stops(config: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u32>>> {
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
    let read = Config {
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
