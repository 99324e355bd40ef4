"""Runs a network for the sampler: which positions go through it, what the cache keeps, and the head on scored rows only."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from dllm_fast.errors import InvalidValueError
from dllm_fast.modules.hold import Hold
from dllm_fast.modules.keep import without_gradients
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.slots import SlotCache
from dllm_fast.ops import launcher
from dllm_fast.runners.ready import make_ready
from dllm_fast.runners.shapes import Inputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast._core import Request
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.networks.batch import Network
    from dllm_fast.ops.mask_predict import AwaitedPrediction
    from dllm_fast.runners.graphs import Answer, Engine
    from dllm_fast.runners.predictor import Predictor

    Ints = NDArray[np.int64]
    # Logits [N, V], and for each requested position its line of them (None: they follow each other); or the prediction.
    Scored = tuple[Tensor | NDArray[Any] | AwaitedPrediction, Ints | None]
    # Some rows of a request, and the forward that scores their positions.
    Part = tuple[Ints, Callable[[], Scored]]

# Attention rules under which keys left of a block never change.
EXACT = ("block_causal", "causal_context")
_ANY_NUMBER = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a run will ask for, known before its first forward.

    Attributes:
        lengths: of the canvas of each row.
        starts: first position of each row that `sample` appended; 0 for `infill`.
        prompts: number of the prompt of each row: rows of one prompt begin alike.
        mask_token_id: the mask.
        eos_token_ids: tokens that end a row.
        cache: policy; `auto` is the fastest that gives the same tokens as none.
        refresh_every: forwards between full ones under an approximate policy; None for one a block.
        max_rows: rows in a forward at most, or None.
        predictor: of the run, for forwards that predict, too.
        is_watched: somebody looks at every step as it is made, so no steps are made together.
    """

    lengths: Sequence[int]
    starts: Sequence[int]
    prompts: Sequence[int]
    mask_token_id: int
    eos_token_ids: tuple[int, ...] = ()
    cache: str = "auto"
    refresh_every: int | None = None
    max_rows: int | None = None
    predictor: Predictor | None = None
    is_watched: bool = False


class Runner(Protocol):
    """A model of any kind as the loop of `sample` sees it.

    Attributes:
        vocabulary: number of token ids, or None.
        context: longest canvas, or None.
        forwards: calls of the model so far.
        replayed: those of them that were replayed from CUDA graphs.
        seconds: time spent in them.
    """

    vocabulary: int | None
    context: int | None
    forwards: int
    replayed: int
    seconds: float

    @property
    def info(self) -> ModelInfo | None:
        """What is known of the model's family."""
        ...

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        """`mask_token_id` or `eos_token_id`, where the model says it."""
        ...

    def inference(self) -> AbstractContextManager[None]:
        """Around all forwards of a run."""
        ...

    def begin(self, task: Task) -> str:
        """Prepares for a run. Returns the cache policy that it will have.

        Raises:
            InvalidValueError: the model cannot do what the task says.
        """
        ...

    def parts(self, request: Request, *, shift: bool) -> list[Part]:
        """The forwards that answer a request, each for some of its rows; to be called in this order."""
        ...


class NetworkRunner:
    """Runs a `Network` on ragged batches.

    Rows of different length share a forward: every query has its own position and sees its own keys, so the filling
    behind a shorter row changes nothing. Policies of the cache, by what a forward computes:

    - `none`: everything that the scored positions can see.
    - `exact_block`, for block-causal models and those with a causal context: the block that is being filled, and once more
      the one before it, whose last tokens were committed by the forward before. Keys left of that never change, so this is
      exact.
    - `prefix`: a full forward at the start of a block and every `refresh_every` forwards, between them the block and what
      is right of it. Approximate: the keys on the left are as they were (Fast-dLLM, 2505.22618).
    - `dual`: as `prefix`, but only the block between full forwards; the keys on both sides are as they were.
    """

    def __init__(self, network: Network, info: ModelInfo, engine: Engine | None = None) -> None:
        self._network = network
        self._engine = engine
        self._replays = False
        self.info: ModelInfo = info
        self.vocabulary: int | None = network.vocabulary
        self.context = network.context
        self.forwards = self.replayed = 0
        self.seconds = 0.0
        make_ready(network, info.dtype, info.device)

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        return self.info.token_id(name)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        hold = Hold()
        try:
            if self._engine is not None:
                hold.afterwards(functools.partial(self._engine.release, hold))
                self._replays = self._engine.acquire(hold)
            without_gradients(hold)
            try:
                yield
            except BaseException:
                if self._replays and self._engine is not None:
                    with contextlib.suppress(RuntimeError):  # of a broken device, which the first error is about
                        self._engine.clean()
                raise
        finally:
            self._replays = False
            hold.give_back()

    def begin(self, task: Task) -> str:
        self._policy = self._resolve(task.cache, task.refresh_every)
        self._refresh_every = task.refresh_every
        self._starts = np.asarray(task.starts, dtype=np.int64)
        self._prompts = np.asarray(task.prompts, dtype=np.int64)
        self._mask = task.mask_token_id
        self._predictor = task.predictor
        self._most_repeats = 1 if task.is_watched else _ANY_NUMBER
        self._active = np.zeros(0, dtype=np.int64)
        rows = len(task.lengths)
        # Exact: positions below are final and in the cache. Approximate: forwards since the last full one, and its block.
        self._fresh = np.zeros(rows, dtype=np.int64)
        self._age = np.zeros(rows, dtype=np.int64)
        self._block = np.full(rows, -1, dtype=np.int64)
        self._tails: Tensor | None = None
        self._cache: SlotCache | None = None
        self._room = min(rows, task.max_rows or rows), max(task.lengths, default=0)
        return self._policy

    def _slots(self) -> SlotCache | None:
        """The cache of the run, made when it is first needed: graphs work on one of their own."""
        if self._cache is None and self._policy != "none":
            own = functools.partial(SlotCache, self._network, dtype=self.info.dtype, device=self.info.device)
            self._cache = (self._engine.cache if self._replays and self._engine else own)(*self._room)
        return self._cache

    def _resolve(self, policy: str, refresh_every: int | None) -> str:
        blocks = self.info.attention in EXACT
        if self.info.attention == "causal_reordered" and policy not in ("auto", "none"):
            raise InvalidValueError(f"a model that reorders its tokens runs without a cache, got cache={policy!r}; use 'none'")
        if policy == "exact_block" and not blocks:
            raise InvalidValueError(
                f"cache='exact_block' needs a block-causal model, got attention {self.info.attention!r}; "
                "use cache='none', or the approximate 'prefix' or 'dual'"
            )
        if policy == "auto":
            policy = "exact_block" if blocks else "none"
        if refresh_every is not None and policy not in ("prefix", "dual"):
            raise InvalidValueError(
                f"refresh_every is for the caches 'prefix' and 'dual', got {refresh_every} with cache={policy!r}; leave it out"
            )
        return policy

    def parts(self, request: Request, *, shift: bool) -> list[Part]:
        reorders = self.info.attention == "causal_reordered"
        return [(request.rows, functools.partial(self._reordered if reorders else self._scored, request, shift=shift))]

    def _scored(self, request: Request, *, shift: bool) -> Scored:
        rows, lengths = request.rows, request.lengths
        cache = self._slots()
        if cache is not None:
            self._admit(request, shift=shift)
        begin, end, block = self._span(request, shift=shift)
        ids, lines = request.batch(begin, end, shift=shift)
        inputs = self._inputs(ids, (begin, end), self._seen(begin, end, block, lengths), lines, cache)
        has_tails = self._policy == "exact_block" and shift
        answer = self._replayed(inputs, rows, has_tails=has_tails, repeats=self._repeats(rows, begin, block))
        hidden: Tensor | None
        if answer is not None:
            hidden, scored = answer.hidden, answer.scored
        else:
            hidden = self._forward(inputs, cache)
            features = hidden.flatten(0, 1)
            scored = self._head(torch.cat((features, self._tail(rows, hidden))) if has_tails else features, lines)
        if has_tails and hidden is not None:
            self._keep_tails(rows, hidden, block - 1 - begin)
        if self._policy == "exact_block":
            self._fresh[rows] = block
        return scored, None

    def _replayed(self, inputs: Inputs, rows: Ints, *, has_tails: bool, repeats: int) -> Answer | None:
        """The step from a CUDA graph, where there is one for it."""
        if not self._replays or self._engine is None or (has_tails and self._tails is None):
            return None
        began = time.perf_counter()
        run = functools.partial(
            self._engine.run,
            inputs,
            is_cached=self._cache is not None,
            scoring=None if self._predictor is None else self._predictor.embedded(rows, self._network.vocabulary, self.info),
            tails=self._tails[self._to_device(rows)] if has_tails and self._tails is not None else None,
            repeats=min(repeats, self._most_repeats),
        )
        answer: Answer | None = self._noted(run, *inputs.ids.shape)
        self.seconds += time.perf_counter() - began
        self.forwards += answer is not None
        self.replayed += answer is not None and answer.is_replayed
        return answer

    def _repeats(self, rows: Ints, begin: Ints, block: Ints) -> int:
        """How many of the next forwards of these rows, as far as they are of the same blocks, compute the same positions?"""
        if self._policy == "none":
            return _ANY_NUMBER
        if self._policy == "exact_block":
            return _ANY_NUMBER if (begin == block).all() else 0
        age = self._age[rows]
        if not (age > 1).all():
            return 0
        return _ANY_NUMBER if self._refresh_every is None else max(self._refresh_every - int(age.max()), 0)

    def _span(self, request: Request, *, shift: bool) -> tuple[Ints, Ints, Ints]:
        """For each row the positions `[begin, end)` that go through the network, and where its block begins."""
        rows, lengths = request.rows, request.lengths
        block, stop = request.windows[:, 0], request.windows[:, 1]
        end = lengths
        if self.info.attention == "causal_context":
            block, end = np.maximum(block, self._starts[rows]), stop
        elif self.info.attention == "block_causal":
            size = self.info.block_length or 1
            # Nothing right of the model's block can be seen, so nothing there needs to be computed.
            end = np.minimum((stop - 1) // size * size + size, lengths)
        if self._policy == "none":
            return np.zeros_like(end), end, block
        if self._policy == "exact_block":
            block = block if self.info.attention == "causal_context" else block // size * size
            return self._fresh[rows], end, block
        block = np.maximum(block, self._starts[rows])
        full = self._block[rows] != block
        if self._refresh_every is not None:
            full |= self._age[rows] >= self._refresh_every
        self._age[rows] = np.where(full, 1, self._age[rows] + 1)
        self._block[rows] = block
        begin = np.where(full, 0, np.maximum(block - int(shift), 0))
        if self._policy == "dual":
            end = np.where(full, end, np.minimum(stop, end))
        return begin, end, block

    def _seen(self, begin: Ints, end: Ints, block: Ints, lengths: Ints) -> Ints:
        """For the positions from `begin` on, `[n, Q]`, the first position that each does not see."""
        positions = begin[:, None] + np.arange((end - begin).max())
        last = (end if self._cache is None else lengths)[:, None]
        if self.info.attention == "causal_context":
            return np.where(positions < block[:, None], positions + 1, end[:, None])
        if self.info.attention == "block_causal":
            size = self.info.block_length or 1
            return np.minimum((positions // size + 1) * size, last)
        return np.broadcast_to(last, positions.shape)

    def _inputs(self, ids: Ints, spans: tuple[Ints, Ints], seen: Ints, lines: Ints, cache: SlotCache | None) -> Inputs:
        """What a forward of the tokens of `spans`, from begin up to end, takes, which see up to `seen`."""
        begin, end = spans
        width = ids.shape[1]
        positions = begin[:, None] + np.arange(width)
        real = positions < end[:, None]
        keys = width if cache is None else int(seen[real].max())
        return Inputs(
            ids=ids,
            # Filling stays inside the context, and sees everything, so that no softmax runs over nothing.
            positions=np.where(real, positions, np.minimum(positions, keys - 1)),
            end=np.where(real, seen, keys),
            slots=None if cache is None else np.where(real, positions, cache.spare),
            keys=keys,
            lines=lines,
        )

    def _forward(self, inputs: Inputs, cache: SlotCache | None) -> Tensor:
        """Features `[n, Q, H]`."""
        batch = Batch(
            ids=self._to_device(inputs.ids),
            positions=self._to_device(inputs.positions),
            end=None if (inputs.end == inputs.keys).all() else self._to_device(inputs.end),
            cache=cache,
            slots=None if inputs.slots is None else inputs.span() or self._to_device(inputs.slots),
            keys=inputs.keys,
        )
        return self._timed(lambda: self._network.hidden(batch), *inputs.ids.shape)

    def _timed(self, forward: Any, rows: int, width: int) -> Tensor:
        began = time.perf_counter()
        try:
            hidden: Tensor = self._noted(forward, rows, width)
        finally:
            self.seconds += time.perf_counter() - began
        self.forwards += 1
        return hidden

    def _noted(self, forward: Callable[[], Any], rows: int, width: int) -> Any:
        """What a forward gives; what it raises says which one it was."""
        try:
            return forward()
        except Exception as error:
            error.add_note(f"dllm_fast: raised by forward {self.forwards} (from 0), {rows} rows of {width} tokens")
            raise

    def _head(self, features: Tensor, lines: Ints) -> Tensor:
        began = time.perf_counter()
        logits = self._network.logits(features[self._to_device(lines)])
        self.seconds += time.perf_counter() - began
        return logits

    def _tail(self, rows: Ints, hidden: Tensor) -> Tensor:
        """Features of the last position before the cached part of each row, for models whose predictions are shifted."""
        if self._tails is None:
            self._tails = hidden.new_zeros(len(self._fresh), hidden.shape[-1])
        return self._tails[self._to_device(rows)]

    def _keep_tails(self, rows: Ints, hidden: Tensor, place: Ints) -> None:
        new = np.flatnonzero(place >= 0)
        if new.size and self._tails is not None:
            row, line, column = (self._to_device(a) for a in (rows[new], new, place[new]))
            self._tails[row] = hidden[line, column]

    def _admit(self, request: Request, *, shift: bool) -> None:
        """Keeps line i of the cache with row i of the request: finished rows leave, new rows follow behind."""
        rows = request.rows
        if len(rows) == len(self._active) and (rows == self._active).all():
            return
        assert self._cache is not None
        stay = np.flatnonzero(np.isin(self._active, rows))
        if not np.array_equal(stay, np.arange(len(stay))):
            self._cache.keep(self._to_device(stay))
        self._active = rows
        if self._policy == "exact_block":
            self._share(request, first=len(stay), shift=shift)

    def _share(self, request: Request, *, first: int, shift: bool) -> None:
        """Rows of one prompt compute it once: the rows from `first` on are new and copy what another row has.

        Only the blocks before the first that holds masks are shared, for they are the same and stay the same. Where the
        predictions are shifted, the last of them is left out: the row itself needs its features once.
        """
        assert self._cache is not None
        rows, size = request.rows, self.info.block_length or 1
        first_block = self._span(request, shift=shift)[2]
        shared = np.maximum(first_block - int(shift) * size, 0)
        _, firsts, groups = np.unique(self._prompts[rows], return_index=True, return_inverse=True)
        donors = firsts[groups]
        followers = np.flatnonzero((donors != np.arange(len(rows))) & (np.arange(len(rows)) >= first) & (shared > 0))
        if not followers.size:
            return
        leaders = np.unique(donors[followers])
        leaders = leaders[leaders >= first]
        if leaders.size:
            width = int(shared[leaders].max())
            ids = np.zeros((len(leaders), width), dtype=np.int64)
            canvases = request.canvases
            for line, leader in enumerate(leaders):
                ids[line, : shared[leader]] = canvases[leader][: shared[leader]]
            store = SlotCache(self._network, len(leaders), width, dtype=self.info.dtype, device=self.info.device)
            ends = shared[leaders]
            zeros = np.zeros_like(ends)
            self._forward(self._inputs(ids, (zeros, ends), self._seen(zeros, ends, ends, ends), ends[:0], store), store)
            self._cache.take(store, self._to_device(np.arange(len(leaders))), self._to_device(leaders), width)
            self._fresh[rows[leaders]] = ends
        length = int(shared[followers].max())
        self._cache.take(self._cache, self._to_device(donors[followers]), self._to_device(followers), length)
        self._fresh[rows[followers]] = shared[followers]

    def _to_device(self, array: Ints) -> Tensor:
        return launcher.to_device(torch.from_numpy(array), self.info.device)

    def _reordered(self, request: Request, *, shift: bool) -> Scored:
        """Known tokens first, masks last, every token at its own position, each seeing those before it (WeDLM)."""
        lengths = request.lengths
        ids, lines = request.batch(np.zeros_like(lengths), lengths, shift=shift)
        rows, width = ids.shape
        behind = np.arange(width) >= lengths[:, None]
        order = np.argsort(np.where(behind, 2, ids == self._mask), axis=1, kind="stable")
        place = np.argsort(order, axis=1, kind="stable")
        batch = Batch(
            ids=self._to_device(np.take_along_axis(ids, order, axis=1)),
            positions=self._to_device(order),
            end=torch.arange(1, width + 1, device=self.info.device).expand(rows, width),
        )
        hidden = self._timed(lambda: self._network.hidden(batch), rows, width)
        where = lines // width * width + place.ravel()[lines]
        return self._head(hidden.flatten(0, 1), where), None
