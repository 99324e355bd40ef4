"""DiffusionGemma in memory: transformers' class, run by our network on its weights as they are, none of which is copied."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from dllm_fast.errors import InvalidValueError
from dllm_fast.families import diffusion_gemma
from dllm_fast.modules.places import places
from dllm_fast.networks.diffusion_gemma import DiffusionGemma
from dllm_fast.transformers.describe import describe, family_of
from dllm_fast.transformers.wrappers import unwrap

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.families.model_info import ModelInfo

_CLASS = "DiffusionGemmaForBlockDiffusion"
_PARTS = ("model.decoder", "model.encoder.language_model", "lm_head")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_REMEDY = "save it with save_pretrained and open the folder with dllm_fast.load, or use its own generate"


def has_canvas(model: object) -> bool:
    """Is it a class of transformers that denoises a canvas behind what it has encoded?"""
    family = family_of(unwrap(model).model)
    return family is not None and family.attention_rule.has_canvas


def around(model: object, tokenizer: object) -> tuple[DiffusionGemma, ModelInfo]:
    """Our network on the weights of a model, and what is known of it.

    Raises:
        InvalidValueError: another class, or parts that do more than this class does; names them and what to do.
    """
    found = unwrap(model)
    inside = cast("nn.Module", found.model)
    if found.why is not None:
        raise InvalidValueError(f"a {_CLASS} must be passed as it is, got one of which {found.why}; pass the model inside")
    _check(inside)
    info = replace(describe(inside, tokenizer), verified="the class's own weights in the network of dllm_fast.load, its twin")
    return _network(inside), info


def _check(model: nn.Module) -> None:
    """Refuses whatever our network would not compute."""
    if type(model).__name__ != _CLASS or not _is_stock(model):
        raise InvalidValueError(f"a model with a canvas must be a {_CLASS} of transformers, got {_name(model)}; {_REMEDY}")
    where = places(model)
    if len(where.devices) > 1 or where.offloaded:
        raise InvalidValueError(f"a {_CLASS} must be on one device, got it {where.note}; load it with device_map=None")
    for place in _PARTS:
        for name, module in model.get_submodule(place).named_modules(prefix=place):
            why = None if _is_stock(module) else f"is a {_name(module)}"
            if any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
                why = why or "has hooks"
            if why is not None:
                raise InvalidValueError(f"a {_CLASS} must have no parts but its own, got {name}, which {why}; {_REMEDY}")
    encoder, decoder = (dict(model.get_submodule(place).named_parameters()) for place in reversed(_PARTS[:2]))
    for name, own in encoder.items():
        is_one = own is decoder[name] or own.data_ptr() == decoder[name].data_ptr()
        if not is_one and not torch.equal(own, decoder[name]):
            raise InvalidValueError(
                f"a {_CLASS} must encode and denoise by the same weights, got two that differ of {name}; use its own generate"
            )


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_stock(module: nn.Module) -> bool:
    kind = type(module)
    is_theirs = kind.__module__.startswith(("transformers.models.diffusion_gemma.", "transformers.activations"))
    return is_theirs or kind in (nn.Linear, nn.ModuleList) or kind.__module__ == "torch.nn.modules.activation"


class Beside(nn.Module):
    """Linear layers of one input as one, where each stays by itself."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


def _network(model: nn.Module) -> DiffusionGemma:
    """Our network, each part of which is one of the model's."""
    held: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    held |= dict(model.named_buffers(remove_duplicate=False))
    table, head = held[diffusion_gemma.TABLE], held[diffusion_gemma.HEAD]
    config = diffusion_gemma.read(cast("nn.Module", model.config).to_dict())  # type: ignore[operator]
    config = replace(config, tied=head is table or head.data_ptr() == table.data_ptr())
    with torch.device("meta"):
        network = DiffusionGemma(config)
    for name, _ in list(network.named_parameters()):
        path, _, leaf = name.rpartition(".")
        keys = diffusion_gemma.keys(name, config)
        if len(keys) == 1:
            own = held[keys[0]]
            shared = own if isinstance(own, nn.Parameter) else nn.Parameter(own, requires_grad=False)
            network.get_submodule(path).register_parameter(leaf, shared)
        elif leaf == "weight":
            owner, _, part = path.rpartition(".")
            parts = [model.get_submodule(key.removesuffix(".weight")) for key in keys]
            setattr(network.get_submodule(owner), part, Beside(*parts))
    return network
