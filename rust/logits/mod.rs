//! Numbers from rows of logits: statistics, cuts and draws, the same bits on every machine.
pub mod arith;
pub mod coupled;
pub mod cut;
pub mod draw;
pub mod filter;
pub mod head;
pub mod kernel;
pub mod lead;
pub mod predict;
pub mod row;
pub mod stats;
