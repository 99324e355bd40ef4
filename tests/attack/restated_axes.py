"""Axes of the restatement: which positions may be written, what is held back, when a block is written at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dllm_fast import SamplerConfig

CLOSE = 1e-5  # what statistics may be off by
SMALLEST = 2.0**-1022


class Unsure(Exception):  # noqa: N818 - no error
    """The answer hangs on the last digits."""


class Seen(NamedTuple):
    """What a row of logits says, and the token that is proposed."""

    token: int
    chosen: float
    top1: float
    top2: float
    entropy: float
    line: bytes
    infinities: int


class Axes:
    """What a row is asked beside its ranking."""

    rule: SamplerConfig
    canvas: list[int]
    given: list[bool]
    origin: int
    forwards: int
    temperature: float
    after: Mapping[int, Sequence[int]]

    def _best(self, seen: Seen) -> int:
        """The most probable token, of equals the lowest."""
        return int(np.argmax(np.frombuffer(seen.line)))

    def _open(self, block: range | None = None) -> list[int]:
        places = range(len(self.canvas)) if block is None else block
        return [i for i in places if self.canvas[i] == self.rule.mask_token_id]

    def _eligible(self, block: range) -> list[int]:
        """Open positions of the block within reach, that wait for nobody."""
        rule, left = self.rule, self._open(block)
        first = left[0]
        if rule.inherit_token and first == block[0] and first > 0:
            left = [first]
        elif rule.sub_block_length is not None:
            part = (first - block[0]) // rule.sub_block_length
            left = [i for i in left if (i - block[0]) // rule.sub_block_length == part]
        if rule.window_length is not None:
            left = [i for i in left if i < first + rule.window_length]
        masks = {*self._open()}
        return [i for i in left if not masks & {*self.after.get(i, ())}]

    def _temperature(self, left: int, steps: int) -> float:
        first, last = self.rule.temperature, self.rule.temperature_end
        if last is None:
            return first
        share = np.float32(left) / np.float32(steps)
        return float(np.float32(last) + np.float32(first - last) * share)

    def _density(self, position: int) -> float:
        """How much of what is around a position is known."""
        sigma, length = self.rule.prior_sigma, len(self.canvas)
        known = [token != self.rule.mask_token_id for token in self.canvas]
        far = math.ceil(6 * sigma)
        mass = total = 0.0
        for other in range(position - far, position + far + 1):
            weight = math.exp(-((other - position) ** 2) / (2 * sigma**2))
            total += weight
            is_known = other < 0 or (known[-1] if other >= length else known[other])
            mass += weight * is_known
        return mass / total

    def _stops_by_gap(self, seen: list[Seen], progress: float) -> bool:
        bar = self.rule.gap_stop
        if bar is None:
            return False
        times = 3 if progress < 0.33 else 2 if progress < 0.67 else 1
        gaps = [math.log(max(one.top1, SMALLEST)) - math.log(max(one.top2, SMALLEST)) for one in seen]
        mean = sum(gaps) / len(gaps)
        if bar and abs(mean - times * bar) < CLOSE * max(1.0, mean) * 10:
            raise Unsure
        return mean >= times * bar

    def _confidence(self, seen: Seen) -> float:
        return seen.chosen if self.rule.order == "sampled-confidence" else seen.top1

    def _passes(self, seen: Seen, bar: float) -> bool:
        margin = self._confidence(seen) - bar
        if abs(margin) < CLOSE:
            raise Unsure
        return margin > 0

    def _marked(self, seen: dict[int, Seen], order: list[int], keys: dict[int, float]) -> set[int]:
        """Candidates that are asked by themselves: near an anchor, or the best of their run."""
        rule = self.rule
        if rule.neighbour_threshold is not None:
            anchors = [i for i in order if self._passes(seen[i], rule.threshold)]
            near = {i for i in order if any(abs(i - a) <= rule.neighbour_distance for a in anchors)}
            return {*anchors} | {i for i in near if self._passes(seen[i], rule.neighbour_threshold)}
        bar = rule.run_threshold if rule.threshold is None else min(rule.run_threshold, rule.threshold)
        marked = {i for i in order if rule.threshold is not None and self._passes(seen[i], rule.threshold)}
        rest = sorted(order)
        while rest:
            run = [rest.pop(0)]
            while rest and rest[0] == run[-1] + 1:
                run.append(rest.pop(0))
            ranked = sorted(run, key=lambda i: (-keys[i], i))
            if len(run) > 1 and keys[ranked[0]] - keys[ranked[1]] <= CLOSE * max(1.0, abs(keys[ranked[0]])):
                raise Unsure
            if self._passes(seen[ranked[0]], bar):
                marked.add(ranked[0])
        return marked

    def _thinned(self, chosen: list[int], order: list[int], floor: int) -> list[int]:
        """Of the chosen ones, then of the others, those that stand apart; then those passed over, up to the floor."""
        taken: list[int] = []
        for i in [*chosen, *(i for i in order if i not in chosen)]:
            is_wanted = i in chosen or len(taken) < floor
            if is_wanted and all(abs(i - other) >= self.rule.spacing for other in taken):
                taken.append(i)
        passed = [i for i in order if i not in taken]
        return taken + passed[: max(floor - len(taken), 0)]

    # --- what ends a row

    def _enders(self) -> set[int]:
        return {*self.rule.eos_token_ids, *(stop for stop in self.rule.stop if isinstance(stop, int))}

    def _begin(self) -> int:
        """The first position with so many before it that were not given."""
        own = [i for i, given in enumerate(self.given) if not given]
        least = self.rule.min_new_tokens
        return 0 if least == 0 else own[least] if least < len(own) else len(self.canvas)

    def _barred(self, position: int) -> set[int]:
        """Tokens that would end the row too early there."""
        is_barred = position < self._begin()
        if self.rule.eos_policy == "suffix":
            mask, enders = self.rule.mask_token_id, self._enders()
            behind = range(position + 1, len(self.canvas))
            is_barred |= any(not self.given[k] and self.canvas[k] not in {mask, *enders} for k in behind)
        return self._enders() if is_barred else set()

    def _held(self, seen: dict[int, Seen]) -> list[int]:
        """Under `delay`, proposals that end the row with something open to their left, from the left."""
        if self.rule.eos_policy != "delay":
            return []
        first = self._open()[0]
        return sorted(i for i in seen if seen[i].token in self._enders() and i != first)

    def _before_an_end(self, picked: list[int], seen: dict[int, Seen]) -> list[int]:
        """Under `suffix`, what is chosen up to the leftmost end token of it."""
        ends = [i for i in picked if seen[i].token in self._enders()]
        return [i for i in picked if i <= min(ends)] if ends and self.rule.eos_policy == "suffix" else picked

    def _fill_behind_an_end(self, picked: list[int]) -> None:
        ends = [i for i in picked if self.canvas[i] in self._enders()]
        if not ends or self.rule.eos_policy != "suffix":
            return
        known = self.rule.eos_token_ids
        self._put(
            dict.fromkeys(self._open(range(min(ends) + 1, len(self.canvas))), known[0] if known else self.canvas[min(ends)]),
            "pad",
        )

    def _put(self, tokens: dict[int, int], kind: str) -> None:
        raise NotImplementedError
