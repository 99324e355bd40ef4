"""A plain function around a known model: the function is run, and what is known comes from the model that it is like."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from dllm_fast.errors import DllmFastError, InvalidTypeError, InvalidValueError
from dllm_fast.loading.load import inspect_folder
from dllm_fast.loading.model import LoadedModel
from dllm_fast.modules.keep import stepping
from dllm_fast.runners.callable import CallableRunner
from dllm_fast.transformers.describe import describe
from dllm_fast.transformers.probe import study
from dllm_fast.transformers.probe_tokens import line, tokens
from dllm_fast.transformers.sight import keeps_to, sight
from dllm_fast.transformers.wrappers import is_pretrained, unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllm_fast.families.model_info import ModelInfo


def known(like: Any, tokenizer: Any = None) -> tuple[ModelInfo, Any]:
    """What a model says about functions around it, and its tokenizer where the caller has none. Weights of a folder stay there.

    Raises:
        InvalidTypeError: nothing is known of such a thing.
        CheckpointError: a folder that cannot be used.
    """
    if isinstance(like, str | Path):
        info, own = inspect_folder(like)
    elif isinstance(loaded := unwrap(like).model, LoadedModel):
        info, own = loaded.info, loaded.tokenizer
    elif is_pretrained(like):
        try:
            info, own = study(cast("nn.Module", like), tokenizer).info, None
        except Exception:  # of any class: the function may do what its model does not by itself
            info, own = describe(unwrap(like).model, tokenizer), None
    else:
        raise InvalidTypeError(
            "like must be a model of transformers, what dllm_fast.load opened, a folder or a hub id, got "
            f"{type(like).__name__}; pass the model that the function calls"
        )
    if info.attention_rule.has_canvas:
        raise InvalidValueError(
            f"like must be a model that a function of ids can stand for, got one of {info.family}, whose canvas is shown what "
            "it predicted; pass the model itself"
        )
    return info, own if tokenizer is None else tokenizer


class LikeRunner(CallableRunner):
    """Calls a function with whole canvases, under the shift, blocks and ids of a known model.

    Args:
        function: from ids `[B, L]` to logits `[B, L, V]`.
        like: what it is around.
        info: what is known of that.
        probed: what is called on a few tokens in its place.

    Raises:
        InvalidValueError: the function does not see what such a model must see; found by a few forwards of some tokens.
    """

    def __init__(self, function: Callable[[Tensor], Any], like: Any, info: ModelInfo, *, probed: Any = None) -> None:
        super().__init__(function)
        self.info: ModelInfo | None = info
        self.vocabulary = info.vocabulary
        self.context = info.context
        if probed is not None or not isinstance(function, torch.nn.Module):
            self._device = info.device
        self.sees = _seen(function if probed is None else probed, like, info, self._device)

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        assert self.info is not None
        return self.info.token_id(name)


def _seen(function: Callable[[Tensor], Any], like: Any, info: ModelInfo, device: torch.device) -> str:
    """What the rows of its logits depend on, found once as long as the function lives."""
    state = (info.attention, info.block_length)
    with contextlib.suppress(TypeError):  # of a callable that cannot be a key
        kept = _SEEN.get(function)
        if kept is not None and kept[0] == state:
            return kept[1]
    found = _check(function, like, info, device)
    with contextlib.suppress(TypeError):
        _SEEN[function] = state, found
    return found


_SEEN: weakref.WeakKeyDictionary[Any, tuple[object, str]] = weakref.WeakKeyDictionary()


def _check(function: Callable[[Tensor], Any], like: Any, info: ModelInfo, device: torch.device) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    if not info.attention_rule.is_fixed:
        raise InvalidValueError(
            f"a model whose attention changes with the block must run on ours, got the function {name} around one of the "
            f"family {info.family}; pass the model itself"
        )
    trial = CallableRunner(function)

    def forward(ids: Tensor) -> Tensor:
        canvases, lines = ids.cpu().numpy(), np.arange(ids.numel())
        rows, _ = trial.read(trial.call(canvases, lines), canvases, lines)
        return torch.as_tensor(rows).view(*ids.shape, -1)

    trial._device = device
    ids = tokens(like, info).cpu()
    with stepping(trial.change):
        try:
            sees = sight(forward, ids, forward(ids), info)
            keeps = True
            if info.block_length is not None and sees != "itself":
                longer = tokens(like, info, info.block_length + 2).cpu()
                keeps = longer.shape[1] <= info.block_length or keeps_to(info.block_length, forward, longer, info)
        except DllmFastError:
            raise
        except Exception as error:  # of any class: the function may take no such text
            return f"not probed, because with {ids.shape[1]} tokens it raised {type(error).__name__}: {line(error)}"
    if sees == "left":
        raise InvalidValueError(
            f"a diffusion model must see both ways, got the function {name}, which is causal: its last token changes no row "
            "before it; let it hand its model a mask that hides nothing, or pass the model itself"
        )
    if not keeps:
        raise InvalidValueError(
            f"a function like a model of the family {info.family} must keep to its blocks of {info.block_length}, got {name}, "
            "in which a row sees more, or less; let it hand its model the mask of the blocks, or pass the model itself"
        )
    return sees
