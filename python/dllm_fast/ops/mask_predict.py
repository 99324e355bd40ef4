"""Mask prediction where the logits are: the kernels of cuda/mask_predict.cu and mask_filter.cu over torch tensors.

Nothing here waits for a device. `dllm_fast.mask_predict` is the same prediction for anybody's rows, on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from dllm_fast import launches
from dllm_fast.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    Run = Callable[[Iterable[launches.Launch]], None]

_NOT_A_NUMBER, _NOTHING_ALLOWED = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """Which rows are scored and with which random numbers: tensors `[N]` on the device of the logits.

    Attributes:
        seed: int64, the 64 bits of the seed.
        request, position, step: int32, the 32 bits of each.
        index: int32, the row of each site; None for the rows in their order.
        current: int32, ids whose probability is wanted as well.
    """

    seed: Tensor
    request: Tensor
    position: Tensor
    step: Tensor
    index: Tensor | None = None
    current: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What `dllm_fast.mask_predict` returns, as tensors `[N]` on the device; `status` is 0 where the others mean something."""

    token: Tensor
    probability: Tensor
    top1: Tensor
    top2: Tensor
    entropy: Tensor
    logsumexp: Tensor
    current: Tensor | None
    status: Tensor

    def check(self) -> None:
        """Waits for the device.

        Raises:
            InvalidValueError: a row with a NaN, or with nothing but -inf.
        """
        bad = torch.nonzero(self.status)
        if len(bad) == 0:
            return
        site = int(bad[0])
        if int(self.status[site]) == _NOT_A_NUMBER:
            raise InvalidValueError(
                f"logits must be numbers, got NaN in row {site} at id {int(self.token[site])}; check the model"
            )
        raise InvalidValueError(f"a row must allow some id, got -inf everywhere in row {site}; suppress fewer ids")


def suppressed_bits(ids: Sequence[int], vocabulary: int, device: torch.device) -> Tensor | None:
    """The ids that count as -inf as the kernels take them, one bit each: made once, used by every step."""
    if len(ids) == 0:
        return None
    if not all(0 <= i < vocabulary for i in ids):
        raise InvalidValueError(f"suppress must be ids below {vocabulary}, got {min(ids)} to {max(ids)}; check the tokenizer")
    flags = torch.zeros(-(-vocabulary // 8) * 8, dtype=torch.uint8)
    flags[torch.tensor(list(ids))] = 1
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    return (flags.view(-1, 8) * weights).sum(dim=1, dtype=torch.uint8).to(device)


def by_kernel(
    logits: Tensor,
    sites: Sites,
    *,
    run: Run,
    suppressed: Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Predictions:
    """Predicts the token of each site of logits `[M, V]`, whose rows may lie apart.

    Args:
        run: queues launches where the logits are (`dllm_fast.kernels.run`).
        suppressed: of `suppressed_bits`.
        temperature, top_k, top_p, min_p: as in `dllm_fast.mask_predict`; checked by `SamplerConfig`, not here.

    Raises:
        InvalidValueError, InvalidTypeError: shapes, dtypes or devices that do not fit, before any launch.
    """
    dtype = str(logits.dtype).removeprefix("torch.")
    _check(logits, dtype, sites)
    n, vocabulary = len(sites.seed), logits.shape[1]

    def result(dtype: torch.dtype) -> Tensor:
        return torch.empty(n, dtype=dtype, device=logits.device)

    def address(tensor: Tensor | None) -> int:
        return 0 if tensor is None else tensor.data_ptr()

    names = ("probability", "top1", "top2", "entropy", "logsumexp")
    statistics = {name: result(torch.float64) for name in names}
    token, status = result(torch.int64), result(torch.int32)
    current = None if sites.current is None else result(torch.float64)
    size = n * launches.tiles(vocabulary) * launches.RECORD_BYTES
    records = torch.empty(size, dtype=torch.uint8, device=logits.device)
    cuts = torch.empty(n * launches.CUT_BYTES, dtype=torch.uint8, device=logits.device)
    buffers = launches.MaskPredictBuffers(
        logits=logits.data_ptr(),
        index=address(sites.index),
        suppressed=address(suppressed),
        records=records.data_ptr(),
        cuts=cuts.data_ptr(),
        seed=sites.seed.data_ptr(),
        request=sites.request.data_ptr(),
        position=sites.position.data_ptr(),
        step=sites.step.data_ptr(),
        current=address(sites.current),
        token=token.data_ptr(),
        probability_of_current=address(current),
        status=status.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in statistics.items()},
    )
    run(
        launches.mask_predict(
            buffers,
            dtype=dtype,
            sites=n,
            vocabulary=vocabulary,
            stride=logits.stride(0),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
    )
    return Predictions(token=token, status=status, current=current, **statistics)


def _check(logits: Tensor, dtype: str, sites: Sites) -> None:
    if dtype not in launches.SUFFIXES:
        raise InvalidTypeError(f"logits must be float32, float16 or bfloat16, got {dtype}; convert them to float32")
    most = launches.MAX_TILES * launches.TILE
    if logits.dim() != 2 or not 0 < logits.shape[1] <= most:
        raise InvalidValueError(f"logits must be [M, V] with V from 1 to {most}, got {list(logits.shape)}; reshape them")
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise InvalidValueError("the logits of a row must lie side by side, got a strided view; pass logits.contiguous()")
    n = len(logits) if sites.index is None else len(sites.index)
    for field in fields(sites):
        tensor = getattr(sites, field.name)
        if tensor is None:
            continue
        expected = torch.int64 if field.name == "seed" else torch.int32
        if tensor.dtype != expected or not tensor.is_contiguous():
            raise InvalidTypeError(f"{field.name} must be contiguous {expected}, got {tensor.dtype}; convert it")
        if tensor.shape != (n,):
            raise InvalidValueError(
                f"{field.name} must have one entry for each of {n} sites, got {list(tensor.shape)}; check it"
            )
        if tensor.device != logits.device:
            raise InvalidValueError(f"{field.name} must be on {logits.device}, got {tensor.device}; move it to the logits")
