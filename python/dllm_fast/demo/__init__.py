"""The embedded models: Sudoku 9x9 and a short text task, each a small masked-diffusion transformer.

Sudoku is small enough to run anywhere and hard enough to rank sampling rules: the order in which cells are committed
decides whether a puzzle is solved. The text task has answers of different lengths, closed by EOS. Both were trained
by `bench/train_demo.py`; the `training.json` beside the weights tells how, and how well they do.

>>> from dllm_fast import demo
>>> canvas = demo.problems(1, seed=3)[0]
>>> len(canvas), int((canvas == demo.MASK_ID).sum()) in range(31, 56), demo.check(canvas)
(81, True, False)
>>> demo.text_problems(2, seed=3)
[('sort:gebb=', 'bbeg'), ('sort:ecggffffafc=', 'accefffffgg')]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dllm_fast import records
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer
    from torch import Tensor

    from dllm_fast.loading.model import LoadedModel

__all__ = ["MASK_ID", "check", "load", "load_text", "problems", "text_problems"]

# The vocabulary of `sudoku/tokenizer.json`: digit d has the id d.
MASK_ID = 10
CELLS = 81
# Problems that are made in one call.
_MOST = 2**20

FOLDER = Path(__file__).parent


def load() -> tuple[LoadedModel, Tokenizer]:
    """The Sudoku model, float32 on the CPU, and its tokenizer (one token a cell: `1` to `9`, `[MASK]`)."""
    return load_folder(FOLDER / "sudoku")


def load_text() -> tuple[LoadedModel, Tokenizer]:
    """The text model and its tokenizer (one token a character); a canvas has at most 64 positions.

    It reads a prompt of `text_problems`; behind the answer it fills the canvas with `[EOS]`.
    """
    return load_folder(FOLDER / "text")


def load_folder(folder: Path) -> tuple[LoadedModel, Tokenizer]:
    """The model and the tokenizer of a folder, the latter as the `tokenizers` library has it."""
    from tokenizers import Tokenizer

    from dllm_fast.loading.load import load

    return load(folder, dtype="float32"), Tokenizer.from_file(str(folder / "tokenizer.json"))


def problems(n: int, seed: int = 0, givens: tuple[int, int] = (26, 50)) -> list[npt.NDArray[np.int64]]:
    """`n` fresh puzzles, each with one solution, as canvases ready for `infill`.

    A canvas is int64 `[81]`, cells in row order, digits and `MASK_ID` for blanks. The number of givens is uniform in
    `givens` (both ends included, 22 to 81). No solution grid of these puzzles occurs in training: the two sets are
    kept apart by a hash of the grid. Puzzle i depends on `(seed, i, givens)` alone.
    """
    import numpy as np

    from dllm_fast import _core

    n = records.count(n, "n", least=0, most=_MOST, remedy="make them in several calls")
    seed = records.count(seed, "seed", least=0, most=2**64 - 1, remedy="use a number from 0")
    if not isinstance(givens, tuple | list) or len(givens) != 2:
        raise InvalidTypeError(f"givens must be two numbers, the fewest and the most, got {shown(givens)}; use (32, 40)")
    low, high = (records.count(given, "givens", remedy="use (32, 40)") for given in givens)
    if not 22 <= low <= high <= CELLS:
        raise InvalidValueError(f"givens must satisfy 22 <= low <= high <= 81, got {low} and {high}; use (32, 40)")
    puzzles, _ = _core.sudoku_puzzles(n, seed, low, high, held_out=True)
    return list(np.where(puzzles == 0, MASK_ID, puzzles).astype(np.int64))


def check(canvas: npt.ArrayLike | Tensor | Sequence[int]) -> bool:
    """Is this a complete and valid grid: 81 digits, each once in every row, column and box?

    Anything else (masks left, another length) is False. A grid that also keeps the givens of a puzzle is its solution.
    """
    import numpy as np

    from dllm_fast.arrays import as_array

    cells = as_array(canvas, "canvas")
    if cells.shape != (CELLS,) or not np.issubdtype(cells.dtype, np.integer):
        return False
    rows = cells.reshape(9, 9)
    boxes = cells.reshape(3, 3, 3, 3).swapaxes(1, 2).reshape(9, 9)
    digits = np.arange(1, 10)
    return all(bool((np.sort(units, axis=1) == digits).all()) for units in (rows, rows.T, boxes))


def text_problems(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """`n` prompts with their answers, such as `("pack:aab=", "a2b1")`; none of the prompts occurs in training.

    Words have 1 to 12 letters, so prompts have 7 to 21 characters and answers at most 24.
    """
    import random

    from dllm_fast.demo import word_tasks

    n = records.count(n, "n", least=0, most=_MOST, remedy="make them in several calls")
    seed = records.count(seed, "seed", least=0, most=2**64 - 1, remedy="use a number from 0")
    dice = random.Random(seed)
    prompts = [word_tasks.random_prompt(dice, word_tasks.MAX_LETTERS, held_out=True) for _ in range(n)]
    return [(prompt, word_tasks.answer(prompt)) for prompt in prompts]
