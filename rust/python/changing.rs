//! The settings that say what a step changes beside what it fills: what it takes back, and what an open canvas shows.

use super::config::get;
use super::error::{bad_value, raise};
use super::values::{COUNT, FLAG, FROM_ZERO, NUMBER, unknown};
use crate::rules::noise::{Drafts, Noise};
use crate::rules::remask::Sigma;
use crate::rules::revise::{Revise, remasks};
use pyo3::prelude::*;

pub(super) fn revise(config: &Bound<'_, PyAny>) -> PyResult<Revise> {
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
    let bar = get::<f64>(config, "remask_threshold", NUMBER)?;
    let sigma = Sigma::ALL
        .into_iter()
        .find(|sigma| name.as_deref() == Some(sigma.name()));
    Ok(match (name.as_deref(), sigma) {
        (None, _) => Revise::None,
        (_, Some(sigma)) => Revise::Resample {
            sigma,
            eta: eta.unwrap_or(sigma.default_eta()),
        },
        (Some("planner"), _) => Revise::Plan {
            eta: eta.unwrap_or(1.0),
        },
        (Some("confidence-drop"), _) => Revise::Drop,
        (Some("verify"), _) => Revise::Verify {
            bar: bar.unwrap_or(0.9),
        },
        (Some("low-confidence"), _) => Revise::Redo {
            budget: budget.unwrap_or(8),
        },
        (Some(name), _) => return Err(unknown("remask", &remasks(), name, "planner is P2's")),
    })
}

pub(super) fn noise(config: &Bound<'_, PyAny>) -> PyResult<(Noise, Option<Drafts>)> {
    let name: String = get(config, "noise", "a name")?.unwrap_or_else(|| "mask".into());
    let known = Noise::ALL.map(Noise::name);
    let found = Noise::ALL.into_iter().find(|noise| noise.name() == name);
    let found = found.ok_or_else(|| unknown("noise", &known, &name, "mask is the usual one"))?;
    let vocabulary = get::<u32>(config, "vocabulary", COUNT)?;
    let share: Option<f64> = get(config, "noise_share", NUMBER)?;
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
