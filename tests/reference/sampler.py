"""One row, alone, from its masks to its answer. No batch, no cache, no cleverness: the rules as they are written."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

from reference import calibration, eos, length, memory, nearby, noise, philox, reach, remask, schedule, select, stops
from reference.draw import predict
from reference.schedule import Step

DEFAULTS = {
    "mask_token_id": None,
    "steps": None,
    "steps_per_block": None,
    "block_length": None,
    "sub_block_length": None,
    "inherit_token": False,
    "window_length": None,
    "add_block_at": None,
    "activate_block_at": None,
    "schedule": "even",
    "eps": 1e-3,
    "dilation": 2,
    "order": "confidence",
    "order_temperature": 0.0,
    "position_penalty": 0.0,
    "spacing": 1,
    "prior_sigma": 10.0,
    "token_frequencies": None,
    "position_decay": 0.25,
    "information_cap": 10.0,
    "threshold": None,
    "factor": None,
    "entropy_bound": None,
    "entropy_threshold": None,
    "neighbour_threshold": None,
    "neighbour_distance": 4,
    "run_threshold": None,
    "kl_threshold": None,
    "kl_steps": 2,
    "credit": None,
    "credit_power": 0.2,
    "credit_decay": 0.8,
    "gap_stop": None,
    "gap_start": None,
    "gap_length": 5,
    "min_commit": None,
    "edit_threshold": None,
    "max_post_steps": 16,
    "noise": "mask",
    "vocabulary": None,
    "noise_share": None,
    "drafts": False,
    "stop_stable": 1,
    "stop_entropy": 0.005,
    "remask": None,
    "remask_eta": None,
    "remask_threshold": None,
    "remask_budget": None,
    "temperature": 0.0,
    "temperature_end": None,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "eos_token_id": None,
    "stop_at_eos": False,
    "stop": (),
    "min_new_tokens": 0,
    "eos_policy": "allow",
    "eos_penalty": None,
    "length": "fixed",
    "max_new_tokens": 2048,
    "expansion_factor": 8,
    "eos_check_tokens": 32,
    "eos_confidence_threshold": 0.5,
    "expand_eos_confidence_threshold": 0.9,
    "low_confidence_threshold": 0.1,
    "low_density_threshold": 0.4,
    "high_density_threshold": 0.6,
    "suppress_tokens": (),
    "shift": False,
    "as_published": False,
}


# Those settings that say where the ranking is cut.
CUTS = (
    "threshold",
    "factor",
    "entropy_bound",
    "entropy_threshold",
    "neighbour_threshold",
    "neighbour_distance",
    "run_threshold",
)


@dataclass(frozen=True)
class Edit:
    """One change of the canvas."""

    step: int
    position: int
    token: int
    probability: float
    kind: str
    time: float


@dataclass
class Row:
    """A canvas on its way to being filled.

    Attributes:
        model: takes the canvas, int64 `[L]`, and returns logits `[L, V]`.
        config: settings, with the names of `SamplerConfig`.
        canvas: the tokens.
        stream: (seed, request), the row's randomness.
        origin: where blocks are counted from.
        ranks: of each position, where the order is theirs.
        after: positions, and for each those that must be written before it.
        open: positions that nothing was written at; by default those that show the mask.
        nfe: forwards so far.
        scheduled: steps of the schedule so far, those that were passed over included.
        trajectory: what was written, in order.
        masks_left: masks after each forward.
        stable: after each forward, how many not given positions from the start can no longer change.
        confidence: of what is written, the probability that it had when it was.
    """

    model: object
    config: SimpleNamespace
    canvas: np.ndarray
    stream: tuple[int, int]
    origin: int = 0
    ranks: np.ndarray | None = None
    after: dict[int, list[int]] = field(default_factory=dict)
    open: np.ndarray | None = None
    nfe: int = 0
    scheduled: int = 0
    time: float = math.nan
    trajectory: list[Edit] = field(default_factory=list)
    masks_left: list[int] = field(default_factory=list)
    stable: list[int] = field(default_factory=list)
    confidence: dict[int, float] = field(default_factory=dict)

    def __post_init__(self):
        self.open = self.canvas == self.config.mask_token_id if self.open is None else np.array(self.open, dtype=bool)
        self.given = ~self.open
        self.show(range(len(self.canvas)), {})
        self.edits = self.config.edit_threshold is not None
        self.revises = self.edits or self.config.remask is not None
        # In the reverse process itself each mask is written once, unless it takes some back itself.
        assert not self.edits or (self.config.order != "ancestral" and self.config.schedule != "first-hitting")

    def masked(self, window) -> list[int]:
        """Positions of a window that are still masks."""
        return [p for p in window if self.open[p]]

    def eligible(self, window) -> list[int]:
        """Those of them that may be written now: they wait for no other."""
        if self.config.add_block_at is not None:
            return [p for block in reach.live(self, self.blocks) for p in self.masked(block)]
        masks = reach.eligible(self.config, self.masked(window), window)
        return [p for p in masks if not {*self.after.get(p, ())} & {*self.masked(range(len(self.canvas)))}]

    def written(self, window) -> list[int]:
        """Positions of a window that were masks and are none now."""
        return [p for p in window if not self.given[p] and not self.open[p]]

    def show(self, window, drafts: dict[int, int]) -> None:
        """Drafts, and noise at all other open positions of a window, where there is noise."""
        if self.config.noise == "uniform":
            for p in self.masked(window):
                self.canvas[p] = drafts.get(p, noise.shown(*self.stream, p, self.nfe, self.config.vocabulary))
        for p, token in drafts.items():
            self.canvas[p] = token

    def fill(self, window, steps: int) -> None:
        """Steps through a block until it holds no mask; then, where tokens are edited, until they stay."""
        self.window, self.is_finished, self.post_steps = window, False, 0
        self.memory = memory.Memory(self.config)
        self.drafts, self.temperature = {}, self.config.temperature
        if self.config.remask is not None:
            remask.fill(self, window, steps)
            return
        masks, self.argmax = len(self.masked(window)), []
        if self.config.schedule == "first-hitting":
            self.time = 1.0
        for index in itertools.count():
            left = len(self.masked(window))
            self.temperature = noise.temperature(self.config, max(steps - index, 1), steps)
            if not left:
                break
            eligible = self.eligible(window)
            step = Step(index, steps, masks, left)
            if self.config.drafts:
                self.draft_step(eligible, step)
            elif self.config.order == "ancestral" and self.config.noise != "mask":
                self.posterior_step(eligible, step)
            elif self.config.order == "ancestral":
                self.ancestral_step(eligible, step)
            else:
                self.ranked_step(eligible, step)
            self.scheduled += 1
        while self.edits and not self.is_finished:
            self.post_steps += 1
            self.forward([], lambda proposals: [], None)

    def fill_by_strides(self, window) -> None:
        """Writes a block level by level, whatever the model says of its own confidence."""
        self.window, self.is_finished, self.post_steps = window, False, 0
        self.memory = memory.Memory(self.config)
        levels = reach.levels(len(window), self.config.dilation)
        for index, level in enumerate(levels):
            self.temperature = noise.temperature(self.config, len(levels) - index, len(levels))
            picks = [p for p in self.masked(window) if p - window.start in level]
            if picks:
                self.forward(picks, lambda proposals, picks=picks: picks, Step(0, 1, len(picks), len(picks)))
            self.scheduled += 1

    def ancestral_step(self, eligible, step: Step) -> None:
        """Every position commits by itself, with the probability of the schedule."""
        chance = schedule.probability(self.config.schedule, step, self.config.eps, as_published=self.config.as_published)
        assert self.config.eos_policy != "delay"  # it holds back what commits by itself here
        picks = [p for p in eligible if self.uniform(p, self.scheduled, philox.COMMIT) < chance]
        if picks or self.config.schedule == "dream":
            self.forward(picks, lambda proposals: picks, step)

    def ranked_step(self, eligible, step: Step) -> None:
        """The best positions commit: as many as the cut lets through, at least the floor."""
        floor = least(self.config, step)
        if floor > 0 or self.config.schedule in ("dream", "cumulative"):
            self.forward(eligible, lambda proposals: self.best(eligible, proposals, floor, step), step, self.answer())

    def draft_step(self, eligible, step: Step) -> None:
        """What is picked is shown; in the last step, or once nothing changes any more, the most probable tokens are written."""

        def choose(proposals):
            self.argmax.append([proposals[p].argmax for p in eligible])
            entropies = [proposals[p].entropy for p in eligible]
            if noise.is_finished(self.config, self.argmax, entropies, is_last=step.index + 1 >= step.steps):
                for p in eligible:
                    proposals[p] = replace(proposals[p], token=proposals[p].argmax, probability=proposals[p].top1)
                return eligible
            picks = self.best(eligible, proposals, self.config.min_commit or 1, step)
            self.drafts = {p: proposals[p].token for p in picks}
            return []

        self.forward(eligible, choose, step)

    def posterior_step(self, eligible, step: Step) -> None:
        """Every open position goes on to what it shows next; the last step writes the drawn tokens."""

        def choose(proposals):
            if step.index + 1 >= step.steps:
                return eligible
            for p in eligible:
                self.drafts[p] = noise.go_on(
                    self.config,
                    self.stream,
                    step,
                    p,
                    int(self.canvas[p]),
                    proposals[p],
                    nfe=self.nfe,
                    is_greedy=self.temperature == 0,
                )
            return []

        self.forward(eligible, choose, step)

    def ranked(self, eligible, step: Step) -> bool:
        """The same, of which what it writes may still be taken back before it is over. False where it needs no forward."""
        floor = least(self.config, step)
        if floor == 0 and self.config.schedule != "dream":
            return False
        looked_at = self.answer()
        self.ask([*eligible, *looked_at], lambda proposals: self.best(eligible, proposals, floor, step))
        return True

    def dropping_step(self, eligible, step: Step) -> None:
        """What is surer than the mean of what stands, two at least; then what fell most is taken back."""
        floor = least(self.config, step)
        if floor == 0:
            return
        written, known = self.written(self.window), [self.confidence[p] for p in sorted(self.confidence)]
        picks: list[int] = []
        lost: list[int] = []

        def choose(proposals):
            keys = {p: select.confidence(self.config.order, proposals[p]) for p in eligible}
            order = select.ranked(keys)
            total = 0.0
            for confidence in known:
                total += confidence
            sure = sum(keys[p] > total / len(known) for p in order) if known else 0
            picks.extend(order[: max(floor, sure)])
            if len(picks) < len(eligible):
                lost.extend(remask.dropped(self, proposals, written, len(picks)))
            return picks

        self.ask([*eligible, *written], choose)
        self.take_back(lost)
        self.conclude(is_finished=not self.masked(self.window))

    def best(self, eligible, proposals, floor: int, step: Step) -> list[int]:
        """Positions that commit, the best first."""
        c = self.config
        keys = {}
        held = [p for p in eligible if self.is_held(p, proposals[p].token)]
        candidates = [p for p in eligible if p not in held]
        for p in candidates:
            place = (*self.stream, p, self.nfe)
            score = -self.ranks[p] if c.order == "ranks" else select.score(c.order, proposals[p], p, place)
            if c.order == "certainty-prior":
                score *= nearby.density((~self.open).tolist(), p, c.prior_sigma)
            elif c.order == "calibrated":
                distance = max(p - calibration.begin(self), 0)
                counts = c.token_frequencies.counts.tolist()
                score = calibration.score(proposals[p], counts, distance, c.position_decay, c.information_cap)
            if c.schedule == "maskgit":
                keys[p] = select.annealed(score, c.order_temperature, (step.index + 1) / step.steps, place)
            else:
                keys[p] = select.noisy(score, c.order_temperature, place)
            if c.position_penalty:
                keys[p] -= c.position_penalty * (p - eligible[0])
        confidences = {p: select.confidence(c.order, proposals[p]) for p in candidates}
        entropies = {p: proposals[p].entropy for p in candidates}
        if c.entropy_threshold is not None:
            entropies = {p: entropies[p] + c.position_penalty * (p - eligible[0]) for p in candidates}
        if c.gap_stop is not None:
            looked_at = eligible if c.gap_start is None else sorted(set(proposals) & set(self.span()))
            gaps = [nearby.gap(proposals[p]) for p in looked_at]
            if nearby.is_sure(gaps, c.gap_stop, min((step.index + 1) / step.steps, 1.0)):
                floor = len(eligible)
        cut = {name: getattr(c, name) for name in CUTS}
        floor = 0 if c.add_block_at is not None else floor
        steady = None if c.kl_threshold is None else self.memory.steady()
        picks = select.select(keys, confidences, entropies, floor, steady=steady, **cut)
        picks = reach.thin(picks, select.ranked(keys), floor, c.spacing)
        if c.add_block_at is not None:
            return picks + reach.forced(self, self.blocks, picks, keys)
        # Once all others are chosen, the leftmost that was held back has nothing open to its left, and then the next one.
        return picks + held[: max(floor - len(picks), 0)]

    def span(self) -> range:
        """The answer whose gaps count: of a canvas that is one block."""
        assert self.config.block_length is None
        start = self.origin + self.config.gap_start
        return range(start, min(start + self.config.gap_length, len(self.canvas)))

    def answer(self) -> list[int]:
        """What is written of the answer whose gaps count, which is scored, too."""
        return [] if self.config.gap_start is None else self.written(self.span())

    def forward(self, positions, choose, step: Step | None, looked_at=()) -> None:
        """Asks the model, writes the proposals at the positions that `choose` picks, and edits what was written before.

        Args:
            positions: masks that may be filled.
            choose: from proposals to those that are, best first.
            step: of the schedule; None in a forward behind it, which only edits.
            looked_at: written positions that are scored, whatever becomes of them.
        """
        self.drafts = {}
        revisable = self.written(self.window) if self.edits else []
        proposals = self.propose([*positions, *(revisable or looked_at)])
        if self.config.schedule == "first-hitting":
            u = self.uniform(0, self.scheduled, philox.TIME)
            self.time = schedule.first_hit(self.time, step.left, u)
        edits = [p for p in revisable if self.is_better(p, proposals[p])]
        c = self.config
        tokens = {p: proposals[p].token for p in choose(proposals)}
        written = eos.kept(c.eos_policy, tokens, self.enders)
        for p in written:
            self.write(p, proposals[p].token, proposals[p].probability, "commit")
        if c.eos_policy == "suffix" and (ended := [p for p in written if tokens[p] in self.enders]):
            for p in self.masked(range(ended[0], len(self.canvas))):
                self.write(p, self.ends[0] if self.ends else self.canvas[ended[0]], math.nan, "pad")
        edits = [p for p in edits if not self.is_held(p, proposals[p].token)]
        for p in edits:
            self.write(p, proposals[p].token, proposals[p].probability, "edit")

        is_unchanged = step is None and not edits
        is_spent = self.post_steps == self.config.max_post_steps
        self.conclude(is_finished=not self.masked(self.window) and (is_unchanged or is_spent))

    def ask(self, positions, choose, hidden=()) -> None:
        """Asks the model, and writes the proposals at the positions that `choose` picks, as the first half of a forward. At
        `hidden` ones the model does not see what stands there."""
        proposals = self.propose(positions, hidden)
        for p in choose(proposals):
            self.write(p, proposals[p].token, proposals[p].probability, "commit")

    def take_back(self, positions) -> None:
        """Turns written positions into masks again."""
        for p in positions:
            self.write(p, self.config.mask_token_id, math.nan, "remask")

    def conclude(self, *, is_finished: bool) -> None:
        """A forward and what follows from it is over."""
        self.is_finished = is_finished
        # An end token may be edited away: where tokens are edited, it counts when its block is finished.
        if self.is_finished or not self.revises:
            self.pad()
        self.nfe += 1
        self.show(self.window, self.drafts)
        self.masks_left.append(len(self.masked(range(len(self.canvas)))))
        self.stable.append(self.count_stable())

    def is_better(self, position: int, proposal) -> bool:
        """Is another token surer than the bar, by the forward in which the one that stands there was seen?"""
        return proposal.token != self.canvas[position] and proposal.probability > self.config.edit_threshold

    def count_stable(self) -> int:
        """How many not given positions stand before the first that may change."""
        masks = self.masked(range(len(self.canvas)))
        end = min(masks, default=len(self.canvas))
        if self.revises and not self.is_finished:
            end = self.window.start
        return int((~self.given[:end]).sum())

    def propose(self, positions, hidden=()) -> dict:
        """A token and its statistics for each position; at `hidden` ones of a model that does not see what stands there."""
        c = self.config
        logits = np.asarray(self.model(self.canvas.copy()))
        seed, request = self.stream
        proposals = {}
        for p in positions:
            line = max(p - 1, 0) if c.shift else p
            suppress = {*c.suppress_tokens, *self.barred(p)} | ({c.mask_token_id} - {None})
            shown = behind_mask(self.model, self.canvas, p, c.mask_token_id) if p in hidden else logits
            seen = eos.penalised(shown[line], c.eos_penalty, self.enders)
            if self.open[p]:
                seen = self.memory.raised(p, seen, suppress)
                self.memory.look(p, seen, suppress)
            proposals[p] = predict(
                seen,
                temperature=self.temperature,
                is_tempered=c.drafts or (c.order == "ancestral" and c.noise != "mask"),
                current=int(self.canvas[p]) if c.noise != "mask" or not self.open[p] else None,
                top_k=c.top_k,
                top_p=c.top_p,
                min_p=c.min_p,
                suppress=suppress,
                seed=seed,
                request=request,
                position=p,
                step=self.nfe,
            )
        first = self.window.start
        if c.inherit_token and first in proposals and first > 0 and self.open[first]:
            # What the finished block tells is not drawn.
            told = proposals[first]
            proposals[first] = replace(told, token=told.argmax, probability=told.top1)
        return proposals

    @property
    def ends(self) -> list[int]:
        """The end tokens."""
        return [] if self.config.eos_token_id is None else np.atleast_1d(self.config.eos_token_id).tolist()

    def barred(self, position: int) -> set[int]:
        """Tokens that are not proposed at a position: those that would end the row too early."""
        c = self.config
        is_early = position < stops.begin(self.given, c.min_new_tokens)
        written = ~self.given & ~self.open
        is_barred = eos.is_barred(c.eos_policy, self.canvas, written, position, self.enders)
        return self.enders if is_early or is_barred else set()

    def is_held(self, position: int, token: int) -> bool:
        """Is a token not to be written at a position while the canvas is as it is?"""
        return eos.is_held(self.config.eos_policy, self.open, position, token, self.enders)

    @property
    def enders(self) -> set[int]:
        """The end tokens, and stops of one token."""
        return {*self.ends, *(stop for stop in self.config.stop if isinstance(stop, int))}

    def ending(self) -> tuple[int, int] | None:
        """The first and the last position of what ends the row, if anything does."""
        c = self.config
        return stops.ending(
            self.canvas,
            self.given,
            self.open,
            ends=self.ends if c.stop_at_eos else (),
            stops=c.stop,
            least=c.min_new_tokens,
        )

    def pad(self) -> None:
        """Once something that was written ends the row, fills what follows: with the first end token, else with its last."""
        found = self.ending()
        if found is None:
            return
        last = found[1]
        fill = self.ends[0] if self.ends else self.canvas[last]
        for q in range(last + 1, len(self.canvas)):
            if not self.given[q] and (self.open[q] or self.canvas[q] != fill):
                self.write(q, fill, math.nan, "pad")

    def write(self, position, token, probability, kind) -> None:
        self.canvas[position], self.open[position] = token, kind == "remask"
        self.memory.forget(position)
        self.confidence[position] = probability
        if kind == "remask":
            del self.confidence[position]
        self.trajectory.append(self.edit(position, token, probability, kind))

    def edit(self, position, token, probability, kind) -> Edit:
        return Edit(self.nfe, position, int(token), probability, kind, self.time)

    def uniform(self, position, step, draw) -> float:
        return philox.uniform(*self.stream, position, step, draw)


def behind_mask(model, canvas, position: int, mask: int) -> np.ndarray:
    """Logits of a model that sees a mask at a position in place of what stands there, and all else."""
    hidden = canvas.copy()
    hidden[position] = mask
    return np.asarray(model(hidden))


def run(
    model, canvas, config, *, seed: int = 0, request: int = 0, block_start: int = 0, order=None, eligible_after=None, open=None
) -> Row:
    """Fills the masks of `canvas`.

    Args:
        model: takes the canvas, int64 `[L]`, and returns logits `[L, V]`.
        canvas: tokens; masks are what is written.
        config: a mapping with the names of `SamplerConfig`; those left out have their defaults.
        seed, request: the row's randomness.
        block_start: where blocks are counted from.
        order: a rank for each position.
        eligible_after: positions, and for each those that must be written before it.
        open: which positions are written, where no mask says it.
    """
    settings = SimpleNamespace(**(DEFAULTS | dict(config)))
    row = Row(
        model, settings, np.array(canvas, dtype=np.int64), (seed, request), block_start, order, eligible_after or {}, open
    )
    fill_all(row, block_start)
    return row


def fill_all(row: Row, block_start: int) -> None:
    """Fills the blocks of a row from left to right; those without masks are passed over."""
    if row.config.length != "fixed":
        length.fill(row, block_start)
        return
    blocks = [w for w in windows(len(row.canvas), row.config.block_length, block_start) if row.masked(w)]
    row.blocks = blocks
    if row.config.add_block_at is not None:
        for first in [block for block in blocks if row.masked(block)][:1]:
            row.fill(range(first.start, len(row.canvas)), len(row.masked(range(len(row.canvas)))))
        return
    for index, window in enumerate(blocks):
        if row.config.schedule == "dilated" and row.masked(window):
            row.fill_by_strides(window)
        elif masks := len(row.masked(window)):
            row.fill(window, steps_of_block(row.config, index, len(blocks), masks))


def windows(length: int, block_length: int | None, start: int) -> list[range]:
    """Blocks counted from `start` to both sides, left to right; the first and the last may be short."""
    if block_length is None:
        return [range(length)]
    edges = [0, *range(start % block_length, length, block_length), length]
    return [range(a, b) for a, b in itertools.pairwise(edges) if a < b]


def steps_of_block(config, index: int, blocks: int, masks: int) -> int:
    """Steps for a block with `masks` masks, the `index`-th of the `blocks` blocks of the row that hold masks."""
    if config.steps_per_block is not None:
        return config.steps_per_block
    if config.steps is not None:
        if config.steps < blocks:
            raise ValueError(f"steps must be at least the number of blocks, got {config.steps} and {blocks}")
        return config.steps // blocks + (index < config.steps % blocks)
    return masks


def least(config, step: Step) -> int:
    """How many masks a step commits at least; exactly so many where counts alone decide."""
    is_open = config.steps is None and config.steps_per_block is None
    has_cut = any(getattr(config, name) is not None for name in CUTS if name != "neighbour_distance")
    if is_open and config.schedule not in ("dream", "cumulative"):
        count = 1
    else:
        count = schedule.count(config.schedule, step, config.eps, as_published=config.as_published)
    if config.remask == "confidence-drop":
        floor = max(count, 2 if config.min_commit is None else config.min_commit)
    elif not has_cut:
        floor = max(count, config.min_commit or 0)
    elif is_open:
        floor = config.min_commit or 1
    else:
        floor = max(count, config.min_commit or (config.schedule != "cumulative"))
    return min(floor, step.left)
