"""Rows in 8 bits: E4M3 (2209.05433) with a scale for each; and products of them.

Rows are put into 8 bits in one launch where the kernel can run, else by five operations of torch.

The same bits either way:

    scale of a row      s = max(max|row| / 448, the smallest normal float32), all in float32
    numbers of a row    q = E4M3(row / s), to nearest, ties to even; at most 448 by the scale
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dllm_fast.kernels import launches
from dllm_fast.ops import launcher

if TYPE_CHECKING:
    from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
_STEP = 8  # numbers that the kernel reads at once


def quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[N, K]` in E4M3, and their scales, float32 `[N, 1]`. A row with an infinity or a NaN has a NaN."""
    if not _is_launched(rows):
        largest = torch.linalg.vector_norm(rows, ord=math.inf, dim=-1, keepdim=True, dtype=torch.float32)
        # By a tensor: CUDA takes a quotient by a Python number as a product with its rounded inverse.
        scale = (largest / torch.full_like(largest, LARGEST)).clamp(min=torch.finfo(torch.float32).tiny)
        return (rows / scale).to(E4M3), scale
    numbers = torch.empty_like(rows, dtype=E4M3)
    scale = torch.empty((len(rows), 1), dtype=torch.float32, device=rows.device)
    launch = launches.quantise_rows(
        rows=rows.data_ptr(), numbers=numbers.data_ptr(), scales=scale.data_ptr(), count=len(rows), width=rows.shape[1]
    )
    launcher.launch([launch], rows.device)
    return numbers, scale


def scaled_product(
    rows: Tensor, row_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The product of `rows` `[N, K]` and `weight` `[M, K]` in one kernel."""
    return torch._scaled_mm(rows, weight.t(), row_scale, weight_scale[None], bias=bias, out_dtype=dtype, use_fast_accum=False)


def emulated_product(
    rows: Tensor, row_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The same by plain operations."""
    said = rows.float() @ weight.float().t() * row_scale * weight_scale
    return (said if bias is None else said + bias.float()).to(dtype)


def _is_launched(rows: Tensor) -> bool:
    return (
        rows.dtype == torch.bfloat16
        and rows.numel() > 0
        and rows.is_contiguous()
        and rows.data_ptr() % 16 == 0
        and rows.shape[1] % _STEP == 0
        and not (torch.is_grad_enabled() and rows.requires_grad)
        and launcher.usable(rows.device, "quantise")
    )
