//! Puzzles of the demo.
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::error::raise;
use super::signals::detached;
use crate::error::Error;
use crate::sudoku;

/// Puzzles and their solutions, both `[n, 81]`; a blank is 0.
type Puzzles<'py> = (Bound<'py, PyArray2<u8>>, Bound<'py, PyArray2<u8>>);

/// Makes the first `n` puzzles of a seed, each with exactly one solution.
///
/// Row i depends on (seed, i, range, set) alone, so a larger `n` only adds rows.
#[pyfunction]
#[pyo3(signature = (n, seed, min_givens = 26, max_givens = 50, *, held_out = true))]
fn sudoku_puzzles(
    py: Python<'_>,
    n: u32,
    seed: u64,
    min_givens: usize,
    max_givens: usize,
    held_out: bool,
) -> PyResult<Puzzles<'_>> {
    if min_givens < sudoku::MIN_GIVENS || min_givens > max_givens || max_givens > sudoku::CELLS {
        return Err(PyValueError::new_err(format!(
            "givens must satisfy {} <= min_givens <= max_givens <= {}, got {min_givens} and {max_givens}",
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
