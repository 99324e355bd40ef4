"""Runs a network for the sampler: which positions go through it, what the cache keeps, and the head on scored rows only."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_fast.errors import InvalidValueError
from dllm_fast.modules.hold import Hold
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.slots import SlotCache
from dllm_fast.ops import launcher
from dllm_fast.runners.forwards import Forwards
from dllm_fast.runners.ready import make_ready
from dllm_fast.runners.shapes import Inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast._core import Request
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.networks.batch import Network
    from dllm_fast.runners.graphs import Answer, Engine
    from dllm_fast.runners.runner import Part, Scored, Task

    Ints = NDArray[np.int64]

# Attention rules under which keys left of a block never change.
EXACT = ("block_causal", "causal_context")
_ANY_NUMBER = 1 << 30


class NetworkRunner:
    """Runs a `Network` on ragged batches.

    Rows of different length share a forward: every query has its own position and sees its own keys, so the padding
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
        self.network = network
        self.engine = engine
        self.info: ModelInfo = info
        self.vocabulary: int | None = network.vocabulary
        self.context = network.context
        make_ready(network, info.dtype, info.device)

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        return self.info.token_id(name)

    def begin(self, task: Task) -> NetworkSession:
        return NetworkSession(self, task)

    def change(self, hold: Hold) -> None:
        """Changes what the network needs changed while it runs: nothing."""


class NetworkSession:
    """One run of a network: its cache, and what the cache has of each row.

    Line i of the cache belongs to row i of the request that is answered.
    """

    def __init__(self, runner: NetworkRunner, task: Task) -> None:
        self.policy = _resolve(runner.info, task.cache, task.refresh_every)
        self.is_watched = False
        self._runner = runner
        self._network, self._info, self._engine = runner.network, runner.info, runner.engine
        self._shift = task.shift
        self._mask = task.mask_token_id
        self._refresh_every = task.refresh_every
        self._predictor = task.predictor
        self._max_rows = task.max_rows
        self._forwards = Forwards()
        self._replays = False  # the engine is ours
        self._is_well = False  # nothing went wrong to the end
        rows = len(task.lengths)
        self._starts = np.asarray(task.starts, dtype=np.int64)
        self._prompts = np.asarray(task.prompts, dtype=np.int64)
        # Exact: positions below are final and in the cache. Approximate: forwards since the last full one, and its block.
        self._fresh = np.zeros(rows, dtype=np.int64)
        self._age = np.zeros(rows, dtype=np.int64)
        self._block = np.full(rows, -1, dtype=np.int64)
        self._active = np.zeros(0, dtype=np.int64)
        self._cache: SlotCache | None = None
        # Where predictions are shifted, features of the last position before the cached part of each line.
        self._carried: Tensor | None = None
        self._room = min(rows, task.max_rows or rows), max(task.lengths, default=0)

    @property
    def forwards(self) -> int:
        return self._forwards.count

    @property
    def replayed(self) -> int:
        return self._forwards.replayed

    @property
    def seconds(self) -> float:
        return self._forwards.seconds

    def hold(self, hold: Hold) -> None:
        # The engine looks at the model as it was given, so before anything is changed in it.
        if self._engine is not None:
            hold.afterwards(functools.partial(self._release, self._engine, hold))
            self._replays = self._engine.acquire(hold)
        self._runner.change(hold)

    def _release(self, engine: Engine, user: Hold) -> None:
        self._replays = False
        engine.release(user, is_well=self._is_well)

    def end(self) -> str | None:
        self._is_well = True
        return None

    def add(self, *, length: int, start: int = 0, prompt: int | None = None) -> int:
        row = len(self._fresh)
        own = -1 - row  # a number that no prompt has
        self._starts = np.append(self._starts, start)
        self._prompts = np.append(self._prompts, own if prompt is None else prompt)
        self._fresh, self._age, self._block = (
            np.append(array, value) for array, value in ((self._fresh, 0), (self._age, 0), (self._block, -1))
        )
        self._room = self._room[0], max(self._room[1], length)
        return row

    def _slots(self) -> SlotCache | None:
        """The cache of the run, made when it is first needed: graphs work on one of their own."""
        if self._cache is None and self.policy != "none":
            own = functools.partial(SlotCache, self._network, dtype=self._info.dtype, device=self._info.device)
            self._cache = (self._engine.cache if self._replays and self._engine else own)(*self._room)
        return self._cache

    def parts(self, request: Request) -> list[Part]:
        reorders = self._info.attention == "causal_reordered"
        return [(request.rows, functools.partial(self._reordered if reorders else self._scored, request))]

    def _scored(self, request: Request) -> Scored:
        rows, lengths = request.rows, request.lengths
        cache = self._slots()
        if cache is not None:
            cache = self._admit(request, cache)
        begin, end, block = self._span(request)
        ids, lines = request.batch(begin, end, shift=self._shift)
        inputs = self._inputs(ids, (begin, end), self._seen(begin, end, block, lengths), lines, cache)
        carries = self.policy == "exact_block" and self._shift
        answer = self._replayed(inputs, rows, carries=carries, repeats=self._repeats(rows, begin, block))
        if answer is not None:
            hidden, scored = answer.hidden, answer.scored
        else:
            hidden, scored = self._forwards.run(lambda: self._eager(inputs, cache, carries=carries), *ids.shape)
        if carries and hidden is not None:
            self._carry(hidden, block - 1 - begin)
        if self.policy == "exact_block":
            self._fresh[rows] = block
        return scored, None

    def _replayed(self, inputs: Inputs, rows: Ints, *, carries: bool, repeats: int) -> Answer | None:
        """The step from a CUDA graph, where there is one for it."""
        if not self._replays or self._engine is None or (carries and self._carried is None):
            return None
        run = functools.partial(
            self._engine.run,
            inputs,
            is_cached=self._cache is not None,
            scoring=None if self._predictor is None else self._predictor.embedded(rows, self._network.vocabulary, self._info),
            carried=self._carried[: len(rows)] if carries and self._carried is not None else None,
            repeats=min(repeats, 1) if self.is_watched else repeats,
        )
        answer = self._forwards.run(run, *inputs.ids.shape)
        self._forwards.replayed += answer is not None and answer.is_replayed
        return answer

    def _eager(self, inputs: Inputs, cache: SlotCache | None, *, carries: bool) -> tuple[Tensor, Tensor]:
        """Features `[B, Q, H]` of a forward, and the logits of what is scored."""
        hidden = self._hidden(inputs, cache)
        features = hidden.flatten(0, 1)
        if carries:
            if self._carried is None:
                assert cache is not None
                self._carried = hidden.new_zeros(cache.keys.shape[1], hidden.shape[-1])
            features = torch.cat((features, self._carried[: len(hidden)]))
        return hidden, self._network.logits(features[self._to_device(inputs.lines)])

    def _repeats(self, rows: Ints, begin: Ints, block: Ints) -> int:
        """How many of the next forwards of these rows, as far as they are of the same blocks, compute the same positions?"""
        if self.policy == "none":
            return _ANY_NUMBER
        if self.policy == "exact_block":
            return _ANY_NUMBER if (begin == block).all() else 0
        age = self._age[rows]
        if not (age > 1).all():
            return 0
        return _ANY_NUMBER if self._refresh_every is None else max(self._refresh_every - int(age.max()), 0)

    def _span(self, request: Request) -> tuple[Ints, Ints, Ints]:
        """For each row the positions `[begin, end)` that go through the network, and where its block begins."""
        rows, lengths = request.rows, request.lengths
        block, stop = request.windows[:, 0], request.windows[:, 1]
        end = lengths
        if self._info.attention == "causal_context":
            block, end = np.maximum(block, self._starts[rows]), stop
        elif self._info.attention == "block_causal":
            size = self._info.block_length or 1
            # Nothing right of the model's block can be seen, so nothing there needs to be computed.
            end = np.minimum((stop - 1) // size * size + size, lengths)
        if self.policy == "none":
            return np.zeros_like(end), end, block
        if self.policy == "exact_block":
            block = block if self._info.attention == "causal_context" else block // size * size
            return self._fresh[rows], end, block
        block = np.maximum(block, self._starts[rows])
        full = self._block[rows] != block
        if self._refresh_every is not None:
            full |= self._age[rows] >= self._refresh_every
        self._age[rows] = np.where(full, 1, self._age[rows] + 1)
        self._block[rows] = block
        begin = np.where(full, 0, np.maximum(block - int(self._shift), 0))
        if self.policy == "dual":
            end = np.where(full, end, np.minimum(stop, end))
        return begin, end, block

    def _seen(self, begin: Ints, end: Ints, block: Ints, lengths: Ints) -> Ints:
        """For the positions from `begin` on, `[n, Q]`, the first position that each does not see."""
        positions = begin[:, None] + np.arange((end - begin).max())
        last = (end if self._cache is None else lengths)[:, None]
        if self._info.attention == "causal_context":
            return np.where(positions < block[:, None], positions + 1, end[:, None])
        if self._info.attention == "block_causal":
            size = self._info.block_length or 1
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
            # Padding stays inside the context, and sees everything, so that no softmax runs over nothing.
            positions=np.where(real, positions, np.minimum(positions, keys - 1)),
            end=np.where(real, seen, keys),
            slots=None if cache is None else np.where(real, positions, cache.spare),
            keys=keys,
            lines=lines,
        )

    def _hidden(self, inputs: Inputs, cache: SlotCache | None) -> Tensor:
        batch = Batch(
            ids=self._to_device(inputs.ids),
            positions=self._to_device(inputs.positions),
            end=None if (inputs.end == inputs.keys).all() else self._to_device(inputs.end),
            cache=cache,
            slots=None if inputs.slots is None else inputs.span() or self._to_device(inputs.slots),
            keys=inputs.keys,
        )
        return self._network.hidden(batch)

    def _carry(self, hidden: Tensor, place: Ints) -> None:
        """Keeps the features that the next forward scores first."""
        new = np.flatnonzero(place >= 0)
        if new.size and self._carried is not None:
            line, column = self._to_device(new), self._to_device(place[new])
            self._carried[line] = hidden[line, column]

    def _admit(self, request: Request, cache: SlotCache) -> SlotCache:
        """Keeps line i of the cache with row i of the request: finished rows leave, new rows follow behind."""
        rows = request.rows
        if len(rows) == len(self._active) and (rows == self._active).all():
            return cache
        stay = np.flatnonzero(np.isin(self._active, rows))
        assert np.array_equal(self._active[stay], rows[: len(stay)])
        if not np.array_equal(stay, np.arange(len(stay))):
            lines = self._to_device(stay)
            cache.keep(lines)
            if self._carried is not None:
                self._carried[: len(stay)] = self._carried[lines]
        self._active = rows
        if len(rows) > cache.keys.shape[1] or self._room[1] > cache.spare:
            cache = self._grow(cache, len(stay), len(rows))
        if self.policy == "exact_block":
            self._share(request, cache, first=len(stay))
        return cache

    def _grow(self, old: SlotCache, used: int, rows: int) -> SlotCache:
        """A cache with room for so many rows, some of which have joined, whose first `used` lines are as they were."""
        lines = old.keys.shape[1]
        if rows > lines:
            lines = max(rows, min(2 * lines, self._max_rows or 2 * lines))
        self._room = lines, self._room[1]
        self._cache = None
        cache = self._slots()
        assert cache is not None
        kept = torch.arange(used, device=self._info.device)
        cache.take(old, kept, kept, old.spare)
        if self._carried is not None:
            carried = self._carried.new_zeros(cache.keys.shape[1], self._carried.shape[1])
            carried[:used] = self._carried[:used]
            self._carried = carried
        return cache

    def _share(self, request: Request, cache: SlotCache, *, first: int) -> None:
        """Rows of one prompt compute it once: the rows from `first` on are new and copy what another row has.

        Only the blocks before the first that holds masks are shared, for they are the same and stay the same. Where the
        predictions are shifted, the last of them is left out: the row itself needs its features once.
        """
        rows, size = request.rows, self._info.block_length or 1
        first_block = self._span(request)[2]
        shared = np.maximum(first_block - int(self._shift) * size, 0)
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
            store = SlotCache(self._network, len(leaders), width, dtype=self._info.dtype, device=self._info.device)
            ends = shared[leaders]
            zeros = np.zeros_like(ends)
            inputs = self._inputs(ids, (zeros, ends), self._seen(zeros, ends, ends, ends), ends[:0], store)
            self._forwards.run(lambda: self._hidden(inputs, store), *ids.shape)
            cache.take(store, self._to_device(np.arange(len(leaders))), self._to_device(leaders), width)
            self._fresh[rows[leaders]] = ends
        length = int(shared[followers].max())
        cache.take(cache, self._to_device(donors[followers]), self._to_device(followers), length)
        self._fresh[rows[followers]] = shared[followers]

    def _to_device(self, array: Ints) -> Tensor:
        return launcher.to_device(torch.from_numpy(array), self._info.device)

    def _reordered(self, request: Request) -> Scored:
        """Known tokens first, masks last, every token at its own position, each seeing those before it (WeDLM)."""
        lengths = request.lengths
        ids, lines = request.batch(np.zeros_like(lengths), lengths, shift=self._shift)
        rows, width = ids.shape
        behind = np.arange(width) >= lengths[:, None]
        order = np.argsort(np.where(behind, 2, ids == self._mask), axis=1, kind="stable")
        place = np.argsort(order, axis=1, kind="stable")
        batch = Batch(
            ids=self._to_device(np.take_along_axis(ids, order, axis=1)),
            positions=self._to_device(order),
            end=torch.arange(1, width + 1, device=self._info.device).expand(rows, width),
        )
        where = self._to_device(lines // width * width + place.ravel()[lines])
        forward = lambda: self._network.logits(self._network.hidden(batch).flatten(0, 1)[where])  # noqa: E731
        return self._forwards.run(forward, rows, width), None


def _resolve(info: ModelInfo, policy: str, refresh_every: int | None) -> str:
    blocks = info.attention in EXACT
    if info.attention == "causal_reordered" and policy not in ("auto", "none"):
        raise InvalidValueError(f"a model that reorders its tokens runs without a cache, got cache={policy!r}; use 'none'")
    if policy == "exact_block" and not blocks:
        raise InvalidValueError(
            f"cache='exact_block' needs a block-causal model, got attention {info.attention!r}; "
            "use cache='none', or the approximate 'prefix' or 'dual'"
        )
    if policy == "auto":
        policy = "exact_block" if blocks else "none"
    if refresh_every is not None and policy not in ("prefix", "dual"):
        raise InvalidValueError(
            f"refresh_every is for the caches 'prefix' and 'dual', got {refresh_every} with cache={policy!r}; leave it out"
        )
    return policy
