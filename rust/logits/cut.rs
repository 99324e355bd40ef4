//! What a cut keeps of a row, and what is summed to find it: the words that the loops and the search have in common.

/// The last id that is kept in the order (logit falling, id rising), and the smallest `d` that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Logit of the last id kept.
    pub x: f32,
    /// The last id kept.
    pub id: u32,
    /// Smallest scaled distance to the maximum that is kept.
    pub floor: f32,
}

impl Cut {
    /// Keeps everything.
    pub const NONE: Self = Self {
        x: f32::NEG_INFINITY,
        id: u32::MAX,
        floor: f32::NEG_INFINITY,
    };

    /// Is `id` with logit `x`, at scaled distance `d` from the maximum, kept?
    #[inline(always)]
    pub fn keeps(&self, x: f32, id: u32, d: f32) -> bool {
        (x > self.x || (x == self.x && id <= self.id)) && d >= self.floor
    }
}

/// Some ids of a row, column by column.
#[derive(Default)]
pub struct Ids {
    /// Their logits.
    pub x: Vec<f32>,
    /// The ids.
    pub id: Vec<u32>,
    /// Their weights, once they are known.
    pub weights: Vec<f32>,
}

/// A weight as a fixed-point integer: sums of these do not depend on their order.
#[inline(always)]
pub fn fixed(weight: f32) -> u64 {
    // Adding 2^52 rounds to the nearest integer, ties to even, and leaves it in the low bits.
    const SHIFT: f64 = 4_503_599_627_370_496.0;
    (f64::from(weight) * 1_099_511_627_776.0 + SHIFT).to_bits() & 0x000f_ffff_ffff_ffff
}
