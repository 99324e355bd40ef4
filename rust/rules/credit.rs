//! Credit for what stood first before: CreditDecoding, Wang et al., 2510.06133.

use crate::error::{Error, Result};
use crate::logits::arith::{exp64, ln, ln_1p};

/// How credit is earned, kept and spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Credit {
    /// What the logarithm of one plus the credit is multiplied by, before it is added to a logit.
    pub weight: f64,
    /// Exponent of the largest probability, which is what a forward earns.
    pub power: f64,
    /// What is left of a credit after a forward.
    pub decay: f64,
}

impl Credit {
    /// Checks the parameters.
    pub fn check(self) -> Result<()> {
        const MOST: f64 = 1000.0;
        let bad = |name, rule, value: f64, remedy| Err(Error::setting(name, rule, value, remedy));
        if !(0.0..=MOST).contains(&self.weight) {
            return bad(
                "credit",
                "must lie in [0, 1000]",
                self.weight,
                "0.7 is CreditDecoding's; 0 is the rule without credit",
            );
        }
        if !(0.0..=MOST).contains(&self.power) {
            return bad(
                "credit_power",
                "must lie in [0, 1000]",
                self.power,
                "0.2 is CreditDecoding's; 0 counts every forward alike",
            );
        }
        if !(0.0..=1.0).contains(&self.decay) {
            return bad(
                "credit_decay",
                "must lie in [0, 1]",
                self.decay,
                "0.8 is CreditDecoding's; 1 forgets nothing",
            );
        }
        Ok(())
    }

    /// The credits of a position, by rising id, after a forward in which `leader` stood first with this probability.
    pub fn earn(self, credits: &mut Vec<(u32, f64)>, leader: u32, probability: f64) {
        for (_, credit) in credits.iter_mut() {
            *credit *= self.decay;
        }
        let earned = exp64(self.power * ln(probability.clamp(f64::MIN_POSITIVE, 1.0)));
        match credits.binary_search_by_key(&leader, |&(id, _)| id) {
            Ok(place) => credits[place].1 += earned,
            Err(place) => credits.insert(place, (leader, earned)),
        }
    }

    /// What is added to the logits of the ids that have credit.
    pub fn raises(self, credits: &[(u32, f64)]) -> Vec<(u32, f64)> {
        let raise = |&(id, credit): &(u32, f64)| (id, self.weight * ln_1p(credit));
        credits.iter().map(raise).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_earned_by_the_leader_and_decays() {
        let rule = Credit {
            weight: 0.7,
            power: 0.5,
            decay: 0.8,
        };
        let mut credits = vec![];
        rule.earn(&mut credits, 5, 0.25);
        rule.earn(&mut credits, 2, 1.0);
        rule.earn(&mut credits, 5, 0.25);
        assert_eq!(credits[0], (2, 0.8));
        assert!((credits[1].1 - (0.5 * 0.64 + 0.5)).abs() < 1e-12);
        let raises = rule.raises(&credits);
        assert!((raises[0].1 - 0.7 * 1.8f64.ln()).abs() < 1e-12);
    }
}
