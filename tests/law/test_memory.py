"""Thousands of samples in a row do not grow memory."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

import dllm_fast
from toys import ByPosition

# Samples of rules that draw nothing are compared on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")

MASK = 7
STATUS = Path("/proc/self/status")
MODEL = ByPosition(np.random.default_rng(0).normal(size=(16, 40)))
RULES = [{"threshold": 0.2}, {"order": "random", "steps": 2, "temperature": 1.0, "top_p": 0.9}, {"preset": "mdlm", "steps": 3}]


def resident_kib() -> int:
    gc.collect()
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))


def sample(i: int) -> None:
    """A small sample, in turn by each rule; every tenth with a callback, every seventh refused."""
    on_step = (lambda event: event.canvases) if i % 10 == 0 else None
    dllm_fast.sample(
        MODEL, [1, 2, 3], seed=i, num_samples=2, max_new_tokens=8, mask_token_id=MASK, on_step=on_step, **RULES[i % 3]
    )
    if i % 7 == 0:
        with pytest.raises(dllm_fast.DllmFastError):
            dllm_fast.sample(MODEL, [1, MASK], max_new_tokens=8, mask_token_id=MASK, top_p=2.0)


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
def test_thousands_of_samples_do_not_grow_memory():
    for i in range(1000):
        sample(i)
    before = resident_kib()
    for i in range(4000):
        sample(i)
    growth = resident_kib() - before
    # 100 bytes kept of each sample would be 400 KiB; the allocator itself moves by a few pages.
    assert growth < 400, f"{growth} KiB"


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
def test_ten_thousand_predictions_do_not_grow_memory():
    logits = np.random.default_rng(1).normal(size=(4, 5000)).astype(np.float32)
    settings = {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "min_p": 0.01}
    for i in range(1000):
        dllm_fast.mask_predict(logits, seed=i, **settings)
    before = resident_kib()
    for i in range(10_000):
        dllm_fast.mask_predict(logits, seed=i, **settings)
    growth = resident_kib() - before
    assert growth < 1000, f"{growth} KiB"
