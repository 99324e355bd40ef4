//! Confidence that is worth less far from where a block begins, and for tokens that are frequent anywhere (PC-Sampler, Huang et
//! al., 2508.13021).

use crate::error::{Error, Result};
use crate::logits::arith::{exp64, ln};
use std::fmt;
use std::sync::Arc;

/// Added to a frequency before its logarithm, as published.
const LEAST: f64 = 1e-9;

/// How often each id of a vocabulary occurs in some corpus. Copies share one table.
#[derive(Clone)]
pub struct Frequencies(Arc<Table>);

struct Table {
    counts: Vec<u64>,
    tokens: u64,
    /// For each id, the logarithm of its share; ids that never occur count as if they did once.
    logarithms: Vec<f64>,
    digest: u64,
}

impl Frequencies {
    /// From the number of times that each id occurs.
    pub fn new(counts: Vec<u64>) -> Result<Self> {
        let sum = |sum: u64, &n: &u64| sum.checked_add(n).filter(|&sum| sum < 1 << 53);
        let Some(tokens) = counts.iter().try_fold(0, sum) else {
            return Err(Error::Mismatch(
                "counts must be fewer than 2^53 tokens together, got more; divide them all by one number".into(),
            ));
        };
        if tokens == 0 {
            return Err(Error::Mismatch(format!(
                "counts must have a token that occurs, got none among {} ids; count those of a corpus",
                counts.len()
            )));
        }
        let logarithm = |&n: &u64| ln(n.max(1) as f64 / tokens as f64 + LEAST);
        // FNV-1a by words, mixed: a table is hashed once, and most tables differ there.
        let mix = |hash: u64, &n: &u64| (hash ^ n).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        Ok(Self(Arc::new(Table {
            tokens,
            logarithms: counts.iter().map(logarithm).collect(),
            digest: counts.iter().fold(0xcbf2_9ce4_8422_2325, mix),
            counts,
        })))
    }

    /// The number of times that each id occurs.
    pub fn counts(&self) -> &[u64] {
        &self.0.counts
    }

    /// All of them together.
    pub fn tokens(&self) -> u64 {
        self.0.tokens
    }

    /// Equal tables have one digest.
    pub fn digest(&self) -> u64 {
        self.0.digest
    }
}

impl PartialEq for Frequencies {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.digest == other.0.digest && self.0.counts == other.0.counts)
    }
}

impl fmt::Debug for Frequencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ids, tokens) = (self.0.counts.len(), self.0.tokens);
        write!(f, "Frequencies({ids} ids, {tokens} tokens)")
    }
}

/// What the order `calibrated` makes of a probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// How frequent tokens are anywhere; known at the latest when a row begins.
    pub frequencies: Option<Frequencies>,
    /// Of the weight, for each position from where the block begins.
    pub decay: f64,
    /// The largest information that counts, in nats.
    pub cap: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            frequencies: None,
            decay: 0.25,
            cap: 10.0,
        }
    }
}

impl Calibration {
    /// Checks the parameters.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1e6).contains(&self.decay) {
            return Err(Error::setting(
                "position_decay",
                "must be at least 0 and at most 1000000",
                self.decay,
                "0.25 is PC-Sampler's, 0 looks at no position",
            ));
        }
        if self.cap > 0.0 {
            return Ok(());
        }
        Err(Error::setting(
            "information_cap",
            "must be above 0 (nats)",
            self.cap,
            "10 is PC-Sampler's, inf caps nothing",
        ))
    }

    /// Does it know how frequent the tokens of such a vocabulary are, all of them and no other?
    pub fn fits(&self, vocabulary: usize) -> Result<()> {
        match &self.frequencies {
            Some(table) if table.counts().len() != vocabulary => Err(Error::Mismatch(format!(
                "token_frequencies must have a count for each id of the vocabulary, got {} for {vocabulary}; \
                 count with TokenFrequencies.of(ids, {vocabulary})",
                table.counts().len()
            ))),
            _ => Ok(()),
        }
    }

    /// The score of a token of that probability, so many positions from where its block begins.
    pub fn score(&self, token: u32, probability: f64, distance: u32) -> f64 {
        let table = self
            .frequencies
            .as_ref()
            .expect("checked when the row began");
        let logarithm = table.0.logarithms[token as usize];
        // Statistics may be the caller's, and infinities make no number with weights that are 0.
        let information = (-probability * logarithm).clamp(f64::MIN, f64::MAX);
        exp64(-(self.decay * f64::from(distance))) * information.min(self.cap)
    }
}
