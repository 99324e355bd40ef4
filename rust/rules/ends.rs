//! When a block is finished, and when a row is before its open positions are.

use super::revise::Revise;
use crate::canvas::{Canvas, State};

/// Is a block finished, with `open` open positions left, `post_steps` forwards behind it that had none to fill, and a last
/// forward that changed something or not?
pub fn is_block_finished(
    revise: Revise,
    open: usize,
    post_steps: usize,
    has_changed: bool,
) -> bool {
    let is_stable = post_steps > 0 && !has_changed;
    open == 0 && (is_stable || post_steps >= revise.most_post_steps())
}

/// Position of the first end token that was written (not given) and has nothing open before it.
pub fn first_end(canvas: &Canvas, ends: &[u32]) -> Option<usize> {
    let mut places = canvas.states().iter().zip(canvas.tokens());
    let stops = |(&state, token): (&State, &u32)| {
        state == State::Open || state == State::Written && ends.contains(token)
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
        assert_eq!(first_end(&canvas(&[9, 5, 9, 0]), &[9]), Some(2));
        assert_eq!(
            first_end(&canvas(&[9, 0, 9, 0]), &[9]),
            None,
            "a mask lies before it"
        );
        assert_eq!(
            first_end(&canvas(&[9, 5, 5, 5]), &[9]),
            None,
            "a given end token is part of the prompt"
        );
    }
}
