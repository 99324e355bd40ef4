//! What ends a row besides its end tokens: sequences of tokens.

use crate::canvas::{Canvas, State};
use crate::error::{Error, Result};

/// Positions of the tokens that ended a row, the first and the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Position of the first.
    pub first: usize,
    /// Position of the last: what stands behind it is no part of the answer.
    pub last: usize,
}

/// Ids of all stops together at most: each is looked for at every position that was written.
pub const MOST_STOP_IDS: usize = 1024;

/// Refuses stops that can never be written.
pub fn check(stops: &[Vec<u32>], excluded: &[u32]) -> Result<()> {
    let ids = || stops.iter().flatten();
    if stops.iter().any(Vec::is_empty) {
        return Err(Error::setting(
            "stop",
            "must be tokens, at least one in each",
            "a stop without any",
            "leave it out",
        ));
    }
    if ids().count() > MOST_STOP_IDS {
        return Err(Error::setting(
            "stop",
            "must hold at most 1024 ids in all",
            ids().count(),
            "name those that end an answer",
        ));
    }
    if let Some(id) = ids().find(|id| excluded.binary_search(id).is_ok()) {
        return Err(Error::setting(
            "stop",
            "must be tokens that may be written, neither the mask nor suppressed",
            id,
            "leave it out, or take it out of suppress_tokens",
        ));
    }
    Ok(())
}

/// The first place where a row ends: at an end token, or at a stop whose tokens stand side by side. All of them were written
/// (not given), none of them before `from`, and nothing before the last of them is open. Of two that end with the same token,
/// the longer one.
pub fn ending(
    canvas: &Canvas,
    is_end: impl Fn(u32) -> bool,
    stops: &[Vec<u32>],
    from: usize,
) -> Option<Ending> {
    let (states, tokens) = (canvas.states(), canvas.tokens());
    // By their last token, so that a position costs what ends with its token, however many others there are.
    let mut by_last: Vec<(u32, &[u32])> = stops
        .iter()
        .filter_map(|stop| stop.last().map(|&last| (last, &stop[..])))
        .collect();
    by_last.sort_unstable_by_key(|&(last, _)| last);
    let ending_with = |token: u32| {
        let first = by_last.partition_point(|&(last, _)| last < token);
        by_last[first..]
            .iter()
            .take_while(move |&&(last, _)| last == token)
            .map(|&(_, stop)| stop)
    };
    let mut written = 0; // of the run of written positions that ends here
    for (last, &state) in states.iter().enumerate() {
        written = match state {
            State::Open => return None,
            State::Given => 0,
            State::Written if last < from => 0,
            State::Written => written + 1,
        };
        let run = &tokens[last + 1 - written..=last];
        let found = ending_with(tokens[last]).filter(|stop| run.ends_with(stop));
        let is_one = written > 0 && is_end(tokens[last]);
        let longest = found.map(<[u32]>::len).chain(is_one.then_some(1)).max();
        if let Some(length) = longest {
            let first = last + 1 - length;
            return Some(Ending { first, last });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::edit::{Edit, Kind};

    /// A canvas that begins with a given 1 and goes on with `tokens`, of which zeros are open.
    fn canvas(tokens: &[u32]) -> Canvas {
        let start = [&[1], &vec![0; tokens.len()][..]].concat();
        let mut canvas = Canvas::new(start, Some(0), None);
        let commit = |(p, &token): (usize, &u32)| Edit {
            step: 0,
            position: p as u32 + 1,
            token,
            probability: 1.0,
            kind: Kind::Commit,
            time: f64::NAN,
        };
        let written = tokens.iter().enumerate().filter(|(_, t)| **t != 0);
        canvas.apply(&written.map(commit).collect::<Vec<_>>());
        canvas
    }

    fn found(tokens: &[u32], ends: &[u32], stops: &[&[u32]]) -> Option<(usize, usize)> {
        found_from(0, tokens, ends, stops)
    }

    fn found_from(
        from: usize,
        tokens: &[u32],
        ends: &[u32],
        stops: &[&[u32]],
    ) -> Option<(usize, usize)> {
        let stops: Vec<Vec<u32>> = stops.iter().map(|stop| stop.to_vec()).collect();
        let found = ending(&canvas(tokens), |id| ends.contains(&id), &stops, from);
        found.map(|ending| (ending.first, ending.last))
    }

    #[test]
    fn the_first_that_is_whole_ends_a_row() {
        assert_eq!(found(&[5, 6, 7, 8], &[], &[&[6, 7]]), Some((2, 3)));
        assert_eq!(found(&[5, 6, 0, 7], &[], &[&[6, 7]]), None);
        assert_eq!(found(&[5, 0, 6, 7], &[], &[&[6, 7]]), None, "open before");
        assert_eq!(found(&[5, 6, 7, 0], &[], &[&[7, 8], &[6, 7]]), Some((2, 3)));
        assert_eq!(
            found(&[1, 6], &[], &[&[1, 1]]),
            None,
            "the first 1 is given"
        );
        assert_eq!(found(&[5, 9, 6], &[9], &[&[5, 9], &[6]]), Some((1, 2)));
        assert_eq!(found(&[5, 9, 6], &[6], &[]), Some((3, 3)));
        assert_eq!(found_from(2, &[6, 7, 6, 7], &[], &[&[6, 7]]), Some((3, 4)));
        assert_eq!(found_from(3, &[6, 7, 6, 7], &[], &[&[6, 7]]), Some((3, 4)));
        assert_eq!(found_from(4, &[6, 7, 6, 7], &[], &[&[6, 7]]), None);
    }

    #[test]
    fn stops_that_cannot_be_written_are_refused() {
        assert!(check(&[vec![1], vec![2, 3]], &[0, 4]).is_ok());
        for bad in [vec![], vec![2, 4], vec![7; 1025]] {
            assert!(check(&[vec![1], bad], &[0, 4]).is_err());
        }
    }
}
