"""Steps that come again and again, replayed from CUDA graphs: a graph launches in one call what eagerly takes hundreds.

A step is the forward, the head on the scored rows and, where they can be, the mask prediction and the commit. A graph has
fixed shapes and reads and writes fixed memory. So shapes are rounded up to a few, inputs are copied into buffers that stay,
padded with queries and rows that nobody reads, and keys and values live in one cache that outlives the run.

The commit writes into the tokens that the graph reads. So where the next step is as good as sure to be the same but for its
tokens, the graph is replayed again at once, and the device works while the host reads and decides. The host decides anew,
from the same statistics by the same rule; a step that turns out to be another than the one that was begun is computed as if
nothing had been begun. Behind the switch `while` a whole run of such steps is one loop on the device (`ops/loop.py`).

Only `capture.py` knows CUDA. Everything else is tested on the CPU, where a "graph" is the function that would be captured.
"""

from __future__ import annotations

import functools
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_fast import switches
from dllm_fast._core import Lock
from dllm_fast.errors import DllmFastWarning, warn
from dllm_fast.modules.keep import stepping
from dllm_fast.networks.batch import Conditioned
from dllm_fast.networks.experts import Experts
from dllm_fast.networks.slots import SlotCache
from dllm_fast.ops import commit, launcher
from dllm_fast.ops import mask_predict as device
from dllm_fast.ops.loop import Kept, Log
from dllm_fast.ops.shared import finish
from dllm_fast.runners.capture import CudaCapture
from dllm_fast.runners.shapes import Inputs, Shape, room
from dllm_fast.runners.step_graph import Begun, Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast.networks.batch import Network
    from dllm_fast.runners.host_reads import HostReads
    from dllm_fast.runners.predictor import Scoring

    Ints = NDArray[np.int64]
    Capture = Callable[[Callable[[], None]], Callable[[], None]]

# Above so many tokens a forward computes longer than it takes to launch, and a graph gains nothing.
_MOST_TOKENS = 2048
# A batch whose rows end one by one passes through some twenty shapes a number of keys. They share their work memory; each has
# its buffers, a fraction of a megabyte, and what the driver holds of its nodes.
_MOST_GRAPHS = 128
_LENGTH_STEP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a step gave: a prediction or logits `[n, V]`; and features `[B, Q, H]`, where carried were given, which somebody has
    to make anew. The next step writes over the last two. `is_replayed`: it was a graph, not the same eagerly."""

    scored: Tensor | device.AwaitedPrediction
    hidden: Tensor | None
    is_replayed: bool


class Engine:
    """The graphs of one network, and the cache that they work on. For one run at a time; a second one runs eagerly.

    Attributes:
        trouble: why nothing is captured, or None.
        traceback: the whole of it, where a capture failed.
        loop_trouble: why steps are not turns of loops, or None.
    """

    def __init__(
        self,
        network: Network,
        *,
        dtype: torch.dtype,
        where: torch.device,
        capture: Capture | None = None,
        reads: Callable[[], HostReads] | None = None,
    ) -> None:
        """`reads` looks on when a shape is computed for the first time, for a network of which nobody knows what it does."""
        self._most_tokens = _most_tokens(network)
        self.trouble = None if self._most_tokens else "the number of tokens of each expert is read on the host"
        if isinstance(network, Conditioned):
            self.trouble = "each step reads what the one before predicted, which graphs do not hand on"
        self.traceback: str | None = None
        self._network = network
        self._dtype, self._where = dtype, where
        self._capture = CudaCapture(where) if capture is None else capture
        self._reads = reads
        self._loop = getattr(self._capture, "loop", None) if switches.is_on("while") else None
        self.loop_trouble: str | None = None
        self._cache: SlotCache | None = None
        # By shape, and whether the step works on the cache and on carried; captured when they come the second time.
        self._graphs: dict[tuple[Shape, bool, bool], Graph] = {}
        self._begun: Begun | None = None
        self._state: Hashable | None = None
        self._user: object = None
        self._stream: torch.cuda.Stream | None = None  # of the last step
        self._lock = Lock()  # of the line above; a signal handler may run a model, too

    @property
    def captured(self) -> int:
        """How many of its shapes are graphs by now: the others came once."""
        return sum(graph.captured is not None for graph in self._graphs.values())

    def acquire(self, user: object) -> bool:
        """True for the one who may use it, until `release`."""
        # Autocast computes in other dtypes than a graph that was captured without it, and frees what it has converted.
        if self.trouble is not None or torch.is_autocast_enabled(self._where.type):
            return False
        with self._lock.held():
            if self._user is not None:
                return False
            self._user = user
        is_fit = False
        try:
            is_fit = self._looks_fit()
        finally:
            if not is_fit:
                self.release(user)
        return is_fit

    def _looks_fit(self) -> bool:
        """Can the network be captured as it is now? Drops what was captured of another."""
        state = self._state_now()
        if state is None or self._state not in (None, state):
            self.forget()
        self._state = state
        return state is not None

    def _state_now(self) -> Hashable | None:
        """What graphs take for constant of the network: where its weights lie. None where it cannot be captured."""
        network = self._network
        if not isinstance(network, torch.nn.Module):
            return ()
        return tuple((tensor.data_ptr(), tensor.dtype) for tensor in (*network.parameters(), *network.buffers()))

    def release(self, user: object, *, is_well: bool = True) -> None:
        """Ends the use of one who may have had it. Where not all went well nothing that is no number stays in the cache."""
        if self._user is not user:
            return
        self._begun = None
        try:
            # What is still queued reads and writes what the next run will, which may be on another stream.
            self._finish()
            if self.trouble is not None:
                self.forget()
            elif not is_well and self._cache is not None:
                with stepping():
                    self._cache.clear()
        except Exception:  # of a broken device; after an interrupt it is done once more
            self._user = None
            raise
        self._user = None

    def _finish(self) -> None:
        """Waits for what is queued, on the stream of the last step and on that of the caller, who may be another thread."""
        if self._stream is not None:
            self._stream.synchronize()
        self._stream = None
        finish(self._where)

    def _follow_stream(self) -> None:
        """A step on another stream than the one before comes after it, and after what was begun there."""
        if self._where.type != "cuda":
            return
        stream = torch.cuda.current_stream(self._where)
        if self._stream is not None and stream != self._stream:
            self._finish()
            self._begun = None
        self._stream = stream

    def forget(self) -> None:
        """Drops all graphs and the cache, and the memory that they hold."""
        self._finish()  # other streams may get it
        self._graphs, self._cache, self._begun = {}, None, None

    def cache(self, lines: int, length: int) -> SlotCache:
        """Slots for so many lines of so many positions, the same ones as long as they are enough."""
        cache = self._cache
        if cache is None or cache.lines < lines or cache.spare < length:
            self.forget()  # graphs know the addresses of the old one
            length = -(-length // _LENGTH_STEP) * _LENGTH_STEP
            self._cache = cache = SlotCache(self._network, lines, length, dtype=self._dtype, device=self._where)
        return cache

    def run(
        self, inputs: Inputs, *, is_cached: bool, scoring: Scoring | None, carried: Tensor | None, repeats: int
    ) -> Answer | None:
        """The step, from a graph; None where it has to be computed eagerly.

        Args:
            inputs: of the step.
            is_cached: it works on the slots of `cache`.
            scoring: what to predict; None where the logits are wanted.
            carried: features `[B, H]` behind those of the queries; None where no line is among them.
            repeats: so many of the next steps in the same block will differ in their tokens alone, and nobody reads the
                features of this.
        """
        self._follow_stream()
        begun, self._begun = self._begun, None
        if torch.is_autocast_enabled(self._where.type):
            return None  # as in `acquire`, from one step to the next
        lines = None if begun is None or scoring is None else begun.lines_of(inputs, scoring.rows)
        if begun is not None and lines is not None:
            graph, filled = begun.graph, begun.inputs
        else:
            found = self._filled(inputs, is_cached=is_cached, scoring=scoring, carried=carried)
            if found is None:
                return None
            graph, filled, lines = found, inputs, np.arange(len(inputs.lines))
            self._first(graph) if graph.is_new else graph.replay(self._network)
            begun = None
        hidden = None if graph.hidden is None else graph.hidden[: inputs.ids.shape[0], : inputs.ids.shape[1]]
        scored: Tensor | device.AwaitedPrediction
        if scoring is None:
            assert graph.logits is not None
            scored = graph.logits[: len(lines)]
        else:
            outcome = launcher.HostCopy(graph.outcome) if begun is None else begun.outcome
            scored = device.AwaitedPrediction(outcome, graph.shape.scored, lines)
            if repeats:
                self._begun = None if begun is None else begun.after()
                # A loop that has ended by itself has seen that the next step is another one.
                is_over = begun is not None and begun.turns is not None and begun.turns.is_cut_short
                if self._begun is None and not is_over:
                    self._go_on(graph, filled, scoring, outcome, len(lines), repeats)
        if graph.captured is None and self._begun is None:
            graph.hidden = graph.logits = None  # the next step makes others
        return Answer(scored=scored, hidden=hidden, is_replayed=graph.captured is not None)

    def _first(self, graph: Graph) -> None:
        """The first step of a shape, which is computed eagerly."""
        if self._reads is None:
            graph.replay(self._network)
        else:
            with self._reads() as reads:
                graph.replay(self._network)
            if reads.found is not None:
                self._give_up(reads.found)
        graph.is_new = False  # not one that failed: it was not looked at to its end

    def _give_up(self, why: str) -> None:
        self.trouble = why
        warn(f"dllm_fast runs without CUDA graphs, which is slower: {why}", DllmFastWarning)

    def _filled(self, inputs: Inputs, *, is_cached: bool, scoring: Scoring | None, carried: Tensor | None) -> Graph | None:
        """The graph of a step, with the step's inputs in its buffers."""
        cache = self._cache if is_cached else None
        sites = None if scoring is None else scoring.sites()
        kind = None if scoring is None else scoring.laws.kind
        rule = scoring.rule if scoring is not None and sites is not None and commit.fits(sites.counts) else None
        shape = Shape.around(inputs, cache, kind, rule)
        if self.trouble is not None or shape.rows * shape.width > self._most_tokens:
            return None
        packed = shape.pack(inputs, 0 if cache is None else cache.spare)
        scoring_inputs = None if scoring is None or sites is None else shape.pack_scoring(scoring, sites, inputs)
        key = shape, is_cached, carried is not None
        graph = self._graphs.pop(key, None)
        if graph is not None:
            self._graphs[key] = graph  # used last
        if graph is None:
            # A shape that comes once is not worth a capture. It goes through the same buffers all the same: other shapes of
            # matrix products are rounded otherwise, and the second run of a program would not be the first.
            self._make_room()
            graph = self._graphs[key] = Graph(shape, cache, carried, self._where)
        graph.laws = None if scoring is None else scoring.laws
        if graph.captured is None and not graph.is_new:
            graph.fill(packed, scoring_inputs, carried)
            try:
                graph.captured = self._capture(functools.partial(graph.body, self._network))
            # Whatever cannot be captured can be computed eagerly, and then shows its own error if it has one.
            except Exception as error:
                self.traceback = "".join(traceback.format_exception(error))
                self._give_up(f"{type(error).__name__}: {error}".partition("\n")[0])
                return None
        # Once more behind a capture: it has committed.
        graph.fill(packed, scoring_inputs, carried)
        return graph

    def _make_room(self) -> None:
        """Drops the graph that was used longest ago where there are many: each holds memory of the device."""
        if len(self._graphs) >= _MOST_GRAPHS:
            finish(self._where)  # it could be the one that runs
            del self._graphs[next(iter(self._graphs))]

    def _go_on(  # noqa: PLR0917
        self, graph: Graph, inputs: Inputs, scoring: Scoring, outcome: launcher.HostCopy, scored: int, repeats: int
    ) -> None:
        """Begins the step after the one whose outcome is on its way, where that is as good as sure to come and of its shape.

        Where loops are tried, all that follow it on the device are begun with it.
        """
        (floors, _), pace = scoring.paces()
        if pace is None or graph.place is None or room(scored - int(floors.sum())) != graph.shape.scored:
            return
        if graph.captured is None:
            return  # it would go on and on from one eager step to the next, and never come back to be captured
        graph.place.set_pace(pace)
        turns = self._turns(graph, repeats) if np.array_equal(floors, pace[0]) else None
        if turns is None:
            graph.replay(self._network)
        copy = launcher.HostCopy(graph.outcome) if turns is None else turns.step(0)
        self._begun = Begun(graph=graph, inputs=inputs, rows=scoring.rows, before=outcome, outcome=copy, turns=turns)

    def _turns(self, graph: Graph, repeats: int) -> Kept | None:
        """Queues a loop of steps of the same pace; None where there is none."""
        rule = graph.shape.rule
        if self._loop is None or self.loop_trouble is not None or repeats < 2 or graph.captured is None or rule is None:
            return None
        if rule.is_annealed or not launcher.usable(self._where, "loop"):
            return None  # the noise fades out from step to step
        if graph.log is None:
            graph.log = Log(graph.outcome, rule)
        if graph.log.most < 2:
            return None
        try:
            if graph.turn is None:
                graph.turn = self._loop(functools.partial(graph.turn_body, self._network))
            graph.log.begin(repeats)
            graph.turn()
        # As a capture that fails: the steps can be replayed one by one.
        except Exception as error:
            self.traceback = "".join(traceback.format_exception(error))
            self.loop_trouble = f"{type(error).__name__}: {error}".partition("\n")[0]
            warn(
                f"dllm_fast replays the steps of a block one by one, not as a loop on the device: {self.loop_trouble}",
                DllmFastWarning,
            )
            return None
        return graph.log.kept()


def _most_tokens(network: Network) -> int:
    """Of a step that can be captured and gains by it; 0 where its products need the host in the middle of every forward."""
    modules = network.modules() if isinstance(network, torch.nn.Module) else ()
    limits = [module.tokens_without_host() for module in modules if isinstance(module, Experts)]
    return min([_MOST_TOKENS, *(most for most in limits if most is not None)])
