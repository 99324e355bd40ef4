"""The law of APD, by enumeration: the verifier's where the model knows the next token; more is not promised."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from laws import assert_follows, draws

import dllm_fast
from reference import agreed

MASK, LENGTH, TEMPERATURE = 3, 4, 0.8


def table(seed: int):
    """Logits of the next token behind each beginning."""
    rng = np.random.default_rng(seed)
    return {
        begin: np.append(rng.normal(0, 1.5, 3), -np.inf).astype(np.float32)
        for n in range(LENGTH)
        for begin in itertools.product(range(3), repeat=n)
    }


def causal(known, canvas):
    """Line i predicts position i + 1; line 0 is of a token that is always there."""
    return np.array([known[tuple(canvas[1 : i + 1].tolist())] for i in range(len(canvas) - 1)])


def answers(seed: int, weight: float, *, knows_next: bool) -> np.ndarray:
    """Many answers, one row each."""
    known, other = table(seed), table(seed + 1)
    config = dllm_fast.SamplerConfig(
        mask_token_id=MASK, order="left-to-right", verifier_mixture=weight, temperature=TEMPERATURE
    )
    rows = draws(4000, 40000)
    sampler = dllm_fast.Sampler(config, [[0] + [MASK] * LENGTH] * rows, seed=9, request=list(range(rows)))
    kept: dict[int, np.ndarray] = {}
    while (request := sampler.next()) is not None:
        lines = []
        looks = request.causal.all()
        asked = zip(request.rows.tolist(), request.canvases, request.positions, request.proposed, strict=True)
        for row, shown, positions, proposed in asked:
            if looks:
                shown[positions] = proposed
                lines.append(agreed.mixed(kept.pop(row), causal(known, shown)[positions - 1], weight))
                continue
            written = tuple(shown[1 : positions[0]].tolist())
            # Further right it says what would stand there behind other tokens.
            logits = np.array([other[(0,) * (p - 1)] for p in positions.tolist()])
            logits[0] = known[written] if knows_next else other[written]
            kept[row] = logits
            lines.append(logits)
        sampler.feed(np.concatenate(lines))
    return np.stack(sampler.canvases)[:, 1:]


def softmax(logits):
    weights = np.exp(logits[:3].astype(np.float64) / TEMPERATURE)
    return weights / weights.sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_law_is_the_verifiers_where_the_model_knows_the_next_token(seed):
    known = table(seed)
    law = np.ones(3**LENGTH)
    for i, answer in enumerate(itertools.product(range(3), repeat=LENGTH)):
        for n in range(LENGTH):
            law[i] *= softmax(known[answer[:n]])[answer[n]]
    found = answers(seed, 0.0, knows_next=True)
    cells = found @ (3 ** np.arange(LENGTH)[::-1])
    assert_follows(np.bincount(cells, minlength=3**LENGTH), law)


def test_the_first_token_of_a_step_is_the_models_whatever_the_weight():
    """So the law is not the verifier's in general: that is not promised."""
    for weight in (0.0, 0.5, 1.0):
        found = answers(4, weight, knows_next=False)
        assert_follows(np.bincount(found[:, 0], minlength=3), softmax(table(5)[()]))


def test_all_the_weight_is_the_models_own_law_position_by_position():
    found = answers(4, 1.0, knows_next=False)
    for place in range(1, LENGTH):
        assert_follows(np.bincount(found[:, place], minlength=3), softmax(table(5)[(0,) * place]))
