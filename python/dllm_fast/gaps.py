"""Gaps of unknown length: every length is tried, and the one is taken that fits the text around it best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast import prepare
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.predict import mask_predict
from dllm_fast.records import scalar
from dllm_fast.run import Run
from dllm_fast.runners.predictor import Predictor, sites_of
from dllm_fast.settings.config import SamplerConfig
from dllm_fast.settings.resolve import Resolved
from dllm_fast.text.prompts import Gap, Prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast._core import Prediction, Sampler
    from dllm_fast.prepare import Plan
    from dllm_fast.result import Stats
    from dllm_fast.runners.runner import Runner

    Ints = NDArray[np.int64]

#: Combinations of lengths that are tried for one canvas.
MOST_TRIES = 256
#: Masks in all gaps of a call at most, counted for each combination of lengths that is tried.
MOST_MASKS = 2**20
#: Given tokens right of a gap that a length must fit.
RIGHT = 8
# In place of the token of a position that counts: what fits best there; and of one that does not count.
_BEST, _UNCOUNTED = -1, -2
# Logits that are widened at a time: what they take beside the matrix is bounded.
_PIECE = 2**22


class Lengths:
    """The canvases of a call, read as `prepare.plan` has them read: first with their gaps as long as they can be, so that
    everything is refused that must be; once they were tried, with the lengths that were chosen."""

    def __init__(self, read: Callable[..., list[Prompt]], gaps: object = None, *, is_ordered: bool = False) -> None:
        """`gaps` are those that the caller gave beside ids; `is_ordered`: he counts positions of the canvas, too."""
        self._read, self._given, self._is_ordered = read, gaps, is_ordered
        self._prompts: list[Prompt] = []
        self._lengths: list[list[int]] | None = None

    def __call__(self, tokenizer: Any, mask: int | None) -> list[Prompt]:
        """The canvases; `mask` is what gaps are filled with."""
        if self._lengths is None:
            self._prompts = _with_gaps(self._read(tokenizer=tokenizer, mask=mask), self._given, mask)
        if not self.are_gaps:
            return self._prompts
        if self._is_ordered:
            raise InvalidValueError(
                "order= and eligible_after= count positions of a canvas, got them beside a gap of unknown length; leave them "
                "out, or give the length as masks"
            )
        assert mask is not None
        lengths = self._lengths or [[gap.most for gap in prompt.gaps] for prompt in self._prompts]
        return [_filled(prompt, chosen, mask)[0] for prompt, chosen in zip(self._prompts, lengths, strict=True)]

    @property
    def are_gaps(self) -> bool:
        """Has any canvas a gap?"""
        return any(prompt.gaps for prompt in self._prompts)

    def choose(self, runner: Runner, plan: Plan) -> prepare.Tried:
        """Tries all lengths, each as a row of its own, and keeps the best.

        The score of a length is the mean of the logarithms of probabilities over the gap and the context right of it, in a
        forward that shows both as masks: in the gap of the most probable token that may be written and is no end token, in
        the context (up to `RIGHT` given tokens, up to the next mask) of the token that stands there. On a tie the shorter
        one is taken, of several gaps the first in which two differ. Nothing is drawn, and nothing guides it.

        Args:
            runner: how the model is run.
            plan: of the canvases with the longest gaps.

        Raises:
            InvalidValueError: the model does not see what is right of a gap.
        """
        if runner.info is not None and runner.info.attention_rule.fixed_blocks is not None:
            raise InvalidValueError(
                "a gap of unknown length needs a model that sees what is right of it, got a block-causal one, whose finished "
                "blocks stay (cache='exact_block'); give its length as masks"
            )
        config = plan.config
        assert config.mask_token_id is not None
        tries = [list(itertools.product(*map(_lengths, prompt.gaps))) if prompt.gaps else [] for prompt in self._prompts]
        shown_as = [
            _shown(prompt, lengths, config.mask_token_id)
            for prompt, combinations in zip(self._prompts, tries, strict=True)
            for lengths in combinations
        ]
        scorer = _run(runner, plan, shown_as)
        scores = iter(scorer.scores())
        best = [_best(combinations, scores) for combinations in tries]
        self._lengths = [list(lengths) for lengths, _ in best]
        counts = [len(combinations) for combinations in tries]
        return prepare.Tried(self._lengths, [score for _, score in best], counts, scorer.stats)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A canvas as it is scored.

    Attributes:
        ids: with masks in its gaps and right of them.
        wanted: the token that stands at each position, as far as it counts; `_BEST` within a gap, `_UNCOUNTED` elsewhere.
    """

    ids: Ints
    wanted: Ints


def _with_gaps(prompts: list[Prompt], given: object, mask: int | None) -> list[Prompt]:
    """Canvases with what the caller gave beside them, checked."""
    listed = _listed(given, len(prompts))
    found, masks = [], 0
    for row, (prompt, own) in enumerate(zip(prompts, listed, strict=True)):
        if own and prompt.gaps:
            raise InvalidValueError(f"gaps are written in the text or given, got both for row {row}; leave gaps= out")
        gaps = tuple(own) or prompt.gaps
        if gaps and mask is None:
            raise InvalidValueError("gaps are tried as masks, got a model without one; give their lengths")
        _check(gaps, prompt, row)
        masks += math.prod(_count(gap) for gap in gaps) * sum(gap.most for gap in gaps)
        if masks > MOST_MASKS:
            raise InvalidValueError(
                f"the gaps of a call may be tried with at most 2^20 masks in all, got {shown(masks)} up to "
                f"row {row}; narrow them, or fill them in several calls"
            )
        found.append(Prompt(prompt.ids, prompt.tail, prompt.text, gaps))
    return found


def _listed(given: object, rows: int) -> list[list[Gap]]:
    """The gaps of each row: one list of triples for a single row, or one for each."""
    if given is None:
        return [[] for _ in range(rows)]
    wrong = InvalidTypeError(
        f"gaps must be (position, least, most), or such a list for each of {rows} rows, got {shown(given)}; "
        "pass gaps=[(5, 1, 4)] for 1 to 4 tokens before position 5"
    )
    if not isinstance(given, list | tuple):
        raise wrong
    is_flat = bool(given) and all(
        isinstance(one, list | tuple) and len(one) == 3 and not isinstance(one[0], list | tuple) for one in given
    )
    each: Sequence[Any] = [given] if is_flat else given
    if len(each) != rows:
        raise wrong
    found = []
    for row in each:
        if not isinstance(row, list | tuple):
            raise wrong
        numbers = [[scalar(number) for number in one] if isinstance(one, list | tuple) else [] for one in row]
        if any(len(one) != 3 or not all(type(number) is int for number in one) for one in numbers):
            raise wrong
        found.append([Gap(*one) for one in numbers])
    return found


def _check(gaps: Sequence[Gap], prompt: Prompt, row: int) -> None:
    """Refuses gaps that are none, or are too many."""
    for gap in gaps:
        if not 1 <= gap.least <= gap.most:
            raise InvalidValueError(
                f"a gap must have a least and a most number of tokens, 1 <= least <= most, got "
                f"{shown(gap.least)} and {shown(gap.most)} in row {row}; write them in this order"
            )
    places = [gap.position for gap in gaps]
    if places != sorted(set(places)) or (places and not 0 <= places[0] <= places[-1] <= len(prompt.ids)):
        raise InvalidValueError(
            f"gaps must stand at rising positions from 0 to {len(prompt.ids)}, the length of the canvas, got {shown(places)} "
            f"in row {row}; one stands before the token at its position"
        )
    count = math.prod(_count(gap) for gap in gaps)
    if count > MOST_TRIES:
        raise InvalidValueError(
            f"the lengths of the gaps of a canvas may be combined in at most {MOST_TRIES} ways, each of which is tried, got "
            f"{shown(count)} in row {row}; narrow them, or fill one gap after the other"
        )


def _count(gap: Gap) -> int:
    return gap.most - gap.least + 1


def _lengths(gap: Gap) -> range:
    return range(gap.least, gap.most + 1)


def _filled(prompt: Prompt, lengths: Sequence[int], mask: int) -> tuple[Prompt, list[range]]:
    """A canvas with masks in its gaps, and where they are."""
    pieces, places, begin = [], [], 0
    for gap, length in zip(prompt.gaps, lengths, strict=True):
        pieces += [prompt.ids[begin : gap.position], np.full(length, mask, dtype=np.int64)]
        start = sum(map(len, pieces[:-1]))
        places.append(range(start, start + length))
        begin = gap.position
    ids = np.concatenate([*pieces, prompt.ids[begin:]]) if pieces else prompt.ids
    return Prompt(ids, prompt.tail, prompt.text), places


def _shown(prompt: Prompt, lengths: Sequence[int], mask: int) -> _Shown:
    """A canvas whose gaps have these lengths, as it is scored."""
    filled, places = _filled(prompt, lengths, mask)
    ids, wanted = filled.ids.copy(), np.full(len(filled.ids), _UNCOUNTED)
    for place in places:
        wanted[place.start : place.stop] = _BEST
        right = filled.ids[place.stop : place.stop + RIGHT]
        count = next(iter(np.flatnonzero(right == mask)), len(right))
        wanted[place.stop : place.stop + count] = right[:count]
        ids[place.stop : place.stop + count] = mask
    return _Shown(ids, wanted)


def _best(combinations: Sequence[tuple[int, ...]], scores: Iterator[float]) -> tuple[tuple[int, ...], float]:
    """The combination of the highest score, the first of equal ones, and its score."""
    scored = [(next(scores), lengths) for lengths in combinations]
    highest = max((score for score, _ in scored), default=0.0)
    return next((lengths for score, lengths in scored if score == highest), ()), highest


def _run(runner: Runner, plan: Plan, shown_as: list[_Shown]) -> _Scorer:
    """One forward of each canvas, noted."""
    config = plan.config
    rule = SamplerConfig(
        steps_per_block=1,
        mask_token_id=config.mask_token_id,
        eos_token_id=config.eos_token_id,
        stop_at_eos=False,
        suppress_tokens=config.suppress_tokens,
        allow_special=config.as_published if config.allow_special is None else config.allow_special,
        shift=config.shift,
        max_batch_rows=config.max_batch_rows,
        cache="none",
        sources=config.sources,
    )
    made = []

    def predictor(plan: Plan, sampler: Sampler) -> Predictor:
        made.append(_Scorer(plan, sampler, shown_as))
        return made[0]

    canvases = [Prompt(one.ids) for one in shown_as]
    tries = prepare.plan(
        runner,
        plan.tokenizer,
        Resolved(rule, frozenset(), {}),
        lambda **_: canvases,
        seed=0,
        num_samples=1,
        is_infilling=True,
    )
    result = Run(tries, runner, predictor=predictor).result()
    made[0].stats = result.stats
    return made[0]


class _Scorer(Predictor):
    """Notes the logarithms of probabilities before it predicts."""

    stats: Stats

    def __init__(self, plan: Plan, sampler: Sampler, shown_as: list[_Shown]) -> None:
        super().__init__(sampler, plan.rule, plan.special)
        self._wanted = np.concatenate([shown.wanted for shown in shown_as])
        ends = np.cumsum([len(shown.wanted) for shown in shown_as])
        self._starts = np.concatenate(([0], ends[:-1]))
        assert plan.config.mask_token_id is not None
        self._mask = plan.config.mask_token_id
        # Within a gap the length says where it ends, no end token.
        self._barred = sorted({*self.suppressed, *plan.config.eos_token_ids})
        # Of positions that count: the canvas of each, and its logarithm.
        self._found: list[tuple[Ints, NDArray[np.float64]]] = []

    def scores(self) -> list[float]:
        """For each canvas the mean over all positions that count."""
        canvas, value = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        order = np.argsort(canvas, kind="stable")
        ends = np.cumsum(np.bincount(canvas, minlength=len(self._starts)))
        return [
            math.fsum(found) / len(found) if found.size and found.min() > -math.inf else -math.inf
            for found in np.split(value[order], ends[:-1])
        ]

    def embedded(self, *_: Any) -> None:
        """The logits themselves are wanted."""

    def __call__(self, logits: Any, rows: Ints, lines: Ints | None) -> Prediction:
        prediction = super().__call__(logits, rows, lines)
        sites = sites_of(self._sampler, rows)
        lines = np.arange(len(logits)) if lines is None else lines
        canvas = np.repeat(rows, sites.counts)
        token = self._wanted[self._starts[canvas] + sites.position]
        counted = np.flatnonzero(token != _UNCOUNTED)
        step = max(_PIECE // logits.shape[1], 1)
        for start in range(0, len(counted), step):
            some = counted[start : start + step]
            line = torch.from_numpy(lines[some]).to(logits.device) if isinstance(logits, torch.Tensor) else lines[some]
            self._found.append((canvas[some], self._logarithms(logits[line], token[some])))
        return prediction

    def _logarithms(self, logits: Any, token: Ints) -> NDArray[np.float64]:
        """The logarithm of the probability of each token, or of the best one."""
        host = torch.as_tensor(logits).detach().float().cpu().numpy()
        best = mask_predict(host, suppress=self._barred).token
        mass = mask_predict(host, suppress=[self._mask]).logsumexp
        assert mass is not None
        logit = host[np.arange(len(host)), np.where(token == _BEST, best, token)].astype(np.float64)
        # One at +inf shares all the mass with its like.
        return np.subtract(logit, mass, out=np.zeros_like(logit), where=logit != math.inf)
