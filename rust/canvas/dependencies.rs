//! For positions of a canvas, those that must be written before them.

use super::State;
use super::window::Blocks;
use crate::error::{Error, Result};

/// A graph without cycles over the open positions of a canvas, whose edges never lead from a block back into an earlier one: so
/// of the open positions of a block there is always one that waits for nobody.
#[derive(Clone, Debug)]
pub struct Dependencies {
    /// Where the list of each position begins in `before`, and where the last one ends.
    starts: Vec<usize>,
    before: Vec<u32>,
}

impl Dependencies {
    /// From pairs of a position and those before it, for a row of this number whose canvas is in these states; none where
    /// there are no pairs.
    pub fn new(
        pairs: &[(u32, Vec<u32>)],
        states: &[State],
        blocks: Blocks,
        row: usize,
    ) -> Result<Option<Self>> {
        if pairs.is_empty() {
            return Ok(None);
        }
        let mut lists: Vec<Vec<u32>> = vec![vec![]; states.len()];
        for (position, before) in pairs {
            open(*position, states, row)?;
            lists[*position as usize].extend(before);
            for &earlier in before {
                open(earlier, states, row)?;
                check(*position, earlier, states.len(), blocks, row)?;
            }
        }
        let mut starts = vec![0];
        for list in &lists {
            starts.push(starts[starts.len() - 1] + list.len());
        }
        let made = Self {
            starts,
            before: lists.concat(),
        };
        match made.on_a_cycle() {
            Some(position) => Err(Error::Mismatch(format!(
                "eligible_after must hold no cycle, got one through canvas position {position} of row {row}; \
                 leave out one of its positions"
            ))),
            None => Ok(Some(made)),
        }
    }

    fn before(&self, position: usize) -> &[u32] {
        &self.before[self.starts[position]..self.starts[position + 1]]
    }

    /// May the position be written, the canvas being in these states?
    pub fn allow(&self, position: u32, states: &[State]) -> bool {
        let mut before = self.before(position as usize).iter();
        before.all(|&earlier| states[earlier as usize] != State::Open)
    }

    /// The lowest position that is its own predecessor, if there is one.
    fn on_a_cycle(&self) -> Option<usize> {
        let count = self.starts.len() - 1;
        let mut after: Vec<Vec<u32>> = vec![vec![]; count];
        let mut waits: Vec<usize> = (0..count).map(|p| self.before(p).len()).collect();
        for position in 0..count {
            for &earlier in self.before(position) {
                after[earlier as usize].push(position as u32);
            }
        }
        let mut free: Vec<usize> = (0..count).filter(|&p| waits[p] == 0).collect();
        while let Some(position) = free.pop() {
            for &next in &after[position] {
                waits[next as usize] -= 1;
                if waits[next as usize] == 0 {
                    free.push(next as usize);
                }
            }
        }
        // What still waits lies on a cycle or behind one: whoever waits for somebody who waits leads back to it.
        let mut position = (0..count).find(|&p| waits[p] > 0)?;
        let mut seen = vec![false; count];
        while !std::mem::replace(&mut seen[position], true) {
            let waiting = |&&p: &&u32| waits[p as usize] > 0;
            let earlier = self.before(position).iter().find(waiting);
            position = *earlier.expect("it waits for one that waits") as usize;
        }
        Some(position)
    }
}

fn open(position: u32, states: &[State], row: usize) -> Result<()> {
    match states.get(position as usize) {
        None => Err(Error::Mismatch(format!(
            "eligible_after must name positions of the canvas, got {position} for the {} of row {row}; count from 0",
            states.len()
        ))),
        Some(State::Open) => Ok(()),
        Some(_) => Err(Error::Mismatch(format!(
            "eligible_after must name positions that are to be written, got canvas position {position} of row {row}, which was \
             given; leave it out"
        ))),
    }
}

fn check(position: u32, earlier: u32, len: usize, blocks: Blocks, row: usize) -> Result<()> {
    if position == earlier {
        return Err(Error::Mismatch(format!(
            "eligible_after must not have a position wait for itself, got canvas position {position} of row {row}; leave it out"
        )));
    }
    let block = |p: u32| blocks.around(p as usize, len).start;
    if block(earlier) > block(position) {
        return Err(Error::Mismatch(format!(
            "eligible_after must not have a position wait for one of a later block, got {position} after {earlier} in row {row}, \
             where blocks are finished from left to right; use a larger block_length, or none"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Blocks = Blocks {
        origin: 0,
        length: None,
    };

    fn made(pairs: &[(u32, Vec<u32>)], blocks: Blocks) -> Result<Option<Dependencies>> {
        use State::{Given, Open};
        Dependencies::new(pairs, &[Given, Open, Open, Open, Open], blocks, 7)
    }

    #[test]
    fn a_position_waits_for_those_before_it() {
        use State::{Given, Open, Written};
        assert!(made(&[], WHOLE).unwrap().is_none());
        let all = made(&[(1, vec![3, 4]), (3, vec![4])], WHOLE)
            .unwrap()
            .unwrap();
        let states = [Given, Open, Open, Open, Written];
        let allowed: Vec<u32> = (1..4).filter(|&p| all.allow(p, &states)).collect();
        assert_eq!(allowed, [2, 3]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let blocks = Blocks {
            origin: 1,
            length: Some(2),
        };
        for (pairs, blocks, says) in [
            (vec![(5, vec![])], WHOLE, "got 5 for the 5 of row 7"),
            (vec![(1, vec![9])], WHOLE, "got 9 for the 5 of row 7"),
            (
                vec![(0, vec![])],
                WHOLE,
                "position 0 of row 7, which was given",
            ),
            (
                vec![(1, vec![0])],
                WHOLE,
                "position 0 of row 7, which was given",
            ),
            (
                vec![(2, vec![2])],
                WHOLE,
                "wait for itself, got canvas position 2",
            ),
            (
                vec![(1, vec![2]), (2, vec![3]), (3, vec![2])],
                WHOLE,
                "cycle, got one through canvas position 2",
            ),
            (vec![(2, vec![3])], blocks, "later block, got 2 after 3"),
        ] {
            let said = made(&pairs, blocks).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
        assert!(made(&[(3, vec![2])], blocks).is_ok());
    }
}
