//! Sampling from diffusion language models.
pub mod logits;
pub mod rng;
pub mod sudoku;
#[cfg(feature = "python")]
mod python;
