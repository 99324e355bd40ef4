"""A model of any kind as the sampler's loop sees it: ids in, a matrix of logits out."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.families.config_keys import CONTEXT_KEYS
from dllm_fast.modules.hold import Hold
from dllm_fast.modules.keep import evaluating, without_gradients
from dllm_fast.modules.places import places
from dllm_fast.runners.watch import Watch

if TYPE_CHECKING:
    from dllm_fast._core import Request
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.runners.runner import Part, Scored, Task


class ModelAdapter:
    """A module or callable, with what is known of it before the first forward.

    Attributes:
        info: None; nothing is known of its family.
        vocabulary: number of token ids, or None.
        context: longest canvas, or None.
        forwards: calls so far.
        replayed: 0; a model that is called runs eagerly.
        seconds: time spent in them.
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
        self.vocabulary = _number(model, "vocab_size")
        self.context = next((n for name in CONTEXT_KEYS if (n := _number(model, name)) is not None), None)
        self.forwards = self.replayed = 0
        self.seconds = 0.0
        self._mask_token_id = -1  # of the run, as the next
        self._eos_token_ids: tuple[int, ...] = ()
        self._watch: Watch | None = None

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        """`mask_token_id` or `eos_token_id`, where the model or its configuration says it."""
        value = getattr(self._model, name, None)
        if value is None:
            value = _setting(self._model, name)
        if isinstance(value, list | tuple):
            return tuple(int(v) for v in value)
        return None if value is None else int(value)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients and no dropout inside; afterwards the model is as it was."""
        model = self._model
        hold = Hold()
        try:
            with evaluating(model) if isinstance(model, torch.nn.Module) else contextlib.nullcontext():
                without_gradients(hold)
                yield
        finally:
            hold.give_back()
        if self._watch is not None and self._watch.looks_causal:
            warnings.warn(
                f"a diffusion model must see both ways, got {_name(model)}, in which in {self.forwards} forwards no prediction "
                "changed when a token to its right was written: is it causal, or around a model with blocks? like= says which",
                RuntimeWarning,
                stacklevel=5,
            )

    def begin(self, task: Task) -> str:
        """There is no cache for a model that is only called.

        Raises:
            InvalidValueError: the task asks for one.
        """
        if task.cache not in ("auto", "none"):
            raise InvalidValueError(
                f"a cache needs a model that dllm_fast has opened, or a class whose attention it can take over, got "
                f"cache={task.cache!r} for {type(self._model).__name__}; use dllm_fast.load, or cache='none'"
            )
        self._mask_token_id, self._eos_token_ids = task.mask_token_id, task.eos_token_ids
        self._watch = Watch(task.mask_token_id) if self.info is None else None
        return "none"

    def parts(self, request: Request, *, shift: bool) -> list[Part]:
        """Forwards of whole canvases; rows of equal length share one."""
        return [
            (rows, functools.partial(self._scored, canvases, lines)) for rows, canvases, lines in request.groups(shift=shift)
        ]

    def _scored(self, canvases: NDArray[np.int64], lines: NDArray[np.int64]) -> Scored:
        logits = self(canvases)
        largest = np.max(canvases, initial=0, where=canvases != self._mask_token_id)
        if largest >= logits.shape[1]:
            # Only the first forward tells how many ids there are. The sampler looks at the mask's.
            raise InvalidValueError(
                f"ids must lie within the logits of the model, got {largest} for {logits.shape[1]} columns; use the "
                "tokenizer of this model"
            )
        if (end := max(self._eos_token_ids, default=0)) >= logits.shape[1]:
            raise InvalidValueError(
                f"eos_token_id must lie within the logits of the model, got {end} for {logits.shape[1]} columns, so no row "
                "would end; check it against the tokenizer"
            )
        if self._watch is not None:
            self._watch.look(canvases, logits)
        return logits, lines

    def __call__(self, canvases: NDArray[np.int64]) -> torch.Tensor | NDArray[Any]:
        """Logits `[B * L, V]` of canvases `[B, L]`.

        Raises:
            InvalidTypeError, InvalidValueError: what came back are not logits for these canvases.
            Exception: whatever the model raises, the same object with a note that says which forward it was.
        """
        batch, length = canvases.shape
        began = time.perf_counter()
        try:
            output = self._model(torch.from_numpy(canvases).to(self._device))
        except Exception as error:
            error.add_note(f"dllm_fast: raised by forward {self.forwards} (from 0), {batch} rows of {length} tokens")
            raise
        finally:
            self.seconds += time.perf_counter() - began
        self.forwards += 1
        return _matrix(output, batch, length)


def _matrix(output: Any, batch: int, length: int) -> torch.Tensor | NDArray[Any]:
    logits = output if isinstance(output, torch.Tensor | np.ndarray) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor | np.ndarray):
        raise InvalidTypeError(
            "a model must return logits as a torch tensor, a NumPy array or an object with .logits, "
            f"got {type(output).__name__}; wrap it in a function that does"
        )
    shape = tuple(logits.shape)
    if len(shape) != 3 or shape[:2] != (batch, length):
        raise InvalidValueError(
            f"logits must have the shape [B, L, V] of the ids {[batch, length]}, got {list(shape)}; "
            "return one row of logits for every token of every row"
        )
    if isinstance(logits, np.ndarray):
        return np.ascontiguousarray(logits.reshape(batch * length, shape[2]))
    return logits.detach().reshape(batch * length, shape[2]).contiguous()


def _name(model: object) -> str:
    return str(getattr(model, "__name__", type(model).__name__))


def _device(model: object) -> torch.device:
    return places(model).devices[0] if isinstance(model, torch.nn.Module) else torch.device("cpu")


def _setting(model: object, name: str) -> Any:
    """An entry of the model's configuration, whether that is an object or a mapping."""
    config = getattr(model, "config", None)
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _number(model: object, name: str) -> int | None:
    value = _setting(model, name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
