//! Sampling from diffusion language models.
//!
//! The crate is the decision-making half of the Python package `dllm_fast`: it turns logits into statistics, and
//! statistics into edits of a canvas. It knows no model, no tensor library and no device, and builds without Python.
//! Arrows of import: `python -> sampler -> rules -> canvas, logits -> rng -> error`, never back.

pub mod canvas;
pub mod error;
pub mod helpers;
pub mod logits;
pub mod openmp;
pub mod pool;
pub mod rng;
pub mod rules;
pub mod sampler;
pub mod sudoku;
pub mod watch;

#[cfg(feature = "python")]
mod python;
