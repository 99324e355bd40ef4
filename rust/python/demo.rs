//! Puzzles of the demo.
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::prelude::*;

use super::error::{bad_value, raise};
use super::signals::detached;
use super::values::{flag, whole};
use crate::error::Error;
use crate::sudoku;

/// Puzzles and their solutions, both `[n, 81]`; a blank is 0.
type Puzzles<'py> = (Bound<'py, PyArray2<u8>>, Bound<'py, PyArray2<u8>>);

/// Puzzles of one call.
const MOST: u64 = 1 << 20;

fn puzzles(value: &Bound<'_, PyAny>) -> PyResult<u32> {
    Ok(whole(value, "n", (0, MOST), "make them in several calls")? as u32)
}

fn seeded(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole(value, "seed", (0, u64::MAX), "use a number from 0")
}

fn givens(value: &Bound<'_, PyAny>, name: &str) -> PyResult<usize> {
    let range = (sudoku::MIN_GIVENS as u64, sudoku::CELLS as u64);
    Ok(whole(value, name, range, "26 to 50 are usual")? as usize)
}

fn fewest(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    givens(value, "min_givens")
}

fn most(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    givens(value, "max_givens")
}

fn unseen(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    flag(value, "held_out")
}

/// Makes the first `n` puzzles of a seed, each with exactly one solution.
///
/// Row i depends on (seed, i, range, set) alone, so a larger `n` only adds rows.
#[pyfunction]
#[pyo3(signature = (n, seed, min_givens = 26, max_givens = 50, *, held_out = true))]
fn sudoku_puzzles(
    py: Python<'_>,
    #[pyo3(from_py_with = puzzles)] n: u32,
    #[pyo3(from_py_with = seeded)] seed: u64,
    #[pyo3(from_py_with = fewest)] min_givens: usize,
    #[pyo3(from_py_with = most)] max_givens: usize,
    #[pyo3(from_py_with = unseen)] held_out: bool,
) -> PyResult<Puzzles<'_>> {
    if min_givens < sudoku::MIN_GIVENS || min_givens > max_givens || max_givens > sudoku::CELLS {
        return Err(bad_value(format!(
            "givens must satisfy {} <= min_givens <= max_givens <= {}, got {min_givens} and {max_givens}; use 26 and 50",
            sudoku::MIN_GIVENS,
            sudoku::CELLS,
        )));
    }
    let made = detached(py, |watch| {
        let range = min_givens..=max_givens;
        // They grow with what was made: room for all that somebody may ask for there is not.
        let (mut puzzles, mut solutions) = (Vec::new(), Vec::new());
        for index in 0..n {
            let puzzle = sudoku::puzzle(seed, index, &range, held_out, watch)?;
            puzzles.extend_from_slice(&puzzle.givens);
            solutions.extend_from_slice(&puzzle.solution);
        }
        Ok::<_, Error>((puzzles, solutions))
    })?;
    let (puzzles, solutions) = made.map_err(raise)?;
    let array = |cells: Vec<u8>| {
        let grids = Array2::from_shape_vec((n as usize, sudoku::CELLS), cells)
            .expect("81 cells were pushed a puzzle");
        grids.into_pyarray(py)
    };
    Ok((array(puzzles), array(solutions)))
}

/// Adds the functions of this file to the module.
pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(sudoku_puzzles, m)?)
}
