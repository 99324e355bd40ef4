//! How many masks each step commits, and the times of the noise schedules.

use crate::error::{Error, Result};
use crate::logits::arith::{cos_half_pi, exp64, ln};

/// A rule that spreads the masks of a block over its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// Equal counts, the remainder in the first steps (LLaDA, Nie et al., 2502.09992).
    Even,
    /// Expected counts of the noise schedule `alpha = 1 - t` (MDLM, Sahoo et al., 2406.07524).
    Linear {
        /// Its probabilities in float32, as dllm computes them, so that halves may round the other way.
        as_published: bool,
    },
    /// Expected counts of the noise schedule `alpha = 1 - cos(pi/2 (1 - t))` (MD4, Shi et al., 2406.04329).
    Cosine {
        /// Its probabilities in float32, as dllm computes them.
        as_published: bool,
    },
    /// Times from 1 to `eps`; counts truncated, the last step takes the rest (Dream, Ye et al., 2508.15487).
    Dream {
        /// Last time before 0.
        eps: f64,
    },
    /// Masks left follow a cosine (`MaskGIT`, Chang et al., 2202.04200).
    MaskGit,
    /// Positions of a block by falling strides: its length over the dilation, over its square, ..., down to 1 (DUS, Luxembourg
    /// et al., 2506.19037).
    Dilated {
        /// At least 2.
        dilation: usize,
    },
    /// One mask a step at the random times of the exact reverse process (Zheng et al., 2409.02908).
    FirstHitting,
    /// What is owed of an even share, over noise: so many less as a cut has let through before (block refinement of Diffusers).
    Cumulative,
}

/// A step of a block.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its index, from 0.
    pub index: usize,
    /// Steps of the block.
    pub steps: usize,
    /// Masks the block began with.
    pub masks: usize,
    /// Masks left in it.
    pub left: usize,
}

impl Step {
    fn is_last(self) -> bool {
        self.index + 1 >= self.steps
    }
}

impl Schedule {
    /// All of them, each at the place that is its number, with Dream's own `eps`.
    pub const ALL: [Self; 8] = [
        Self::Even,
        Self::Linear {
            as_published: false,
        },
        Self::Cosine {
            as_published: false,
        },
        Self::Dream { eps: 1e-3 },
        Self::MaskGit,
        Self::FirstHitting,
        Self::Dilated { dilation: 2 },
        Self::Cumulative,
    ];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Linear { .. } => "linear",
            Self::Cosine { .. } => "cosine",
            Self::Dream { .. } => "dream",
            Self::MaskGit => "maskgit",
            Self::FirstHitting => "first-hitting",
            Self::Dilated { .. } => "dilated",
            Self::Cumulative => "cumulative",
        }
    }

    /// The same schedule with these parameters, where it has them.
    pub fn with(self, eps: f64, dilation: usize, as_published: bool) -> Self {
        match self {
            Self::Linear { .. } => Self::Linear { as_published },
            Self::Cosine { .. } => Self::Cosine { as_published },
            Self::Dream { .. } => Self::Dream { eps },
            Self::Dilated { .. } => Self::Dilated { dilation },
            Self::Even | Self::MaskGit | Self::FirstHitting | Self::Cumulative => self,
        }
    }

    /// Checks the parameters.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Dream { eps } if !(eps > 0.0 && eps < 1.0) => Err(Error::setting(
                "eps",
                "must lie in (0, 1)",
                eps,
                "1e-3 is Dream's",
            )),
            Self::Dilated { dilation } if dilation < 2 => Err(Error::setting(
                "dilation",
                "must be at least 2",
                dilation,
                "2 is that of DUS; steps_per_block=1 writes a block at once",
            )),
            _ => Ok(()),
        }
    }

    /// Masks that this step commits, at most `step.left`.
    pub fn count(self, step: Step) -> usize {
        let Step {
            index,
            steps,
            masks,
            left,
        } = step;
        let count = match self {
            _ if step.is_last() => left,
            Self::Even => masks / steps + usize::from(index < masks % steps),
            Self::Linear { .. } | Self::Cosine { .. } => {
                (left as f64 * self.probability(step)).round_ties_even() as usize
            }
            Self::Dream { .. } => (left as f64 * self.probability(step)) as usize,
            Self::MaskGit => {
                let ratio = cos_half_pi((index + 1) as f64 / steps as f64);
                let remain = (masks as f64 * ratio) as usize;
                left - remain.min(left.saturating_sub(1)).max(1).min(left)
            }
            // Of these the positions are counted, not the masks.
            Self::FirstHitting | Self::Dilated { .. } => 1,
            Self::Cumulative => {
                let owed = ((index + 1) * masks).div_ceil(steps);
                owed.saturating_sub(masks - left)
            }
        };
        count.min(left)
    }

    /// Probability with which a mask is filled in this step of the reverse process.
    pub fn probability(self, step: Step) -> f64 {
        if step.is_last() {
            return 1.0;
        }
        let grid = |j: usize| (step.steps - j) as f64 / step.steps as f64;
        let (t, s) = (grid(step.index), grid(step.index + 1));
        if let Self::Linear { as_published: true } | Self::Cosine { as_published: true } = self {
            return 1.0 - f64::from(self.single_alive(s as f32) / self.single_alive(t as f32));
        }
        if let Self::Dream { eps } = self {
            let point = |j: usize| 1.0 + (eps - 1.0) * j as f64 / step.steps as f64;
            return 1.0 - point(step.index + 1) / point(step.index);
        }
        1.0 - self.alive(s) / self.alive(t)
    }

    /// Share of masks alive at time `t`, `1 - alpha(t)`.
    pub fn alive(self, t: f64) -> f64 {
        match self {
            Self::Cosine { .. } => cos_half_pi(1.0 - t),
            // Written as 1 - alpha(t) with alpha(t) = 1 - t, as the formulas have it: the roundings decide halves.
            _ => 1.0 - (1.0 - t),
        }
    }

    /// Masks that are left behind this step where a rule says how many stand, not how many are written: `even` as many as its
    /// counts leave, the others the share that is alive, rounded down.
    pub fn left_behind(self, step: Step) -> usize {
        let Step {
            index,
            steps,
            masks,
            ..
        } = step;
        let done = index + 1;
        if step.is_last() {
            return 0;
        }
        match self {
            Self::Even => masks - (done * (masks / steps) + done.min(masks % steps)),
            Self::Cosine { .. } => {
                let alive = self.alive((steps - done) as f64 / steps as f64);
                ((masks as f64 * alive) as usize).min(masks)
            }
            // In whole numbers: 10 (1 - 9/10) is less than 1 in floating point.
            _ => (masks as u128 * (steps - done) as u128 / steps as u128) as usize,
        }
    }

    /// Share of masks alive at time `t`, `1 - alpha(t)`, with every operation in float32.
    fn single_alive(self, t: f32) -> f32 {
        let alpha = match self {
            Self::Cosine { .. } => {
                let angle = std::f32::consts::FRAC_PI_2 * (1.0 - t);
                1.0 - cos_half_pi(f64::from(angle) / std::f64::consts::FRAC_PI_2) as f32
            }
            _ => 1.0 - t,
        };
        1.0 - alpha
    }

    /// Does a step that commits nothing still cost a forward? Only where the published loop spends it, or sees other noise.
    pub fn keeps_idle_steps(self) -> bool {
        matches!(self, Self::Dream { .. } | Self::Cumulative)
    }

    /// The first step from `step` on that commits something while nothing else changes, by its index: the last one at the
    /// latest. The same as asking `count` of one step after the other; of the idle ones between few are looked at.
    ///
    /// Where the probabilities rise, `sure` idle steps are passed over by bisection: those whose probability stays below
    /// half a mask by more than the rounding of two of them. Roundings decide the rest, which is asked one by one.
    pub fn next_commit(self, step: Step) -> usize {
        let last = step.steps.saturating_sub(1).max(step.index);
        let at = |index| Step { index, ..step };
        let commits = |index| self.count(at(index)) > 0;
        let mut from = step.index;
        if commits(from) {
            return from;
        }
        match self {
            // Once these are idle they stay so.
            Self::Even | Self::MaskGit | Self::FirstHitting | Self::Dilated { .. } => return last,
            Self::Linear { .. } | Self::Cosine { .. } => {
                let bound = 0.5 / step.left as f64;
                let sure = |index| {
                    let step = at(index);
                    self.probability(step) + 2.0 * self.rounding(step) < bound
                };
                let mut behind = last;
                while from + 1 < behind {
                    let middle = from.midpoint(behind);
                    if sure(middle) {
                        from = middle;
                    } else {
                        behind = middle;
                    }
                }
            }
            Self::Dream { .. } | Self::Cumulative => {}
        }
        (from + 1..last)
            .find(|&index| commits(index))
            .unwrap_or(last)
    }

    /// More than the difference between `probability` and its exact value, for `linear` and `cosine`; it rises with the step.
    fn rounding(self, step: Step) -> f64 {
        let t = (step.steps - step.index) as f64 / step.steps as f64;
        // A mask's share alive is at least `t` under both schedules (a cosine lies above its chord), and each operation on
        // it is off by a few units in the last place of 1.
        let unit = match self {
            Self::Linear { as_published: true } | Self::Cosine { as_published: true } => {
                f64::from(f32::EPSILON)
            }
            _ => f64::EPSILON,
        };
        16.0 * unit / t
    }

    /// The counts of all steps of a block with `masks` masks.
    pub fn counts(self, masks: usize, steps: usize) -> Vec<usize> {
        let mut left = masks;
        (0..steps)
            .map(|index| {
                let count = self.count(Step {
                    index,
                    steps,
                    masks,
                    left,
                });
                left -= count;
                count
            })
            .collect()
    }
}

/// The level of each position of a block of `length`, in the order in which they are written, and how many there are: a
/// position belongs to the first stride that it lies on, and what lies on none to one more level. The last level is of the one
/// before it where it is smaller.
pub fn levels(length: usize, dilation: usize) -> (Vec<u32>, usize) {
    const NONE: u32 = u32::MAX;
    let mut level = vec![NONE; length];
    let mut sizes: Vec<usize> = Vec::new();
    let mut stride = length / dilation;
    while stride >= 1 {
        let mut size = 0;
        for place in level.iter_mut().step_by(stride).filter(|l| **l == NONE) {
            *place = sizes.len() as u32;
            size += 1;
        }
        if size > 0 {
            sizes.push(size);
        }
        stride /= dilation;
    }
    let rest = level.iter().filter(|&&l| l == NONE).count();
    if rest > 0 {
        sizes.push(rest);
    }
    let last = sizes.len().saturating_sub(1);
    let merges = last > 0 && sizes[last] < sizes[last - 1];
    let most = if merges { last - 1 } else { last } as u32;
    for place in &mut level {
        *place = (*place).min(most);
    }
    (level, if length == 0 { 0 } else { most as usize + 1 })
}

/// Time at which the first of `masks` masks alive at `time` is filled, given a uniform: `time * uniform^(1/masks)`.
pub fn first_hit(time: f64, masks: usize, uniform: f64) -> f64 {
    time * exp64(ln(uniform.max(f64::MIN_POSITIVE)) / masks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_examples() {
        assert_eq!(Schedule::Even.counts(10, 4), [3, 3, 2, 2]);
        let [exact, published] =
            [false, true].map(|as_published| Schedule::Linear { as_published });
        assert_eq!(exact.counts(10, 4), [2, 3, 2, 3]);
        assert_eq!(exact.counts(4, 3), [1, 2, 1]);
        assert_eq!(published.counts(4, 3), [1, 1, 2]);
        assert_eq!(Schedule::Even.counts(2, 4), [1, 1, 0, 0]);
        let dream = Schedule::Dream { eps: 1e-3 };
        assert_eq!(dream.counts(6, 6), [0, 1, 1, 1, 1, 2]);
        assert_eq!(dream.counts(8, 4), [1, 2, 2, 3]);
        assert_eq!(Schedule::MaskGit.counts(16, 4), [2, 3, 5, 6]);
        assert_eq!(Schedule::MaskGit.counts(3, 5), [1, 1, 0, 0, 1]);
    }

    #[test]
    fn levels_are_strides() {
        let sizes = |length, dilation| {
            let (level, count) = levels(length, dilation);
            let size = |of| level.iter().filter(|&&l| l as usize == of).count();
            (0..count).map(size).collect::<Vec<_>>()
        };
        assert_eq!(sizes(32, 2), [2, 2, 4, 8, 16]);
        assert_eq!(sizes(27, 3), [3, 6, 18]);
        assert_eq!(levels(8, 2).0, [0, 2, 1, 2, 0, 2, 1, 2]);
        assert_eq!(sizes(8, 3), [4, 4], "stride 2, and what is left");
        assert_eq!(
            sizes(5, 2),
            [5],
            "the smaller last level joins the one before"
        );
        assert_eq!(
            (sizes(1, 2), sizes(2, 3), sizes(0, 2)),
            (vec![1], vec![2], vec![])
        );
    }

    /// Every rule whose idle steps are passed over, and Dream's, whose are not.
    fn all() -> [Schedule; 7] {
        [
            Schedule::Even,
            Schedule::Linear {
                as_published: false,
            },
            Schedule::Linear { as_published: true },
            Schedule::Cosine {
                as_published: false,
            },
            Schedule::Cosine { as_published: true },
            Schedule::Dream { eps: 1e-3 },
            Schedule::MaskGit,
        ]
    }

    #[test]
    fn idle_steps_are_passed_over_as_if_one_by_one() {
        let sizes = [1, 2, 3, 7, 40, 300, 4_099, 65_536, 1 << 20];
        for (schedule, steps) in all()
            .into_iter()
            .flat_map(|s| sizes.map(|steps| (s, steps)))
        {
            for (left, masks) in [(1, 1), (1, 5), (2, 2), (3, 8), (17, 17), (300, 900)] {
                let mut plain = steps - 1;
                for start in (0..steps).rev() {
                    let step = Step {
                        index: start,
                        steps,
                        masks,
                        left,
                    };
                    if schedule.count(step) > 0 {
                        plain = start;
                    }
                    if start % (steps / 7 + 1) == 0 || steps < 100 {
                        assert_eq!(
                            schedule.next_commit(step),
                            plain,
                            "{schedule:?} {left} of {masks} masks, step {start} of {steps}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn counts_add_up_and_probabilities_rise() {
        for schedule in all() {
            for masks in 0..40 {
                for steps in 1..50 {
                    let counts = schedule.counts(masks, steps);
                    assert_eq!(
                        (counts.len(), counts.iter().sum::<usize>()),
                        (steps, masks),
                        "{schedule:?} {masks} {steps}"
                    );
                }
            }
        }
    }
}
