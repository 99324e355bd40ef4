"""`dllm_fast.mask_predict` by the emulated kernels, on arrays of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.kernels import launches

from . import build
from .launch import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAN, NOTHING_ALLOWED = 1, 2
FIELDS = ("token", "probability", "top1", "top2", "entropy", "logsumexp")
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
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    softcap: float | None = None,
    suppress: Any = (),
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
        order: of the emulated threads, see `launch.run`.
        library: builds the library of a kernel file.
    """
    matrix = as_array(logits)
    rows, vocabulary = matrix.shape
    n = rows if index is None else len(index)
    kept = []  # arrays must outlive the launches

    def array(values: Any, dtype: Any) -> int:
        held = np.ascontiguousarray(np.broadcast_to(np.asarray(values, dtype=dtype), n))
        kept.append(held)
        return int(held.ctypes.data)

    def result(dtype: Any) -> np.ndarray:
        return np.full(n, -7, dtype=dtype)  # what a kernel does not write stays recognisable

    out = {name: result(np.int64 if name == "token" else np.float64) for name in FIELDS}
    status = result(np.int32)
    probability_of_current = None if current is None else result(np.float64)
    records = np.full(n * launches.tiles(vocabulary) * launches.RECORD_BYTES, 0xFF, dtype=np.uint8)
    cuts = np.full(n * launches.CUT_BYTES, 0xFF, dtype=np.uint8)
    dtype = _DTYPES[matrix.dtype.name]
    bins = np.full(launches.bins_bytes(dtype=dtype, sites=n, vocabulary=vocabulary), 0xFF, dtype=np.uint8)
    bits = suppressed_bits(suppress, vocabulary) if len(suppress) > 0 else None
    buffers = launches.MaskPredictBuffers(
        logits=matrix.ctypes.data,
        index=0 if index is None else array(index, np.int32),
        suppressed=0 if bits is None else bits.ctypes.data,
        records=records.ctypes.data,
        cuts=cuts.ctypes.data,
        bins=bins.ctypes.data,
        seed=array(seed, np.uint64),
        request=array(request, np.uint32),
        position=array(np.arange(n) if positions is None else positions, np.uint32),
        step=array(step, np.uint32),
        current=0 if current is None else array(current, np.int32),
        probability_of_current=0 if probability_of_current is None else probability_of_current.ctypes.data,
        status=status.ctypes.data,
        **{name: values.ctypes.data for name, values in out.items()},
    )
    for launch in launches.mask_predict(
        buffers,
        dtype=dtype,
        sites=n,
        vocabulary=vocabulary,
        stride=matrix.strides[0] // matrix.itemsize,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        softcap=softcap,
    ):
        run(launch, order=order, library=library(build.KERNELS / f"{launch.file}.cu"))
    return Prediction(**out, current=probability_of_current, status=status, cuts=cuts.view(_CUT), records=records.view(_RECORD))
