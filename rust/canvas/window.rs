//! The window: the part of a canvas whose masks may be filled now.

use super::State;
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
    pub fn count(self, states: &[State], end: usize) -> usize {
        let (mut from, mut count) = (0, 0);
        let may_change = |&state: &State| state != State::Given;
        while let Some(ahead) = states[from..end].iter().position(may_change) {
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
        let state = |p| {
            if [0, 2, 9, 10].contains(&p) {
                State::Open
            } else {
                State::Given
            }
        };
        let states: Vec<State> = (0..11).map(state).collect();
        assert_eq!(
            [0, 1, 5, 9, 11].map(|end| blocks.count(&states, end)),
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
