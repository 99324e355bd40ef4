"""The activations that configs name, each with the operations, and so the roundings, of the stock class in transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from torch import Tensor

_ROOT = math.sqrt(2.0 / math.pi)


def _gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(_ROOT * (x + 0.044715 * torch.pow(x, 3.0))))


def _gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _gelu_python(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _gelu_python_tanh(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.tanh(_ROOT * (x + 0.044715 * torch.pow(x, 3.0))))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _laplace(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf((x - 0.707107).div(0.282095 * math.sqrt(2.0))))


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_10": lambda x: F.gelu(x).clip(-10, 10),
    "gelu_accurate": _gelu_new,
    "gelu_fast": _gelu_fast,
    "gelu_new": _gelu_new,
    "gelu_python": _gelu_python,
    "gelu_python_tanh": _gelu_python_tanh,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "hardswish": F.hardswish,
    "laplace": _laplace,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
    "mish": F.mish,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrtsoftplus": lambda x: F.softplus(x).sqrt(),
    "swish": F.silu,
    "tanh": torch.tanh,
}
# transformers knows these, too; they have weights of their own, and no published model here uses them.
_LEARNED = ("prelu", "xielu")


def activation(config: Mapping[str, Any], name: str, default: str) -> str:
    """The name of an activation, a key of `ACTIVATIONS`, that a config gives under `name`.

    Raises:
        CheckpointError: one that is not computed here.
    """
    act = config.get(name)
    act = default if act is None else act
    if not isinstance(act, str) or act not in ACTIVATIONS:
        why = "has weights of its own" if act in _LEARNED else "is not computed here"
        raise CheckpointError(
            f"{name} in config.json must be one of {', '.join(ACTIVATIONS)}, got {shown(act)}, which {why}; "
            "open the model with transformers and pass it to sample instead"
        )
    return act
