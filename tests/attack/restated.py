"""The sampler once more, for one row, from the words of ARCHITECTURE.md alone: plain float64, no tiles, no arithmetic of ours.

Where float64 cannot say what the defined arithmetic does (a tie within rounding, a draw at the edge of two tokens), it says so
by `Unsure` instead of guessing. So it is no specification, as `tests/reference` is: it shares nothing with that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from restated_axes import CLOSE, Axes, Seen, Unsure

from dllm_fast import SamplerConfig

EDGE = 3e-6  # what a share of the mass may be off by
WORD = 0xFFFFFFFF


class Edit(NamedTuple):
    """What was written where, in which forward."""

    step: int
    position: int
    token: int
    kind: str


def uniform(seed: int, request: int, position: int, step: int, draw: int) -> tuple[float, int]:
    """A number in [0, 1), and its 53 bits."""
    a, b, c, d = request, position, step, draw
    low, high = seed & WORD, seed >> 32
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ low, right & WORD, (left >> 32) ^ d ^ high, left & WORD
        low, high = (low + 0x9E3779B9) & WORD, (high + 0xBB67AE85) & WORD
    bits = (a | b << 32) >> 11
    return bits * 2.0**-53, bits


class Row(Axes):
    """One canvas and what is done to it.

    Args:
        config: settings with a mask token.
        canvas: tokens and masks.
        seed: of its draws.
        request: its number.
        origin: where its blocks are counted from.
        ranks: of each position, where they are its order.
        after: positions, and for each those that are written before it.
    """

    def __init__(
        self,
        config: SamplerConfig,
        canvas: Sequence[int],
        seed: int,
        request: int,
        origin: int,
        *,
        ranks: Sequence[float] | None = None,
        after: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        self.rule, self.canvas = config, [int(token) for token in canvas]
        self.ranks, self.after = ranks, after or {}
        self.given = [token != config.mask_token_id for token in self.canvas]
        self.seed, self.request, self.origin = seed, request, origin
        self.forwards = self.turns = 0  # the second counts steps of the schedule
        self.edits: list[Edit] = []
        self.cut = not config.commits_counts

    def run(self, model: Callable[[list[int]], np.ndarray]) -> None:
        """Fills the canvas with what a model says, `[L, V]` in float64 for a canvas."""
        blocks = self._blocks()
        self._end()
        shares = self._shares(len(blocks))
        for block, steps in zip(blocks, shares, strict=True):
            if self._open(block):  # the row may have ended
                self._fill(block, steps, model)

    def _blocks(self) -> list[range]:
        length = self.rule.block_length
        if length is None:
            return [range(len(self.canvas))] if self._open() else []
        numbers = sorted({(i - self.origin) // length for i in self._open()})
        return [range(max(0, self.origin + n * length), min(len(self.canvas), self.origin + (n + 1) * length)) for n in numbers]

    def _shares(self, blocks: int) -> list[int | None]:
        if self.rule.steps is None:
            return [self.rule.steps_per_block] * blocks
        return [self.rule.steps // blocks + (i < self.rule.steps % blocks) for i in range(blocks)]

    def _fill(self, block: range, steps: int | None, model: Callable[[list[int]], np.ndarray]) -> None:
        rule = self.rule
        begun = len(self._open(block))
        total = steps or begun
        time = 1.0
        for j in range(10**6):
            self.temperature = self._temperature(max(total - j, 1), total)
            if not self._open(block):
                break
            left = self._eligible(block)
            turn, self.turns = self.turns, self.turns + 1
            if rule.schedule == "first-hitting":
                time *= uniform(self.seed, self.request, 0, turn, 3)[0] ** (1 / len(left))
            last = j + 1 >= total
            if rule.order == "ancestral":
                chance = self._chance(j, total)
                picked = left if last else [i for i in left if self._below(i, turn, chance)]
                if not picked and rule.schedule != "dream":
                    continue
                count = len(picked)
            else:
                picked = None
                free = steps is None and rule.schedule != "dream"
                masks = len(self._open(block))
                count = 1 if free or rule.schedule == "first-hitting" else self._count(begun, masks, j, total)
                if self.cut and steps is None:
                    count = 0  # as few steps as the cut allows
                floor = rule.min_commit if rule.min_commit is not None else int(self.cut)
                count = min(len(left), max(count, floor))
                if count == 0 and rule.schedule != "dream" and not self.cut:
                    continue
            seen = {i: self._see(model(self.canvas)[i], i) for i in left}
            if rule.inherit_token and left == [block[0]] and block[0] > 0:  # inherited: the most probable, not what is drawn
                first = seen[block[0]]
                seen = {block[0]: first._replace(token=self._best(first), chosen=first.top1)}
            changed = self._changed(block, model)
            if picked is None:
                if self._stops_by_gap([seen[i] for i in left], min((j + 1) / total, 1.0)):
                    count = len(left)
                picked = self._pick(seen, count, j, total)
            picked = self._before_an_end(picked, seen)
            self._put({i: seen[i].token for i in picked}, "commit")
            self._fill_behind_an_end(picked)
            self._put(changed, "edit")
            step = self.forwards
            self.forwards += 1
            self._end(step, is_open=True)
        if rule.edit_threshold is not None:
            self._settle(block, model)

    def _settle(self, block: range, model: Callable[[list[int]], np.ndarray]) -> None:
        """Forwards over a block that is full, until one changes nothing; then an end token in it counts."""
        for _ in range(self.rule.max_post_steps):
            changed = self._changed(block, model)
            self._put(changed, "edit")
            self.forwards += 1
            if not changed:
                break
        self._end(self.forwards - 1)

    def _put(self, tokens: dict[int, int], kind: str) -> None:
        for i, token in tokens.items():
            self.canvas[i] = token
            self.edits.append(Edit(self.forwards, i, token, kind))

    def _changed(self, block: range, model: Callable[[list[int]], np.ndarray]) -> dict[int, int]:
        """What stands in a block and is written differently by a model that is sure enough."""
        bar = self.rule.edit_threshold
        if bar is None:
            return {}
        written = [i for i in block if not self.given[i] and self.canvas[i] != self.rule.mask_token_id]
        changed = {}
        for i in written:
            seen = self._see(model(self.canvas)[i], i)
            if seen.token != self.canvas[i]:
                if 0 < bar < 1 and abs(seen.chosen - bar) < CLOSE:
                    raise Unsure
                if seen.chosen > bar:
                    changed[i] = seen.token
        return changed

    def _below(self, position: int, turn: int, chance: float) -> bool:
        u, _ = uniform(self.seed, self.request, position, turn, 2)
        if abs(u - chance) < 1e-12:
            raise Unsure
        return u < chance

    def _chance(self, j: int, steps: int) -> float:
        if self.rule.schedule == "dream":
            t, s = self._dream(j, steps)
            return 1 - s / t
        done = [self._done((steps - k) / steps) for k in (j, j + 1)]
        return 1 - (1 - done[1]) / (1 - done[0])

    def _done(self, t: float) -> float:
        """The share of tokens that are no masks at a time."""
        return 1 - math.cos(math.pi / 2 * (1 - t)) if self.rule.schedule == "cosine" else 1 - t

    def _dream(self, j: int, steps: int) -> tuple[float, float]:
        points = np.linspace(1.0, self.rule.eps, steps + 1)
        return points[j], points[j + 1]

    def _count(self, begun: int, left: int, j: int, steps: int) -> int:
        """How many masks the schedule commits in step j."""
        if j >= steps:
            return left
        match self.rule.schedule:
            case "even":
                return min(left, begun // steps + (j < begun % steps))
            case "linear" | "cosine":
                exact = left * self._chance(j, steps)
                if self.rule.schedule == "cosine" and abs(exact % 1 - 0.5) < 1e-9:
                    raise Unsure
                return min(left, round(exact))
            case "dream":
                t, s = self._dream(j, steps)
                exact = left * (1 - s / t)
                if abs(exact - round(exact)) < 1e-9 and j + 1 < steps:
                    raise Unsure
                return left if j + 1 == steps else int(exact)
            case _:
                if j + 1 == steps:
                    return left
                exact = begun * math.cos(math.pi / 2 * (j + 1) / steps)
                if abs(exact - round(exact)) < 1e-9:
                    raise Unsure
                return max(0, left - min(max(math.floor(exact), 1), left - 1)) if left > 1 else 0

    def _see(self, logits: np.ndarray, position: int) -> Seen:
        rule = self.rule
        x = np.array(logits, dtype=np.float64)
        if rule.eos_penalty is not None:
            for end in self._enders():
                x[end] = np.float32(x[end]) - np.float32(rule.eos_penalty)
        x[[rule.mask_token_id, *rule.suppress_tokens, *self._barred(position)]] = -np.inf
        line = x.tobytes()
        infinite = np.flatnonzero(x == np.inf)
        if infinite.size:
            p = np.zeros(len(x))
            p[infinite] = 1 / infinite.size
        else:
            p = np.exp(x - x.max())
            p /= p.sum()
        order = np.argsort(-x, kind="stable")
        ranked = p[order]
        entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())
        token = int(order[0]) if self.temperature == 0 else self._draw(x, order, position)
        return Seen(token, float(p[token]), float(ranked[0]), float(ranked[1]), entropy, line, infinite.size)

    def _draw(self, x: np.ndarray, order: np.ndarray, position: int) -> int:
        rule = self.rule
        u, _ = uniform(self.seed, self.request, position, self.forwards, 0)
        infinite = np.flatnonzero(x == np.inf)
        if infinite.size:
            return int(infinite[math.floor(u * infinite.size)])
        d = np.maximum((x - x.max()) / self.temperature, -60)
        weight = np.where(d > -60, np.exp(d), 0.0)
        kept = order[: rule.top_k]
        if rule.top_p is not None:
            share = weight[kept].cumsum() / weight[kept].sum()
            if rule.top_p < 1:
                if np.abs(share - rule.top_p).min() < EDGE:
                    raise Unsure
                kept = kept[: int(np.searchsorted(share, rule.top_p)) + 1]
            # all that counts in fixed point is kept; what does not weighs nothing
        if rule.min_p:
            away = d[kept] - math.log(rule.min_p)
            if np.abs(away).min() < CLOSE:
                raise Unsure
            kept = kept[away > 0] if rule.min_p < 1 else kept[d[kept] == 0]
        mass = np.zeros(len(x))
        mass[kept] = weight[kept]
        share = mass.cumsum() / mass.sum()
        inside = share[(share > 0) & (share < 1 - 1e-12)]
        if inside.size and np.abs(inside - u).min() < EDGE:
            raise Unsure
        return min(int(np.searchsorted(share, u, side="right")), int(np.flatnonzero(mass)[-1]))

    def _key(self, seen: Seen, position: int, j: int, steps: int) -> float:
        rule = self.rule
        u, bits = uniform(self.seed, self.request, position, self.forwards, 1)
        score = {
            "confidence": seen.top1,
            "margin": seen.top1 - seen.top2,
            "entropy": -seen.entropy,
            "random": u,
            "left-to-right": -position,
            "sampled-confidence": seen.chosen,
            "ancestral": 0.0,
            "ranks": -self.ranks[position] if self.ranks is not None else 0.0,
            "certainty-prior": seen.top1 * (self._density(position) if rule.order == "certainty-prior" else 0.0),
        }[rule.order]
        if not rule.order_temperature:
            return score
        noise = -math.log(-math.log((bits + 0.5) * 2.0**-53))
        if rule.schedule == "maskgit":
            if score < 1e-4:
                raise Unsure
            return math.log(score) + rule.order_temperature * (1 - (j + 1) / steps) * noise
        return score + rule.order_temperature * noise

    def _pick(self, seen: dict[int, Seen], count: int, j: int, steps: int) -> list[int]:
        """Of the order what the cut allows, at least `count`; thinned, and without end tokens that are held back."""
        rule, first = self.rule, min(seen)
        keys = {i: self._key(seen[i], i, j, steps) - rule.position_penalty * (i - first) for i in seen}
        held = self._held(seen)
        order = sorted((i for i in seen if i not in held), key=lambda i: (-keys[i], i))
        if rule.neighbour_threshold is not None or rule.run_threshold is not None:
            marked = self._marked(seen, order, keys)
            chosen = order[:count] + [i for i in order[count:] if i in marked]
            if 0 < count < len(order) and not {order[count - 1], order[count]} <= marked:
                self._settle_edge(seen, order, keys, count)
        else:
            take = max(count, self._passing([seen[i] for i in order], [i - first for i in order])) if self.cut else count
            self._settle_edge(seen, order, keys, take)
            chosen = order[:take]
        if rule.spacing > 1:
            for place in range(1, len(order)):
                self._settle_edge(seen, order, keys, place)
            chosen = self._thinned(chosen, order, count)
        return chosen + held[: max(count - len(chosen), 0)]

    def _settle_edge(self, seen: dict[int, Seen], order: list[int], keys: dict[int, float], take: int) -> None:
        """Is it sure which are the first `take`?"""
        if not 0 < take < len(order):
            return
        edge = keys[order[take - 1]], keys[order[take]]
        near = [i for i in order if min(abs(keys[i] - e) for e in edge) <= CLOSE * max(1.0, abs(keys[i]))]
        exact = self.rule.order in ("random", "left-to-right", "ranks") and not self.rule.order_temperature
        # Equal rows have equal keys to the bit, and so have those with infinities; then the lower position comes first.
        equal = len({(seen[i].line, seen[i].token) for i in near}) == 1 or (
            len({seen[i].infinities for i in near}) == 1 and seen[near[0]].infinities > 0
        )
        placed = self.rule.position_penalty or self.rule.order == "certainty-prior"
        equal = equal and not self.rule.order_temperature and not placed and len({keys[i] for i in near}) == 1
        crossing = edge[0] - edge[1] <= CLOSE * max(1.0, abs(edge[0]))
        if crossing and not (exact and not self.rule.position_penalty) and not equal:
            raise Unsure

    def _passing(self, ranked: list[Seen], behind: list[int]) -> int:
        rule = self.rule
        sure = [s.chosen if rule.order == "sampled-confidence" else s.top1 for s in ranked]
        if rule.threshold is not None:
            margins = [c - rule.threshold for c in sure]
        elif rule.factor is not None:
            margins = [rule.factor - (n + 2) * (1 - c) for n, c in enumerate(sure)]
        elif rule.entropy_threshold is not None:
            penalised = zip(ranked, behind, strict=True)
            margins = [rule.entropy_threshold - seen.entropy - rule.position_penalty * away for seen, away in penalised]
            # No entropy is below 0, and that is exact.
            margins = [-1.0 if rule.entropy_threshold == 0 else margin for margin in margins]
        else:
            entropies = [s.entropy for s in ranked]
            margins = [rule.entropy_bound - (sum(entropies[: n + 1]) - max(entropies[: n + 1])) for n in range(len(ranked))]
            margins[:1] = [1.0] * len(margins[:1])  # a sum of one less its largest is nothing
        for n, margin in enumerate(margins):
            if abs(margin) < CLOSE * (n + 2):
                raise Unsure
            if margin < 0:
                return n
        return len(margins)

    def _end(self, step: int = 0, *, is_open: bool = False) -> None:
        """An end token, or a stop, with no mask before it ends the row; where tokens are edited, once its block is full."""
        if is_open and self.rule.edit_threshold is not None:
            return
        last = self._last()
        if last is None:
            return
        ends = self.rule.eos_token_ids
        fill = ends[0] if ends else self.canvas[last]
        for k in range(last + 1, len(self.canvas)):
            if not self.given[k] and self.canvas[k] != fill:
                self.edits.append(Edit(step, k, fill, "pad"))
                self.canvas[k] = fill

    def _last(self) -> int | None:
        """Where the row ends: what ends it was written, and late enough."""
        sequences = [(end,) for end in self.rule.eos_token_ids] if self.rule.stop_at_eos else []
        sequences += [stop if isinstance(stop, tuple) else (stop,) for stop in self.rule.stop]
        first_mask = next(iter(self._open()), len(self.canvas))
        begin = self._begin()
        for last in range(first_mask):
            for sequence in sequences:
                places = range(last - len(sequence) + 1, last + 1)
                fits = places[0] >= begin and not any(self.given[k] for k in places)
                if fits and tuple(self.canvas[k] for k in places) == sequence:
                    return last
        return None
