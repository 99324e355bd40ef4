from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Edit",
    "Lock",
    "Prediction",
    "Request",
    "Sampler",
    "__version__",
    "check_config",
    "mask_predict",
    "schedule",
    "set_threads",
    "sudoku_puzzles",
]

__version__: str

# How many each row commits at least, int32, and the share of its block's steps that are done then, float64.
_Pace: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float64]]

def check_config(object: object) -> None: ...
def mask_predict(
    logits: Any,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    softcap: float | None,
    suppress: NDArray[np.int64],
    current: NDArray[np.int64] | None,
    seed: int | Sequence[int],
    request: int | Sequence[int],
    positions: NDArray[np.int64] | None,
    step: int | Sequence[int],
) -> Prediction: ...
def schedule(name: str, masks: int, steps: int, eps: float, as_published: bool) -> list[int]: ...
def set_threads(threads: int | None = None) -> None: ...
def sudoku_puzzles(
    n: int,
    seed: int,
    min_givens: int = 26,
    max_givens: int = 50,
    *,
    held_out: bool = True,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...

@final
class Lock:
    def __new__(cls) -> Lock: ...
    def held(self) -> AbstractContextManager[None]: ...

@final
class Edit:
    def __new__(
        cls, *, step: int, position: int, token: int, probability: float, kind: str, time: float | None = None
    ) -> Edit: ...
    def to_dict(self) -> dict[str, int | float | str | None]: ...
    @classmethod
    def from_dict(cls, values: object) -> Edit: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def token(self) -> int: ...
    @property
    def probability(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def time(self) -> float: ...

@final
class Prediction:
    def __new__(
        cls,
        *,
        token: NDArray[np.int64] | Sequence[int],
        probability: NDArray[np.float64],
        top1: NDArray[np.float64],
        top2: NDArray[np.float64],
        entropy: NDArray[np.float64],
        logsumexp: NDArray[np.float64] | None = None,
        current: NDArray[np.float64] | None = None,
    ) -> Prediction: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...
    @property
    def token(self) -> NDArray[np.int64]: ...
    @property
    def probability(self) -> NDArray[np.float64]: ...
    @property
    def top1(self) -> NDArray[np.float64]: ...
    @property
    def top2(self) -> NDArray[np.float64]: ...
    @property
    def entropy(self) -> NDArray[np.float64]: ...
    @property
    def logsumexp(self) -> NDArray[np.float64] | None: ...
    @property
    def current(self) -> NDArray[np.float64] | None: ...
    def rounded(self, dtype: str) -> Prediction: ...
    def __len__(self) -> int: ...

@final
class Request:
    @property
    def rows(self) -> NDArray[np.int64]: ...
    @property
    def canvases(self) -> list[NDArray[np.int64]]: ...
    @property
    def positions(self) -> list[NDArray[np.int64]]: ...
    @property
    def step(self) -> int: ...
    @property
    def windows(self) -> NDArray[np.int64]: ...
    @property
    def lengths(self) -> NDArray[np.int64]: ...
    def batch(
        self,
        begin: NDArray[np.int64] | Sequence[int],
        end: NDArray[np.int64] | Sequence[int],
        *,
        shift: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
    def groups(self, *, shift: bool = False) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]: ...

@final
class Sampler:
    def __new__(
        cls,
        config: object,
        canvases: Sequence[NDArray[np.int64] | Sequence[int]],
        *,
        seed: int | Sequence[int] | None = None,
        request: int | Sequence[int] | None = None,
        block_start: int | Sequence[int] | None = None,
        score_all: bool = False,
        max_rows: int | None = None,
    ) -> Sampler: ...
    def next(self) -> Request | None: ...
    def sites(
        self, rows: NDArray[np.int64] | Sequence[int]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]: ...
    def pace(self, rows: NDArray[np.int64] | Sequence[int]) -> tuple[_Pace, _Pace | None]: ...
    def predict(
        self,
        logits: Any,
        *,
        rows: NDArray[np.int64] | Sequence[int] | None = None,
        index: NDArray[np.int64] | Sequence[int] | None = None,
    ) -> Prediction: ...
    def feed(
        self,
        logits: Any = None,
        *,
        prediction: Prediction | None = None,
        tokens: NDArray[np.int64] | Sequence[int] | None = None,
        scores: NDArray[np.float64] | Sequence[float] | None = None,
        rows: NDArray[np.int64] | Sequence[int] | None = None,
        index: NDArray[np.int64] | Sequence[int] | None = None,
    ) -> None: ...
    @property
    def canvases(self) -> list[NDArray[np.int64]]: ...
    @property
    def trajectory(self) -> list[list[Edit]]: ...
    @property
    def nfe_per_row(self) -> list[int]: ...
