"""What ReMDM promises of its law: the share of clean positions by enumeration, what comes back, tokens by chi-square."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import dllm_fast
import toys
from reference import remask
from reference.schedule import Step

MASK, VOCABULARY = 3, 4


def config_of(kind: str, schedule: str, eta: float) -> SimpleNamespace:
    return SimpleNamespace(remask=kind, schedule=schedule, remask_eta=eta, order="ancestral")


def alive(schedule: str, t: float) -> float:
    """Share of masks at a time; `loop` is linear up to nine tenths, stands still, and is linear again."""
    if schedule == "loop":
        return float(np.interp(t, [0.0, 0.05, 0.55, 1.0], [0.0, 0.1, 0.1, 1.0]))
    return {"linear": t, "cosine": math.cos(math.pi / 2 * (1 - t))}[schedule]


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [("cap", "linear"), ("cap", "cosine"), ("rescale", "linear"), ("rescale", "cosine"), ("loop", "linear")],
)
@pytest.mark.parametrize("eta", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("steps", [5, 20])
def test_the_share_of_clean_positions_by_enumeration(kind, schedule, eta, steps):
    """All ways of three positions through all steps, each with its probability: P(clean at s) is alpha_s, jointly binomial."""
    length, own = 3, "loop" if kind == "loop" else schedule
    states = {(False,) * length: 1.0}
    for index in range(steps):
        step = Step(index, steps, length, 0)
        fill, back = remask.chances(config_of(kind, schedule, eta), step)
        after: dict[tuple[bool, ...], float] = {}
        expected_back = 0.0
        for state, p in states.items():
            for turned in itertools.product((False, True), repeat=length):
                chance = p
                for is_clean, is_turned in zip(state, turned, strict=True):
                    one = back if is_clean else fill
                    chance *= one if is_turned else 1.0 - one
                then = tuple(a != b for a, b in zip(state, turned, strict=True))
                after[then] = after.get(then, 0.0) + chance
                expected_back += chance * sum(a and b for a, b in zip(state, turned, strict=True))
        t, s = (steps - index) / steps, (steps - index - 1) / steps
        clean = 1.0 - alive(own, s)
        assert expected_back == pytest.approx(back * length * (1.0 - alive(own, t)), abs=1e-12)
        for state, p in after.items():
            k = sum(state)
            assert p == pytest.approx(clean**k * (1 - clean) ** (length - k), abs=1e-12)
        states = after
        assert back <= (0.0 if kind == "loop" and not 0.05 < t <= 0.55 else eta)
    assert states[(True,) * length] == pytest.approx(1.0)


class Independent(toys.Toy):
    """The same distribution at every position, whatever stands around it."""

    vocabulary = VOCABULARY
    probabilities = np.array([0.5, 0.3, 0.2])

    def row(self, canvas):
        logits = np.full((len(canvas), VOCABULARY), -np.inf)
        logits[:, :3] = np.log(self.probabilities)
        return logits


@pytest.mark.parametrize("kind", ["cap", "rescale", "confidence", "loop"])
def test_tokens_and_what_comes_back_in_the_core(kind):
    """Fixed seeds: tokens are the model's (chi-square), remasks as many as expected, forwards at most the steps."""
    length, steps, rows, eta = 16, 12, 400, 0.3
    config = dllm_fast.SamplerConfig(
        mask_token_id=MASK, order="ancestral", schedule="linear", steps=steps, temperature=1.0, remask=kind, remask_eta=eta
    )
    sampler = dllm_fast.Sampler(config, [[MASK] * length] * rows, seed=5, request=list(range(rows)))
    model = Independent()
    while (request := sampler.next()) is not None:
        sampler.feed(np.concatenate([model.row(p).astype(np.float32) for p in request.positions]))
    assert max(sampler.nfe_per_row) <= steps
    tokens = np.concatenate(sampler.canvases)
    counts, expected = np.bincount(tokens, minlength=3)[:3], model.probabilities * len(tokens)
    # Two degrees of freedom: above 13.8 with probability 0.001.
    assert ((counts - expected) ** 2 / expected).sum() < 13.8
    back = sum(edit.kind == "remask" for edits in sampler.trajectory for edit in edits)
    if kind in ("cap", "rescale"):
        settings = config_of(kind, "linear", eta)
        mean = sum(
            remask.chances(settings, Step(j, steps, length, 0))[1] * length * (1 - alive("linear", (steps - j) / steps))
            for j in range(steps)
        )
        # A sum of bounded draws: its deviation is less than the square root of its mean.
        assert abs(back - rows * mean) < 4 * (rows * mean) ** 0.5
    else:
        assert back > 0


@pytest.mark.parametrize(("kind", "steps"), [("cap", 6), ("rescale", 6), ("loop", 20)])
def test_the_share_of_clean_positions_in_the_core(kind, steps):
    """So many positions that no step is idle: behind each forward as many are written as the schedule says, binomially."""
    length, rows = 200, 100
    config = dllm_fast.SamplerConfig(
        mask_token_id=MASK, order="ancestral", schedule="linear", steps=steps, remask=kind, remask_eta=0.3
    )
    sampler = dllm_fast.Sampler(config, [[MASK] * length] * rows, seed=6, request=list(range(rows)))
    for step in range(1, steps + 1):
        count = sum(map(len, sampler.next().positions))
        sampler.feed(np.tile(np.array([1.0, 0, 0, 0], dtype=np.float32), (count, 1)))
        clean = 1 - alive("loop" if kind == "loop" else "linear", 1 - step / steps)
        written = np.array([(canvas != MASK).sum() for canvas in sampler.canvases])
        # Both of the sums below, of a binomial: one of 32 is four deviations off in one of 500 runs.
        variance = length * clean * (1 - clean)
        assert abs(written.mean() - length * clean) <= 4 * math.sqrt(variance / rows)
        assert variance * (1 - 4 * math.sqrt(2 / rows)) <= written.var() <= variance * (1 + 4 * math.sqrt(2 / rows))
    assert sampler.next() is None
    assert sampler.nfe_per_row == [steps] * rows


def test_the_least_sure_are_taken_back_most_often():
    """`confidence`: at the second of three steps sigma is 1, and each written position has its share of a softmax of how unsure
    it was when it was written, whatever the model says of it now."""
    length, rows = 40, 3000
    config = dllm_fast.SamplerConfig(
        mask_token_id=MASK, order="ancestral", schedule="linear", steps=3, remask="confidence", remask_eta=1.0
    )
    sampler = dllm_fast.Sampler(config, [[MASK] * length] * rows, seed=8, request=list(range(rows)))
    sure = np.resize([0.05, 0.4, 0.95], length)
    for told in (sure, 1 - sure):
        request = sampler.next()
        p = told[np.concatenate(request.positions)]
        sampler.feed(
            prediction=dllm_fast.Prediction(token=np.zeros(len(p), dtype=int), probability=p, top1=p, top2=0 * p, entropy=p)
        )
    mean, variance, found = np.zeros((3, length))
    for edits in sampler.trajectory:
        written = [edit.position for edit in edits if edit.step == 0]
        share = np.exp(-sure[written]) / np.exp(-sure[written]).sum()
        mean[written] += share
        variance[written] += share * (1 - share)
        found[[edit.position for edit in edits if edit.kind == "remask" and edit.step == 1]] += 1
    assert np.abs((found - mean) / np.sqrt(variance)).max() < 4.5  # one of 40 exceeds it in one of 3,700 cases
    assert found[0::3].mean() > 1.3 * found[1::3].mean() > 1.3**2 * found[2::3].mean()
