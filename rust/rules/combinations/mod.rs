//! Settings beside others that they cannot go with: each is refused with the rule that is broken, what came and the remedy.

mod places;
mod revise;
mod verified;

use super::config::{Config, Steps};
use super::cut::Cut;
use super::eos::EosPolicy;
use super::length::Length;
use super::noise::Noise;
use super::order::Order;
use super::reach::Reach;
use super::revise::Revise;
use super::schedule::Schedule;
use crate::error::{Error, Result};

impl Config {
    /// Does it write as the reverse process does, and rank nothing?
    fn is_reverse_process(&self) -> bool {
        self.order == Order::Ancestral || self.schedule == Schedule::FirstHitting
    }

    /// What a policy of end tokens needs, and what it does not go with.
    pub(super) fn check_eos(&self) -> Result<()> {
        self.eos.check()?;
        let name = self.eos.name();
        if self.eos != EosPolicy::Allow && self.enders().is_empty() {
            return Err(Error::setting(
                "eos_policy",
                "needs an eos_token_id",
                name,
                "pass eos_token_id, or leave eos_policy out",
            ));
        }
        if self.eos == EosPolicy::Delay && self.order == Order::Ancestral {
            return Err(Error::Mismatch(
                "order 'ancestral' commits each mask by itself, as the reverse process does, got eos_policy 'delay' beside it, which holds \
                 some back; use eos_policy 'suffix' or 'penalise', or choose another order"
                    .into(),
            ));
        }
        if self.eos == EosPolicy::Delay && matches!(self.schedule, Schedule::Dilated { .. }) {
            return Err(Error::Mismatch(
                "schedule 'dilated' says which positions a step writes, got eos_policy 'delay' beside it, which holds some back; \
                 use eos_policy 'suffix' or 'penalise', or choose another schedule"
                    .into(),
            ));
        }
        if self.eos == EosPolicy::Suffix && self.revise.looks_back() {
            return Err(Error::Mismatch(
                "eos_policy 'suffix' fills what is behind an end token for good, got a rule beside it that revises what is written; \
                 use eos_policy 'delay' or 'penalise', or a rule that revises nothing"
                    .into(),
            ));
        }
        Ok(())
    }

    /// What an answer whose length changes needs, and what it does not go with.
    pub(super) fn check_length(&self) -> Result<()> {
        self.length.check()?;
        let name = self.length.name();
        if self.length == Length::Fixed {
            return Ok(());
        }
        let others = [
            (self.shows != Noise::Mask, "noise that shows tokens"),
            (self.drafts.is_some(), "drafts"),
            (self.steps != Steps::Open, "steps"),
            (
                self.schedule != Schedule::Even,
                "another schedule than 'even'",
            ),
            (self.order == Order::Ancestral, "order 'ancestral'"),
            (self.order == Order::Ranks, "an order of the caller's"),
            (self.cut.looks_twice(), self.cut.name()),
            (matches!(self.cut, Cut::Steady { .. }), "kl_threshold"),
            (self.credit.is_some(), "credit"),
            (self.reach != Reach::Block, self.reach.name()),
            (self.gap_stop.is_some(), "gap_stop"),
            (self.revise != Revise::None, "a rule that revises"),
            (self.temperature_end.is_some(), "temperature_end"),
            (self.eos == EosPolicy::Suffix, "eos_policy 'suffix'"),
        ];
        if self.as_published {
            return Err(Error::Mismatch(format!(
                "length '{name}' is the rule as it is meant, got as_published beside it; leave as_published out: what published loops do \
                 otherwise is named in tests/parity"
            )));
        }
        match others.into_iter().find(|&(is_there, _)| is_there) {
            Some((_, beside)) => Err(Error::Mismatch(format!(
                "length '{name}' moves positions and their number while an answer is written, got {beside} beside it, which counts \
                 or keeps them; leave that out, or set length to 'fixed'"
            ))),
            None => Ok(()),
        }
    }

    /// Settings that would silently do nothing beside others.
    pub(super) fn check_combinations(&self) -> Result<()> {
        let noisy = self.noise.temperature > 0.0;
        self.check_reverse_process()?;
        if self.order == Order::Random && noisy && self.position_penalty == 0.0 {
            return Err(Error::Mismatch(format!(
                "order 'random' is chance alone, got order_temperature {} beside it, which would change nothing; leave it out, or \
                 choose another order",
                self.noise.temperature
            )));
        }
        self.calibration.check()?;
        self.check_length()?;
        self.check_revise()?;
        self.check_places()?;
        let remembers = self.credit.is_some() || matches!(self.cut, Cut::Steady { .. });
        if remembers && self.drafts.is_some() {
            return Err(Error::Mismatch(
                "drafts are of distributions at another temperature in each step, got kl_threshold or credit beside them, which compare \
                 steps; set those to None, or drafts to False"
                    .into(),
            ));
        }
        if self.credit.is_some() && self.is_reverse_process() {
            return Err(Error::Mismatch(
                "credit changes the distributions, got it beside order 'ancestral' or schedule 'first-hitting', which are the reverse \
                 process itself; set credit to None, or choose another order and schedule"
                    .into(),
            ));
        }
        if self.cut.looks_twice() {
            self.check_verified()?;
        }
        self.check_gap_stop()?;
        if self.noise.annealed
            && noisy
            && matches!(
                self.order,
                Order::Entropy | Order::LeftToRight | Order::Ranks | Order::Calibrated
            )
        {
            return Err(Error::Mismatch(
                "order_temperature under the maskgit schedule perturbs the logarithm of a probability, got an order without one; \
                 use confidence, sampled-confidence or margin, or another schedule"
                    .into(),
            ));
        }
        Ok(())
    }
    /// What writes as the reverse process does, beside what says how many positions a forward writes.
    fn check_reverse_process(&self) -> Result<()> {
        let noisy = self.noise.temperature > 0.0;
        if self.order == Order::Ancestral
            && (self.cut != Cut::Count || self.min_commit.is_some() || noisy)
        {
            return Err(Error::Mismatch(
                "order 'ancestral' commits with the schedule's probabilities alone, got a threshold, factor, entropy_bound, min_commit or \
                 order_temperature beside it; leave those out, or choose another order"
                    .into(),
            ));
        }
        if self.schedule == Schedule::FirstHitting && self.steps != Steps::Open {
            return Err(Error::Mismatch(
                "schedule 'first-hitting' takes one forward for each mask, got steps beside it; leave steps out, or choose another schedule".into(),
            ));
        }
        if self.order == Order::Ancestral && self.schedule == Schedule::MaskGit {
            return Err(Error::Mismatch(
                "order 'ancestral' needs the times of a noise schedule, got schedule 'maskgit', which counts masks; use 'cosine', whose \
                 share is the same, or another order"
                    .into(),
            ));
        }
        if self.schedule == Schedule::FirstHitting
            && (self.cut != Cut::Count || self.min_commit.is_some_and(|least| least > 1))
        {
            return Err(Error::Mismatch(format!(
                "schedule 'first-hitting' takes one forward for each mask, got {} beside it; leave that out, or choose another schedule",
                if self.cut == Cut::Count {
                    "min_commit"
                } else {
                    self.cut.name()
                }
            )));
        }
        if self.schedule == Schedule::FirstHitting && self.order == Order::Ancestral {
            return Err(Error::Mismatch(
                "schedule 'first-hitting' commits one mask at a time, got order 'ancestral' beside it, which commits each mask by itself; \
                 choose another order, or another schedule"
                    .into(),
            ));
        }
        Ok(())
    }

    /// What ends a block at once, beside what it cannot go with.
    fn check_gap_stop(&self) -> Result<()> {
        let Some(stop) = self.gap_stop else {
            return Ok(());
        };
        if self.is_reverse_process() {
            return Err(Error::Mismatch(
                "gap_stop ends a block at once, got it beside order 'ancestral' or schedule 'first-hitting', which are the reverse \
                 process itself; set gap_stop to None, or choose another order and schedule"
                    .into(),
            ));
        }
        if self.as_published && self.cut == Cut::Count {
            return Err(Error::Mismatch(
                "gap_stop measures logits, whose gaps are lost in probabilities rounded to their dtype, got as_published beside it, \
                 which rounds them; leave as_published out"
                    .into(),
            ));
        }
        if stop.answer.is_some() && self.block_length.is_some() {
            return Err(Error::Mismatch(
                "gap_start is looked at in every forward, so the canvas must be one block, got a block_length beside it; \
                 leave gap_start out (the open positions of each block count then), or block_length"
                    .into(),
            ));
        }
        Ok(())
    }
}
