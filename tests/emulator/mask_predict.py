"""`dllm_fast.mask_predict` by the emulated kernels, on arrays of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast import _core
from dllm_fast.kernels import launches, laws, layout
from dllm_fast.kernels.laws import Law

from . import build
from .launch import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAN, NOTHING_ALLOWED = 1, 2
FIELDS = tuple(name for name in layout.PREDICTIONS.fields if name not in {"current", "status"})
_CUT = np.dtype([("x", np.float32), ("id", np.uint32), ("floor", np.float32), ("row_max", np.float32)])
_RECORD = np.dtype([(name, np.float32) for name in ("max", "mass", "moment", "draw_mass")])
_DTYPES = {"float32": "float32", "float16": "float16", "uint16": "bfloat16", "int16": "bfloat16"}


@dataclass(frozen=True)
class Prediction:
    """The fields of `dllm_fast.mask_predict`, the status of each row, where filters cut it, and what its tiles add."""

    token: np.ndarray
    probability: np.ndarray
    top1: np.ndarray
    top2: np.ndarray
    entropy: np.ndarray
    logsumexp: np.ndarray
    current: np.ndarray | None
    status: np.ndarray
    cuts: np.ndarray
    records: np.ndarray


def suppressed_bits(ids: Any, vocabulary: int) -> np.ndarray:
    """One bit for each id, lowest first, as the kernels read them."""
    is_suppressed = np.zeros(vocabulary, dtype=bool)
    is_suppressed[np.asarray(ids, dtype=np.int64)] = True
    return np.packbits(is_suppressed, bitorder="little")


def as_array(logits: Any) -> np.ndarray:
    """A torch tensor as a NumPy array in the same memory, bfloat16 as its bits; an array as it is."""
    if isinstance(logits, np.ndarray):
        return logits
    import torch

    return (logits.view(torch.int16) if logits.dtype == torch.bfloat16 else logits).numpy()


def _source(path: Path) -> Path:
    return build.library(path)


def mask_predict(
    logits: Any,
    *,
    temperature: Any = 0.0,
    top_k: Any = None,
    top_p: Any = None,
    min_p: Any = None,
    softcap: float | None = None,
    suppress: Any = (),
    suppress_each: Any = None,
    current: Any = None,
    seed: Any = 0,
    request: Any = 0,
    positions: Any = None,
    step: Any = 0,
    index: Any = None,
    order: int = 0,
    library: Callable[[Path], Path] = _source,
) -> Prediction:
    """As `dllm_fast.mask_predict`, but a row that has no statistics has a status instead.

    Args:
        logits: `[M, V]`, a tensor, or an array where bfloat16 comes as 16-bit integers. Rows may lie apart, the logits of
            a row lie side by side.
        index: `[N]`, which rows are scored; by default all.
        suppress_each: `[N]` of the rows' own ids in place of `suppress`.
        order: of the emulated threads, see `launch.run`.
        library: builds the library of a kernel file.
    """
    matrix = as_array(logits)
    rows, vocabulary = matrix.shape
    n = rows if index is None else len(index)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    distinct, law = _core.row_laws(n, **settings)
    if suppress_each is not None:
        distinct, law = [distinct[i] for i in law], np.arange(n)
    draws = [Law(temperature=t, top_k=k, top_p=p, min_p=m) for t, k, p, m in distinct]
    left_out = [suppress] * len(draws) if suppress_each is None else suppress_each
    bits = [suppressed_bits(ids, vocabulary) if len(ids) > 0 else None for ids in left_out]
    table = laws.table(draws, vocabulary, [0 if one is None else one.ctypes.data for one in bits])
    sites = layout.SITES.pack(
        n,
        {
            "seed": seed,
            "request": request,
            "position": np.arange(n) if positions is None else positions,
            "step": step,
            "line": np.arange(n) if index is None else index,
            "law": law,
            "current": 0 if current is None else current,
        },
    )
    predictions = np.empty(layout.PREDICTIONS.size(n), dtype=np.uint8)
    out = layout.PREDICTIONS.views(predictions, n)
    for values in out.values():
        values[:] = -7  # what a kernel does not write stays recognisable
    records = np.full(n * launches.tiles(vocabulary) * launches.RECORD_BYTES, 0xFF, dtype=np.uint8)
    cuts = np.full(n * launches.CUT_BYTES, 0xFF, dtype=np.uint8)
    dtype = _DTYPES[matrix.dtype.name]
    bins = np.full(launches.bins_bytes(dtype=dtype, sites=n, vocabulary=vocabulary), 0xFF, dtype=np.uint8)
    arrays = {"logits": matrix, "sites": sites, "laws": table, "records": records, "cuts": cuts, "bins": bins}
    buffers = launches.MaskPredictBuffers(
        **{name: array.ctypes.data for name, array in arrays.items()}, predictions=predictions.ctypes.data
    )
    for launch in launches.mask_predict(
        buffers,
        dtype=dtype,
        sites=n,
        vocabulary=vocabulary,
        stride=matrix.strides[0] // matrix.itemsize,
        kind=laws.kind_of(table),
        has_current=current is not None,
        softcap=softcap,
    ):
        run(launch, order=order, library=library(build.KERNELS / f"{launch.file}.cu"))
    if current is None:
        out["current"] = None
    return Prediction(**out, cuts=cuts.view(_CUT), records=records.view(_RECORD))
