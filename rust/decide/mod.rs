//! Control: which positions a step writes. No logits here, only numbers made from them.
pub mod config;
pub mod plan;
pub mod schedule;
pub mod score;
pub mod select;
pub mod stop;
pub mod window;
