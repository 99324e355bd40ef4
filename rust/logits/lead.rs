//! Posteriors of a reverse process over noise, led away from those of the same row without its prompt (UDLM, Schiff et al.,
//! 2412.10193).
//!
//! A token v has the posterior `l(v) m(v)`: how likely it becomes what stands there, times the marginal `m = alpha_s p + n_s`. Both
//! branches see the same noise, so `l` is common, and `q_c^g q_u^(1 - g)` is `l m_c^g m_u^(1 - g)`. What is computed here is the
//! logarithm of the marginals' part, over that of the noise, as logits of float32: no prediction, but what a next token of the
//! canvas is drawn from.

use super::arith::{TILE, ln, ln_1p};
use super::predict::Law;
use super::row::Row;
use super::stats::{Scratch, Stats, Unusable, stats};

/// Of a step, what its posteriors are led by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lead {
    /// Exponent of the branch with the prompt; that of the other is 1 less this.
    pub scale: f64,
    /// Share of the clean token after the step.
    pub clean: f64,
    /// Share of each token of the noise after it.
    pub each: f64,
    /// Ids that the noise may show.
    pub vocabulary: u32,
    /// An id of the noise with a share of its own, where there is one: the mask.
    pub odd: Option<(u32, f64)>,
}

impl Lead {
    fn noise_of(&self, id: u32) -> f64 {
        match self.odd {
            Some((odd, share)) if odd == id => share,
            _ if id < self.vocabulary => self.each,
            _ => 0.0,
        }
    }

    /// The led marginals of a row, as logits; `own` and `twin` are its logits with and without the prompt under one law.
    pub fn logits(
        &self,
        own: &Row<'_>,
        twin: &Row<'_>,
        law: &Law,
        scratch: &mut Scratch<'_>,
    ) -> Result<Vec<f32>, Unusable> {
        let (with, without) = (stats(own, scratch)?, stats(twin, scratch)?);
        let is_greedy = law.sampling.temperature == 0.0;
        let log = |x: f64| if x > 0.0 { ln(x) } else { f64::NEG_INFINITY };
        let offset = if self.each > 0.0 { ln(self.each) } else { 0.0 };
        let (clean, masks) = (
            log(self.clean),
            self.odd.map_or(0.0, |(_, share)| log(share)),
        );
        // Of a branch, the logarithm of the marginal, over the share of the noise where there is any.
        let part = |of: &Stats, id: u32, x: f32, noise: f64| {
            if noise > 0.0 {
                let p = if is_greedy {
                    f64::from(u8::from(id == of.argmax))
                } else {
                    of.probability(x)
                };
                let ratio = self.clean * p / noise;
                return if ratio < 1e-9 { ratio } else { ln_1p(ratio) };
            }
            if is_greedy && id != of.argmax || x == f32::NEG_INFINITY {
                f64::NEG_INFINITY
            } else if is_greedy {
                clean
            } else if of.max().is_infinite() {
                clean + log(of.probability(x))
            } else {
                clean + (f64::from(x) - of.logsumexp)
            }
        };
        let mut led = Vec::with_capacity(own.len());
        let (mut here, mut there) = ([0.0; TILE], [0.0; TILE]);
        for t in 0..own.tiles() {
            let (here, there) = (own.tile(t, &mut here), twin.tile(t, &mut there));
            for (i, (&x, &y)) in here.iter().zip(there).enumerate() {
                let id = (t * TILE + i) as u32;
                let noise = self.noise_of(id);
                let (c, u) = (part(&with, id, x, noise), part(&without, id, y, noise));
                let base = match self.odd {
                    _ if noise == 0.0 => -offset,
                    Some((odd, _)) if odd == id => masks - offset,
                    _ => 0.0,
                };
                // Where one branch excludes a token and the other does not, there is a limit.
                let value = if c == f64::NEG_INFINITY {
                    c
                } else if u == f64::NEG_INFINITY {
                    f64::INFINITY
                } else {
                    base + (self.scale * c + (1.0 - self.scale) * u)
                };
                led.push(value as f32);
            }
        }
        Ok(led)
    }
}
