"""The commit by the emulated kernel, on arrays of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dllm_fast.kernels import launches, layout

from .launch import run

_DTYPES = {"site_start": np.int32, "floors": np.int32, "progress": np.float64}


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
        arrays: by name, the inputs of `launches.CommitBuffers` but `cell`, and fields of the records of `layout`.
    """
    given = {name: np.ascontiguousarray(arrays.pop(name), dtype=dtype) for name, dtype in _DTYPES.items()}
    written = np.array(canvases, dtype=np.int64, order="C")
    rows, length = written.shape
    sites = int(given["site_start"][-1])
    for name, record in (("sites", layout.SITES), ("predictions", layout.PREDICTIONS)):
        given[name] = record.pack(sites, {field: arrays.pop(field) for field in list(arrays) if field in record.fields})
    assert not arrays, arrays
    results = {
        name: np.full(n, -7, dtype=np.int32) for name, n in (("chosen", sites), ("committed", rows), ("masks_left", rows))
    }
    row_of_site = np.repeat(np.arange(rows), np.diff(given["site_start"]))
    position = layout.SITES.views(given["sites"], sites)["position"]
    given["cell"] = (row_of_site * length + position).astype(np.int32)
    addresses = {name: array.ctypes.data for name, array in (given | results | {"cells": written}).items()}
    buffers = launches.CommitBuffers(**addresses)
    run(launches.commit(buffers, sites=sites, rows=rows, mask_id=mask_id, **rule), order=thread_order)
    starts, committed = given["site_start"][:-1].tolist(), results["committed"].tolist()
    chosen = [
        None if n < 0 else results["chosen"][start : start + n].tolist() for start, n in zip(starts, committed, strict=True)
    ]
    return Commit(written, chosen, results["masks_left"])
