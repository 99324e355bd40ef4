"""What a step computes, on the host, and the shape of the graph that holds it: sizes rounded up to a few.

Padding is computed and thrown away, so rounding costs time; what is not rounded is a capture more. Padding of rows and queries
goes through every product of the step: 1, 2, 4, 8 rows, then steps of 4, and queries in steps of 16. That of scored lines goes
through the head and the mask prediction alone, which are bound by their weights up to a hundred lines: powers of two, and from
128 on one step between. That of keys costs nothing where the attention kernel runs, which reads up to the last key that a query
of its block sees: a power of two, of which only the number of splits depends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dllm_fast.ops import commit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.kernels.laws import Kind
    from dllm_fast.networks.slots import SlotCache
    from dllm_fast.runners.predictor import Scoring, Sites

    Ints = NDArray[np.int64]

_ROW_STEP, _WIDTH_STEP, _LEAST_KEYS, _LEAST_SCORED = 4, 16, 256, 16
# From so many scored lines on a product with the head computes longer than it takes to read the weights.
_COSTLY_LINES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a forward computes, on the host: the arrays of `Batch`, `[B, Q]` each, and the lines of its features to score."""

    ids: Ints
    positions: Ints
    end: Ints
    slots: Ints | None
    keys: int
    lines: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a graph is made for: rows, queries of each, keys that anybody sees, scored lines, the kind of the laws by
    which tokens are drawn, and how they are committed."""

    rows: int
    width: int
    keys: int
    scored: int
    kind: Kind | None
    rule: commit.Rule | None = None

    @classmethod
    def around(cls, inputs: Inputs, cache: SlotCache | None, kind: Kind | None, rule: commit.Rule | None = None) -> Shape:
        """The smallest one that holds these inputs."""
        rows, width = inputs.ids.shape
        wide = -(-width // _WIDTH_STEP) * _WIDTH_STEP
        lines = _lines(rows)
        keys = wide
        if cache is not None:
            lines = min(lines, cache.lines)
            keys = min(max(_power_of_two(inputs.keys), _LEAST_KEYS), cache.spare + 1)
        return cls(rows=lines, width=wide, keys=keys, scored=room(len(inputs.lines)), kind=kind, rule=rule)

    def pack(self, inputs: Inputs, spare: int) -> Ints:
        """Ids, positions, ends, slots `[rows, width]` each, then the scored lines, one behind the other.

        Padding looks at one slot, so that no softmax runs over nothing, and writes where nobody looks.
        """
        rows, width = inputs.ids.shape
        packed = np.zeros(4 * self.rows * self.width + self.scored, dtype=np.int64)
        ids, positions, end, slots = packed[: 4 * self.rows * self.width].reshape(4, self.rows, self.width)
        end[:] = 1
        slots[:] = spare
        ids[:rows, :width], positions[:rows, :width] = inputs.ids, inputs.positions
        end[:rows, :width] = inputs.end
        if inputs.slots is not None:
            slots[:rows, :width] = inputs.slots
        lines = packed[4 * self.rows * self.width :]
        # Lines behind the features of the queries are those of `carried`, one a row.
        is_carried = inputs.lines >= rows * width
        lines[: len(inputs.lines)] = np.where(
            is_carried,
            inputs.lines - rows * width + self.rows * self.width,
            inputs.lines // width * self.width + inputs.lines % width,
        )
        return packed

    def pack_scoring(self, scoring: Scoring, sites: Sites, inputs: Inputs) -> NDArray[np.uint8]:
        """What the mask prediction and the commit read."""
        packed = sites.packed(np.arange(len(sites)), scoring.laws, room=self.scored, laws_room=self.rows)
        if self.rule is None:
            return packed
        row = np.repeat(np.arange(len(sites.counts)), sites.counts)
        cell = row * self.width + sites.position - inputs.positions[row, 0]
        pace = commit.pack_pace(scoring.paces()[0], self.rows)
        return np.concatenate((packed, pace, commit.pack_places(sites.counts, cell, self.rows, self.scored)))


def room(lines: int) -> int:
    """Room for so many scored lines."""
    whole = max(_power_of_two(lines), _LEAST_SCORED)
    between = whole * 3 // 4
    return between if whole > _COSTLY_LINES and lines <= between else whole


def below(room_: int) -> int:
    """The most scored lines that have less room than this; 0 where there is no less."""
    if room_ <= _LEAST_SCORED:
        return 0
    is_between = room_ & (room_ - 1) != 0
    return room_ * 2 // 3 if is_between else room_ * 3 // 4 if room_ > _COSTLY_LINES else room_ // 2


def _lines(rows: int) -> int:
    """Room for so many rows."""
    return _power_of_two(rows) if rows <= 2 * _ROW_STEP else -(-rows // _ROW_STEP) * _ROW_STEP


def _power_of_two(n: int) -> int:
    """The smallest that is at least n."""
    return 1 << max(n - 1, 0).bit_length()
