"""What runs a model for the sampler: a runner belongs to the model, a session to one run, a task says what the run will ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast._core import Request
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.modules.hold import Hold
    from dllm_fast.ops.guide import Pair
    from dllm_fast.ops.mask_predict import AwaitedPrediction
    from dllm_fast.runners.forwards import Forwards
    from dllm_fast.runners.predictor import Predictor

    Ints = NDArray[np.int64]
    # Logits [N, V], and for each requested position its line of them (None: they follow each other); or the prediction; or
    # both logits of posteriors that are led.
    Scored = tuple[Tensor | NDArray[Any] | AwaitedPrediction | Pair, Ints | None]
    # Some rows of a request, and the forward that scores their positions.
    Part = tuple[Ints, Callable[[], Scored]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a run will ask for, known before its first forward.

    Attributes:
        lengths: of the canvas of each row, at most.
        starts: first position of each row that `sample` appended; 0 for `infill`.
        prompts: number of the prompt of each row: rows of one prompt begin alike.
        mask_token_id: the mask, or None.
        eos_token_ids: tokens that end a row.
        shift: the logits of position i - 1 predict position i.
        cache: policy; `auto` is the fastest that gives the same tokens as none.
        refresh_every: forwards between full ones under an approximate policy; None for one a block.
        max_rows: rows in a forward at most, or None.
        predictor: of the run, for forwards that predict, too.
        verifies: some requests want a causal look.
        shadows: some ask written positions again, from behind a mask (`Request.shadow`).
        suppressed: tokens that are never written, for a model that is shown what it predicted.
    """

    lengths: Sequence[int]
    starts: Sequence[int]
    prompts: Sequence[int]
    mask_token_id: int | None
    eos_token_ids: tuple[int, ...] = ()
    shift: bool = False
    cache: str = "auto"
    refresh_every: int | None = None
    max_rows: int | None = None
    predictor: Predictor | None = None
    verifies: bool = False
    shadows: bool = False
    suppressed: tuple[int, ...] = ()


class Session(Protocol):
    """One run of a model: what its rows have behind them, and what its forwards took.

    Attributes:
        forwards: calls of the model so far.
        is_watched: somebody looks at the next step as it is made, so that no steps are made together.
    """

    forwards: Forwards
    is_watched: bool

    @property
    def policy(self) -> str:
        """Of the cache that it has."""
        ...

    def hold(self, hold: Hold) -> None:
        """Makes the model ready for the forwards of the run, before the first; as it was when `hold` is given back."""
        ...

    def parts(self, request: Request) -> list[Part]:
        """The forwards that answer a request, each for some of its rows; to be called in this order, in `stepping`."""
        ...

    def add(self, *, length: int, start: int = 0, prompt: int | None = None) -> int:
        """A row that joins the run, the last of all.

        Args:
            length: of its canvas.
            start: first position that `sample` appended; 0 for `infill`.
            prompt: number of its prompt; None for one that no other row has.

        Returns:
            The number of the row, as the sampler counts.
        """
        ...

    def end(self) -> str | None:
        """Behind the last forward of a run that nobody broke off. Returns what it has shown of the model that its caller should
        know, or None."""
        ...


class Runner(Protocol):
    """A model of any kind as the loop of `sample` sees it.

    Attributes:
        vocabulary: number of token ids, or None.
        context: longest canvas, or None.
    """

    vocabulary: int | None
    context: int | None

    @property
    def info(self) -> ModelInfo | None:
        """What is known of the model's family."""
        ...

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        """`mask_token_id` or `eos_token_id`, where the model says it."""
        ...

    def begin(self, task: Task) -> Session:
        """A run. Nothing is run yet, and nothing is changed in the model.

        Raises:
            InvalidValueError: the model cannot do what the task says.
        """
        ...
