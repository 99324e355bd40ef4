"""The exact oracle: a "model" that knows the conditional law of every cell of a 4x4 Sudoku grid given the others. It makes
no error, so the law of the answers is the sampler's doing. One at a time, in an order that looks at distributions only,
the chain rule says that every one of the 288 valid grids is equally likely.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from laws import assert_follows, draws, p_values

import dllm_fast
from toys import SudokuOracle

GRIDS = 288
SAMPLES = draws(5_760, 288_000)
BATCH = 1_440


class Oracle(SudokuOracle):
    """The same conditionals for a whole batch in two matrix products."""

    def __init__(self):
        super().__init__()
        self.is_digit = (self.grids[:, :, None] == np.arange(1, 5)).reshape(GRIDS, 64).astype(np.float32)

    def __call__(self, ids):
        canvases = ids.numpy()
        known = (canvases[:, :, None] == np.arange(1, 5)).reshape(-1, 64).astype(np.float32)
        fits = (known @ self.is_digit.T == np.count_nonzero(canvases, axis=1)[:, None]).astype(np.float32)
        counts = (fits @ self.is_digit).reshape(-1, 16, 4)
        logits = np.full((*canvases.shape, self.vocabulary), -np.inf, dtype=np.float32)
        with np.errstate(divide="ignore"):
            logits[:, :, 1:] = np.log(counts)
        logits[counts.sum(axis=2) == 0] = 0  # a grid that nothing completes
        return torch.from_numpy(logits)


ORACLE = Oracle()
EMPTY = np.zeros(16, dtype=np.int64)
NUMBER = {grid.tobytes(): i for i, grid in enumerate(ORACLE.grids)}


def counts(seed: int, canvas=EMPTY, samples=SAMPLES, **settings) -> tuple[np.ndarray, int]:
    """How often each grid was the answer, and how many answers were no valid grid."""
    number = []
    for first in range(0, samples, BATCH):
        result = dllm_fast.infill(
            ORACLE,
            canvas,
            num_samples=min(BATCH, samples - first),
            seed=seed + first,
            mask_token_id=ORACLE.mask,
            temperature=1.0,
            **settings,
        )
        number += [NUMBER.get(answer.tobytes(), -1) for answer in result.sequences]
    number = np.array(number)
    return np.bincount(number[number >= 0], minlength=GRIDS), int((number < 0).sum())


def distance(found: np.ndarray) -> float:
    """Total variation between the answers and the uniform law."""
    return 0.5 * float(np.abs(found / found.sum() - 1 / GRIDS).sum())


def noise_floor(samples: int, quantile: float) -> float:
    """The distance of a perfect sampler, which is above zero for any finite number of samples."""
    perfect = np.random.default_rng(0).multinomial(samples, np.full(GRIDS, 1 / GRIDS), size=2000)
    return float(np.quantile([distance(one) for one in perfect], quantile))


ONE_AT_A_TIME = {
    "confidence": {"order": "confidence"},
    "margin": {"order": "margin"},
    "entropy": {"order": "entropy"},
    "random": {"order": "random"},
    "left-to-right": {"order": "left-to-right"},
    "confidence with noise": {"order": "confidence", "order_temperature": 0.3},
    "in blocks": {"order": "entropy", "block_length": 4},
    "a threshold that none reaches": {"threshold": 1.5},
    "entropy bound 0": {"order": "entropy", "entropy_bound": 0.0},
    "first-hitting": {"preset": "first-hitting"},
}


def test_the_batched_oracle_is_the_oracle():
    canvases = ORACLE.grids[::7].copy()
    canvases[np.random.default_rng(1).random(canvases.shape) < 0.6] = ORACLE.mask
    assert torch.equal(ORACLE(torch.from_numpy(canvases)), SudokuOracle()(torch.from_numpy(canvases)))


@pytest.mark.parametrize("case", ONE_AT_A_TIME)
def test_one_at_a_time_every_grid_is_equally_likely(case):
    found, invalid = counts(list(ONE_AT_A_TIME).index(case) * 10**6, **ONE_AT_A_TIME[case])
    assert invalid == 0
    assert_follows(found, np.full(GRIDS, 1 / GRIDS), case)
    assert distance(found) < noise_floor(SAMPLES, 0.9999), case


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_a_puzzle_is_completed_uniformly(order):
    """Given tokens condition the law: two givens leave 18 or 24 of the grids."""
    canvas = EMPTY.copy()
    canvas[[0, 6]] = 1, 2
    fits = ((canvas == 0) | (ORACLE.grids == canvas)).all(axis=1)
    found, invalid = counts(7, canvas, SAMPLES // 4, order=order)
    assert invalid == 0
    assert 1 < fits.sum() < GRIDS
    assert_follows(found, fits / fits.sum(), order)


def test_ranking_by_the_drawn_token_biases_the_law():
    """As LLaDA, MaskGIT and Fast-dLLM publish it: positions that happened to draw a likely token go first."""
    found, invalid = counts(0, order="sampled-confidence")
    assert invalid == 0
    chi_square, _ = p_values(found, np.full(GRIDS, 1 / GRIDS))
    assert chi_square < 1e-30
    assert distance(found) > 1.5 * noise_floor(SAMPLES, 0.9999)


def test_two_at_a_time_is_not_the_law():
    """Positions committed together are drawn independently of each other; the oracle shows what that costs."""
    found, invalid = counts(0, samples=1000, order="random", steps=8)
    assert invalid > 0.2 * 1000
    assert found.sum() + invalid == 1000
