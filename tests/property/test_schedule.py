"""`dllm_fast.schedule` against the specification, and the laws that every schedule obeys."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from reference import schedule as reference
from reference.schedule import NAMES

names = st.sampled_from(NAMES)
masks = st.integers(0, 300)
steps = st.integers(1, 300)
eps = st.sampled_from([1e-3, 1e-5, 0.1, 0.5, 0.99])


@given(names, masks, steps, eps, st.booleans())
def test_equals_the_specification(name, masks, steps, eps, as_published):
    counts = dllm_fast.schedule(name, masks, steps, eps=eps, as_published=as_published)
    assert counts.dtype == np.int64
    assert counts.tolist() == reference.counts(name, masks, steps, eps, as_published=as_published)


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_specification_everywhere_near(name):
    for n in range(41):
        for s in range(1, 41):
            assert dllm_fast.schedule(name, n, s).tolist() == reference.counts(name, n, s), (n, s)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("linear", "cosine")])
@given(masks, steps, eps)
def test_the_other_schedules_are_as_published_either_way(name, masks, steps, eps):
    plain, published = (dllm_fast.schedule(name, masks, steps, eps=eps, as_published=flag) for flag in (False, True))
    assert plain.tolist() == published.tolist()


@given(names, masks, steps, eps)
def test_counts_add_up(name, masks, steps, eps):
    """I7 and I15: one count for each step, none negative, all masks in the end."""
    counts = dllm_fast.schedule(name, masks, steps, eps=eps)
    assert len(counts) == steps
    assert counts.min() >= 0
    assert counts.sum() == masks


@given(masks, steps)
def test_even_counts_differ_by_one_and_never_rise(masks, steps):
    counts = dllm_fast.schedule("even", masks, steps)
    assert counts.max() - counts.min() <= 1
    assert np.all(np.diff(counts) <= 0)


@given(names, masks)
def test_one_step_takes_all(name, masks):
    assert dllm_fast.schedule(name, masks, 1).tolist() == [masks]


@given(st.integers(1, 300), steps)
def test_maskgit_keeps_one_mask_until_the_last_step(masks, steps):
    counts = dllm_fast.schedule("maskgit", masks, steps)
    assert counts[-1] >= 1
    left = masks - np.cumsum(counts)
    assert np.all(counts[left >= 1] >= (left + counts > 1)[left >= 1]), "while two are left, every step commits"
    ideal = masks * np.cos(np.pi / 2 * np.arange(1, steps) / steps)
    assert np.all(left[:-1] <= np.maximum(1, ideal + 1e-9))


@given(st.sampled_from(["linear", "cosine"]), st.integers(1, 300), steps)
def test_alpha_schedules_follow_their_noise_level(name, masks, steps):
    """The masks left stay near masks * (1 - alpha): each step rounds by at most a half, and later steps shrink the error."""
    left = masks - np.cumsum(dllm_fast.schedule(name, masks, steps))
    s = np.arange(steps - 1, -1, -1) / steps
    ideal = masks * (s if name == "linear" else np.cos(np.pi / 2 * (1 - s)))
    assert np.all(np.abs(left - ideal) <= 0.5 * np.arange(1, steps + 1))


@given(st.integers(2, 300))
def test_dream_with_one_step_a_mask(masks):
    """Published: the first step commits nothing, the last two, since eps makes n (1 - s/t) fall just short of one."""
    counts = dllm_fast.schedule("dream", masks, masks)
    assert counts.tolist() == [0] + [1] * (masks - 2) + [2]


def published_dream_counts(masks: int, steps: int, eps: float = 1e-3) -> list[int]:
    """As the published loop computes them, in float32 tensors."""
    timesteps = torch.linspace(1, eps, steps + 1)
    left, counts = masks, []
    for i in range(steps):
        t, s = timesteps[i], timesteps[i + 1]
        n = torch.tensor(float(left))
        counts.append(int(n * (1 - s / t)) if i < steps - 1 else left)
        left -= counts[-1]
    return counts


@pytest.mark.parametrize(("masks", "steps"), [(n, s) for n in (7, 32, 64, 128, 256) for s in (4, 16, 64, 128, 256)])
def test_dream_is_the_published_loop(masks, steps):
    assert dllm_fast.schedule("dream", masks, steps).tolist() == published_dream_counts(masks, steps)


def published_expected_counts(name: str, masks: int, steps: int) -> list[int]:
    """dllm's counts under its noise schedules: times and alphas are float32 tensors, the product is float64, a half goes to
    the even number. Deviation: steps that commit nothing stay in the list (published, they are left out)."""

    def alive(time: float) -> torch.Tensor:
        t = torch.as_tensor(time, dtype=torch.float32)
        alpha = 1 - t if name == "linear" else 1 - torch.cos((math.pi / 2) * (1 - t))
        return 1 - alpha

    left, counts = masks, []
    for step in range(steps):
        t, s = (steps - step) / steps, (steps - step - 1) / steps
        share = 1 - (alive(s) / alive(t)).item()
        count = torch.round(torch.tensor(left, dtype=torch.float64) * share)
        counts.append(min(int(count), left))
        left -= counts[-1]
    return counts


@pytest.mark.parametrize(("name", "unlike"), [("linear", 1448), ("cosine", 0)])
def test_as_published_is_the_published_loop_everywhere_near(name, unlike):
    """All pairs up to 64. Float32 just misses halves that exact arithmetic rounds, so that without it so many pairs spend
    their forwards otherwise."""
    pairs = [(n, s) for n in range(1, 65) for s in range(1, 65)]
    published = {pair: published_expected_counts(name, *pair) for pair in pairs}
    ours = {pair: dllm_fast.schedule(name, *pair, as_published=True).tolist() for pair in pairs}
    assert ours == published
    spent = {pair: [k for k in counts if k > 0] for pair, counts in published.items()}
    assert sum([k for k in dllm_fast.schedule(name, *pair) if k > 0] != spent[pair] for pair in pairs) == unlike
    if name == "linear":
        assert (ours[4, 3], dllm_fast.schedule(name, 4, 3).tolist()) == ([1, 1, 2], [1, 2, 1])


def published_even_counts(masks: int, steps: int) -> list[int]:
    """LLaDA's `get_num_transfer_tokens`."""
    counts = [masks // steps] * steps
    for i in range(masks % steps):
        counts[i] += 1
    return counts


@given(masks, steps)
def test_even_is_the_published_rule(masks, steps):
    assert dllm_fast.schedule("even", masks, steps).tolist() == published_even_counts(masks, steps)


BAD = {
    "unknown name": (("evn", 4, 2), {}, ["schedule", "even", "maskgit", "evn"]),
    "negative masks": (("even", -1, 2), {}, ["masks", "at least 0", "-1"]),
    "no steps": (("even", 4, 0), {}, ["steps", "at least 1", "got 0"]),
    "negative steps": (("even", 4, -3), {}, ["steps", "at least 1", "-3"]),
    "eps 0": (("dream", 4, 2), {"eps": 0.0}, ["eps", "(0, 1)", "got 0"]),
    "eps 1": (("dream", 4, 2), {"eps": 1.0}, ["eps", "(0, 1)", "got 1"]),
    "eps nan": (("dream", 4, 2), {"eps": float("nan")}, ["eps", "(0, 1)", "NaN"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused(case):
    arguments, keywords, words = BAD[case]
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.schedule(*arguments, **keywords)
    assert isinstance(caught.value, ValueError)
    assert [word for word in [*words, "; "] if word not in str(caught.value)] == [], str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [(("even", 1.5, 2), {}), (("even", 4, "2"), {}), ((3, 4, 2), {}), (("linear", 4, 2), {"as_published": 1})],
)
def test_wrong_types_are_refused(arguments, keywords):
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.schedule(*arguments, **keywords)
    assert isinstance(caught.value, TypeError)
