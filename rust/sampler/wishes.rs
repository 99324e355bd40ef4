//! What a row is told of the order in which its positions are written.

use crate::canvas::dependencies::Dependencies;
use crate::canvas::window::Blocks;
use crate::canvas::{Canvas, State};
use crate::error::{Error, Result};
use crate::rules::Rule;
use crate::rules::cut::Cut;
use crate::rules::eos::EosPolicy;
use crate::rules::length::Length;
use crate::rules::order::Order;
use crate::rules::reach::Reach;
use crate::rules::schedule::Schedule;

/// As a caller has them.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// A rank for each position of the canvas, the lowest first; of those that are not open nobody asks.
    pub ranks: Option<Vec<f64>>,
    /// Positions, and for each those that must be written before it.
    pub after: Vec<(u32, Vec<u32>)>,
}

/// As a row heeds them.
pub(super) struct Heeded {
    ranks: Option<Vec<f64>>,
    pub(super) after: Option<Dependencies>,
}

impl Heeded {
    /// Refuses what does not fit the rule or the canvas of a row of this number.
    pub(super) fn new(
        wishes: Wishes,
        rule: &Rule,
        canvas: &Canvas,
        blocks: Blocks,
        row: usize,
    ) -> Result<Self> {
        check_ranks(wishes.ranks.as_deref(), rule, canvas, row)?;
        let after = Dependencies::new(&wishes.after, canvas.states(), blocks, row)?;
        if after.is_some() {
            check_waits(rule, row)?;
        }
        Ok(Self {
            ranks: wishes.ranks,
            after,
        })
    }

    /// Rank of a position; 0 where there are none.
    #[inline]
    pub(super) fn rank(&self, position: u32) -> f64 {
        let ranks = self.ranks.as_ref();
        ranks.map_or(0.0, |ranks| ranks[position as usize])
    }

    /// May an open position be written now?
    pub(super) fn allow(&self, position: u32, states: &[State]) -> bool {
        let after = self.after.as_ref();
        after.is_none_or(|after| after.allow(position, states))
    }
}

/// Refuses positions that wait for others beside what they do not go with.
fn check_waits(rule: &Rule, row: usize) -> Result<()> {
    if rule.order == Order::Ancestral {
        return Err(Error::Mismatch(
                "order 'ancestral' commits every position by itself, as the reverse process does, got eligible_after beside it; \
                 leave eligible_after out, or choose another order"
                    .into(),
            ));
    }
    if rule.schedule == Schedule::FirstHitting {
        return Err(Error::Mismatch(
                "schedule 'first-hitting' may commit any mask next, as the reverse process does, got eligible_after beside it; \
                 leave eligible_after out, or choose another schedule"
                    .into(),
            ));
    }
    if rule.length != Length::Fixed {
        return Err(Error::Mismatch(format!(
            "length '{}' moves positions while an answer is written, got eligible_after for row {row}, which names them; leave \
                 eligible_after out, or set length to 'fixed'",
            rule.length.name()
        )));
    }
    if rule.drafts.is_some() {
        return Err(Error::Mismatch(format!(
            "drafts of a block are written together, got eligible_after beside them for row {row}; leave it out"
        )));
    }
    if rule.revise.takes_back() {
        return Err(Error::Mismatch(format!(
            "remask opens positions again that others waited for, got eligible_after beside it for row {row}; leave eligible_after \
                 out, or set remask to None"
        )));
    }
    if rule.reach != Reach::Block {
        return Err(Error::Mismatch(format!(
            "eligible_after says which positions of a block may be written, got {} beside it, which says so, too; \
                 leave one of them out",
            rule.reach.name()
        )));
    }
    if matches!(rule.schedule, Schedule::Dilated { .. }) {
        return Err(Error::Mismatch(
                "schedule 'dilated' says which positions a step writes, got eligible_after beside it; leave eligible_after out, or \
                 choose another schedule"
                    .into(),
            ));
    }
    if rule.cut.looks_twice() {
        let (name, off) = match rule.cut {
            Cut::Verified => ("verify", "False"),
            other => (other.name(), "None"),
        };
        return Err(Error::Mismatch(format!(
            "{name} commits from left to right, got eligible_after beside it; leave eligible_after out, or set {name} to {off}"
        )));
    }
    if rule.gap_stop.is_some() {
        return Err(Error::Mismatch(
                "gap_stop ends a block at once, got eligible_after beside it, where some positions still wait for others; \
                 leave eligible_after out, or set gap_stop to None"
                    .into(),
            ));
    }
    if rule.eos == EosPolicy::Delay {
        return Err(Error::Mismatch(
                "eos_policy 'delay' has end tokens wait for all that is open to their left, got eligible_after beside it, where the leftmost \
                 may wait, too; leave eligible_after out, or use eos_policy 'suffix' or 'penalise'"
                    .into(),
            ));
    }
    Ok(())
}

fn check_ranks(ranks: Option<&[f64]>, rule: &Rule, canvas: &Canvas, row: usize) -> Result<()> {
    let Some(ranks) = ranks else {
        return if rule.order == Order::Ranks {
            Err(Error::Mismatch(format!(
                "order 'ranks' needs a rank for each position, got none for row {row}; pass order= an array, or choose another order"
            )))
        } else {
            Ok(())
        };
    };
    if rule.order != Order::Ranks {
        return Err(Error::Mismatch(format!(
            "ranks are what the order 'ranks' goes by, got some for row {row} with the order '{}'; leave them out, or set order='ranks'",
            rule.order.name()
        )));
    }
    if ranks.len() != canvas.len() {
        return Err(Error::Mismatch(format!(
            "order must have a rank for each position of the canvas, got {} for the {} of row {row}; give one also to what is given",
            ranks.len(),
            canvas.len()
        )));
    }
    match ranks.iter().position(|rank| !rank.is_finite()) {
        None => Ok(()),
        Some(position) => Err(Error::Mismatch(format!(
            "order must hold finite ranks, got {} at canvas position {position} of row {row}; give it a number, the highest for \
             what comes last",
            ranks[position]
        ))),
    }
}
