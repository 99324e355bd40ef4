//! When a row is finished before its masks are.

/// Position of the first end token that was written (not given) and has no mask before it.
pub fn first_end(canvas: &[u32], writable: &[bool], mask: u32, ends: &[u32]) -> Option<usize> {
    for (p, &token) in canvas.iter().enumerate() {
        if token == mask {
            return None;
        }
        if writable[p] && ends.contains(&token) {
            return Some(p);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_counts_only_once_nothing_before_it_is_open() {
        let writable = [false, true, true, true];
        assert_eq!(first_end(&[9, 5, 9, 0], &writable, 0, &[9]), Some(2));
        assert_eq!(
            first_end(&[9, 0, 9, 0], &writable, 0, &[9]),
            None,
            "a mask lies before it"
        );
        assert_eq!(
            first_end(&[9, 5, 5, 5], &writable, 0, &[9]),
            None,
            "a given end token is part of the prompt"
        );
    }
}
