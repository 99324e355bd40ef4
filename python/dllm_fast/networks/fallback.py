"""What of a network torch does on a CUDA device because the kernels do not take it, for `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllm_fast.kernels import launches
from dllm_fast.networks.decoder import Decoder
from dllm_fast.networks.encoder import Encoder
from dllm_fast.ops import fallback

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def left_to_torch(network: object, head_dim: int, dtype: torch.dtype) -> list[str]:
    """The reasons, in the words of the warnings that the first forward gives; where the dtype is one, all others too.

    Args:
        network: one of ours; any other attends through `Batch.attend` and does the rest itself.
        head_dim: numbers of a head.
        dtype: of its weights.
    """
    if isinstance(network, Encoder) and network.config.relative is not None:
        return [fallback.BIAS]  # in any dtype
    return [why for why in dict.fromkeys((fallback.of_dtype(dtype), *_reasons(network, head_dim))) if why is not None]


def _reasons(network: object, head_dim: int) -> Iterator[str | None]:
    yield fallback.of_head(head_dim)
    if isinstance(network, Decoder):
        config = network.config
        if config.clip is not None or config.query_growth:
            yield fallback.CHANGED_QUERIES
        else:
            yield fallback.of_width("heads", head_dim, most=launches.MOST_OF_HEAD)
        mixture = config.experts
        inner = ([config.inner] if mixture is None or config.dense else []) + ([] if mixture is None else [mixture.inner])
        for width in (config.width, *(inner if config.act in ("silu", "swish") else ())):
            yield fallback.of_width("rows", width)
