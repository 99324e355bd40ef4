//! When a distribution has come to rest: KLASS, Kim et al., 2511.05664.

use crate::logits::arith::ln;
use crate::logits::head::Head;

/// How far the distribution `now` is from the one `before`: the Kullback-Leibler divergence over the ids that were in the head
/// before, and all others as one cell. An id that is in the head no more counts with the others.
pub fn divergence(before: &Head, now: &Head) -> f64 {
    let log = |p: f64| ln(p.max(f64::MIN_POSITIVE));
    let term = |p: f64, q: f64| if p > 0.0 { p * (log(p) - log(q)) } else { 0.0 };
    let (mut sum, mut p_inside, mut q_inside) = (0.0, 0.0, 0.0);
    let mut now = now.cells.iter().copied().peekable();
    for &(id, q) in &*before.cells {
        q_inside += q;
        while now.next_if(|&(other, _)| other < id).is_some() {}
        if let Some((_, p)) = now.next_if(|&(other, _)| other == id) {
            p_inside += p;
            sum += term(p, q);
        }
    }
    let rest = |inside: f64| (1.0 - inside).max(0.0);
    (sum + term(rest(p_inside), rest(q_inside))).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(cells: &[(u32, f64)]) -> Head {
        Head {
            cells: cells.into(),
        }
    }

    #[test]
    fn equal_distributions_are_no_way_apart() {
        let one = head(&[(1, 0.3), (4, 0.6), (9, 1e-320)]);
        assert_eq!(divergence(&one, &one), 0.0);
    }

    #[test]
    fn whole_distributions_are_compared_as_the_formula_says() {
        let (q, p) = (
            [(0, 0.5), (1, 0.25), (2, 0.25)],
            [(0, 0.25), (1, 0.5), (2, 0.25)],
        );
        let expected = 0.25 * 2f64.ln();
        assert!((divergence(&head(&q), &head(&p)) - expected).abs() < 1e-15);
    }

    #[test]
    fn what_leaves_the_head_counts_with_the_others() {
        let (q, p) = ([(0, 0.9), (1, 0.05)], [(0, 0.2), (7, 0.8)]);
        let rest = 0.8 * (0.8f64 / 0.05).ln();
        let expected = 0.2 * (0.2f64 / 0.9).ln() + rest;
        assert!((divergence(&head(&q), &head(&p)) - expected).abs() < 1e-12);
        assert!(divergence(&head(&[(0, 1.0)]), &head(&[(1, 1.0)])) > 700.0);
    }
}
