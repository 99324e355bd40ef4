//! What a rule keeps of the positions of a row from one step to the next. `sampler/memory.rs` has the stores.

/// One field a store: a row has it where its rule says so, and only then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// The probability that each written token had when it was written.
    pub confidence: bool,
    /// The head of each open position's distribution, and how often in a row it stayed close to the one before.
    pub heads: bool,
    /// What each open position's tokens have earned.
    pub credits: bool,
}

impl Keeps {
    /// Does it keep anything?
    pub fn anything(self) -> bool {
        self != Self::default()
    }
}
