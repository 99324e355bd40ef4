//! What changes written tokens.

use crate::error::{Error, Result};
use crate::rules::config::{Config, Steps};
use crate::rules::cut::Cut;
use crate::rules::eos::EosPolicy;
use crate::rules::noise::Noise;
use crate::rules::order::Order;
use crate::rules::reach::Reach;
use crate::rules::remask::Sigma;
use crate::rules::revise::Revise;
use crate::rules::schedule::Schedule;

/// A rule that is broken, what came, and the remedy.
type Trouble = (&'static str, String, &'static str);

impl Config {
    /// What changes written tokens beside what it cannot go with.
    pub(super) fn check_revise(&self) -> Result<()> {
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
}
