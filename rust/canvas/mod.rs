//! The canvas of a row: what stands at its positions, and which of them may change.
pub mod dependencies;
pub mod edit;
pub mod window;

use edit::{Edit, Kind};
use std::ops::Range;

/// What a position is. Nobody asks its token: an open one shows a mask, or whatever else its rule lets it show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It came with the canvas and never changes.
    Given,
    /// Nothing has been written there.
    Open,
    /// A token has been written there.
    Written,
}

/// Tokens and the states of their positions. `apply` alone changes what is written, `show` what open positions show.
#[derive(Clone, Debug)]
pub struct Canvas {
    tokens: Vec<u32>,
    states: Vec<State>,
    /// What open positions show, if they all show the same.
    mask: Option<u32>,
    open: usize,
}

impl Canvas {
    /// A canvas that is open where `open` says so, one flag a position; without it, where it shows the mask.
    pub fn new(tokens: Vec<u32>, mask: Option<u32>, open: Option<&[bool]>) -> Self {
        let is_open = |(p, &token): (usize, &u32)| match open {
            Some(open) => open[p],
            None => mask == Some(token),
        };
        let state = |place| {
            if is_open(place) {
                State::Open
            } else {
                State::Given
            }
        };
        let states: Vec<State> = tokens.iter().enumerate().map(state).collect();
        let open = states.iter().filter(|&&s| s == State::Open).count();
        Self {
            tokens,
            states,
            mask,
            open,
        }
    }

    /// What stands where.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The states of all positions.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Has it no positions?
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Which positions are open.
    pub fn which_open(&self) -> Vec<bool> {
        self.states.iter().map(|&s| s == State::Open).collect()
    }

    /// Number of open positions.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The first open position.
    pub fn first_open(&self) -> Option<usize> {
        self.states.iter().position(|&s| s == State::Open)
    }

    /// Number of positions of a window that are in this state.
    pub fn count(&self, window: Range<usize>, state: State) -> usize {
        let states = self.states[window].iter();
        states.filter(|&&s| s == state).count()
    }

    /// The position with so many before it that were not given; behind the last one where there are fewer.
    pub fn place_of(&self, count: usize) -> usize {
        let own = |&(_, &state): &(usize, &State)| state != State::Given;
        let mut places = self.states.iter().enumerate().filter(own);
        places.nth(count).map_or(self.len(), |(place, _)| place)
    }

    /// The positions of a window that are in this state, rising.
    pub fn positions(&self, window: Range<usize>, state: State) -> impl Iterator<Item = u32> {
        let states = self.states[window.clone()].iter();
        let places = (window.start as u32..).zip(states);
        places.filter(move |&(_, &s)| s == state).map(|(p, _)| p)
    }

    /// From the first position that was not given to the last.
    pub fn answer(&self) -> Range<usize> {
        let own = |&state: &State| state != State::Given;
        let start = self.states.iter().position(own).unwrap_or(0);
        let end = self.states.iter().rposition(own);
        start..end.map_or(start, |last| last + 1)
    }

    /// Shows something else at an open position, where nothing is written.
    pub fn show(&mut self, position: u32, token: u32) {
        let p = position as usize;
        assert!(self.states[p] == State::Open, "only open positions show");
        self.tokens[p] = token;
    }

    /// Carries out a plan.
    pub fn apply(&mut self, plan: &[Edit]) {
        let mut left = plan;
        while let Some(edit) = left.first() {
            let together;
            (together, left) = left.split_at(edit::side_by_side(left));
            match edit.kind {
                Kind::Insert => {
                    self.insert(together);
                    continue;
                }
                Kind::Delete => {
                    self.delete(together);
                    continue;
                }
                _ => {}
            }
            let p = edit.position as usize;
            let before = self.states[p];
            let shows_mask = self.mask == Some(edit.token);
            assert!(before != State::Given, "given tokens never change");
            match edit.kind {
                Kind::Commit => {
                    assert!(before == State::Open, "a commit fills an open position");
                }
                Kind::Edit | Kind::Renoise => {
                    assert!(before == State::Written, "an edit replaces a token");
                }
                Kind::Remask => assert!(
                    before == State::Written && shows_mask,
                    "a remask takes a token back"
                ),
                Kind::Pad | Kind::Insert | Kind::Delete => {}
            }
            let after = if edit.kind == Kind::Remask {
                State::Open
            } else {
                assert!(!shows_mask, "the mask is no token to write");
                State::Written
            };
            self.open += usize::from(after == State::Open);
            self.open -= usize::from(before == State::Open);
            self.states[p] = after;
            self.tokens[p] = edit.token;
        }
    }

    /// Puts masks in side by side: what is behind them moves once.
    fn insert(&mut self, edits: &[Edit]) {
        let is_mask = |edit: &Edit| self.mask == Some(edit.token);
        assert!(edits.iter().all(is_mask), "what is put in is open");
        let p = edits[0].position as usize;
        let tokens = edits.iter().map(|edit| edit.token);
        self.tokens.splice(p..p, tokens);
        self.states.splice(p..p, edits.iter().map(|_| State::Open));
        self.open += edits.len();
    }

    /// Takes out what stands side by side, from the right.
    fn delete(&mut self, edits: &[Edit]) {
        let last = edits[0].position as usize;
        let places = last + 1 - edits.len()..=last;
        let states = &self.states[places.clone()];
        let is_open = |&state: &State| state == State::Open;
        assert!(states.iter().all(is_open), "only open positions go");
        self.tokens.drain(places.clone());
        self.states.drain(places);
        self.open -= edits.len();
    }
}
