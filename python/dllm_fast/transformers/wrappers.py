"""What people put around a model: what is inside, and which of the two is run."""

from __future__ import annotations

import functools
import sys
import types
from dataclasses import dataclass
from typing import Any

from torch import nn

from dllm_fast.errors import InvalidValueError

# Name of the class, where the model is, and why the wrapper itself must be called; None where what is inside does the same.
_SPLIT = "it holds parts of the weights"
_COMPILED = "it is compiled"
_MIXED = "its adapters are mixed outside of the model"
_WRAPPERS: dict[str, tuple[str, str | None]] = {
    "OptimizedModule": ("_orig_mod", _COMPILED),
    "DataParallel": ("module", None),
    "DistributedDataParallel": ("module", None),
    "AveragedModel": ("module", None),
    "FullyShardedDataParallel": ("module", _SPLIT),
    "DeepSpeedEngine": ("module", _SPLIT),
}
_PEFT = ("PeftModel", "PeftMixedModel")
# Methods that are the call of their object.
_CALLS = ("__call__", "forward", "_call_impl", "_wrapped_call_impl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """A model and what stood around it.

    Attributes:
        model: the innermost.
        called: what is to be called: the model, or the wrapper that cannot be left out.
        probed: what is called for a handful of tokens, for which nothing needs to be compiled or dealt over devices.
        names: classes of the wrappers, from the outside.
        why: why `called` must be called as it is; None where the model can be run in any way.
    """

    model: Any
    called: Any
    probed: Any
    names: tuple[str, ...]
    why: str | None


def unwrap(model: Any) -> Unwrapped:
    """Looks through wrappers that are known by name; anything else is its own inside.

    Raises:
        InvalidValueError: an adapter that adds tokens of its own.
    """
    names: list[str] = []
    called, why = model, None
    while (found := _inside(model)) is not None:
        inner, reason = found
        names.append(type(model).__name__)
        if why is None:
            called, why = (model, reason) if reason is not None else (inner, None)
        model = inner
    if why is None and is_compiled(model):
        why = _COMPILED
    return Unwrapped(
        model=model, called=called, probed=called if why in (_SPLIT, _MIXED) else model, names=tuple(names), why=why
    )


def is_pretrained(model: object) -> bool:
    """Is it a model of transformers, or one inside a known wrapper? Whoever has one has imported transformers, so we do not."""
    base = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    return base is not None and isinstance(unwrap(model).model, base)


def is_compiled(model: Any) -> bool:
    """Did somebody call `.compile()` on it or on a part of it, or put in a part that is compiled?"""
    return isinstance(model, nn.Module) and any(
        vars(module).get("_compiled_call_impl") is not None or type(module).__name__ == "OptimizedModule"
        for module in model.modules()
    )


def _inside(model: Any) -> tuple[Any, str | None] | None:
    if isinstance(model, types.MethodType):
        is_call = any(getattr(type(model.__self__), name, None) is model.__func__ for name in _CALLS)
        return (model.__self__, None) if is_call else None
    if isinstance(model, functools.partial):
        return None if model.args or model.keywords else (model.func, None)
    if isinstance(model, types.FunctionType):
        inner: Any = model
        while _is_of_dynamo(inner):
            inner = inner.__wrapped__
        return None if inner is model else (inner, _COMPILED)
    names = [cls.__name__ for cls in type(model).__mro__]
    if any(name in _PEFT for name in names) and hasattr(model, "get_base_model"):
        return _adapted(model)
    for name in names:
        attribute, why = _WRAPPERS.get(name, ("", None))
        inner = getattr(model, attribute, None) if attribute else None
        if inner is not None:
            if name == "DataParallel" and len(getattr(model, "device_ids", None) or ()) > 1:
                why = "it deals its rows over several devices"
            return inner, why
    return None


def _is_of_dynamo(function: object) -> bool:
    """Is it what torch.compile makes of a callable? `functools.wraps` copies marks, but not the code."""
    written = getattr(function, "__globals__", {}).get("__name__", "") if isinstance(function, types.FunctionType) else ""
    return str(written).startswith("torch._dynamo.") and hasattr(function, "__wrapped__")


def _adapted(model: Any) -> tuple[nn.Module, str | None]:
    """PEFT puts most adapters into the layers of the model, where they stay active whoever calls it."""
    configs = getattr(model, "peft_config", {})
    active = getattr(model, "active_adapters", None) or [getattr(model, "active_adapter", None)]
    for name in active() if callable(active) else active:
        config = configs.get(name)
        kind = str(getattr(getattr(config, "peft_type", None), "value", "adapter"))
        if getattr(config, "is_prompt_learning", False):
            raise InvalidValueError(
                f"an adapter must leave one row of logits for every token, got {kind} in {type(model).__name__}, which puts "
                "tokens of its own before the text; use an adapter inside the layers (LoRA, IA3), or pass a function of ids "
                "with like="
            )
        if kind == "XLORA" or getattr(config, "alora_invocation_tokens", None) is not None:
            return model.get_base_model(), _MIXED
    return model.get_base_model(), None
