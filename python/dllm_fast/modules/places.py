"""Where the weights of a model in memory are, whether they are there at all, and how they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where forwards of a model happen.

    Attributes:
        devices: that compute, the one that takes the ids first.
        offloaded: tensors that are fetched for each forward.
        tensors: number of parameters.
    """

    devices: tuple[torch.device, ...]
    offloaded: int
    tensors: int

    @property
    def note(self) -> str | None:
        """What is unusual about them."""
        names = ", ".join(map(str, self.devices))
        moved = f"{self.offloaded} of {self.tensors} tensors are offloaded and fetched in every forward, "
        return f"{moved if self.offloaded else ''}computed on {names}" if self.offloaded or len(self.devices) > 1 else None


def places(model: nn.Module) -> Places:
    """Follows the hooks with which accelerate fetches weights.

    Raises:
        InvalidValueError: weights that are nowhere.
    """
    devices: dict[torch.device, None] = {}
    missing: list[str] = []
    offloaded = tensors = 0
    for name, parameter, fetched in _parameters(model, "", None):
        tensors += 1
        if not parameter.is_meta:
            devices[parameter.device] = None
        elif fetched is None:
            missing.append(name)
        else:
            offloaded += 1
            devices[fetched] = None
    if missing:
        raise InvalidValueError(
            f"a model must hold its weights, got {len(missing)} of {tensors} tensors on the meta device, without values, in "
            f"{type(model).__name__} ({missing[0]}); load it with from_pretrained(folder, device_map=None), or the folder with "
            "dllm_fast.load"
        )
    return Places(devices=tuple(devices) or (torch.device("cpu"),), offloaded=offloaded, tensors=tensors)


def _parameters(
    module: nn.Module, path: str, fetched: torch.device | None
) -> Iterator[tuple[str, nn.Parameter, torch.device | None]]:
    """Parameters by name, and the device to which a hook of their module, or of one around it, fetches them."""
    hook = getattr(module, "_hf_hook", None)
    for part in getattr(hook, "hooks", (hook,)):
        where = getattr(part, "execution_device", None)
        if where is not None and getattr(part, "offload", False):
            fetched = torch.device("cuda", where) if isinstance(where, int) else torch.device(where)
    for name, parameter in module.named_parameters(path, recurse=False):
        yield name, parameter, fetched
    for name, child in module.named_children():
        yield from _parameters(child, f"{path}.{name}" if path else name, fetched)


QUANTISED = "quantised"


def storage(model: nn.Module) -> str | None:
    """How the weights are quantised, as the config says, or the classes of the layers; None for plain numbers."""
    settings = getattr(getattr(model, "config", None), "quantization_config", None)
    if settings is None:
        kinds = {type(module) for module in model.modules() if ".quantized." in f".{type(module).__module__}."}
        return f"{QUANTISED} ({', '.join(sorted(kind.__module__ for kind in kinds))})" if kinds else None
    said: Mapping[str, Any] = settings if isinstance(settings, Mapping) else vars(settings)
    method = said.get("quant_method") or type(settings).__name__
    bits = said.get("bits") or next((n for n in (4, 8) if said.get(f"_load_in_{n}bit") or said.get(f"load_in_{n}bit")), None)
    return f"{QUANTISED} ({getattr(method, 'value', method)}{f', {bits} bits' if bits else ''})"
