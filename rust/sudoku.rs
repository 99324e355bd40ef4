//! Sudoku puzzles for the embedded demo model (written next).
