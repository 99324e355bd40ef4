"""The kernels of a model, compiled and loaded together before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from dllm_fast import switches
from dllm_fast.kernels import launches
from dllm_fast.ops import launcher
from dllm_fast.ops.quantise import E4M3

if TYPE_CHECKING:
    import torch

    from dllm_fast.networks.batch import Network


def make_ready(network: Network, dtype: torch.dtype, device: torch.device) -> None:
    """Makes ready what the steps of a network launch, where a GPU will run them. Otherwise each kernel would keep its first
    step waiting, one after the other. What cannot be used is said as a warning, and torch does it."""
    in_fp8 = isinstance(network, nn.Module) and any(parameter.dtype == E4M3 for parameter in network.parameters())
    sources = launches.model_sources(str(dtype).removeprefix("torch."), network.head_dim)
    more = [name for name, is_needed in (("quantise", in_fp8), ("loop", switches.is_on("while"))) if is_needed]
    launcher.usable(device, *sources, *more)
