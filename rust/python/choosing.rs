//! The settings that say which and how many positions a step writes, as the core's.

use super::config::get;
use super::error::{bad_value, raise};
use super::values::{COUNT, FLAG, FROM_ZERO, NUMBER};
use crate::rules::cut::Cut;
use crate::rules::gap::GapStop;
use crate::rules::reach::Reach;
use pyo3::prelude::*;
use std::iter::zip;

pub(super) fn cut(config: &Bound<'_, PyAny>, as_published: bool) -> PyResult<Cut> {
    let least = get::<f64>(config, "threshold", NUMBER)?;
    let factor = get::<f64>(config, "factor", NUMBER)?.map(|factor| Cut::Factor {
        factor,
        as_published,
    });
    let bound = get::<f64>(config, "entropy_bound", NUMBER)?.map(Cut::EntropyBound);
    let bar = get::<f64>(config, "entropy_threshold", NUMBER)?.map(Cut::EntropyThreshold);
    let verified = get::<bool>(config, "verify", FLAG)?.unwrap_or(false);
    let verified = verified.then_some(Cut::Verified);
    let mixed = get::<f64>(config, "verifier_mixture", NUMBER)?;
    let mixed = mixed.map(|weight| Cut::Mixed { weight });
    let least_cut = least.map(Cut::Threshold);
    let names = [
        "threshold",
        "factor",
        "entropy_bound",
        "entropy_threshold",
        "verify",
        "verifier_mixture",
    ];
    let cuts = [least_cut, factor, bound, bar, verified, mixed];
    let given = zip(names, cuts).filter(|(_, cut)| cut.is_some());
    let given: Vec<&str> = given.map(|(name, _)| name).collect();
    let first = cuts.into_iter().flatten().next().unwrap_or(Cut::Count);
    if given.len() > 1 {
        return Err(bad_value(format!(
            "at most one of threshold, factor, entropy_bound and entropy_threshold, or verify or verifier_mixture, can decide what is \
             committed, got {}; set the others to None",
            given.join(" and ")
        )));
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
    let names = ["neighbour_threshold", "run_threshold", "kl_threshold"];
    let beside = zip(names, [near, runs, steady]).filter(|(_, cut)| cut.is_some());
    let beside: Vec<&str> = beside.map(|(name, _)| name).collect();
    if beside.len() > 1 {
        return Err(bad_value(format!(
            "at most one of neighbour_threshold, run_threshold and kl_threshold can decide what is committed beside the threshold, \
             got {}; set the others to None",
            beside.join(" and ")
        )));
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
            "run_threshold goes with a threshold or with nothing, got a factor, entropy_bound, verify or verifier_mixture beside it; set that to None".into(),
        )),
        (other, runs) => Ok(other.or(runs).unwrap_or(first)),
    }
}

/// Prophet's stop.
pub(super) fn gap_stop(config: &Bound<'_, PyAny>) -> PyResult<Option<GapStop>> {
    let bar = get::<f64>(config, "gap_stop", NUMBER)?;
    let start = get::<usize>(config, "gap_start", FROM_ZERO)?;
    let length = get::<usize>(config, "gap_length", COUNT)?.unwrap_or(5);
    let stop = |bar, start: Option<usize>| GapStop {
        bar,
        answer: start.map(|start| (start, length)),
    };
    // Whether or not anything stops: a number that is out of range is never meant.
    stop(0.0, Some(0)).check().map_err(raise)?;
    Ok(bar.map(|bar| stop(bar, start)))
}

/// How far a step reaches, where any setting says it.
pub(super) fn reach(config: &Bound<'_, PyAny>) -> PyResult<Reach> {
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
