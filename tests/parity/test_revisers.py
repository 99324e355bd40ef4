"""Published loops that take tokens back, restated plainly for a batch of one at temperature 0, beside ours.

As published they differ from the rule in what is named here; ours is the rule. ReMDM draws with torch's generator, so its law
is compared, in `tests/law/test_remasks.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

import dllm_fast
import toys
from driving import drive
from strategies import MASK, VOCABULARY

MODELS = [toys.HashTable(VOCABULARY, seed=seed, grid=0.1) for seed in range(12)]


def softmaxes(model, canvas):
    """Probabilities at every position, the mask left out."""
    logits = np.array(model.alone(canvas), dtype=np.float64)
    logits[:, MASK] = -np.inf
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def p2(model, length, steps, eta):
    """P2 (2502.03540): all are ranked by log-probability, that of what stands times eta; the lowest are masks again."""
    canvas = np.full(length, MASK)
    for step in range(steps):
        p = softmaxes(model, canvas)
        is_masked = canvas == MASK
        tokens = np.where(is_masked, p.argmax(axis=1), canvas)
        scores = np.log(p[np.arange(length), tokens])
        scores[~is_masked] *= eta
        masks = length * (steps - step - 1) // steps
        lowest = np.argsort(scores, kind="stable")[:masks]
        canvas = tokens.copy()
        canvas[lowest] = MASK
    return canvas


def saber(model, length, n=2, *, is_published=False):
    """Saber (2510.18165). Published: a fall is one against the forward before, of the token that is likeliest now, and what was
    written just now may be taken back at once."""
    canvas, first, last = np.full(length, MASK), np.full(length, np.nan), np.zeros(length)
    while (canvas == MASK).any():
        p = softmaxes(model, canvas)
        is_masked = canvas == MASK
        likeliest = p.max(axis=1)
        known = first[~is_masked]
        bar = known.mean() if known.size else 1.0
        order = [i for i in np.argsort(-likeliest, kind="stable") if is_masked[i]]
        count = max(min(n, len(order)), sum(likeliest[i] > bar for i in order))
        picks = order[:count]
        now = likeliest if is_published else p[np.arange(length), canvas]
        falls = (last if is_published else first) - now
        canvas[picks], first[picks] = p[picks].argmax(axis=1), likeliest[picks]
        last = likeliest
        if not (canvas == MASK).any():
            break
        back = min(max(n // 2, -(-count // 8)), count - 1)
        may_go = np.flatnonzero(canvas != MASK) if is_published else np.flatnonzero(~is_masked)
        lost = may_go[np.argsort(-falls[may_go], kind="stable")][:back]
        canvas[lost], first[lost] = MASK, np.nan
    return canvas


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("length", "steps"), [(9, 9), (9, 4), (5, 13)])
def test_p2(length, steps, eta):
    for model in MODELS:
        config = {"mask_token_id": MASK, "schedule": "linear", "steps_per_block": steps, "remask": "planner", "remask_eta": eta}
        ours = drive(config, [np.full(length, MASK)], model)
        assert ours.canvases[0].tolist() == p2(model, length, steps, eta).tolist()


def test_the_presets_are_these_rules():
    presets = dllm_fast.presets()
    assert (presets["p2"].remask, presets["remedi"].remask, presets["saber"].remask) == (
        "planner",
        "planner",
        "confidence-drop",
    )
    assert presets["saber"].min_commit == 2


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_saber(length):
    config = {"mask_token_id": MASK, "remask": "confidence-drop", "min_commit": 2}
    for model in MODELS:
        ours = drive(config, [np.full(length, MASK)], model)
        assert ours.canvases[0].tolist() == saber(model, length).tolist()


def test_what_is_published_of_saber_is_another_rule():
    assert any(saber(model, 16).tolist() != saber(model, 16, is_published=True).tolist() for model in MODELS)
