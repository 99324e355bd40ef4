"""The commit by the emulated kernel, on arrays of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dllm_fast.kernels import launches

from .launch import run

_DTYPES = {
    "site_start": np.int32,
    "position": np.uint32,
    "seed": np.uint64,
    "request": np.uint32,
    "step": np.uint32,
    "token": np.int64,
    "probability": np.float64,
    "top1": np.float64,
    "top2": np.float64,
    "entropy": np.float64,
    "status": np.int32,
    "floors": np.int32,
    "progress": np.float64,
}


@dataclass(frozen=True)
class Commit:
    """What a commit did. `chosen`: for each row the sites that it committed, best first; None for an unusable row."""

    canvases: np.ndarray
    chosen: list[list[int] | None]
    masks_left: np.ndarray


def commit(canvases: Any, *, mask_id: int, thread_order: int = 0, rule: dict[str, Any], **arrays: Any) -> Commit:
    """Commits into a copy of the canvases `[R, length]`.

    Args:
        rule: `order`, `cut`, `bound`, `order_temperature` and `is_annealed` of `launches.commit`.
        arrays: the inputs of `launches.CommitBuffers` but `cell`, by name.
    """
    given = {name: np.ascontiguousarray(arrays[name], dtype=dtype) for name, dtype in _DTYPES.items()}
    written = np.array(canvases, dtype=np.int64, order="C")
    rows, length = written.shape
    sites = int(given["site_start"][-1])
    results = {
        name: np.full(n, -7, dtype=np.int32) for name, n in (("chosen", sites), ("committed", rows), ("masks_left", rows))
    }
    row_of_site = np.repeat(np.arange(rows), np.diff(given["site_start"]))
    given["cell"] = (row_of_site * length + given["position"]).astype(np.int32)
    addresses = {name: array.ctypes.data for name, array in (given | results | {"cells": written}).items()}
    buffers = launches.CommitBuffers(**addresses)
    run(launches.commit(buffers, rows=rows, mask_id=mask_id, **rule), order=thread_order)
    starts, committed = given["site_start"][:-1].tolist(), results["committed"].tolist()
    chosen = [
        None if n < 0 else results["chosen"][start : start + n].tolist() for start, n in zip(starts, committed, strict=True)
    ]
    return Commit(written, chosen, results["masks_left"])
