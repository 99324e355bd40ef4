"""Models small enough to know what they say. Each takes an int64 tensor `[B, L]` and returns logits `[B, L, V]`.

All are exact in the batch: the logits of a row are the same bits whatever the other rows are. For `alone` a row comes as
an array `[L]` and its logits as a float32 array `[L, V]`, as the reference sampler wants them.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn

import dllm_fast

torch.set_num_threads(1)  # threads that wait for each other cost a toy more than its arithmetic


def reads_causally(rule: dllm_fast.SamplerConfig) -> bool:
    """Does it need a model, the same or another one, that is read from left to right?"""
    return rule.verify or rule.verifier_mixture is not None


def presets_of_any_model() -> dict[str, dllm_fast.SamplerConfig]:
    """Those that run on whatever can be called: not those for models of noise, or that are read causally (`test_verify.py`,
    `test_agreed.py`), or asked from behind a mask (`test_wino.py`), or that ask how frequent tokens are
    (`test_calibration.py`); nor those whose answers have lengths of their own (`test_lengths.py`)."""
    rules = {name: rule for name, rule in dllm_fast.presets().items() if rule.noise == "mask" and not reads_causally(rule)}
    rules = {name: rule for name, rule in rules.items() if rule.remask != "verify" and rule.order != "calibrated"}
    return {name: rule for name, rule in rules.items() if rule.length == "fixed"}


# Presets whose rule says how many forwards it takes: one a token (first-hitting), by the length of a block (dus), or by how
# far it has come (the others). Each refuses `steps`.
PACED_BY_THEMSELVES = ("first-hitting", "dus", "wedlm", "fast-dllm-v2", "d2f")


class Toy:
    """A callable model over rows; a subclass says the logits of one row."""

    vocabulary: int

    def row(self, canvas: np.ndarray) -> np.ndarray:
        """Logits `[L, V]` of a canvas `[L]`."""
        raise NotImplementedError

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        rows = [np.asarray(self.row(canvas), dtype=np.float32) for canvas in ids.numpy()]
        return torch.from_numpy(np.stack(rows))

    def alone(self, canvas: np.ndarray) -> np.ndarray:
        return np.asarray(self.row(np.asarray(canvas)), dtype=np.float32)


class Constant(Toy):
    """The same logits at every position, whatever stands there."""

    def __init__(self, logits):
        self.logits = np.asarray(logits, dtype=np.float32)
        self.vocabulary = len(self.logits)

    def row(self, canvas):
        return np.tile(self.logits, (len(canvas), 1))


class ByPosition(Toy):
    """Logits that depend on the position alone: a fixed order of confidence, known in advance."""

    def __init__(self, table):
        self.table = np.asarray(table, dtype=np.float32)
        self.vocabulary = self.table.shape[1]

    def row(self, canvas):
        return self.table[np.arange(len(canvas)) % len(self.table)]


class HashTable(Toy):
    """Logits that are a pure function of the whole canvas and the position, on a coarse grid, so that ties are common.

    Every commit changes all of them, so any difference between two samplers shows in the tokens.
    """

    def __init__(self, vocabulary: int, seed: int = 0, grid: float = 0.5, infinities: bool = False):
        self.vocabulary, self.seed, self.grid, self.infinities = vocabulary, seed, grid, infinities

    def row(self, canvas):
        rng = np.random.default_rng([self.seed, len(canvas), *np.asarray(canvas).tolist()])
        logits = np.round(rng.normal(0, 2, (len(canvas), self.vocabulary)) / self.grid) * self.grid
        if self.infinities:
            logits[rng.random(logits.shape) < 0.3] = -np.inf
            logits[rng.random(logits.shape) < 0.02] = np.inf
            logits[(logits == -np.inf).sum(axis=1) > self.vocabulary // 2] = 0.0
        return logits


class Leftward(HashTable):
    """The same, but the logits of a position depend on what stands before it: asked again and again, a canvas settles from
    the left, one position a forward at the least."""

    def row(self, canvas):
        canvas = np.asarray(canvas)
        # A guard before the canvas, so that the first position has something before it, too.
        guarded = np.concatenate([[0], canvas])
        rows = [super(Leftward, self).row(guarded[: p + 1])[-1] for p in range(len(canvas))]
        return np.array(rows).reshape(-1, self.vocabulary)


class Ending(HashTable):
    """The same, but towards an end token: from a position on, or at two of three positions, at one of them more."""

    def __init__(self, vocabulary: int, end: int, towards: float, *, after: int | None = None, **more):
        super().__init__(vocabulary, **more)
        self.end, self.towards, self.after = end, towards, after

    def row(self, canvas):
        logits, places = super().row(canvas), np.arange(len(canvas))
        logits[:, self.end] += self.towards * (places % 3 if self.after is None else places >= self.after)
        return logits


class SmallTransformer(nn.Module):
    """A bidirectional transformer with random weights. Its rows are computed one by one: a batched matrix product may
    round differently from a single one, and that would be the model's doing, not the sampler's."""

    def __init__(self, vocabulary: int, width: int = 16, longest: int = 64, seed: int = 0):
        super().__init__()
        self.vocabulary = vocabulary
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(vocabulary, width)
            self.positions = nn.Embedding(longest, width)
            self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
            self.head = nn.Linear(width, vocabulary)
            with torch.no_grad():
                self.head.weight.mul_(6)

    def one(self, canvas: torch.Tensor) -> torch.Tensor:
        hidden = self.tokens(canvas) + self.positions(torch.arange(len(canvas)))
        return self.head(self.layer(hidden[None])[0])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.one(canvas) for canvas in ids])

    def alone(self, canvas: np.ndarray) -> np.ndarray:
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            logits = self.one(torch.from_numpy(np.asarray(canvas))).numpy()
        self.train(was_training)
        return logits


def sudoku_grids() -> np.ndarray:
    """The 288 valid 4x4 grids, digits 1 to 4, as an array `[288, 16]`."""
    rows = list(itertools.permutations((1, 2, 3, 4)))
    grids = []
    for grid in itertools.product(rows, repeat=4):
        columns = zip(*grid, strict=True)
        boxes = ([grid[r + i][c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2))
        if all(len(set(group)) == 4 for group in itertools.chain(columns, boxes)):
            grids.append([cell for line in grid for cell in line])
    return np.array(grids, dtype=np.int64)


class SudokuOracle(Toy):
    """The exact conditional distribution of every cell of a 4x4 grid given the others: token 0 is the mask.

    It has no error of its own, so every deviation from the uniform law over grids is the sampler's.
    """

    vocabulary = 5
    mask = 0

    def __init__(self):
        self.grids = sudoku_grids()
        self.seen: dict[bytes, np.ndarray] = {}

    def row(self, canvas):
        key = canvas.tobytes()
        if key not in self.seen:
            fits = self.grids[((canvas == self.mask) | (self.grids == canvas)).all(axis=1)]
            counts = (fits[:, :, None] == np.arange(self.vocabulary)).sum(axis=0)
            # A grid that nothing completes: say nothing, rather than -inf everywhere.
            with np.errstate(divide="ignore"):
                self.seen[key] = np.log(counts) if len(fits) else np.zeros(counts.shape)
        return self.seen[key]
