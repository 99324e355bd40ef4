//! The window: the part of a canvas whose masks may be filled now.

use std::ops::Range;

/// Blocks of a row, counted from an origin to both sides and left to right; the last may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Position where a block begins.
    pub origin: usize,
    /// Positions in a block; `None` makes the whole canvas one.
    pub length: Option<usize>,
}

impl Blocks {
    /// The block that holds `position`, in a canvas of `len` positions.
    pub fn around(self, position: usize, len: usize) -> Range<usize> {
        let Some(length) = self.length else {
            return 0..len;
        };
        // Wide enough for any origin and length that a caller can write down.
        let (p, o, b) = (position as i128, self.origin as i128, length as i128);
        let start = o + (p - o).div_euclid(b) * b;
        start.max(0) as usize..(start + b).min(len as i128) as usize
    }

    /// Number of blocks that hold one of `positions`, which rise.
    pub fn count(self, positions: impl Iterator<Item = usize>, len: usize) -> usize {
        let mut end = 0;
        let mut count = 0;
        for p in positions {
            if p >= end {
                end = self.around(p, len).end;
                count += 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_on_both_sides_of_the_origin() {
        let blocks = Blocks {
            origin: 5,
            length: Some(4),
        };
        let expected = [0..1, 1..5, 5..9, 9..11];
        for p in 0..11 {
            assert!(expected.contains(&blocks.around(p, 11)) && blocks.around(p, 11).contains(&p));
        }
        assert_eq!(blocks.count([0, 2, 9, 10].into_iter(), 11), 3);
        assert_eq!(
            Blocks {
                origin: 5,
                length: None
            }
            .around(7, 11),
            0..11
        );
    }
}
