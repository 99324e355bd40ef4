"""A model of any kind as the sampler's loop sees it: ids in, a matrix of logits out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.families.config_keys import CONTEXT_KEYS, as_id, entry, listed, whole
from dllm_fast.modules.keep import evaluate
from dllm_fast.modules.places import places
from dllm_fast.runners.forwards import Forwards
from dllm_fast.runners.shadow import Shadow
from dllm_fast.runners.watch import Watch

if TYPE_CHECKING:
    from dllm_fast._core import Request
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.modules.hold import Hold
    from dllm_fast.runners.runner import Part, Scored, Task

    Ints = NDArray[np.int64]
    Logits = tuple[torch.Tensor | NDArray[Any], Ints | None]


class CallableRunner:
    """A module or callable, with what is known of it before the first forward.

    Attributes:
        info: None; nothing is known of its family.
        vocabulary: number of token ids, or None.
        context: longest canvas, or None.
        rows: of the only batches that it takes, or None.
        shows_shadow: it can be asked from behind a mask: called with `shadow=`, positions `[B, W]` (-1 for padding), it returns
            logits `[B, L + W, V]`. The line of each such position, behind those of the canvas, is of a mask that sees all but
            the token which stands there.
    """

    def __init__(self, model: Callable[[torch.Tensor], Any]) -> None:
        if not callable(model):
            raise InvalidTypeError(
                f"model must be a torch module or a callable from ids [B, L] to logits [B, L, V], got {type(model).__name__}; "
                "load it first"
            )
        self._model = model
        self._device = _device(model)
        self.info: ModelInfo | None = None
        self.rows = _exported_rows(model)
        self.shows_shadow = _takes_shadow(model)
        self.vocabulary = whole(_config(model), "vocab_size")
        self.context = next((n for name in CONTEXT_KEYS if (n := whole(_config(model), name)) is not None), None)

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        """`mask_token_id` or `eos_token_id`, where the model or its configuration says it."""
        value = getattr(self._model, name, None)
        value = entry(_config(self._model), name) if value is None else value
        tokens = listed(value)
        if tokens is None:
            return None
        ids = tuple(known for token in tokens if (known := as_id(token)) is not None)
        if len(ids) < len(tokens):
            raise InvalidValueError(
                f"{name} must be the id of a token, got {shown(value)} from {type(self._model).__name__}; correct it, or pass "
                f"{name}="
            )
        return ids if isinstance(value, list | tuple) else ids[0]

    def begin(self, task: Task) -> CanvasSession:
        """There is no cache for a model that is only called.

        Raises:
            InvalidValueError: the task asks for one.
        """
        if task.verifies:
            raise InvalidValueError(
                f"verify asks the model a second time, reading from left to right, got {self.name}, which is only called "
                "and cannot be asked that; use a model that dllm_fast.load opens, or set verify to False"
            )
        if task.shadows:
            self._check_shadow(shift=task.shift)
        if task.cache not in ("auto", "none"):
            raise InvalidValueError(
                f"a cache needs a model that dllm_fast has opened, or a class whose attention it can take over, got "
                f"cache={task.cache!r} for {self.name}; use dllm_fast.load, or cache='none'"
            )
        return CanvasSession(self, task)

    def _check_shadow(self, *, shift: bool) -> None:
        if shift:
            raise InvalidValueError(
                "remask 'verify' is for models whose position predicts itself: here the token before it does, which others "
                "see, got shift=True; use another remask ('confidence-drop' is Saber's), or another model"
            )
        if not self.shows_shadow:
            raise InvalidValueError(
                "remask 'verify' (WINO) asks what the model would write at a position if it did not see what stands there, got "
                f"{self.name}, which is only called and cannot be asked that; use a model that dllm_fast.load opens, a "
                "function with an argument shadow=, or another remask"
            )

    @property
    def name(self) -> str:
        """What errors call it."""
        return str(getattr(self._model, "__name__", type(self._model).__name__))

    def change(self, hold: Hold) -> None:
        """No dropout while the model runs."""
        if isinstance(self._model, torch.nn.Module):
            evaluate(hold, self._model)

    def call(self, canvases: Ints, lines: Ints) -> Any:
        """What the model makes of canvases `[B, L]`, of which these lines are scored."""
        return self._model(torch.from_numpy(canvases).to(self._device))

    def call_with(self, canvases: Ints, shadow: Ints) -> Any:
        """The same of canvases and a shadow; see `shows_shadow`."""
        ids, places = (torch.from_numpy(array).to(self._device) for array in (canvases, shadow))
        return cast("Any", self._model)(ids, shadow=places)

    def read(self, output: Any, canvases: Ints, lines: Ints) -> Logits:
        """The logits in it.

        Raises:
            InvalidTypeError, InvalidValueError: what came back are not logits for these canvases.
        """
        return logits_of(output, *canvases.shape), lines


class CanvasSession:
    """A run of a model that takes whole canvases: rows of equal length share a forward, and nothing is kept between two."""

    def __init__(self, runner: CallableRunner, task: Task) -> None:
        self.policy = "none"
        self.is_watched = False
        self._runner = runner
        self._shift = task.shift
        self._mask_token_id, self._eos_token_ids = task.mask_token_id, task.eos_token_ids
        self._rows = len(task.lengths)
        self.forwards = Forwards()
        self._watch = Watch() if runner.info is None else None

    def hold(self, hold: Hold) -> None:
        self._runner.change(hold)

    def add(self, *, length: int, start: int = 0, prompt: int | None = None) -> int:
        self._rows += 1
        return self._rows - 1

    def end(self) -> str | None:
        if self._watch is None or not self._watch.looks_causal:
            return None
        return (
            f"a diffusion model must see both ways, got {self._runner.name}, in which in {self.forwards.count} forwards no "
            "prediction changed when a token to its right was written: is it causal, or around a model with blocks? "
            "like= says which"
        )

    def parts(self, request: Request) -> list[Part]:
        is_watched = self._watch is not None and self._watch.is_looking
        is_open = {} if not is_watched else dict(zip(request.rows.tolist(), request.open, strict=True))
        made: list[Part] = []
        for rows, canvases, lines in request.groups(shift=self._shift):
            flags = [is_open[row] for row in rows.tolist() if is_open]
            made.append((rows, functools.partial(self._scored, canvases, lines, flags, Shadow.of(request, rows))))
        return made

    def _scored(self, canvases: Ints, lines: Ints, is_open: list[NDArray[np.bool_]], shadow: Shadow | None) -> Scored:
        logits, lines_of = self._whole(canvases, lines) if shadow is None else self._again(canvases, lines, shadow)
        mask = -1 if self._mask_token_id is None else self._mask_token_id
        largest = np.max(canvases, initial=0, where=canvases != mask)
        if largest >= logits.shape[1]:
            # Only the first forward tells how many ids there are. The sampler looks at the mask's.
            raise InvalidValueError(
                f"ids must lie within the logits of the model, got {largest} for {logits.shape[1]} columns; use the "
                "tokenizer of this model, and for noise its vocabulary="
            )
        if (end := max(self._eos_token_ids, default=0)) >= logits.shape[1]:
            raise InvalidValueError(
                f"eos_token_id must lie within the logits of the model, got {end} for {logits.shape[1]} columns, so no row "
                "would end; check it against the tokenizer"
            )
        if self._watch is not None and is_open and shadow is None:
            self._watch.look(canvases, np.array(is_open), logits)
        return logits, lines_of

    def _whole(self, canvases: Ints, lines: Ints) -> Logits:
        output = self.forwards.run(functools.partial(self._runner.call, canvases, lines), *canvases.shape)
        return self._runner.read(output, canvases, lines)

    def _again(self, canvases: Ints, lines: Ints, shadow: Shadow) -> Logits:
        rows, length = canvases.shape
        width = length + shadow.width
        output = self.forwards.run(functools.partial(self._runner.call_with, canvases, shadow.positions), rows, width)
        return logits_of(output, rows, width, behind=shadow.width), shadow.lines(lines, length)


def _takes_shadow(model: Callable[..., Any]) -> bool:
    """Can it be called with an argument of that name, which is for nothing else?"""
    try:
        parameters = inspect.signature(model.forward if isinstance(model, torch.nn.Module) else model).parameters
    except (TypeError, ValueError):  # of something that is not written in Python
        return False
    shadow = parameters.get("shadow")
    return shadow is not None and shadow.kind in (shadow.POSITIONAL_OR_KEYWORD, shadow.KEYWORD_ONLY)


def logits_of(output: Any, batch: int, length: int, behind: int = 0) -> torch.Tensor | NDArray[Any]:
    """The logits that a model returned for so many rows of so many tokens, as one matrix `[B * L, V]`; `behind` of the L are
    those of a shadow.

    Raises:
        InvalidTypeError, InvalidValueError: something else came back.
    """
    logits = output if isinstance(output, torch.Tensor | np.ndarray) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor | np.ndarray):
        raise InvalidTypeError(
            "a model must return logits as a torch tensor, a NumPy array or an object with .logits, "
            f"got {type(output).__name__}; wrap it in a function that does"
        )
    shape = tuple(logits.shape)
    if len(shape) != 3 or shape[:2] != (batch, length):
        if behind:
            raise InvalidValueError(
                f"logits must have the shape [B, L + W, V] of the ids {[batch, length - behind]} and the shadow "
                f"{[batch, behind]}, got {list(shape)}; return one row of logits for every token of every row, and behind them "
                "one for every position of its shadow"
            )
        raise InvalidValueError(
            f"logits must have the shape [B, L, V] of the ids {[batch, length]}, got {list(shape)}; "
            "return one row of logits for every token of every row"
        )
    if isinstance(logits, np.ndarray):
        return np.ascontiguousarray(logits.reshape(batch * length, shape[2]))
    return logits.detach().reshape(batch * length, shape[2]).contiguous()


def _device(model: object) -> torch.device:
    return places(model).devices[0] if isinstance(model, torch.nn.Module) else torch.device("cpu")


def _exported_rows(model: object) -> int | None:
    """The rows of the batch that `torch.export` made a module for; None for any number, and where nobody knows."""
    if not isinstance(model, torch.fx.GraphModule):
        return None
    given = next((node for node in model.graph.nodes if node.op == "placeholder"), None)
    value = None if given is None else given.meta.get("val")
    rows = value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else None
    return rows if isinstance(rows, int) else None


def _config(model: object) -> object:
    return getattr(model, "config", None)
