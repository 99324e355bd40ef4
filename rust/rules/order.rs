//! The score that ranks eligible positions: the higher, the sooner committed.

use crate::logits::arith::ln;
use crate::logits::predict::Prediction;
use crate::rng::{Draw, Stream};

/// What a position is ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Largest probability of its distribution.
    Confidence,
    /// Largest minus second largest probability.
    Margin,
    /// Negative entropy.
    Entropy,
    /// A uniform random number.
    Random,
    /// Its place, the leftmost first.
    LeftToRight,
    /// Probability of the token that was drawn, as many published loops have it. Above temperature 0 this biases the
    /// law of the answers: positions that happened to draw a likely token go first.
    SampledConfidence,
    /// No order: every position commits by itself with the probability of the schedule (ancestral sampling).
    Ancestral,
    /// Largest probability times how much around the position is known (d2Cache; `nearby::Prior`).
    CertaintyPrior,
    /// The rank that came with the row, the lowest first.
    Ranks,
    /// What the probability of the drawn token tells beyond how frequent it is, the less the farther it stands (PC-Sampler;
    /// `calibration`).
    Calibrated,
}

/// Statistics of one position, as far as decisions need them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// Token that would be committed.
    pub token: u32,
    /// Its probability.
    pub probability: f64,
    /// Largest probability.
    pub top1: f64,
    /// Second largest probability.
    pub top2: f64,
    /// Entropy in nats.
    pub entropy: f64,
    /// Probability of the token that stands there; NaN where none was asked for.
    pub current: f64,
    /// The most probable token, where that is known.
    pub argmax: Option<u32>,
}

impl Proposal {
    /// Can every order deal with its statistics?
    #[inline]
    pub fn is_usable(&self) -> bool {
        let statistics = [self.probability, self.top1, self.top2, self.entropy];
        statistics.into_iter().all(f64::is_finite)
    }

    /// A number that no order can deal with: orders subtract statistics.
    pub fn unusable(&self) -> Option<f64> {
        let statistics = [self.probability, self.top1, self.top2, self.entropy];
        statistics.into_iter().find(|x| !x.is_finite())
    }
}

impl From<&Prediction> for Proposal {
    fn from(made: &Prediction) -> Self {
        let &Prediction {
            token,
            probability,
            top1,
            top2,
            entropy,
            current,
            argmax,
            ..
        } = made;
        Self {
            token,
            probability,
            top1,
            top2,
            entropy,
            current,
            argmax: Some(argmax),
        }
    }
}

/// Where in the random stream a score is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Randomness of the row.
    pub stream: Stream,
    /// Position in the canvas.
    pub position: u32,
    /// Forward of the row.
    pub step: u32,
    /// Rank of the position, where the row has ranks.
    pub rank: f64,
}

impl Order {
    /// All of them, each at the place that is its number.
    pub const ALL: [Self; 10] = [
        Self::Confidence,
        Self::Margin,
        Self::Entropy,
        Self::Random,
        Self::LeftToRight,
        Self::SampledConfidence,
        Self::Ancestral,
        Self::CertaintyPrior,
        Self::Ranks,
        Self::Calibrated,
    ];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Confidence => "confidence",
            Self::Margin => "margin",
            Self::Entropy => "entropy",
            Self::Random => "random",
            Self::LeftToRight => "left-to-right",
            Self::SampledConfidence => "sampled-confidence",
            Self::Ancestral => "ancestral",
            Self::CertaintyPrior => "certainty-prior",
            Self::Ranks => "ranks",
            Self::Calibrated => "calibrated",
        }
    }

    /// Needs no statistics of the position?
    pub fn is_blind(self) -> bool {
        matches!(
            self,
            Self::Random | Self::LeftToRight | Self::Ancestral | Self::Ranks
        )
    }

    /// The confidence that thresholds and factors test.
    pub fn confidence(self, p: &Proposal) -> f64 {
        if matches!(self, Self::SampledConfidence | Self::Calibrated) {
            p.probability
        } else {
            p.top1
        }
    }

    /// The score of a position; `proposal` may be absent where the order is blind. That of `CertaintyPrior` is still to be
    /// multiplied by the density, that of `Calibrated` to be calibrated.
    pub fn score(self, proposal: Option<&Proposal>, place: Place) -> f64 {
        let of = |f: fn(&Proposal) -> f64| f(proposal.expect("this order looks at statistics"));
        match self {
            Self::Confidence | Self::CertaintyPrior => of(|p| p.top1),
            Self::Margin => of(|p| p.top1 - p.top2),
            Self::Entropy => of(|p| -p.entropy),
            Self::SampledConfidence | Self::Calibrated => of(|p| p.probability),
            Self::LeftToRight => -f64::from(place.position),
            Self::Ranks => -place.rank,
            Self::Random | Self::Ancestral => {
                place
                    .stream
                    .uniform(place.position, place.step, Draw::Order)
            }
        }
    }
}

/// Gumbel noise added to scores: drawing by `score + temperature * noise` is drawing positions without replacement from
/// the softmax of `score / temperature`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OrderNoise {
    /// Scale of the noise; 0 for none.
    pub temperature: f64,
    /// Perturb the logarithm of the score, and fade the noise out over the steps of the block: none in the last (`MaskGIT`).
    pub annealed: bool,
}

impl OrderNoise {
    /// The key to sort by. `progress` is the share of the block's steps that are done after this one.
    pub fn key(self, score: f64, progress: f64, place: Place) -> f64 {
        if self.temperature == 0.0 {
            return score;
        }
        let bits = place.stream.bits53(place.position, place.step, Draw::Order);
        let gumbel = -ln(-ln((bits as f64 + 0.5) * 0.5f64.powi(53)));
        let scale = if self.annealed {
            self.temperature * (1.0 - progress)
        } else {
            self.temperature
        };
        // A score may be infinite where statistics are the caller's; with noise the other way there would be no number.
        let noise = (scale * gumbel).clamp(f64::MIN, f64::MAX);
        if self.annealed {
            ln(score.max(f64::MIN_POSITIVE)) + noise
        } else {
            score + noise
        }
    }
}
