"""What the kernels of a layer do not take: the reasons for which torch does their work on a CUDA device, each said once.

Kernels that cannot run at all are the business of `launcher`; here they could, and something about the model is in the way.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING

from dllm_fast.errors import DllmFastWarning
from dllm_fast.kernels import launches

if TYPE_CHECKING:
    import torch

_DTYPES = " and ".join(launches.LAYER_SUFFIXES)
_HEADS = ", ".join(map(str, launches.HEAD_DIMENSIONS[:-1])) + f" and {launches.HEAD_DIMENSIONS[-1]}"
_MASKS = "torch attends, with a mask of queries x keys in memory for each row"

#: What the kernels of a layer take, in a sentence.
TAKEN = f"layers in {_DTYPES}, attention without a bias over heads of {_HEADS}; the rest of a model runs in torch"
#: Attention whose scores get a bias (MPNet, DeBERTa).
BIAS = f"the attention kernel adds nothing to its scores, and this model has a bias there: {_MASKS}; there is no way round it"
#: A shadow: queries that do not see the key of their own position.
SHADOW = (
    "the attention kernel knows ranges of keys, and remask='verify' asks each written token again from behind a mask that sees "
    f"all but its own position: {_MASKS} in the forwards that ask; there is no way round it"
)
#: Queries that are clipped, or grow with their position.
CHANGED_QUERIES = (
    "the kernel between projection and attention norms and rotates, and this model also clips its queries and keys or scales "
    "queries by position: torch does it, in about 15 launches a layer instead of 1; there is no way round it"
)
#: Queries, keys or values that do not lie as the kernel reads them.
LAYOUT = (
    "the attention kernel reads tensors whose last dimension lies together and whose rows begin at multiples of 16 bytes, and "
    f"these do not: {_MASKS}; call contiguous() on them"
)


def of_dtype(dtype: torch.dtype) -> str | None:
    """Why a dtype is left to torch; None for those of the kernels."""
    name = str(dtype).removeprefix("torch.")
    if name in launches.LAYER_SUFFIXES:
        return None
    return (
        f"the kernels of a layer take {_DTYPES}, got {name}: attention, norms, rotations and SwiGLU run in torch, 30 to 50 "
        "launches a layer instead of 6; load the model with dtype='bfloat16'"
    )


def of_head(depth: int) -> str | None:
    """Why the attention with heads of so many numbers is left to torch; None for those of the kernels."""
    if depth in launches.HEAD_DIMENSIONS:
        return None
    return f"the attention kernels take heads of {_HEADS} numbers, got {depth}: {_MASKS}; there is no way round it"


def of_width(what: str, width: int, *, most: int | None = None) -> str | None:
    """Why rows of so many numbers are left to torch; None where the elementwise kernels take them."""
    if width % launches.NEIGHBOURS == 0 and (most is None or width <= most):
        return None
    bound = "" if most is None else f", at most {most}"
    return (
        f"the elementwise kernels take {what} of a multiple of {launches.NEIGHBOURS} numbers{bound}, got {width}: torch does "
        "their work, up to 15 launches instead of 1; there is no way round it"
    )


def tell(device: torch.device, why: str) -> None:
    """Warns, once for each reason, that torch does the work of a kernel on a CUDA device. Elsewhere no kernel would."""
    if device.type == "cuda":
        _warn(why)


@cache
def _warn(why: str) -> None:
    warnings.warn(f"dllm_fast leaves part of this model to torch: {why}", DllmFastWarning, stacklevel=4)
