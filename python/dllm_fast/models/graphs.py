"""Steps that come again and again, replayed from CUDA graphs: a graph launches in one call what eagerly takes hundreds.

A step is the forward, the head on the scored rows and, where it can be, the mask prediction. A graph has fixed shapes and
reads and writes fixed memory. So shapes are rounded up to a few, inputs are copied into buffers that stay, filled up with
queries and rows that nobody reads, and keys and values live in one cache that outlives the run.

Only `capture` knows CUDA. Everything else is tested on the CPU, where a "graph" is the function that would be captured.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast.models.batch import Batch
from dllm_fast.models.cache import SlotCache
from dllm_fast.models.experts import Experts
from dllm_fast.ops import launcher
from dllm_fast.ops import mask_predict as device

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast.models.batch import Network

    Ints = NDArray[np.int64]
    Capture = Callable[[Callable[[], None]], Callable[[], None]]

# Above so many tokens a forward computes longer than it takes to launch, and a graph gains nothing.
_MOST_TOKENS = 2048
_WIDTH_STEP, _LEAST_KEYS, _LEAST_SCORED, _LENGTH_STEP = 16, 256, 16, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a forward computes, on the host: the arrays of `Batch`, `[B, Q]` each, and the lines of its features to score."""

    ids: Ints
    positions: Ints
    end: Ints
    slots: Ints | None
    keys: int
    lines: Ints

    def span(self) -> slice | None:
        """The slots as a slice where all rows write the same, as a single row always does: a plain copy is faster."""
        assert self.slots is not None
        begin, width = int(self.slots[0, 0]), self.slots.shape[1]
        return slice(begin, begin + width) if (self.slots == np.arange(begin, begin + width)).all() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a graph is made for: rows, queries of each, keys that anybody sees, scored lines, and how tokens are drawn."""

    rows: int
    width: int
    keys: int
    scored: int
    draw: device.Draw | None

    @classmethod
    def around(cls, inputs: Inputs, cache: SlotCache | None, draw: device.Draw | None) -> Shape:
        """The smallest one that holds these inputs."""
        rows, width = inputs.ids.shape
        wide = -(-width // _WIDTH_STEP) * _WIDTH_STEP
        lines = _power_of_two(rows)
        keys = wide
        if cache is not None:
            lines = min(lines, cache.keys.shape[1])
            keys = min(max(_power_of_two(inputs.keys), _LEAST_KEYS), cache.spare + 1)
        scored = max(_power_of_two(len(inputs.lines)), _LEAST_SCORED)
        return cls(rows=lines, width=wide, keys=keys, scored=scored, draw=draw)

    def pack(self, inputs: Inputs, spare: int) -> Ints:
        """Ids, positions, ends, slots `[rows, width]` each, then the scored lines, one behind the other.

        Filling looks at one slot, so that no softmax runs over nothing, and writes where nobody looks.
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
        # Lines behind the features of the queries are those of `tails`, one a row.
        is_tail = inputs.lines >= rows * width
        lines[: len(inputs.lines)] = np.where(
            is_tail,
            inputs.lines - rows * width + self.rows * self.width,
            inputs.lines // width * self.width + inputs.lines % width,
        )
        return packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a step gave, in buffers that the next writes over: logits `[n, V]` or a prediction, and features `[B, Q, H]`."""

    scored: Tensor | device.TensorPrediction
    hidden: Tensor


class _Graph:
    """The buffers of one shape, and the call that computes them anew."""

    def __init__(self, shape: Shape, packed: Ints, sites: NDArray[np.uint8] | None, tails: Tensor | None, where: Any) -> None:
        self.shape = shape
        self.kept: list[Tensor] = []  # what it reads and others could let go of
        self.inputs = torch.empty(len(packed), dtype=torch.int64, device=where)
        self.sites = None if sites is None else torch.empty(len(sites), dtype=torch.uint8, device=where)
        self.results = None if sites is None else device.empty_results(shape.scored, where)
        self.tails = None if tails is None else tails.new_zeros(shape.rows, tails.shape[1])
        self.hidden: Tensor
        self.logits: Tensor
        self.replay: Callable[[], None]

    def fill(self, packed: Ints, sites: NDArray[np.uint8] | None, tails: Tensor | None) -> None:
        self.inputs.copy_(launcher.to_device(torch.from_numpy(packed), self.inputs.device))
        if self.sites is not None and sites is not None:
            self.sites.copy_(launcher.to_device(torch.from_numpy(sites), self.sites.device))
        if self.tails is not None and tails is not None:
            self.tails[: len(tails)] = tails

    def body(self, network: Network, cache: SlotCache | None) -> None:
        """The step. Reads and writes buffers only, and never asks for a value."""
        shape = self.shape
        size = shape.rows * shape.width
        ids, positions, end, slots = self.inputs[: 4 * size].view(4, shape.rows, shape.width)
        where = None if cache is None else slots
        batch = Batch(ids=ids, positions=positions, end=end, cache=cache, slots=where, keys=shape.keys)
        self.hidden = network.hidden(batch)
        features = self.hidden.flatten(0, 1)
        if self.tails is not None:
            features = torch.cat((features, self.tails))
        self.logits = network.logits(features[self.inputs[4 * size :]])
        if self.sites is not None and self.results is not None and shape.draw is not None:
            if shape.draw.suppressed:
                self.kept.append(device.suppressed_bits(shape.draw.suppressed, self.logits.shape[1], self.logits.device))
            device.queue(self.logits, self.sites, self.results, shape.scored, shape.draw)

    def answer(self, rows: int, width: int, scored: int) -> Answer:
        if self.results is None:
            found: Tensor | device.TensorPrediction = self.logits[:scored]
        else:
            found = device.results(self.results, scored, has_current=False, room=self.shape.scored)
        return Answer(scored=found, hidden=self.hidden[:rows, :width])


class Engine:
    """The graphs of one network, and the cache that they work on. For one run at a time; a second one runs eagerly.

    Attributes:
        trouble: why nothing is captured, or None.
    """

    def __init__(self, network: Network, *, dtype: torch.dtype, where: torch.device, capture: Capture | None = None) -> None:
        self.trouble = _obstacle(network)
        self._network = network
        self._dtype, self._where = dtype, where
        self._capture = CudaCapture(where) if capture is None else capture
        self._cache: SlotCache | None = None
        # By shape, and whether the step works on the cache and on tails.
        self._graphs: dict[tuple[Shape, bool, bool], _Graph] = {}
        self._seen: set[tuple[Shape, bool, bool]] = set()
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        """True for the one who may use it, until `release`."""
        return self.trouble is None and self._lock.acquire(blocking=False)

    def release(self) -> None:
        self._lock.release()

    def cache(self, lines: int, length: int) -> SlotCache:
        """Slots for so many lines of so many positions, the same ones as long as they are enough."""
        cache = self._cache
        if cache is None or cache.keys.shape[1] < lines or cache.spare < length:
            # Graphs know the addresses of the old one.
            self._graphs, self._cache = {}, None
            length = -(-length // _LENGTH_STEP) * _LENGTH_STEP
            self._cache = cache = SlotCache(self._network, lines, length, dtype=self._dtype, device=self._where)
        return cache

    def run(
        self,
        inputs: Inputs,
        *,
        is_cached: bool,
        draw: device.Draw | None,
        sites: Callable[[int], NDArray[np.uint8]],
        tails: Tensor | None,
    ) -> Answer | None:
        """The step, from a graph; None where it has to be computed eagerly.

        Args:
            inputs: of the step.
            is_cached: it works on the slots of `cache`.
            draw: for the mask prediction; None where the logits are wanted.
            sites: `device.pack_sites` for so many lines.
            tails: features `[B, H]` behind those of the queries; None where no line is among them.
        """
        cache = self._cache if is_cached else None
        shape = Shape.around(inputs, cache, draw)
        key = shape, is_cached, tails is not None
        if self.trouble is not None or shape.rows * shape.width > _MOST_TOKENS:
            return None
        if key not in self._seen:
            # A shape that comes once is not worth a capture.
            self._seen.add(key)
            return None
        packed = shape.pack(inputs, 0 if cache is None else cache.spare)
        packed_sites = None if draw is None else sites(shape.scored)
        graph = self._graphs.get(key)
        if graph is None:
            graph = _Graph(shape, packed, packed_sites, tails, self._where)
            graph.fill(packed, packed_sites, tails)
            try:
                graph.replay = self._capture(lambda: graph.body(self._network, cache))
            # Whatever cannot be captured can be computed eagerly, and then shows its own error if it has one.
            except Exception as error:
                self.trouble = f"{type(error).__name__}: {error}".partition("\n")[0]
                warnings.warn(f"dllm_fast runs without CUDA graphs, which is slower: {self.trouble}", stacklevel=2)
                return None
            self._graphs[key] = graph
        graph.fill(packed, packed_sites, tails)
        graph.replay()
        rows, width = inputs.ids.shape
        return graph.answer(rows, width, len(inputs.lines))


class CudaCapture:
    """Runs a function once, so that what it needs is loaded, then captures it. All graphs share their work memory."""

    def __init__(self, where: torch.device) -> None:
        self._where = where
        self._pool: Any = None

    def __call__(self, body: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._where):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                body()
            current.wait_stream(side)
            if self._pool is None:
                # Graphs run one after the other, and what one leaves for the host is kept out of the others' reach.
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                body()
        return graph.replay


def _obstacle(network: Network) -> str | None:
    """What is known beforehand to need the host in the middle of a forward."""
    if isinstance(network, torch.nn.Module) and any(isinstance(module, Experts) for module in network.modules()):
        return "the number of tokens of each expert is read on the host"
    return None


def _power_of_two(n: int) -> int:
    """The smallest that is at least n."""
    return 1 << max(n - 1, 0).bit_length()
