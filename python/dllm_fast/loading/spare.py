"""Constants that older code wrote beside the weights: passed over once they are what this package computes itself."""

from __future__ import annotations

import glob
import math
import re
from typing import TYPE_CHECKING

import torch

from dllm_fast.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from dllm_fast.checkpoint.checkpoint import Checkpoint
    from dllm_fast.networks.rotary import Rotary

# No model has so many positions; more is not worth reading.
_MOST_NUMBERS = 2**24
_POSITIONS = re.compile(r"(.*\.)?position_ids")
_FREQUENCIES = re.compile(r"(.*[._])?inv_freq")


def is_constant(checkpoint: Checkpoint, key: str, network: nn.Module) -> bool:
    """Is this a constant that the network computes itself, and the same?

    Raises:
        CheckpointError: it is one of other values: these weights want another computation than config.json says.
    """
    if math.prod(checkpoint.tensors[key].shape) > _MOST_NUMBERS:
        return False
    with torch.device("cpu"):
        if _POSITIONS.fullmatch(key):
            found = checkpoint.read(key, integers=True).flatten()
            if not torch.equal(found.double(), torch.arange(len(found)).double()):
                raise CheckpointError(_refusal(checkpoint, key, found, "positions counted from 0"))
            return True
        if _FREQUENCIES.fullmatch(key):
            found = checkpoint.read(key).flatten()
            rotaries: Iterable[Rotary] = getattr(network, "rotaries", ())
            if not any(_near(found, wanted) for rotary in rotaries for wanted in rotary.written()):
                raise CheckpointError(_refusal(checkpoint, key, found, "the frequencies of the rotary settings in config.json"))
            return True
    return False


def _near(found: Tensor, wanted: Tensor) -> bool:
    """Equal up to the rounding of the file's dtype and of other ways to compute a power."""
    if found.shape != wanted.shape:
        return False
    kind = torch.finfo(found.dtype)
    return torch.allclose(found.double(), wanted.double(), rtol=max(4 * kind.eps, 1e-5), atol=kind.tiny)


def _refusal(checkpoint: Checkpoint, key: str, found: Tensor, wanted: str) -> str:
    first = ", ".join(f"{value:.6g}" for value in found[:3].double().tolist())
    way = [glob.escape(checkpoint.prefix + key)]
    return (
        f"{key} in {checkpoint.folder} must be {wanted}, got {first}{', ...' if len(found) > 3 else ''} "
        f"({len(found)} numbers); is config.json the one of these weights? ignore_keys={way} goes by config.json"
    )
