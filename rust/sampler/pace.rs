//! How many tokens the waiting step of a row commits, and the step after it.

use super::row::Row;
use crate::rules::config::Steps;
use crate::rules::cut::Cut;
use crate::rules::eos::EosPolicy;
use crate::rules::noise::Noise;
use crate::rules::schedule::Step;

/// What of a step is known before its scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// It commits at least so many.
    pub floor: usize,
    /// Share of the block's steps that are done once it is.
    pub progress: f64,
}

impl Row {
    /// The waiting step.
    pub fn pace(&self) -> Option<Pace> {
        self.pending.as_ref().map(|pending| Pace {
            floor: pending.floor,
            progress: pending.progress,
        })
    }

    /// The step after the waiting one, where it is sure, or nearly so, to be in the same block: so that it may begin before
    /// the decisions of this one are known here. Never where they say how many it commits.
    pub fn next_pace(&self) -> Option<Pace> {
        let rule = &self.rule;
        let is_plain = rule.shows == Noise::Mask && rule.temperature_end.is_none();
        let places_ends = matches!(rule.eos, EosPolicy::Suffix | EosPolicy::Delay);
        let waits = self.is_confined() || rule.keeps().anything() || !is_plain;
        let asks_twice = rule.cut.looks_twice() || rule.gap_stop.is_some();
        if rule.revise.looks_back() || asks_twice || waits || places_ends {
            return None;
        }
        let (pending, block) = (self.pending.as_ref()?, self.block.as_ref()?);
        let taken = if rule.cut == Cut::Count {
            pending.floor
        } else if rule.steps == Steps::Open && !rule.schedule.keeps_idle_steps() {
            // Nobody knows how many will pass; it is unlikely that they are four times as many as in the step before.
            let last = self.forwards.checked_sub(1)?;
            let edits = self.trajectory.iter().rev();
            4 * edits.take_while(|edit| edit.step == last).count()
        } else {
            return None;
        };
        let step = Step {
            index: block.index + 1,
            left: block.left.checked_sub(taken).filter(|&left| left > 0)?,
            ..block.step()
        };
        let floor = rule.floor(step, None);
        (floor > 0 || rule.schedule.keeps_idle_steps()).then(|| Pace {
            floor,
            progress: (step.index + 1) as f64 / step.steps as f64,
        })
    }
}
