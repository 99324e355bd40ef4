"""A step as a graph: its buffers, the call that computes it anew, and the step after it that has already begun."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_fast.networks.batch import Batch
from dllm_fast.ops import commit, launcher
from dllm_fast.ops import mask_predict as device
from dllm_fast.ops.loop import Kept, Log
from dllm_fast.ops.shared import keeping
from dllm_fast.runners.shapes import Inputs, Shape, below, room

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast.networks.batch import Network
    from dllm_fast.networks.slots import SlotCache
    from dllm_fast.ops.shared import Kept as Tables

    Ints = NDArray[np.int64]


class Graph:
    """The buffers of one shape, and the call that computes them anew.

    It knows the cache, so nothing of it may know the graph: memory of a cycle is not free again before Python looks for one.
    """

    def __init__(self, shape: Shape, cache: SlotCache | None, carried: Tensor | None, where: torch.device) -> None:
        self.shape, self.cache = shape, cache
        size, scored = shape.rows * shape.width, shape.scored
        self.shared: Tables = {}  # what it reads of others, who may let it go
        self.laws: device.Laws | None = None  # those of the last step that was filled in, whose memory its buffers point at
        self.inputs = torch.empty(4 * size + scored, dtype=torch.int64, device=where)
        self.ids, self.positions, self.end, self.slots = self.inputs[: 4 * size].view(4, shape.rows, shape.width)
        self.carried = None if carried is None else carried.new_zeros(shape.rows, carried.shape[1])
        # What the mask prediction and the commit read, and what they give: results, and the tokens of the next forward.
        is_committing = shape.rule is not None
        predicting = device.packed_bytes(scored, shape.rows)
        places = commit.place_bytes(shape.rows, scored) if is_committing else 0
        self.scoring_inputs = torch.empty(predicting + places, dtype=torch.uint8, device=where)
        self.outcome = device.empty_results(scored, where, words=size if is_committing else 0)
        self.place = commit.Place(shape.rows, scored, self.scoring_inputs[predicting:]) if is_committing else None
        self.hidden: Tensor | None = None
        self.logits: Tensor | None = None
        self.captured: Callable[[], None] | None = None
        # The same step as the body of a loop, and what its turns give; made when a loop is first wanted.
        self.log: Log | None = None
        self.turn: Callable[[], None] | None = None
        self.is_new = True  # never computed

    def fill(self, packed: Ints, scoring_inputs: NDArray[np.uint8] | None, carried: Tensor | None) -> None:
        launcher.fill(self.inputs, packed)
        if scoring_inputs is not None:
            launcher.fill(self.scoring_inputs, scoring_inputs)
        if self.carried is not None and carried is not None:
            self.carried[: len(carried)] = carried

    def replay(self, network: Network) -> None:
        """The step, from the graph where there is one by now."""
        self.body(network) if self.captured is None else self.captured()

    def body(self, network: Network) -> None:
        """The step. Reads and writes buffers only, and never asks for a value."""
        with keeping(self.shared):
            self._step(network)

    def _step(self, network: Network) -> None:
        shape, cache = self.shape, self.cache
        where = None if cache is None else self.slots
        batch = Batch(ids=self.ids, positions=self.positions, end=self.end, cache=cache, slots=where, keys=shape.keys)
        hidden = network.hidden(batch)
        features = hidden.flatten(0, 1)
        if self.carried is not None:
            self.hidden = hidden  # elsewhere it would hold memory in every graph for nobody
            features = torch.cat((features, self.carried))
        logits = network.logits(features[self.inputs[4 * self.ids.numel() :]])
        if shape.kind is None:
            self.logits = logits
            return
        device.queue(logits, self.scoring_inputs, self.outcome, shape.scored, shape.kind)
        if self.place is not None and shape.rule is not None:
            self.place.queue(self.ids, self.scoring_inputs, self.outcome, shape.rule)
            self.tokens(self.outcome).copy_(self.ids)
            device.steps(self.scoring_inputs, shape.scored).add_(1)

    def turn_body(self, network: Network, handle: int) -> None:
        """The step as a turn of a loop."""
        assert self.place is not None
        assert self.log is not None
        self.body(network)
        self.log.queue(self.place, self.ids, self.outcome, handle=handle, least=below(self.shape.scored))

    def tokens(self, outcome: Tensor) -> Tensor:
        """What its commit made of its tokens, `[rows, width]`."""
        return outcome[-8 * self.ids.numel() :].view(torch.int64).view(self.ids.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A step that began before it was asked for: a replay on the tokens that the commit of the one before wrote.

    Attributes:
        inputs: of the last step that was filled in: this one differs in its tokens, and scores some of its lines.
        rows: of the request.
        before: outcome of the step before, tokens and all.
        outcome: its own.
        turns: of the loop that it is a turn of, or None.
        index: of the turn.
    """

    graph: Graph
    inputs: Inputs
    rows: Ints
    before: launcher.HostCopy
    outcome: launcher.HostCopy
    turns: Kept | None = None
    index: int = 0

    def after(self) -> Begun | None:
        """The next turn of its loop, where there is one."""
        index = self.index + 1
        if self.turns is None or index >= len(self.turns):
            return None
        return dataclasses.replace(self, before=self.outcome, outcome=self.turns.step(index), index=index)

    def lines_of(self, inputs: Inputs, rows: Ints) -> Ints | None:
        """Which of its lines a step scores; None where it is another step, or one that would be rounded otherwise."""
        mine = self.inputs
        if room(len(inputs.lines)) != self.graph.shape.scored:
            return None
        pairs = ((mine.positions, inputs.positions), (mine.end, inputs.end), (mine.slots, inputs.slots), (self.rows, rows))
        if not all(a is b or np.array_equal(a, b) for a, b in pairs):  # type: ignore[arg-type]
            return None
        tokens = self.graph.tokens(self.before.wait()).numpy()[: inputs.ids.shape[0], : inputs.ids.shape[1]]
        lines = np.flatnonzero(np.isin(mine.lines, inputs.lines))
        return lines if len(lines) == len(inputs.lines) and np.array_equal(tokens, inputs.ids) else None
