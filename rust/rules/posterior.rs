//! One step of the exact reverse process over noise that shows tokens (UDLM, GIDD): from what a position shows at time t to what
//! it shows at s < t, with the model's distribution in the place of the clean token.
//!
//! With `a = alpha_t / alpha_s`, a token v has the mass `(a [v = x_t] + r) (alpha_s p(v) + n_s(v))`, where `n` is the noise of
//! the marginal and `r = n_t(x_t) - a n_s(x_t)`. That is a mixture of three routes: draw from p, stay at `x_t`, draw from the
//! noise. So it takes a drawn token, the probability of the one that stands there, and one uniform; nothing as long as the
//! vocabulary.

use super::noise::Noise;
use super::schedule::{Schedule, Step};
use crate::logits::arith::cos_half_pi;
use crate::logits::lead::Lead;

/// What a position is at some time, as shares of one.
#[derive(Clone, Copy, Debug)]
pub struct Marginal {
    /// The clean token.
    pub clean: f64,
    /// The mask.
    pub mask: f64,
    /// Any token of the noise.
    pub uniform: f64,
}

impl Marginal {
    /// At time `t`, from 1 to 0.
    fn at(noise: Noise, schedule: Schedule, t: f64) -> Self {
        if let Noise::Hybrid { share, .. } = noise {
            let uniform = 2.0 * share / (1.0 - share) * (t * (1.0 - t)).sqrt();
            let all = 1.0 + uniform;
            return Self {
                clean: (1.0 - t) / all,
                mask: t / all,
                uniform: uniform / all,
            };
        }
        let uniform = match schedule {
            Schedule::Cosine { .. } => cos_half_pi(1.0 - t),
            _ => t,
        };
        Self {
            clean: 1.0 - uniform,
            mask: 0.0,
            uniform,
        }
    }

    /// Share of one token among the noise.
    fn noise_of(self, noise: Noise, token: u32, mask: Option<u32>) -> f64 {
        if mask == Some(token) {
            self.mask
        } else {
            self.uniform / f64::from(noise.tokens())
        }
    }
}

/// The marginal behind a step.
fn after(noise: Noise, schedule: Schedule, step: Step) -> Marginal {
    let time = (step.steps - step.index - 1) as f64 / step.steps as f64;
    Marginal::at(noise, schedule, time)
}

/// What the posteriors of a step are led by under a weight of guidance.
pub fn lead(noise: Noise, schedule: Schedule, step: Step, mask: Option<u32>, weight: f64) -> Lead {
    let s = after(noise, schedule, step);
    Lead {
        scale: weight + 1.0,
        clean: s.clean,
        each: s.uniform / f64::from(noise.tokens()),
        vocabulary: noise.vocabulary().unwrap_or(0),
        odd: mask.map(|mask| (mask, s.mask)),
    }
}

/// The masses of the routes where a token is drawn from the led marginals, in which `token` has the probability `current`: their
/// posterior is `(a [v = x_t] + r) m(v)`, and noise is drawn with the rest.
pub fn led_masses(
    noise: Noise,
    schedule: Schedule,
    step: Step,
    mask: Option<u32>,
    token: u32,
    current: f64,
) -> [f64; 4] {
    let (a, rest) = kept(noise, schedule, step, mask, token);
    [rest, a * current, 0.0, 0.0]
}

/// What a position that shows `token` keeps of a step: the share that stays what it is, and how likely anything else came to
/// show it.
fn kept(noise: Noise, schedule: Schedule, step: Step, mask: Option<u32>, token: u32) -> (f64, f64) {
    let time = (step.steps - step.index) as f64 / step.steps as f64;
    let t = Marginal::at(noise, schedule, time);
    let s = after(noise, schedule, step);
    let a = t.clean / s.clean;
    let rest = t.noise_of(noise, token, mask) - a * s.noise_of(noise, token, mask);
    (a, rest.max(0.0))
}

/// Where a position goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the drawn token.
    Clean,
    /// It stays what it is.
    Stay,
    /// To the mask.
    Mask,
    /// To a token of the noise.
    Uniform,
}

/// The masses of the routes of a step for a position that shows `token`, whose probability is `current`; in the order of
/// `Route`.
pub fn masses(
    noise: Noise,
    schedule: Schedule,
    step: Step,
    mask: Option<u32>,
    token: u32,
    current: f64,
) -> [f64; 4] {
    let s = after(noise, schedule, step);
    let noise_s = s.noise_of(noise, token, mask);
    let (a, rest) = kept(noise, schedule, step, mask, token);
    [
        rest * s.clean,
        a * (s.clean * current + noise_s),
        rest * s.mask,
        rest * s.uniform,
    ]
}

/// The route that the uniform `u` in `[0, 1)` takes.
pub fn route(masses: [f64; 4], u: f64) -> Route {
    let [clean, stay, mask, uniform] = masses;
    let target = u * (stay + mask + uniform + clean);
    if target < stay || clean == 0.0 {
        Route::Stay
    } else if target < stay + mask {
        Route::Mask
    } else if target < stay + mask + uniform {
        Route::Uniform
    } else {
        Route::Clean
    }
}
