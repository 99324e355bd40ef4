"""Draws through the public calls, `mask_predict` and `Sampler.predict`, follow their law: alone and after each filter.

`tests/law/categorical.rs` draws 10^7 times in each case from the core; this proves that what Python calls is that, with
the dtypes, the random stream and the indices that the binding hands over.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from laws import ALPHA, assert_follows, assert_independent, draws, p_values

import dllm_fast
from dllm_fast import Sampler, SamplerConfig

DRAWS = {50: draws(10**6, 10**7), 32_000: draws(10_000, 500_000), 262_144: draws(1_000, 100_000)}
ROWS = 100_000
FILTERS = {
    "none": {},
    "temperature": {"temperature": 0.8},
    "top-k": {"top_k": 20},
    "top-p": {"top_p": 0.95},
    "min-p": {"min_p": 2e-4},
    "all": {"temperature": 1.25, "top_k": 25, "top_p": 0.98, "min_p": 1e-3},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def row(vocabulary: int, dtype: torch.dtype) -> torch.Tensor:
    """Probabilities that fall from a few tenths to 1e-7, the ids in random order; the last two ids are at -inf."""
    rng = np.random.default_rng(vocabulary)
    rank = rng.permutation(vocabulary)
    slope = {50: 16 / 50, 32_000: 1.42, 262_144: 1.1}[vocabulary]
    logits = -slope * (rank if vocabulary == 50 else np.log1p(rank))
    logits[-2:] = -np.inf
    return torch.from_numpy(logits).to(dtype)


def law(x: torch.Tensor, *, temperature=1.0, top_k=None, top_p=None, min_p=None) -> np.ndarray:
    """The distribution by sorting, in float64."""
    logits = x.double().numpy()
    weights = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-logits, kind="stable")[:top_k]
    if top_p is not None:
        share = weights[order].cumsum() / weights[order].sum()
        order = order[: np.searchsorted(share, top_p) + 1]
    order = order[weights[order] >= (min_p or 0.0)]
    kept = np.zeros_like(weights)
    kept[order] = weights[order]
    return kept / kept.sum()


def well_apart(x: torch.Tensor, settings: dict) -> dict:
    """The settings with `top_p` moved into the middle of an id's share, so that no rounding moves the cut."""
    if "top_p" not in settings:
        return settings
    before = {name: value for name, value in settings.items() if name not in ("top_p", "min_p")}
    share = np.sort(law(x, **before))[::-1].cumsum()
    last = np.searchsorted(share, settings["top_p"])
    return settings | {"top_p": float(share[last - 1 : last + 1].mean())}


def drawn(x: torch.Tensor, n: int, seed: int, **settings) -> np.ndarray:
    """How often each id is drawn at positions 0 to n - 1 of one canvas."""
    vocabulary = len(x)
    counts = np.zeros(vocabulary, dtype=np.int64)
    matrix = x.expand(ROWS, vocabulary).contiguous() if vocabulary == 50 else None
    for first in range(0, n, ROWS):
        positions = np.arange(first, min(first + ROWS, n))
        if matrix is not None:
            tokens = dllm_fast.mask_predict(matrix[: len(positions)], seed=seed, positions=positions, **settings).token
        else:
            # One line of logits for all positions, which only `Sampler.predict` takes.
            config = SamplerConfig(mask_token_id=vocabulary - 1, **settings)
            sampler = Sampler(config, [np.full(len(positions), vocabulary - 1)], seed=seed, request=first // ROWS)
            sampler.next()
            tokens = sampler.predict(x[None], index=np.zeros(len(positions), dtype=np.int64)).token
        counts += np.bincount(tokens, minlength=vocabulary)
    return counts


# What widens half of the bits is asked once a way: for all rows at vocabulary 50, for tiles of one row at 32,000.
WAYS = [(vocabulary, dtype) for vocabulary in DRAWS for dtype in DTYPES if (vocabulary, dtype) != (262_144, "bfloat16")]


@pytest.mark.parametrize("case", FILTERS)
@pytest.mark.parametrize(("vocabulary", "dtype"), WAYS)
def test_draws_follow_their_law(vocabulary, case, dtype):
    x = row(vocabulary, DTYPES[dtype])
    settings = well_apart(x, {"temperature": 1.0} | FILTERS[case])
    seed = 100 * list(FILTERS).index(case) + list(DTYPES).index(dtype)
    assert_follows(drawn(x, DRAWS[vocabulary], seed, **settings), law(x, **settings), case)


def test_a_planted_bias_of_one_percent_is_caught():
    x = row(50, torch.float32)
    expected = law(x)
    biased = x.clone()
    biased[expected.argmax()] += np.log(1.01)
    counts = drawn(biased, 4 * 10**6, 1, temperature=1.0)
    assert_follows(counts, law(biased))
    chi_square, cell = p_values(counts, expected)
    assert chi_square < ALPHA / 2
    assert cell < ALPHA / 2


@pytest.mark.parametrize("neighbour", ["position", "step", "request", "seed"])
def test_draws_of_neighbours_are_independent(neighbour):
    """Of two positions, two steps, two samples and two seeds that differ by one."""
    n = draws(200_000, 2_000_000)
    x = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    matrix = x.expand(n, 4).contiguous()
    place = {"seed": 3, "request": 0, "step": 0}
    first = dllm_fast.mask_predict(matrix, temperature=1.0, positions=np.arange(n), **place).token
    if neighbour == "position":
        second = np.roll(first, 1)
    else:
        second = dllm_fast.mask_predict(
            matrix, temperature=1.0, positions=np.arange(n), **place | {neighbour: place[neighbour] + 1}
        ).token
    assert_follows(np.bincount(second, minlength=4), [0.1, 0.2, 0.3, 0.4])
    assert_independent(first, second, (4, 4), neighbour)


def test_an_infinite_logit_takes_everything_evenly():
    x = torch.zeros(50)
    x[[4, 20, 49]] = torch.inf
    expected = np.zeros(50)
    expected[[4, 20, 49]] = 1 / 3
    assert_follows(drawn(x, 100_000, 5, temperature=0.7), expected)
