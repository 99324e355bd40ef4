"""A model that reads causally and is only called: ids in, what it says of the next token out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast.arrays import logits_matrix
from dllm_fast.errors import InvalidValueError
from dllm_fast.runners.callable import CallableRunner, logits_of
from dllm_fast.runners.forwards import Forwards
from dllm_fast.runners.lines import as_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast._core import Request
    from dllm_fast.modules.hold import Hold
    from dllm_fast.runners.runner import Part, Scored, Task

    Ints = NDArray[np.int64]

# Arguments that a forward is given where it names them: nothing is kept, and an output is no tuple.
_PLAIN: dict[str, Any] = {"use_cache": False, "return_dict": True}
# The argument by which classes of transformers are told how many logits are wanted, counted from the end.
_LAST = "logits_to_keep"


class CausalRunner(CallableRunner):
    """A module or callable from ids `[B, L]` to logits `[B, L, V]`; line i depends on ids 0 to i and predicts the next one."""

    def __init__(self, model: Callable[[torch.Tensor], Any]) -> None:
        super().__init__(model)
        takes = inspect.signature(model.forward).parameters if isinstance(model, torch.nn.Module) else {}
        self._arguments = {name: value for name, value in _PLAIN.items() if name in takes}
        self._picks = _LAST in takes

    def begin(self, task: Task) -> CausalSession:  # type: ignore[override]
        if self.rows is not None:
            raise InvalidValueError(
                f"a verifier must take batches of any size, got {self.name} for {self.rows} rows; export it with one"
            )
        return CausalSession(self, task)

    def read_causally(self, ids: Ints, first: int) -> tuple[torch.Tensor, int]:
        """The logits of ids `[B, L]` as `[B * k, V]`, of the last k lines of a row, and k: at least those from `first` on."""
        rows, length = ids.shape
        arguments, kept = dict(self._arguments), length
        if self._picks:
            kept = length - first
            arguments[_LAST] = kept
        output = self._model(torch.from_numpy(ids).to(self._device), **arguments)
        found = logits_of(output, rows, kept)
        return (as_tensor(logits_matrix(found)) if isinstance(found, np.ndarray) else found), kept


class CausalSession:
    """A run of such a model: rows that end at the same place share a forward, and nothing is kept between two."""

    def __init__(self, runner: CausalRunner, task: Task) -> None:
        self.policy = "none"
        self.is_watched = False
        self.forwards = Forwards()
        self._runner = runner
        self._rows = len(task.lengths)

    def hold(self, hold: Hold) -> None:
        self._runner.change(hold)

    def add(self, *, length: int, start: int = 0, prompt: int | None = None) -> int:
        self._rows += 1
        return self._rows - 1

    def end(self) -> str | None:
        return None

    def parts(self, request: Request) -> list[Part]:
        """Of a request of causal looks. What stands at the last position asked, and behind it, is not read."""
        # Nothing predicts the first position of a canvas, and nobody asks what did.
        last = np.concatenate(request.positions)[np.cumsum(request.counts) - 1]
        ends = np.maximum(last, 1)
        parts: list[Part] = []
        for end in np.unique(ends).tolist():
            places = np.flatnonzero(ends == end)
            rows = request.rows[places]
            parts.append((rows, functools.partial(self._scored, request.with_rows(places, rows), end)))
        return parts

    def _scored(self, request: Request, end: int) -> Scored:
        count = len(request.rows)
        ids, lines = request.batch(np.zeros(count, dtype=np.int64), np.full(count, end))
        first = int((lines % end).min())
        logits, kept = self.forwards.run(functools.partial(self._runner.read_causally, ids, first), *ids.shape)
        return logits, lines // end * kept + lines % end - (end - kept)
