//! What is written once somebody else agrees.

use crate::error::{Error, Result};
use crate::rules::config::{Config, Steps};
use crate::rules::cut::Cut;
use crate::rules::eos::EosPolicy;
use crate::rules::noise::Noise;
use crate::rules::order::Order;
use crate::rules::reach::Reach;
use crate::rules::schedule::Schedule;

impl Config {
    /// What a causal look may decide is what comes from left to right, for good and without chance.
    pub(super) fn check_verified(&self) -> Result<()> {
        let is_own = self.cut == Cut::Verified;
        let rule = if is_own {
            "verify commits from left to right what a causal forward would write"
        } else {
            "verifier_mixture commits from left to right what two models agree on"
        };
        let refused = |what: &str, remedy: &str| {
            Err(Error::Mismatch(format!(
                "{rule}, got {what} beside it; {remedy}"
            )))
        };
        if self.order != Order::LeftToRight || self.noise.temperature > 0.0 {
            return refused(
                "another order or order_temperature",
                "use order='left-to-right' and no order_temperature",
            );
        }
        if is_own && self.sampling.temperature > 0.0 {
            return refused("a temperature", "set temperature to 0");
        }
        if self.steps != Steps::Open || self.schedule != Schedule::Even || self.min_commit.is_some()
        {
            return refused(
                "steps, a schedule or min_commit",
                "leave those out: nobody knows how many agree",
            );
        }
        if !is_own && self.as_published {
            return refused(
                "as_published",
                "leave it out: at temperature 0 the published loop is this rule, and above it drops the noise that it shares",
            );
        }
        let is_near = match self.reach {
            Reach::Block => true,
            Reach::Sliding(_) => !is_own,
            _ => false,
        };
        if self.drafts.is_some() || !is_near || self.shows != Noise::Mask {
            return refused(
                "drafts, a reach beyond the block or noise",
                "leave those out",
            );
        }
        if self.position_penalty > 0.0 || self.spacing > 1 || self.temperature_end.is_some() {
            return refused(
                "position_penalty, spacing or temperature_end",
                "leave those out",
            );
        }
        if self.revise.looks_back() || self.gap_stop.is_some() || self.credit.is_some() {
            return refused(
                "a rule that revises, gap_stop or credit",
                "set edit_threshold, remask, gap_stop and credit to None",
            );
        }
        if matches!(self.eos, EosPolicy::Suffix | EosPolicy::Delay) {
            return refused(
                "an eos_policy of 'suffix' or 'delay'",
                "use 'allow' or 'penalise': every token is final as it is written",
            );
        }
        Ok(())
    }
}
