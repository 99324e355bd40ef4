"""What a captured forward of somebody's model takes for constant, so that a change of it can be seen before the next run.

A graph knows addresses of weights, not their values: training goes on, and the graph reads what was trained. Everything else
that Python decides by (which modules there are, their settings, an active adapter) is as it was at the capture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Hashable

# Changed by every run, or read by no forward; and what torch keeps in every module. Of hooks that somebody hung in, no model
# with graphs has any.
_PASSED_OVER = frozenset(("_attn_implementation", "_attn_implementation_internal", "use_cache", "generation_config")) | (
    frozenset(vars(nn.Module())) - {"_parameters", "_buffers"}
)
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, Enum, type)
_DEEPEST = 6


def constants(model: nn.Module) -> Hashable:
    """All of it, to be compared with that of another time."""
    seen: set[int] = set()
    return tuple((type(module), id(type(module).forward), _named(vars(module), seen, 0)) for module in model.modules())


def _named(items: Mapping[Any, Any], seen: set[int], depth: int) -> Hashable:
    return tuple(
        (name if isinstance(name, _PLAIN) else id(name), value if type(value) in _PLAIN else _value(value, seen, depth))
        for name, value in items.items()
        if name not in _PASSED_OVER
    )


def _value(value: Any, seen: set[int], depth: int) -> Hashable:  # noqa: PLR0911
    if isinstance(value, _PLAIN):
        return value
    if type(value) in (Tensor, nn.Parameter):
        return (
            value.data_ptr(),
            value.dtype,
            value.device,
            tuple(value.shape),
            value.stride() if value.layout is torch.strided else (),
        )
    if isinstance(value, FunctionType):
        # A closure with other contents is another function, which stands at another address or has other contents.
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return id(value.__code__), tuple(_value(item, seen, depth + 1) for item in cells) if depth < _DEEPEST else ()
    if isinstance(value, MethodType):
        return id(value.__func__), id(value.__self__)
    if depth >= _DEEPEST or isinstance(value, BuiltinFunctionType | nn.Module):
        return type(value), id(value)
    if isinstance(value, Mapping):
        return _named(value, seen, depth + 1)
    if isinstance(value, list | tuple):
        return tuple(_value(item, seen, depth + 1) for item in value)
    if isinstance(value, set | frozenset):
        return frozenset(item if isinstance(item, _PLAIN) else id(item) for item in value)
    is_config = hasattr(value, "to_dict") or dataclasses.is_dataclass(value) or isinstance(value, SimpleNamespace)
    if is_config and hasattr(value, "__dict__"):
        if id(value) in seen:  # the config of all modules
            return "seen"
        seen.add(id(value))
        return type(value), _named(vars(value), seen, depth + 1)
    return type(value), id(value)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
