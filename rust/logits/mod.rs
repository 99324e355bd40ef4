//! Numbers from rows of logits.
pub mod arith;
pub mod kernel;
