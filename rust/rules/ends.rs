//! When a block is finished, and when a row is before its open positions are.

use crate::canvas::{Canvas, State};

/// What finishes a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// No open position is left.
    Filled,
    /// None is left, and a forward behind that changed nothing, or there were so many of them.
    Settled {
        /// Forwards at most that have nothing left to fill.
        most_post_steps: usize,
    },
    /// The last step of its schedule is over, however often its positions are filled and opened again meanwhile.
    Steps,
}

/// Where a block stands after a step.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Open positions that are left.
    pub open: usize,
    /// Steps of its schedule to come.
    pub steps_left: usize,
    /// Forwards that had nothing left to fill.
    pub post_steps: usize,
    /// Did the last forward change anything?
    pub has_changed: bool,
}

impl Ends {
    /// Is a block finished?
    pub fn is_over(self, at: Standing) -> bool {
        let is_done = match self {
            Self::Filled => true,
            Self::Settled { most_post_steps } => {
                at.post_steps > 0 && !at.has_changed || at.post_steps >= most_post_steps
            }
            Self::Steps => at.steps_left == 0,
        };
        at.open == 0 && is_done
    }

    /// Forwards of a block at most that have nothing left to fill.
    pub fn most_post_steps(self) -> usize {
        match self {
            Self::Settled { most_post_steps } => most_post_steps,
            Self::Filled | Self::Steps => 0,
        }
    }
}

/// Position of the first end token that was written (not given) and has nothing open before it.
pub fn first_end(canvas: &Canvas, is_end: impl Fn(u32) -> bool) -> Option<usize> {
    let mut places = canvas.states().iter().zip(canvas.tokens());
    let stops = |(&state, &token): (&State, &u32)| {
        state == State::Open || state == State::Written && is_end(token)
    };
    let found = places.position(stops)?;
    (canvas.states()[found] == State::Written).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::edit::{Edit, Kind};

    /// A canvas of `tokens` whose positions from 1 on were filled, but for zeros, which are open.
    fn canvas(tokens: &[u32]) -> Canvas {
        let mut start = vec![0; tokens.len()];
        start[0] = tokens[0];
        let mut canvas = Canvas::new(start, Some(0), None);
        let written = (1..tokens.len()).filter(|&p| tokens[p] != 0);
        let commit = |p| Edit {
            step: 0,
            position: p as u32,
            token: tokens[p],
            probability: 1.0,
            kind: Kind::Commit,
            time: f64::NAN,
        };
        let plan: Vec<Edit> = written.map(commit).collect();
        canvas.apply(&plan);
        canvas
    }

    #[test]
    fn an_end_counts_only_once_nothing_before_it_is_open() {
        assert_eq!(first_end(&canvas(&[9, 5, 9, 0]), |id| id == 9), Some(2));
        assert_eq!(
            first_end(&canvas(&[9, 0, 9, 0]), |id| id == 9),
            None,
            "a mask lies before it"
        );
        assert_eq!(
            first_end(&canvas(&[9, 5, 5, 5]), |id| id == 9),
            None,
            "a given end token is part of the prompt"
        );
    }
}
