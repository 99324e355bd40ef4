"""Rules that find the length of an answer themselves, in the bench of all presets: through `sample`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import dllm_fast
from bench.quality import Canvas, Check, Point, Setting


def measure(
    model: Callable[..., Any],
    canvases: Sequence[Canvas],
    check: Check,
    setting: Setting,
    *,
    mask: int,
    common: Mapping[str, Any],
    batch_size: int,
) -> Point:
    """As `quality.measure` of canvases that end with masks: what is before them is asked, with as many new tokens at most."""
    began, filled, forwards = time.process_time(), [], []
    for start in range(0, len(canvases), batch_size):
        rows = canvases[start : start + batch_size]
        result = dllm_fast.sample(
            model,
            [row[row != mask].tolist() for row in rows],
            preset=setting.preset,
            seed=list(range(start, start + len(rows))),
            max_new_tokens=max(int((row == mask).sum()) for row in rows),
            **{**common, **setting.over},
        )
        filled += [np.asarray(row) for row in result.sequences]
        forwards += result.stats.nfe_per_row
    return Point(
        setting=setting,
        solved=np.array([check(row) for row in filled], dtype=bool),
        forwards=np.array(forwards, dtype=np.int64),
        cpu_s=time.process_time() - began,
    )
