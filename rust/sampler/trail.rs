//! What a row remembers of the distribution of an open position, and whether that has come to rest.

use crate::logits::head::Head;
use crate::rules::steady::divergence;

/// When a distribution has come to rest: it stayed closer than `bar` to the one before in each of the last `steps` forwards.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    /// Divergences must be below this.
    pub bar: f64,
    /// So many of them.
    pub steps: u32,
}

/// The heads of the last two forwards, each empty where there was none. How far they are apart is worked out where somebody
/// wants to know: most positions are not sure enough to be written anyway.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    older: Head,
    newer: Head,
    /// Is the newer one close to the older, as far as anybody asked?
    is_close: Option<bool>,
    /// In how many forwards in a row up to the older one it stayed close; counted only where so many can decide.
    before: u32,
}

impl Trail {
    /// Is the distribution `now` close to the last one? Not where there is none.
    pub fn is_close(&self, now: &Head, rest: Rest) -> bool {
        !self.newer.cells.is_empty() && divergence(&self.newer, now) < rest.bar
    }

    /// Has it come to rest, if the one of this forward is close to the last?
    pub fn rests(&self, rest: Rest) -> bool {
        rest.steps <= 1 || self.links(rest) + 1 >= rest.steps
    }

    /// In how many forwards in a row up to the last it stayed close.
    fn links(&self, rest: Rest) -> u32 {
        let is_close = self.is_close.unwrap_or_else(|| {
            !self.older.cells.is_empty() && divergence(&self.older, &self.newer) < rest.bar
        });
        if is_close { self.before + 1 } else { 0 }
    }

    /// One more forward; `is_close` where that is known.
    pub fn push(&mut self, now: Head, is_close: Option<bool>, rest: Rest) {
        // Two forwards are here, and more are counted only for those who ask for more.
        self.before = if rest.steps > 2 { self.links(rest) } else { 0 };
        self.older = std::mem::replace(&mut self.newer, now);
        self.is_close = is_close;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_count_as_if_each_had_been_compared_at_once() {
        let head = |p: f64| Head {
            cells: [(0, p), (1, 1.0 - p)].into(),
        };
        let places = [0.5, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.2, 0.2, 0.21, 0.2, 0.2];
        for steps in 1..6 {
            for asks in 1..4 {
                let rest = Rest { bar: 0.01, steps };
                let (mut trail, mut steady, mut last) = (Trail::default(), 0, None);
                for (forward, &p) in places.iter().enumerate() {
                    let is_close = last.is_some_and(|q| divergence(&head(q), &head(p)) < rest.bar);
                    steady = if is_close { steady + 1 } else { 0 };
                    let mut known = None;
                    if forward % asks == 0 {
                        known = Some(trail.is_close(&head(p), rest));
                        let rests = known == Some(true) && trail.rests(rest);
                        assert_eq!(rests, steady >= steps, "{steps} {asks} {forward}");
                    }
                    trail.push(head(p), known, rest);
                    last = Some(p);
                }
            }
        }
    }
}
