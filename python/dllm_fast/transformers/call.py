"""A model that is called as it is: ids in, logits out, with the arguments that its class needs."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.errors import InvalidTypeError
from dllm_fast.modules.hold import Hold, Hooked, OfThread
from dllm_fast.transformers.describe import output_embeddings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllm_fast.networks.visible import AttentionRule

# Forms of the mask that it may be given; see `Forward`.
FORMS = ("none", "additive", "bool")
# Arguments that a forward is given where it names them: no cache that grows, no tuple instead of an output.
_PLAIN_ARGUMENTS = {"use_cache": False, "return_dict": True}
# What a config may ask for beside the logits, and nobody here reads.
_BESIDE = ("output_hidden_states", "output_attentions")


def unwanted(model: nn.Module) -> dict[str, bool]:
    """Arguments that keep a forward from collecting what its config asks for, where it takes them."""
    config = getattr(model, "config", None)
    asked = [name for name in _BESIDE if getattr(config, name, False)]
    if not asked:
        return {}
    parameters = inspect.signature(model.forward).parameters
    # Others may hand on what they do not know to something that does not know it either.
    open_ended = type(model).__module__.startswith("transformers.") and any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    return {name: False for name in asked if open_ended or name in parameters}


class Forward:
    """Whole canvases of one length through a model.

    Args:
        model: a class of transformers, or remote code.
        mask: what it gets as `attention_mask`: `none`; or 4 dimensions, `additive` (0 or the lowest number) or `bool`.
        rule: what the mask hides.
        call: what is called in its place, a wrapper around it.
    """

    def __init__(self, model: nn.Module, mask: str, rule: AttentionRule, *, call: Any = None) -> None:
        self._model = model
        self._call = model if call is None else call
        self._mask = mask
        self._rule = rule
        self._head = output_embeddings(model)
        parameters = inspect.signature(model.forward).parameters
        self._arguments = {name: value for name, value in _PLAIN_ARGUMENTS.items() if name in parameters}
        self._arguments |= unwanted(model)
        self._timed = "timesteps" in parameters

    def __call__(self, ids: Tensor, **more: Any) -> Tensor:
        """Logits `[B, L, V]`, as they come."""
        arguments: dict[str, Any] = dict(self._arguments)
        if self._mask != "none":
            arguments["attention_mask"] = self._visible(ids)
        if self._timed:
            # Models that were trained with the time and run without it (MDLM, BD3-LM).
            arguments["timesteps"] = torch.zeros(ids.shape[0], device=ids.device)
        output = self._call(ids, **(arguments | more))
        logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, torch.Tensor):
            raise InvalidTypeError(
                f"a model must return logits or an object with .logits, got {type(output).__name__} from "
                f"{type(self._model).__name__}; wrap it in a function that does"
            )
        return logits

    def rows(self, ids: Tensor, lines: Tensor) -> Tensor:
        """Logits `[n, V]` of some positions of canvases `[B, L]`, counted through all rows. The head runs on those alone.

        Raises:
            ValueError: the head was not called exactly once.
        """
        assert self._head is not None
        picked, before, hold = _Picked(self._head, lines), _PICKED.get(), Hold()
        hold.afterwards(lambda: _PICKED.set(before))
        try:
            _PICKED.set(picked)
            hold.change("rows of the head", self._head, functools.partial(Hooked, self._head, _pick))
            logits = self(ids)
        finally:
            hold.give_back()
        if picked.calls != 1:
            raise ValueError(f"the output embeddings were called {picked.calls} times")
        return logits[0]

    def _visible(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        ends = self._rule.whole(length)
        if ends is None:
            seen = torch.ones((length, length), dtype=torch.bool, device=ids.device)
        else:
            seen = torch.arange(length, device=ids.device) < torch.from_numpy(ends).to(ids.device)[:, None]
        seen = seen.expand(ids.shape[0], 1, length, length)
        if self._mask == "bool":
            return seen
        parameter = next(self._model.parameters())
        dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
        return torch.zeros((), dtype=dtype, device=ids.device).where(seen, torch.finfo(dtype).min)


class _Picked:
    """The rows that a forward wants of a head, and how often it was called."""

    def __init__(self, head: nn.Module, lines: Tensor) -> None:
        self.head, self.lines, self.calls = head, lines, 0


def _pick(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
    """A hook: in a forward that wants some rows of this head, it gets those alone."""
    picked: _Picked | None = _PICKED.get()
    if picked is None or picked.head is not module:
        return None
    picked.calls += 1
    return (args[0].flatten(0, -2)[picked.lines.to(args[0].device)][None],)


# Of the forward in which this thread is.
_PICKED = OfThread()
