"""Buffers that no checkpoint holds.

transformers 5 leaves those of remote code as memory happened to be: nan, or worse, numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor, nn


def check_buffers(model: nn.Module) -> str:
    """Compares what can be computed again (rotary frequencies, position numbers), and repairs it with a warning.

    Returns:
        What was found, in words.

    Raises:
        InvalidValueError: a buffer that holds nan and cannot be computed again.
    """
    repaired = []
    count = 0
    for name, module, key, buffer in _transient(model):
        count += 1
        right = _right(model, module, key, buffer)
        if right is not None and not _same(buffer, right):
            with torch.no_grad():
                buffer.copy_(right)
            repaired.append(name)
        elif buffer.is_floating_point() and bool(buffer.isnan().any()):
            raise InvalidValueError(
                f"buffers of a model must hold numbers, got nan in {name} of {type(model).__name__}: it was not "
                "initialised when the model was loaded; load it with transformers 4, or with dllm_fast.load"
            )
    if repaired:
        warnings.warn(
            f"{', '.join(repaired)} of {type(model).__name__} did not hold what the config says and were computed again: "
            "transformers 5 does not initialise such buffers of remote code; dllm_fast.load opens known families without it",
            RuntimeWarning,
            stacklevel=2,
        )
        return f"repaired {', '.join(repaired)}"
    return f"{count} checked"


def _transient(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    for prefix, module in model.named_modules():
        for key in sorted(module._non_persistent_buffers_set):
            buffer = module._buffers.get(key)
            if buffer is not None and not buffer.is_meta:
                yield f"{prefix}.{key}" if prefix else key, module, key, buffer


def _right(model: nn.Module, module: nn.Module, key: str, buffer: Tensor) -> Tensor | None:
    """The value that the buffer should have, or None where we cannot tell. transformers knows its own classes."""
    if type(module).__module__.startswith("transformers."):
        return None
    if key == "position_ids" and not buffer.is_floating_point() and buffer.numel():
        return torch.arange(buffer.shape[-1], device=buffer.device, dtype=buffer.dtype).expand_as(buffer)
    if key == "inv_freq" and buffer.dim() == 1 and buffer.is_floating_point():
        return _frequencies(model, module, buffer)
    return None


def _frequencies(model: nn.Module, module: nn.Module, buffer: Tensor) -> Tensor | None:
    """Rotary frequencies `theta ** (-2 i / n)`; of other kinds of rotary only the module itself knows."""
    config = getattr(module, "config", None) or getattr(model, "config", None)
    scaling = _first(config, "rope_parameters", "rope_scaling")
    scaling = scaling if isinstance(scaling, dict) else {}
    kind = _first(module, "rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    if kind != "default":
        again: Callable[..., Any] | None = getattr(module, "rope_init_fn", None)
        if again is None or config is None:
            return None
        try:
            values = again(config, buffer.device)[0]
        except Exception:  # of the model's own code; it only means that we cannot tell
            return None
        return values if isinstance(values, torch.Tensor) and values.shape == buffer.shape else None
    theta = scaling.get("rope_theta") or _first(config, "rope_theta") or _first(module, "rope_theta", "base", "theta")
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        return None
    exponents = torch.arange(len(buffer), dtype=torch.float64, device=buffer.device) / len(buffer)
    return (float(theta) ** -exponents).to(buffer.dtype)


def _first(source: object, *names: str) -> Any:
    return next((value for name in names if (value := getattr(source, name, None)) is not None), None)


def _same(found: Tensor, right: Tensor) -> bool:
    if not found.is_floating_point():
        return bool(torch.equal(found, right))
    # A model that has been through bf16 has frequencies that are a little off; what was never written is far off.
    return bool(torch.allclose(found.float(), right.float(), rtol=1e-2, atol=0.0))
