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

    /// Number of blocks before `end` that hold a position which may be written.
    pub fn count(self, writable: &[bool], end: usize) -> usize {
        let (mut from, mut count) = (0, 0);
        while let Some(ahead) = writable[from..end].iter().position(|&open| open) {
            from = self.around(from + ahead, end).end;
            count += 1;
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
        let writable: Vec<bool> = (0..11).map(|p| [0, 2, 9, 10].contains(&p)).collect();
        assert_eq!(
            [0, 1, 5, 9, 11].map(|end| blocks.count(&writable, end)),
            [0, 1, 2, 2, 3]
        );
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
