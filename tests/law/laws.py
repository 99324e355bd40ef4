"""What it means here that counts follow a law. Every test has a fixed seed, so a pass today is a pass tomorrow."""

from __future__ import annotations

import os

import numpy as np
from scipy import stats

# Probability with which a right sampler would fail one call of `assert_follows`, before its seed was fixed.
ALPHA = 1e-4
# Expected draws in a cell, at least; what is rarer is pooled.
EXPECTED = 10


def draws(fast: int, full: int) -> int:
    """Number of draws: more with LAW=full in the environment."""
    return full if os.environ.get("LAW") == "full" else fast


def pooled(counts, law) -> tuple[np.ndarray, np.ndarray]:
    """Observed and expected draws of the cells. Rare ids are pooled in the order of their probability."""
    counts, law = np.asarray(counts), np.asarray(law, dtype=np.float64)
    assert counts[law == 0].sum() == 0, "an impossible outcome came up"
    order = np.argsort(-law, kind="stable")[: np.count_nonzero(law)]
    observed, expected = counts[order], law[order] * counts.sum()
    cells = np.zeros(len(order), dtype=int)
    cell, room = 0, 0.0
    for i, e in enumerate(expected):
        cells[i] = cell
        room += e
        if room >= EXPECTED:
            cell, room = cell + 1, 0.0
    # What does not fill a cell of its own joins the last one.
    cells = np.minimum(cells, max(cell - (room < EXPECTED), 0))
    return np.bincount(cells, observed), np.bincount(cells, expected)


def p_values(counts, law) -> tuple[float, float]:
    """Of the chi-square over all cells, and of the worst single cell (exact binomial, two-sided, times the cells)."""
    observed, expected = pooled(counts, law)
    if len(observed) == 1:
        return 1.0, 1.0
    chi_square = stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue
    n, p = observed.sum(), expected / expected.sum()
    tail = np.minimum(stats.binom.cdf(observed, n, p), stats.binom.sf(observed - 1, n, p))
    return float(chi_square), float(min(1.0, 2 * tail.min() * len(observed)))


def assert_follows(counts, law, what="") -> None:
    """The counts are a sample of the law: chi-square, and each cell by itself (Bonferroni), half of ALPHA for each."""
    chi_square, cell = p_values(counts, law)
    assert chi_square > ALPHA / 2, f"{what}: chi-square p = {chi_square:.1e}"
    assert cell > ALPHA / 2, f"{what}: worst cell p = {cell:.1e} after Bonferroni"


def assert_independent(a, b, sizes: tuple[int, int], what="") -> None:
    """Two outcomes of the same trials, `0..size-1` each, are independent (chi-square of their table)."""
    table = np.bincount(np.asarray(a) * sizes[1] + np.asarray(b), minlength=sizes[0] * sizes[1]).reshape(sizes)
    p = stats.chi2_contingency(table, correction=False).pvalue
    assert p > ALPHA, f"{what}: p = {p:.1e}"
