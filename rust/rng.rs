//! Counter-based randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A draw is a pure function of `(seed, request, position, step, draw)`. Nothing is carried from one draw to the
//! next, so results depend neither on the order of the work nor on the batch or the threads that do it.

/// What a uniform is used for. The purpose is the last word of the counter, so that two uses at the same position
/// and step are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Draw {
    /// Choice of the token at a position.
    Token = 0,
    /// Order of the positions: uniform scores and Gumbel noise.
    Order = 1,
    /// Does this position commit in this step (ancestral sampling)?
    Commit = 2,
    /// Time at which the next mask is filled (first-hitting sampling).
    Time = 3,
    /// What an open position shows (uniform noise).
    Noise = 4,
    /// Is this written position taken back in this step (ancestral sampling)?
    Remask = 5,
    /// Noise on an id that is the same in all steps, the word of which holds the id (accepting drafts).
    Gumbel = 6,
}

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox4x32.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIER[0]) * u64::from(c0);
        let p1 = u64::from(MULTIPLIER[1]) * u64::from(c2);
        (c0, c1, c2, c3) = (
            (p1 >> 32) as u32 ^ c1 ^ k0,
            p1 as u32,
            (p0 >> 32) as u32 ^ c3 ^ k1,
            p0 as u32,
        );
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// The random numbers of one row: its seed and the index of the sample for its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Key of the generator.
    pub seed: u64,
    /// Index of the sample for its prompt; never the place of the row in a batch.
    pub request: u32,
}

impl Stream {
    /// 53 random bits for `(position, step, draw)`.
    pub fn bits53(self, position: u32, step: u32, draw: Draw) -> u64 {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let [lo, hi, _, _] = philox4x32([self.request, position, step, draw as u32], key);
        (u64::from(hi) << 32 | u64::from(lo)) >> 11
    }

    /// A uniform in `[0, 1)`, a multiple of 2^-53.
    pub fn uniform(self, position: u32, step: u32, draw: Draw) -> f64 {
        self.bits53(position, step, draw) as f64 * (0.5f64).powi(53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_reference_library() {
        let cases = [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn every_word_of_the_counter_matters() {
        let stream = Stream {
            seed: 1,
            request: 2,
        };
        let base = stream.bits53(3, 4, Draw::Token);
        assert_ne!(base, Stream { seed: 9, ..stream }.bits53(3, 4, Draw::Token));
        assert_ne!(
            base,
            Stream {
                seed: 1 << 40,
                ..stream
            }
            .bits53(3, 4, Draw::Token)
        );
        assert_ne!(
            base,
            Stream {
                request: 9,
                ..stream
            }
            .bits53(3, 4, Draw::Token)
        );
        assert_ne!(base, stream.bits53(9, 4, Draw::Token));
        assert_ne!(base, stream.bits53(3, 9, Draw::Token));
        assert_ne!(base, stream.bits53(3, 4, Draw::Order));
    }
}
