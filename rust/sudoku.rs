//! Sudoku 9x9: the puzzles that the embedded demo model is trained and judged on.
//!
//! A puzzle is a pure function of `(seed, index, settings)`. Solution grids fall in two disjoint sets by a rule, not by
//! a list: a grid is *held out* when the hash of its relabelled form (see [`is_held_out`]) is a multiple of sixteen.
//! Training draws from one set and every published solve rate from the other.

use core::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::rng::{Draw, Stream};
use crate::watch::Watch;

/// Number of cells.
pub const CELLS: usize = 81;

/// The fewest givens that [`puzzle`] accepts. Puzzles with fewer exist down to 17, but digging cells out of a random
/// grid practically never reaches them.
pub const MIN_GIVENS: usize = 22;

/// Digits 1 to 9 in row order; 0 is a blank.
pub type Grid = [u8; CELLS];

/// Nine low bits: one per digit.
const ALL_DIGITS: u16 = 0x1FF;

/// One solution grid in this many is held out.
const HELD_OUT_ONE_IN: u64 = 16;

/// A puzzle with exactly one solution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Puzzle {
    /// What is shown; 0 is a blank.
    pub givens: Grid,
    /// The only complete grid that agrees with the givens.
    pub solution: Grid,
}

/// Puzzle number `index` of the sequence of `seed`.
///
/// A random complete grid of the wanted set loses cells in random order, each only if the solution stays unique, until
/// as many are left as drawn uniformly from `givens`. A grid that cannot be dug that far is dropped for the next one,
/// which costs time for 24 givens or fewer. With 26 to 50 givens one core makes several thousand puzzles a second.
///
/// # Errors
/// Only where `watch` stops it.
///
/// # Panics
/// When `givens` is empty or leaves `MIN_GIVENS..=CELLS`.
pub fn puzzle(
    seed: u64,
    index: u32,
    givens: &RangeInclusive<usize>,
    held_out: bool,
    watch: &Watch<'_>,
) -> Result<Puzzle> {
    let (low, high) = (*givens.start(), *givens.end());
    assert!(MIN_GIVENS <= low && low <= high && high <= CELLS);
    let mut dice = Dice::new(seed, index);
    let wanted = low + dice.below(high - low + 1);
    while watch.goes_on() {
        let solution = complete_grid(&mut dice);
        if is_held_out(&solution) == held_out
            && let Some(givens) = dig(&solution, wanted, &mut dice, watch)
        {
            return Ok(Puzzle { givens, solution });
        }
    }
    Err(Error::Interrupted)
}

/// Does this complete grid belong to the held-out set?
///
/// The digits are first renamed so that the top row reads 1 to 9: grids that differ only in the names of the digits
/// are the same puzzle to a model that sees every naming, so they must fall on the same side.
pub fn is_held_out(solution: &Grid) -> bool {
    let mut renamed = [0u8; 10];
    for (column, &digit) in solution[..9].iter().enumerate() {
        renamed[usize::from(digit)] = column as u8 + 1;
    }
    // FNV-1a, then the upper half folded in: its low bits alone depend on the low bits of the digits alone.
    let hash = solution
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, &digit| {
            (hash ^ u64::from(renamed[usize::from(digit)])).wrapping_mul(0x0000_0100_0000_01B3)
        });
    (hash ^ (hash >> 32)).is_multiple_of(HELD_OUT_ONE_IN)
}

/// Is every row, column and box a permutation of the digits?
pub fn is_solved(grid: &Grid) -> bool {
    grid.iter().all(|&digit| digit != 0) && Board::new(grid).is_some()
}

/// Number of solutions of a partial grid, counted up to `limit`; 0 when the givens already clash.
pub fn count_solutions(grid: &Grid, limit: usize) -> usize {
    Board::new(grid).map_or(0, |mut board| board.count(limit))
}

/// Takes cells out of `solution` until `wanted` are left and the solution is still the only one.
fn dig(solution: &Grid, wanted: usize, dice: &mut Dice, watch: &Watch<'_>) -> Option<Grid> {
    let mut order: [usize; CELLS] = core::array::from_fn(|cell| cell);
    dice.shuffle(&mut order);
    let mut board = Board::new(solution).expect("a complete grid has no clash");
    let mut left = CELLS;
    for cell in order {
        if left == wanted || !watch.goes_on() {
            break;
        }
        let digit = board.clear(cell);
        if board.is_forced(cell, digit) || !board.has_other_solution(cell, digit) {
            left -= 1;
        } else {
            board.place(cell, digit);
        }
    }
    (left == wanted).then_some(board.cells)
}

/// A random complete grid: search with the digits of every cell tried in random order.
fn complete_grid(dice: &mut Dice) -> Grid {
    let mut board = Board::new(&[0; CELLS]).expect("the empty grid has no clash");
    let filled = board.fill(dice);
    debug_assert!(filled);
    board.cells
}

/// A partial grid and, for each row, column and box, the digits it already holds.
#[derive(Clone)]
struct Board {
    cells: Grid,
    rows: [u16; 9],
    columns: [u16; 9],
    boxes: [u16; 9],
}

/// Index of the box of a cell.
const fn box_of(cell: usize) -> usize {
    cell / 27 * 3 + cell % 9 / 3
}

impl Board {
    /// `None` when two equal digits share a row, a column or a box.
    fn new(grid: &Grid) -> Option<Self> {
        let mut board = Self {
            cells: [0; CELLS],
            rows: [0; 9],
            columns: [0; 9],
            boxes: [0; 9],
        };
        for (cell, &digit) in grid.iter().enumerate() {
            if digit != 0 {
                if digit > 9 || board.candidates(cell) & bit(digit) == 0 {
                    return None;
                }
                board.place(cell, digit);
            }
        }
        Some(board)
    }

    fn candidates(&self, cell: usize) -> u16 {
        !(self.rows[cell / 9] | self.columns[cell % 9] | self.boxes[box_of(cell)]) & ALL_DIGITS
    }

    fn place(&mut self, cell: usize, digit: u8) {
        self.cells[cell] = digit;
        self.toggle(cell, digit);
    }

    fn clear(&mut self, cell: usize) -> u8 {
        let digit = core::mem::take(&mut self.cells[cell]);
        self.toggle(cell, digit);
        digit
    }

    fn toggle(&mut self, cell: usize, digit: u8) {
        self.rows[cell / 9] ^= bit(digit);
        self.columns[cell % 9] ^= bit(digit);
        self.boxes[box_of(cell)] ^= bit(digit);
    }

    /// The blank with the fewest candidates, and those; `None` on a full grid.
    fn tightest_blank(&self) -> Option<(usize, u16)> {
        let mut best = None;
        let mut fewest = u32::MAX;
        for cell in 0..CELLS {
            if self.cells[cell] == 0 {
                let candidates = self.candidates(cell);
                let count = candidates.count_ones();
                if count < fewest {
                    best = Some((cell, candidates));
                    fewest = count;
                    if count <= 1 {
                        break;
                    }
                }
            }
        }
        best
    }

    /// Number of completions up to `limit`. The board is left as it was.
    fn count(&mut self, limit: usize) -> usize {
        let Some((cell, candidates)) = self.tightest_blank() else {
            return 1;
        };
        let mut found = 0;
        for digit in digits(candidates) {
            if found >= limit {
                break;
            }
            self.place(cell, digit);
            found += self.count(limit - found);
            self.clear(cell);
        }
        found
    }

    /// Completes the board at random; `false` (and the board as it was) when it has no completion.
    fn fill(&mut self, dice: &mut Dice) -> bool {
        let Some((cell, candidates)) = self.tightest_blank() else {
            return true;
        };
        let mut order: [u8; 9] = core::array::from_fn(|digit| digit as u8 + 1);
        if candidates.count_ones() > 1 {
            dice.shuffle(&mut order);
        }
        for digit in order {
            if candidates & bit(digit) != 0 {
                self.place(cell, digit);
                if self.fill(dice) {
                    return true;
                }
                self.clear(cell);
            }
        }
        false
    }

    /// A cheap sufficient test that the blank `cell` can only hold `digit`: no other candidate, or no other blank of
    /// its row, column or box that could take the digit. It settles most cells and saves their search.
    fn is_forced(&self, cell: usize, digit: u8) -> bool {
        if self.candidates(cell) == bit(digit) {
            return true;
        }
        let (row, column) = (cell / 9, cell % 9);
        let corner = row / 3 * 27 + column / 3 * 3;
        let elsewhere = |other: usize| {
            other != cell && self.cells[other] == 0 && self.candidates(other) & bit(digit) != 0
        };
        !(0..9).any(|i| elsewhere(row * 9 + i))
            || !(0..9).any(|i| elsewhere(i * 9 + column))
            || !(0..9).any(|i| elsewhere(corner + i / 3 * 9 + i % 3))
    }

    /// Is there a completion whose blank `cell` is not `digit`?
    fn has_other_solution(&mut self, cell: usize, digit: u8) -> bool {
        digits(self.candidates(cell) & !bit(digit)).any(|other| {
            self.place(cell, other);
            let found = self.count(1) > 0;
            self.clear(cell);
            found
        })
    }
}

const fn bit(digit: u8) -> u16 {
    1 << (digit - 1)
}

/// The digits of a set, ascending.
fn digits(set: u16) -> impl Iterator<Item = u8> {
    (1..=9).filter(move |&digit| set & bit(digit) != 0)
}

/// The random choices of one puzzle, counted so that each draw is new.
struct Dice {
    stream: Stream,
    drawn: u32,
}

impl Dice {
    fn new(seed: u64, index: u32) -> Self {
        Self {
            stream: Stream {
                seed,
                request: index,
            },
            drawn: 0,
        }
    }

    /// Uniform over `0..bound` up to a bias of 2^-53 · bound.
    fn below(&mut self, bound: usize) -> usize {
        let uniform = self.stream.uniform(self.drawn, 0, Draw::Order);
        self.drawn += 1;
        (uniform * bound as f64) as usize
    }

    /// Fisher and Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A published puzzle with 30 givens and one solution (the example of the Wikipedia article on Sudoku).
    const EXAMPLE: &str =
        "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79";

    fn parse(text: &str) -> Grid {
        let mut grid = [0; CELLS];
        for (cell, symbol) in grid.iter_mut().zip(text.bytes()) {
            *cell = if symbol == b'.' { 0 } else { symbol - b'0' };
        }
        grid
    }

    /// The grid whose row r is 1..9 turned by 3r + r / 3: valid by construction.
    fn cyclic_grid() -> Grid {
        core::array::from_fn(|cell| ((cell / 9 * 3 + cell / 27 + cell % 9) % 9) as u8 + 1)
    }

    fn made(seed: u64, index: u32, givens: &RangeInclusive<usize>, held_out: bool) -> Puzzle {
        puzzle(seed, index, givens, held_out, &Watch::never()).expect("nobody stops it")
    }

    #[test]
    fn the_example_has_one_solution_and_more_without_a_row() {
        let mut grid = parse(EXAMPLE);
        assert_eq!(count_solutions(&grid, 10), 1);
        grid[..9].fill(0);
        assert_eq!(count_solutions(&grid, 2), 2);
        assert_eq!(count_solutions(&[0; CELLS], 7), 7);
    }

    #[test]
    fn clashes_have_no_solution() {
        let mut grid = [0; CELLS];
        (grid[0], grid[8]) = (5, 5);
        assert_eq!(count_solutions(&grid, 1), 0);
        (grid[8], grid[72]) = (0, 5);
        assert_eq!(count_solutions(&grid, 1), 0);
        (grid[72], grid[20]) = (0, 5);
        assert_eq!(count_solutions(&grid, 1), 0);
        grid[20] = 10;
        assert_eq!(count_solutions(&grid, 1), 0);
    }

    #[test]
    fn solved_means_complete_and_free_of_clashes() {
        let grid = cyclic_grid();
        assert!(is_solved(&grid));
        let mut blank = grid;
        blank[40] = 0;
        assert!(!is_solved(&blank));
        let mut swapped = grid;
        swapped.swap(0, 1);
        assert!(!is_solved(&swapped));
    }

    #[test]
    fn puzzles_keep_their_promises() {
        for held_out in [false, true] {
            for index in 0..60 {
                let Puzzle { givens, solution } = made(7, index, &(26..=50), held_out);
                let count = givens.iter().filter(|&&digit| digit != 0).count();
                assert!((26..=50).contains(&count));
                assert!(is_solved(&solution));
                assert_eq!(is_held_out(&solution), held_out);
                assert!(
                    givens
                        .iter()
                        .zip(&solution)
                        .all(|(&given, &digit)| given == 0 || given == digit)
                );
                assert_eq!(count_solutions(&givens, 2), 1);
            }
        }
    }

    #[test]
    fn a_puzzle_depends_on_seed_and_index_alone() {
        let range = 26..=50;
        let first = made(1, 5, &range, true);
        assert_eq!(first, made(1, 5, &range, true));
        assert_ne!(first, made(1, 6, &range, true));
        assert_ne!(first, made(2, 5, &range, true));
    }

    #[test]
    fn the_ends_of_the_range_are_reached() {
        let count = |givens: RangeInclusive<usize>| {
            made(3, 0, &givens, false)
                .givens
                .iter()
                .filter(|&&digit| digit != 0)
                .count()
        };
        assert_eq!(count(81..=81), 81);
        assert_eq!(count(24..=24), 24);
    }

    #[test]
    fn about_one_grid_in_sixteen_is_held_out_whatever_its_names() {
        let mut dice = Dice::new(11, 0);
        let mut held_out = 0;
        for _ in 0..1600 {
            let grid = complete_grid(&mut dice);
            let mut names: [u8; 9] = core::array::from_fn(|digit| digit as u8 + 1);
            dice.shuffle(&mut names);
            let renamed = grid.map(|digit| names[usize::from(digit) - 1]);
            assert_eq!(is_held_out(&grid), is_held_out(&renamed));
            held_out += u32::from(is_held_out(&grid));
        }
        assert!((60..=140).contains(&held_out), "{held_out}");
    }
}
