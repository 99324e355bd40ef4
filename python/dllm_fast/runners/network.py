"""Runs a network for the sampler: what the cache keeps, and the head on scored rows only."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_fast.errors import InvalidValueError
from dllm_fast.networks.batch import Batch, Conditioned
from dllm_fast.networks.slots import SlotCache
from dllm_fast.ops import launcher
from dllm_fast.runners import caches
from dllm_fast.runners.caches import Windows
from dllm_fast.runners.feedback import Feedback
from dllm_fast.runners.forwards import Forwards
from dllm_fast.runners.layout import Layout
from dllm_fast.runners.ready import make_ready
from dllm_fast.runners.shadow import Shadow

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast._core import Request
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.modules.hold import Hold
    from dllm_fast.networks.batch import Network
    from dllm_fast.networks.visible import AttentionRule
    from dllm_fast.runners.caches import Span
    from dllm_fast.runners.graphs import Answer, Engine
    from dllm_fast.runners.runner import Part, Scored, Task
    from dllm_fast.runners.shapes import Inputs

    Ints = NDArray[np.int64]


class NetworkRunner:
    """Runs a `Network` on ragged batches.

    Rows of different length share a forward: every query has its own position and sees its own keys, so the padding
    behind a shorter row changes nothing.
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
        self.is_watched = False
        self._runner = runner
        self._network, self._info, self._engine = runner.network, runner.info, runner.engine
        self._rule = runner.info.attention_rule
        policy = caches.resolve(task.cache, self._rule)
        if task.verifies:
            _check_verified(self._rule, policy, shift=task.shift)
        if task.shadows:
            _check_shadow(self._rule, shift=task.shift)
        self._mask = task.mask_token_id
        rows = len(task.lengths)
        self._policy = policy(self._rule, rows, shift=task.shift, refresh_every=task.refresh_every)
        self._shift = task.shift
        self._predictor = task.predictor
        self._max_rows = task.max_rows
        self.forwards = Forwards()
        self._replays = False  # the engine is ours
        self._is_well = False  # nothing went wrong to the end
        self._starts = np.asarray(task.starts, dtype=np.int64)
        self._prompts = np.asarray(task.prompts, dtype=np.int64)
        self._at: tuple[bytes, Windows] | None = None
        self._last: Layout | None = None
        self._active = np.zeros(0, dtype=np.int64)
        self._cache: SlotCache | None = None
        self._carried: Tensor | None = None  # of each line, where the policy carries features
        self._room = min(rows, task.max_rows or rows), max(task.lengths, default=0)
        self._feedback: Feedback | None = None
        if isinstance(self._network, Conditioned):
            self._feedback = Feedback(self._network, task.suppressed, runner.info.device)

    @property
    def policy(self) -> str:
        return self._policy.name

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
        row = len(self._starts)
        own = -1 - row  # a number that no prompt has
        self._starts = np.append(self._starts, start)
        self._prompts = np.append(self._prompts, own if prompt is None else prompt)
        self._policy.add()
        self._room = self._room[0], max(self._room[1], length)
        return row

    def parts(self, request: Request) -> list[Part]:
        forward = self._reordered if self._rule.reorders else self._scored
        return [(request.rows, functools.partial(forward, request))]

    def _scored(self, request: Request) -> Scored:
        at = self._windows(request)
        cache = self._admit(request, at) if self._policy.keeps else None
        span = self._policy.span(at)
        causal = request.causal
        asked = _causally(span, at, causal) if causal.any() else span
        ids, lines = request.batch(asked.begin, asked.end, shift=self._shift)
        shadow = Shadow.of(request, at.rows)
        if shadow is not None:
            assert self._mask is not None
            lines, ids = shadow.lines(lines, ids.shape[1]), shadow.with_masks(ids, self._mask)
            layout = self._new_layout(asked, at, cache, shadow.positions)
        else:
            layout = self._layout(span, at, cache) if asked is span else self._new_layout(asked, at, cache)
        carries = self._policy.carries
        # No graph has a shadow.
        answer = self._replay(layout.inputs(ids, lines), at, span) if self._replays and shadow is None else None
        if answer is not None:
            hidden, scored = answer.hidden, answer.scored
        else:
            soft = None if self._feedback is None else self._feedback.before(at, span)
            forward = functools.partial(self._eager, layout, ids, lines, cache, soft)
            hidden, scored = self.forwards.run(forward, *ids.shape)
            if self._feedback is not None:
                self._feedback.after(request, at, span, scored)
        if carries and hidden is not None:
            self._carry(hidden, span.origin - 1 - span.begin)
        self._policy.after(at, span)
        return scored, None

    def _windows(self, request: Request) -> Windows:
        """Where the rows are: most often where they were a step ago."""
        rows, windows, lengths = request.rows, request.windows, request.lengths
        key = rows.tobytes() + windows.tobytes() + lengths.tobytes()
        if self._at is None or self._at[0] != key:
            at = Windows(rows, windows[:, 0].copy(), windows[:, 1].copy(), self._starts[rows], lengths)
            self._at = key, at
            self._last = None
        return self._at[1]

    def _new_layout(self, span: Span, at: Windows, cache: SlotCache | None, shadow: Ints | None = None) -> Layout:
        return Layout(self._rule, span, at.lengths, cache, self._info.device, shadow=shadow)

    def _layout(self, span: Span, at: Windows, cache: SlotCache | None) -> Layout:
        """The queries of a step: most often those of the step before, but for their tokens."""
        last = self._last
        if last is None or not last.is_of(span):
            self._last = last = self._new_layout(span, at, cache)
        return last

    def _replay(self, inputs: Inputs, at: Windows, span: Span) -> Answer | None:
        """The step from a CUDA graph, where there is one for it."""
        assert self._engine is not None
        carried = None
        if self._policy.carries:
            if self._carried is None:
                return None
            carried = self._carried[: len(at.rows)]
        predictor, repeats = self._predictor, self._policy.repeats(at, span)
        run = functools.partial(
            self._engine.run,
            inputs,
            is_cached=self._cache is not None,
            scoring=None if predictor is None else predictor.embedded(at.rows, self._network.vocabulary, self._info),
            carried=carried,
            repeats=min(repeats, 1) if self.is_watched else repeats,
        )
        answer = self.forwards.run(run, *inputs.ids.shape)
        self.forwards.replayed += answer is not None and answer.is_replayed
        return answer

    def _eager(
        self, layout: Layout, ids: Ints, lines: Ints, cache: SlotCache | None, soft: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Features `[B, Q, H]` of a forward, and the logits of what is scored."""
        hidden = self._network.hidden(layout.batch(self._to_device(ids), cache, soft))
        features = hidden.flatten(0, 1)
        if self._policy.carries:
            if self._carried is None:
                assert cache is not None
                self._carried = hidden.new_zeros(cache.lines, hidden.shape[-1])
            features = torch.cat((features, self._carried[: len(hidden)]))
        return hidden, self._network.logits(features.index_select(0, self._to_device(lines)))

    def _carry(self, hidden: Tensor, place: Ints) -> None:
        """Keeps the features that the next forward scores first."""
        new = np.flatnonzero(place >= 0)
        if new.size and self._carried is not None:
            line, column = self._to_device(new), self._to_device(place[new])
            self._carried[line] = hidden[line, column]

    def _slots(self) -> SlotCache:
        """The cache of the run, made when it is first needed: graphs work on one of their own."""
        if self._cache is None:
            own = functools.partial(SlotCache, self._network, dtype=self._info.dtype, device=self._info.device)
            self._cache = (self._engine.cache if self._replays and self._engine else own)(*self._room)
        return self._cache

    def _admit(self, request: Request, at: Windows) -> SlotCache:
        """Keeps line i of the cache with row i of the request: finished rows leave, new rows follow behind."""
        cache, rows = self._slots(), at.rows
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
        if len(rows) > cache.lines or self._room[1] > cache.spare:
            cache = self._grow(cache, len(stay), len(rows))
        self._share(request, at, cache, first=len(stay))
        return cache

    def _grow(self, old: SlotCache, used: int, rows: int) -> SlotCache:
        """A cache with room for so many rows, some of which have joined, whose first `used` lines are as they were."""
        lines = old.lines
        if rows > lines:
            lines = max(rows, min(2 * lines, self._max_rows or 2 * lines))
        self._room = lines, self._room[1]
        self._cache = self._last = None
        cache = self._slots()
        kept = torch.arange(used, device=self._info.device)
        cache.take(old, kept, kept, old.spare)
        if self._carried is not None:
            carried = self._carried.new_zeros(cache.lines, self._carried.shape[1])
            carried[:used] = self._carried[:used]
            self._carried = carried
        return cache

    def _share(self, request: Request, at: Windows, cache: SlotCache, *, first: int) -> None:
        """Rows of one prompt compute it once: the rows from `first` on are new and copy what another row has.

        Only the blocks before the first that holds masks are shared, for they are the same and stay the same.
        """
        rows, shared = at.rows, self._policy.shared(at)
        if shared is None:
            return
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
            layout = Layout(self._rule, caches.Span(np.zeros_like(ends), ends, ends), ends, store, self._info.device)
            batch = layout.batch(self._to_device(ids), store)
            self.forwards.run(functools.partial(self._network.hidden, batch), *ids.shape)
            cache.take(store, self._to_device(np.arange(len(leaders))), self._to_device(leaders), width)
            self._policy.copied(rows[leaders], ends)
        length = int(shared[followers].max())
        cache.take(cache, self._to_device(donors[followers]), self._to_device(followers), length)
        self._policy.copied(rows[followers], shared[followers])

    def _to_device(self, array: Ints) -> Tensor:
        return launcher.to_device(torch.from_numpy(array), self._info.device)

    def _reordered(self, request: Request) -> Scored:
        """The tokens in the order in which they are read, every one at its own position."""
        lengths = request.lengths
        ids, lines = request.batch(np.zeros_like(lengths), lengths, shift=self._shift)
        rows, width = ids.shape
        is_open = np.zeros(ids.shape, dtype=np.bool_)
        is_open[np.arange(width) < lengths[:, None]] = np.concatenate(request.open)
        order = self._rule.order(is_open, lengths)
        places = np.argsort(order, axis=1, kind="stable")
        ends = self._rule.end(np.broadcast_to(np.arange(width), ids.shape), lengths, lengths, lengths)
        batch = Batch(
            ids=self._to_device(np.take_along_axis(ids, order, axis=1)),
            positions=self._to_device(order),
            end=self._to_device(ends),
        )
        read = self._to_device(lines // width * width + places.ravel()[lines])
        forward = lambda: self._network.logits(self._network.hidden(batch).flatten(0, 1)[read])  # noqa: E731
        return self.forwards.run(forward, rows, width), None


def _causally(span: Span, at: Windows, causal: NDArray[np.bool_]) -> Span:
    """The same, but that some rows are read causally to their end, from the token on that predicts the first of the block."""
    begin = np.where(causal, np.maximum(np.minimum(span.begin, at.begins - 1), 0), span.begin)
    return caches.Span(begin, span.end, np.where(causal, span.end, span.origin), span.is_full)


def _check_verified(rule: AttentionRule, policy: type[caches.Policy], *, shift: bool) -> None:
    """Refuses to verify where a causal look is no autoregressive answer, or would not be exact."""
    why = None
    if not rule.is_autoregressive:
        why = f"needs a model that reads what lies before a block causally, got attention {rule.name!r}"
    elif shift:
        why = "is for models whose position predicts itself in a block, got shift=True"
    elif not policy.is_exact:
        why = f"needs keys that are exact, got cache={policy.name!r}"
    if why is not None:
        raise InvalidValueError(f"verify {why}; set verify to False, or use another model or cache")


def _check_shadow(rule: AttentionRule, *, shift: bool) -> None:
    """Refuses to ask from behind a mask where a token cannot be hidden from what predicts it alone."""
    why = None
    if shift:
        why = "is for models whose position predicts itself: here the token before it does, which others see, got shift=True"
    elif rule.reorders or rule.has_canvas:
        why = f"hides a token from a mask in its place, got attention {rule.name!r}, whose tokens have other places"
    if why is not None:
        raise InvalidValueError(f"remask 'verify' {why}; use another remask ('confidence-drop' is Saber's), or another model")
