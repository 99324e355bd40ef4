//! What rules with a memory want to know of a position beside its prediction.

use crate::logits::head::{Head, head};
use crate::logits::lead::Lead;
use crate::logits::predict::{Law, Prediction, Site, one};
use crate::logits::row::{Logits, Row};
use crate::logits::stats::{Scratch, Unusable, stats};
use crate::rules::credit::Credit;

/// What is asked of a site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// The head of its distribution.
    pub head: bool,
    /// Who stands first in it; what that and the credits so far are worth is added to the logits before anything else.
    pub credit: Option<(Credit, Vec<(u32, f64)>)>,
    /// What its posterior is led by, away from that of its twin.
    pub lead: Option<Lead>,
}

/// What is told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// Empty where it was not asked for.
    pub head: Head,
    /// The most probable id before credit, and its probability.
    pub leader: Option<(u32, f64)>,
}

impl Extra {
    /// Is nothing asked?
    pub fn is_empty(&self) -> bool {
        !self.head && self.credit.is_none() && self.lead.is_none()
    }

    /// The prediction for a site, and what it was asked for.
    pub(super) fn answer(
        &self,
        row: Row<'_>,
        twin: Option<Row<'_>>,
        site: &Site,
        law: &Law,
        scratch: &mut Scratch<'_>,
    ) -> Result<(Prediction, Beside), Unusable> {
        if let (Some(lead), Some(twin)) = (self.lead, twin) {
            let led = lead.logits(&row, &twin, law, scratch)?;
            let row = Row::new(Logits::F32(&led), &[], scratch.isa);
            let mut plain = Law::default();
            plain.sampling.temperature = 1.0;
            let (prediction, _) = one(&row, site, &plain, scratch)?;
            return Ok((prediction, Beside::default()));
        }
        let mut raises = vec![];
        let mut leader = None;
        if let Some((rule, credits)) = &self.credit {
            let before = stats(&row, scratch)?;
            let mut credits = credits.clone();
            rule.earn(&mut credits, before.argmax, before.top1);
            raises = rule.raises(&credits);
            leader = Some((before.argmax, before.top1));
        }
        let row = row.raised(&raises);
        let (prediction, stats) = one(&row, site, law, scratch)?;
        let head = if self.head {
            head(&row, &stats, scratch)?
        } else {
            Head::default()
        };
        Ok((prediction, Beside { head, leader }))
    }
}
