"""A callable that nobody looks through, but that carries marks of a known model, is not run as if nothing were known."""

from __future__ import annotations

from typing import Any

from dllm_fast.errors import InvalidValueError
from dllm_fast.families.model_info import ModelInfo
from dllm_fast.loading.model import LoadedModel
from dllm_fast.transformers.describe import family_of
from dllm_fast.transformers.wrappers import is_pretrained, unwrap

# Where wrappers keep what they are around: `functools.wraps`, `partial`, bound methods, modules of torch.
_PLACES = ("__wrapped__", "func", "__self__", "module", "_orig_mod")


def refuse_carried(model: Any) -> None:
    """Refuses a callable around a known model, or with the config of one whose predictions are shifted or go by blocks.

    Whether such a callable still answers as the model does, nothing here tells: it may have put the shift right, or left out
    the blocks.

    Raises:
        InvalidValueError: names what was found, and `like=`.
    """
    said = _around(model) or _config(model)
    if said is not None:
        name = getattr(model, "__name__", type(model).__name__)
        raise InvalidValueError(
            f"what is run must be a known model or be told what it is like, got {name}, {said}; "
            "pass like= the model or its folder (with shift=False where the function moves the rows by itself), or pass "
            "the model itself"
        )


def _around(model: Any, deeper: int = 4) -> str | None:
    info = getattr(model, "info", None)
    if isinstance(info, ModelInfo):
        return f"which carries what dllm_fast.load found of a model of the family {info.family}"
    for place in _PLACES:
        inner = unwrap(getattr(model, place, None)).model
        if isinstance(inner, LoadedModel) or is_pretrained(inner):
            return f"which has a {type(inner).__name__} inside ({place})"
        if inner is not None and deeper and (said := _around(inner, deeper - 1)) is not None:
            return said
    return None


def _config(model: Any) -> str | None:
    family = None if getattr(model, "config", None) is None else family_of(model)
    if family is None or (family.attention_rule.hides_nothing and not family.shift):
        return None
    rule = "predictions are shifted" if family.attention_rule.hides_nothing else f"attention is {family.attention}"
    return f"whose config is that of the family {family.name}, in which {rule}"
