//! What says which positions are written, or how many.

use crate::error::{Error, Result};
use crate::rules::config::{Config, Steps};
use crate::rules::cut::Cut;
use crate::rules::eos::EosPolicy;
use crate::rules::order::Order;
use crate::rules::reach::Reach;
use crate::rules::schedule::Schedule;

impl Config {
    /// Settings that say which positions are written, beside others that say so, too, or how many.
    pub(super) fn check_places(&self) -> Result<()> {
        let refuse = |rule: &str, beside: &str, remedy: &str| {
            Err(Error::Mismatch(format!(
                "{rule}, got {beside} beside it; {remedy}"
            )))
        };
        let (writes_once, has_steps) = (!self.revise.looks_back(), self.steps != Steps::Open);
        let places_ends = matches!(self.eos, EosPolicy::Suffix | EosPolicy::Delay);
        let is_dilated = matches!(self.schedule, Schedule::Dilated { .. });
        if self.drafts.is_some() {
            for (is_there, beside) in [
                (is_dilated, "schedule 'dilated'"),
                (self.position_penalty > 0.0, "position_penalty"),
                (self.spacing > 1, "spacing"),
                (self.reach != Reach::Block, self.reach.name()),
            ] {
                if is_there {
                    let rule = "drafts of a block are written together";
                    return refuse(rule, beside, "leave that out, or set drafts to False");
                }
            }
        }
        if is_dilated {
            let rule = "schedule 'dilated' says which positions a step writes";
            let remedy = "leave that out, or choose another schedule";
            if self.order != Order::LeftToRight {
                let beside = format!("order '{}'", self.order.name());
                return refuse(
                    rule,
                    &beside,
                    "set order='left-to-right', or choose another schedule",
                );
            }
            for (is_there, beside) in [
                (has_steps, "steps"),
                (self.cut != Cut::Count, self.cut.name()),
                (self.min_commit.is_some(), "min_commit"),
                (self.noise.temperature > 0.0, "order_temperature"),
                (self.position_penalty > 0.0, "position_penalty"),
                (self.spacing > 1, "spacing"),
                (self.reach != Reach::Block, self.reach.name()),
                (self.gap_stop.is_some(), "gap_stop"),
                // Each position is scored once, in the step that writes it.
                (self.credit.is_some(), "credit"),
                (places_ends, "eos_policy 'suffix' or 'delay'"),
                (!writes_once, "a rule that revises"),
            ] {
                if is_there {
                    return refuse(rule, beside, remedy);
                }
            }
        }
        if self.is_reverse_process() {
            for (is_there, name) in [
                (self.position_penalty > 0.0, "position_penalty"),
                (self.spacing > 1, "spacing"),
            ] {
                if is_there {
                    let rule = format!("{name} is about a ranking");
                    let beside = "order 'ancestral' or schedule 'first-hitting', which are the reverse process itself,";
                    return refuse(
                        &rule,
                        beside,
                        "leave it out, or choose another order and schedule",
                    );
                }
            }
        }
        if self.reach == Reach::Block {
            return Ok(());
        }
        let rule = format!(
            "{} says how far a step reaches, with one token a forward at least",
            self.reach.name()
        );
        for (is_there, beside) in [
            (has_steps, "steps"),
            (
                self.schedule != Schedule::Even,
                "another schedule than 'even'",
            ),
            (self.order == Order::Ancestral, "order 'ancestral'"),
            (self.gap_stop.is_some(), "gap_stop"),
            (self.shows.is_uniform(), "uniform noise"),
            (!writes_once, "a rule that revises"),
            (
                places_ends && matches!(self.reach, Reach::Several { .. }),
                "eos_policy 'suffix' or 'delay'",
            ),
            (
                self.min_commit.is_some() && matches!(self.reach, Reach::Several { .. }),
                "min_commit",
            ),
        ] {
            if is_there {
                return refuse(&rule, beside, "leave one of them out");
            }
        }
        Ok(())
    }
}
