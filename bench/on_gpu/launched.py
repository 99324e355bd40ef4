"""Which kernels a check launches: told beforehand, counted, and compared, so that no check passes by another's work."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import torch

from dllm_fast import _core
from dllm_fast.kernels import launches
from dllm_fast.kernels.laws import Law, kind_for
from dllm_fast.ops import launcher


class LaunchError(AssertionError):
    """Other kernels were launched than the check has named."""


@contextlib.contextmanager
def exactly(kernels: Iterable[str]) -> Iterator[None]:
    """Inside, these kernels are launched, each as often as it is named, and no others.

    Raises:
        LaunchError: names those that were not, and those that nobody named.
    """
    wanted = Counter(kernels)
    with launcher.counted() as counter:
        yield
    if counter != wanted:
        raise LaunchError(
            f"the check must launch the kernels that it names, but misses {dict(wanted - counter)} "
            f"and launched {dict(counter - wanted)} besides"
        )


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    """Inside, torch or the core does the work: kernels count as unusable."""
    usable, launcher.usable = launcher.usable, lambda _device, *_sources: False
    try:
        with exactly(()):
            yield
    finally:
        launcher.usable = usable


#: Dtypes that the kernels of a layer take.
LAYER_DTYPES = tuple(getattr(torch, name) for name in launches.LAYER_SUFFIXES)


# --- what the operations launch, by the code that makes the launches for them


def of_mask_prediction(logits: torch.Tensor, *, softcap: float | None = None, **draw: Any) -> list[str]:
    """The kernels of a mask prediction of all rows of logits `[N, V]`."""
    rows, vocabulary = logits.shape
    dtype = str(logits.dtype).removeprefix("torch.")
    shape = {"sites": rows, "vocabulary": vocabulary, "stride": vocabulary}
    names = ("temperature", "top_k", "top_p", "min_p")
    given = {"temperature": 0.0, "top_k": None, "top_p": None, "min_p": None} | draw
    distinct, _ = _core.row_laws(rows, **given)
    kind = kind_for([Law(**dict(zip(names, law, strict=True))) for law in distinct], vocabulary)  # type: ignore[arg-type]
    return _names(
        launches.mask_predict(_nowhere(launches.MaskPredictBuffers), dtype=dtype, kind=kind, softcap=softcap, **shape)
    )


def of_attention(q: torch.Tensor, k: torch.Tensor) -> list[str]:
    """The kernels of an attention of queries `[B, H, Lq, D]` over keys `[B, key heads, Lk, D]`."""
    batch, heads, queries, depth = q.shape
    shape = {"batch": batch, "heads": heads, "key_heads": k.shape[1], "queries": queries, "keys": k.shape[2]}
    strides = dict.fromkeys(("q_strides", "k_strides", "v_strides", "out_strides"), (0, 0, 0))
    given = {**shape, **strides, "head_dimension": depth, "scale": 1.0, "dtype": str(q.dtype).removeprefix("torch.")}
    return _names(launches.attention(_nowhere(launches.AttentionBuffers), **given))  # type: ignore[arg-type]


def _names(queue: Iterable[launches.Launch]) -> list[str]:
    return [launch.kernel for launch in queue]


def _nowhere(buffers: Any) -> Any:
    """Buffers of these fields that nobody will read."""
    return buffers(**{f.name: 0 for f in fields(buffers)})


def fused(name: str, dtype: torch.dtype) -> str:
    """A kernel of cuda/fused.cu."""
    return f"dllm_fused_{name}_{launches.LAYER_SUFFIXES[str(dtype).removeprefix('torch.')]}"
