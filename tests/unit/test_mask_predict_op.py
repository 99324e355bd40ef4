"""Mask prediction over tensors where they lie, its launches run by the emulator: equal to the core, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast.errors import DllmFastError, InvalidValueError
from dllm_fast.ops.mask_predict import Sites, by_kernel, suppressed_bits
from emulator import build
from emulator.launch import run as emulate

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

SEED = 2**64 - 3
FIELDS = ("token", "probability", "top1", "top2", "entropy", "logsumexp", "current")


def run(launches):
    for launch in launches:
        emulate(launch)


def sites(n, **others):
    given = {
        "seed": torch.full((n,), SEED - 2**64),
        "request": torch.full((n,), 2, dtype=torch.int32),
        "position": torch.arange(n, dtype=torch.int32),
        "step": torch.full((n,), -1, dtype=torch.int32),  # the bits of 2^32 - 1
    }
    return Sites(**(given | others))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 9, "top_p": 0.8, "min_p": 0.01}], ids=str
)
def test_it_equals_the_core(dtype, settings):
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (4, 5003))).to(dtype)
    index, current = torch.tensor([3, 0, 3], dtype=torch.int32), torch.tensor([5, 7, 5002], dtype=torch.int32)
    ids = [7, 11, 5002]
    bits = suppressed_bits(ids, 5003, logits.device)
    got = by_kernel(logits, sites(3, index=index, current=current), run=run, suppressed=bits, **settings)
    got.check()
    place = {"seed": SEED, "request": 2, "step": 2**32 - 1}
    core = dllm_fast.mask_predict(logits[index.long()], suppress=ids, current=current, **place, **settings)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(got, field).numpy(), getattr(core, field), err_msg=field)


def test_no_sites_launch_nothing():
    got = by_kernel(torch.zeros(0, 10), sites(0), run=run)
    got.check()
    assert got.token.shape == (0,)
    assert got.current is None


def test_unusable_rows_are_named_when_asked():
    logits = torch.zeros(3, 300)
    logits[1] = -torch.inf
    with pytest.raises(InvalidValueError, match="-inf everywhere in row 1"):
        by_kernel(logits, sites(3), run=run).check()
    logits[1, 299] = torch.nan
    with pytest.raises(InvalidValueError, match="NaN in row 1 at id 299"):
        by_kernel(logits, sites(3), run=run).check()


ROWS = torch.zeros(3, 10)
BAD = {
    "dtype": (ROWS.double(), sites(3), "float64"),
    "shape": (ROWS[0], sites(3), r"\[10\]"),
    "no vocabulary": (ROWS[:, :0], sites(3), r"\[3, 0\]"),
    "strided": (torch.zeros(10, 3).T, sites(3), "contiguous"),
    "too few": (ROWS, sites(2), "seed must have one entry for each of 3"),
    "type of a site": (ROWS, dataclasses.replace(sites(3), step=torch.zeros(3, dtype=torch.int64)), "step must be contiguous"),
    "device": (
        ROWS,
        dataclasses.replace(sites(3), step=torch.zeros(3, dtype=torch.int32, device="meta")),
        "step must be on cpu",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_before_any_launch(case):
    logits, places, words = BAD[case]
    with pytest.raises(DllmFastError, match=words):
        by_kernel(logits, places, run=lambda _: pytest.fail("launched"))


def test_suppressed_ids_must_be_ids():
    with pytest.raises(InvalidValueError, match="below 10, got -1 to 3"):
        suppressed_bits([3, -1], 10, torch.device("cpu"))
    assert suppressed_bits([], 10, torch.device("cpu")) is None
    assert suppressed_bits([0, 9], 10, torch.device("cpu")).tolist() == [1, 2]
