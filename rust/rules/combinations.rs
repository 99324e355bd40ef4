//! Settings beside others that they cannot go with: each is refused with the rule that is broken, what came and the remedy.

use super::config::{Config, Steps};
use super::cut::Cut;
use super::eos::EosPolicy;
use super::length::Length;
use super::noise::Noise;
use super::order::Order;
use super::reach::Reach;
use super::remask::Sigma;
use super::revise::Revise;
use super::schedule::Schedule;
use crate::error::{Error, Result};

/// A rule that is broken, what came, and the remedy.
type Trouble = (&'static str, String, &'static str);

impl Config {
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
        if self.schedule == Schedule::FirstHitting && self.order == Order::Ancestral {
            return Err(Error::Mismatch(
                "schedule 'first-hitting' commits one mask at a time, got order 'ancestral' beside it, which commits each mask by itself; \
                 choose another order, or another schedule"
                    .into(),
            ));
        }
        self.calibration.check()?;
        self.check_length()?;
        self.check_revise()?;
        self.check_places()?;
        let is_reverse_process =
            self.order == Order::Ancestral || self.schedule == Schedule::FirstHitting;
        let remembers = self.credit.is_some() || matches!(self.cut, Cut::Steady { .. });
        if remembers && self.drafts.is_some() {
            return Err(Error::Mismatch(
                "drafts are of distributions at another temperature in each step, got kl_threshold or credit beside them, which compare \
                 steps; set those to None, or drafts to False"
                    .into(),
            ));
        }
        if self.credit.is_some() && is_reverse_process {
            return Err(Error::Mismatch(
                "credit changes the distributions, got it beside order 'ancestral' or schedule 'first-hitting', which are the reverse \
                 process itself; set credit to None, or choose another order and schedule"
                    .into(),
            ));
        }
        if self.cut.looks_twice() {
            self.check_verified()?;
        }
        if let Some(stop) = self.gap_stop {
            if is_reverse_process {
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
        }
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

    /// Settings that say which positions are written, beside others that say so, too, or how many.
    fn check_places(&self) -> Result<()> {
        let refuse = |rule: &str, beside: &str, remedy: &str| {
            Err(Error::Mismatch(format!(
                "{rule}, got {beside} beside it; {remedy}"
            )))
        };
        let (writes_once, has_steps) = (!self.revise.looks_back(), self.steps != Steps::Open);
        let places_ends = matches!(self.eos, EosPolicy::Suffix | EosPolicy::Delay);
        let is_reverse = self.order == Order::Ancestral || self.schedule == Schedule::FirstHitting;
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
        if is_reverse {
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

    /// What changes written tokens beside what it cannot go with.
    fn check_revise(&self) -> Result<()> {
        let edits = matches!(self.revise, Revise::Edit { .. });
        if edits && self.order == Order::Ancestral {
            return Err(Error::Mismatch(
                "order 'ancestral' writes each mask once, as the reverse process does, got edit_threshold beside it; \
                 set edit_threshold to None, or choose another order"
                    .into(),
            ));
        }
        if self.revise.looks_back() && self.schedule == Schedule::FirstHitting {
            let name = if edits { "edit_threshold" } else { "remask" };
            return Err(Error::Mismatch(format!(
                "schedule 'first-hitting' writes each mask once, as the reverse process does, got {name} beside it; \
                 set {name} to None, or choose another schedule"
            )));
        }
        self.check_remask()
    }

    /// Ways to take tokens back beside what they cannot go with.
    fn check_remask(&self) -> Result<()> {
        let is_ancestral = self.order == Order::Ancestral;
        let (name, found) = match self.revise {
            Revise::None | Revise::Edit { .. } => return Ok(()),
            Revise::Resample { sigma, .. } => (sigma.name(), self.beside_resampling(sigma)),
            _ if is_ancestral => (
                "of this kind",
                Some((
                    "ranks positions",
                    "order 'ancestral', which ranks none".into(),
                    "use 'cap', 'rescale', 'confidence' or 'loop', or another order",
                )),
            ),
            Revise::Plan { .. } => ("planner", self.beside_planning()),
            Revise::Drop => ("confidence-drop", self.beside_drops()),
            Revise::Verify { .. } => ("verify", self.beside_shadow()),
            Revise::Redo { .. } => ("low-confidence", None),
        };
        let as_published = self.as_published.then(|| {
            (
                "is the rule as it is meant",
                "as_published beside it".into(),
                "leave as_published out: what published loops do otherwise is named in tests/parity",
            )
        });
        let beside = self.beside_remask().map(|got| {
            (
                "fills its block by its own counts and masks",
                format!("{got} beside it"),
                "leave one of them out",
            )
        });
        match as_published.or(found).or(beside) {
            Some((rule, got, remedy)) => Err(Error::Mismatch(format!(
                "remask '{name}' {rule}, got {got}; {remedy}"
            ))),
            None => Ok(()),
        }
    }

    /// A setting that says otherwise than a remask which positions are open, when they are written, or how.
    fn beside_remask(&self) -> Option<&'static str> {
        let others = [
            (self.drafts.is_some(), "drafts"),
            (self.shows != Noise::Mask, "noise that shows tokens"),
            (self.credit.is_some(), "credit"),
            (matches!(self.cut, Cut::Steady { .. }), "kl_threshold"),
            (
                matches!(self.schedule, Schedule::Dilated { .. }),
                "schedule 'dilated'",
            ),
            (self.position_penalty > 0.0, "position_penalty"),
            (self.spacing > 1, "spacing"),
            (self.reach != Reach::Block, self.reach.name()),
            (self.eos != EosPolicy::Allow, "an eos_policy"),
            (self.temperature_end.is_some(), "temperature_end"),
        ];
        let found = others.into_iter().find(|&(is_there, _)| is_there);
        found.map(|(_, name)| name)
    }

    fn beside_resampling(&self, sigma: Sigma) -> Option<Trouble> {
        if self.order != Order::Ancestral {
            return Some((
                "belongs to the reverse process",
                format!("order '{}'", self.order.name()),
                "use order 'ancestral', or remask 'planner'",
            ));
        }
        let fits = match self.schedule {
            Schedule::Even | Schedule::Linear { .. } => true,
            Schedule::Cosine { .. } => sigma != Sigma::Loop,
            _ => false,
        };
        (!fits).then(|| {
            (
                "needs the times of a noise schedule (of its own for 'loop')",
                format!("schedule '{}'", self.schedule.name()),
                "use 'linear', or 'cosine' but for 'loop'",
            )
        })
    }

    fn beside_planning(&self) -> Option<Trouble> {
        let known = [Order::Confidence, Order::SampledConfidence, Order::Entropy];
        if !known.contains(&self.order) {
            return Some((
                "compares what is written with what is proposed",
                format!("order '{}'", self.order.name()),
                "use confidence, sampled-confidence or entropy",
            ));
        }
        let has_more = self.min_commit.is_some() || self.noise.temperature > 0.0;
        if self.cut != Cut::Count || has_more || self.gap_stop.is_some() {
            return Some((
                "keeps exactly as many as the schedule says",
                "a cut, min_commit, gap_stop or order_temperature beside it".into(),
                "leave those out",
            ));
        }
        matches!(self.schedule, Schedule::Dream { .. } | Schedule::MaskGit).then(|| {
            (
                "counts what stands",
                format!("schedule '{}'", self.schedule.name()),
                "use 'even', 'linear' or 'cosine'",
            )
        })
    }

    fn beside_drops(&self) -> Option<Trouble> {
        let is_known = matches!(self.order, Order::Confidence | Order::SampledConfidence);
        if !is_known || self.noise.temperature > 0.0 {
            return Some((
                "compares confidences with their mean so far",
                format!(
                    "order '{}', order_temperature {}",
                    self.order.name(),
                    self.noise.temperature
                ),
                "use confidence or sampled-confidence without order_temperature",
            ));
        }
        (self.cut != Cut::Count || self.gap_stop.is_some()).then(|| {
            (
                "has a bar of its own, the mean confidence so far",
                "another cut or gap_stop beside it".into(),
                "leave those out",
            )
        })
    }

    fn beside_shadow(&self) -> Option<Trouble> {
        if self.cut == Cut::Count {
            return Some((
                "takes back of what a cut lets through",
                "none".into(),
                "set a threshold (0.6 is WINO's), or another cut",
            ));
        }
        let is_counted = self.steps != Steps::Open || self.schedule != Schedule::Even;
        (is_counted || self.gap_stop.is_some()).then(|| {
            (
                "says how many a forward writes at most, and opens full blocks again",
                "steps, a schedule or gap_stop beside it".into(),
                "leave those out",
            )
        })
    }

    /// What a causal look may decide is what comes from left to right, for good and without chance.
    fn check_verified(&self) -> Result<()> {
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
