"""DAEDAL (2508.00819) and rho-EOS (2601.22527): their published loops restated for one row, and what in them nobody means.

As intended each gives the tokens and the number of forwards of our preset. As published:
- DAEDAL writes `eos_check_tokens / 2` end tokens behind the masks when it begins to write, which count as the model's own;
- DAEDAL cuts what an insertion pushes beyond the longest answer, also tokens that were written;
- rho-EOS measures DAEDAL's sureness of the end in place of the density of which its paper speaks;
- rho-EOS takes masks away whatever they would become, and written tokens with them.
Its blocks begin where the last one was full, ours lie on a grid; they differ only where a block is cut short by the end.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

import dllm_fast
import toys

VOCABULARY, END, MASK = 12, 3, 11
PROMPT = [5, 1]


@dataclass
class Loop:
    """One row on its way, with the numbers of the papers for a small model.

    Attributes:
        is_published: with the quirks.
        canvas: prompt and answer.
        forwards: of the model.
        lost: tokens that were written and are cut off.
    """

    model: toys.Ending
    initial: int
    most: int
    block: int
    is_published: bool = False
    factor: int = 4
    checked: int = 4
    unsure: float = 0.3
    forwards: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self.canvas = [*PROMPT, *[MASK] * self.initial]

    @property
    def length(self) -> int:
        return len(self.canvas) - len(PROMPT)

    def look(self) -> None:
        """A forward: of each position the most probable token and its probability."""
        logits = self.model.alone(np.array(self.canvas)).astype(np.float64)
        logits[:, MASK] = -math.inf
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        self.token, self.confidence = shares.argmax(axis=1), shares.max(axis=1)
        self.forwards += 1

    def sureness(self) -> float:
        ends = [p for p in reversed(range(len(PROMPT), len(self.canvas))) if self.token[p] == END]
        return sum(self.confidence[p] for p in ends[: self.checked]) / self.checked

    def begin(self) -> int:
        """Where the block of the first mask begins."""
        first = self.canvas.index(MASK)
        return len(PROMPT) + (first - len(PROMPT)) // self.block * self.block

    def write(self) -> list[int]:
        """Writes what is sure in the block, the surest if nothing is; returns the masks of the block that are left."""
        begin = self.begin()
        masks = [p for p in range(begin, min(begin + self.block, len(self.canvas))) if self.canvas[p] == MASK]
        sure = [p for p in masks if self.confidence[p] > 0.9] or [max(masks, key=lambda p: self.confidence[p])]
        for p in sure:
            self.canvas[p] = int(self.token[p])
        return [p for p in masks if p not in sure]

    def cut(self, length: int) -> None:
        """Leaves so many positions of the answer."""
        gone = self.canvas[len(PROMPT) + length :]
        self.lost += sum(token != MASK for token in gone)
        self.canvas = self.canvas[: len(PROMPT) + length]

    def daedal(self) -> None:
        self.look()
        while self.sureness() < 0.5 and self.length < self.most:
            self.canvas += [MASK] * min(self.factor, self.most - self.length)
            self.look()
        if self.is_published:
            self.canvas += [END] * min(self.checked // 2, self.most - self.length)
            self.look()
        while True:
            left = self.write()
            unsure = [p for p in left if self.confidence[p] < self.unsure]
            if unsure and self.sureness() < 0.9 and self.length < self.most:
                place = min(unsure, key=lambda p: self.confidence[p])
                more = self.factor - 1 if self.is_published else min(self.factor - 1, self.most - self.length)
                self.canvas[place:place] = [MASK] * more
                self.cut(min(self.length, self.most))
            if MASK not in self.canvas:
                return
            self.look()

    def rho(self, *, measures_sureness: bool = False) -> None:
        for step in range(10**9):
            self.look()
            masks = [p for p, token in enumerate(self.canvas) if token == MASK]
            ends = [p for p in masks if self.token[p] == END]
            self.write()
            density = self.sureness() if measures_sureness else len(ends) / len(masks)
            gap = max(0.4 - density, density - 0.6)
            if step < 64 and gap > 0:
                by = self.factor * min(8, 2 ** (math.ceil(round(gap * 10, 6)) - 1))
                if density < 0.4:
                    self.canvas += [MASK] * min(by, self.most - self.length)
                elif self.is_published:
                    self.cut(max(self.length - by, 0))
                else:
                    while by and len(ends) > 1 and ends[-1] == len(self.canvas) - 1 and self.canvas[-1] == MASK:
                        if len(ends) - 1 < 0.4 * (len(masks) - 1):
                            break
                        self.cut(self.length - 1)
                        del ends[-1], masks[-1]
                        by -= 1
            if MASK not in self.canvas:
                return


CASES = [(seed, *case) for seed, case in enumerate(itertools.product((1, 4, 9, 20), (4, 32), (-2.0, 0.5, 1.5, 5.0), (None, 8)))]


def loop(seed: int, initial: int, block: int, towards: float, after: int | None, **more) -> Loop:
    model = toys.Ending(VOCABULARY, END, towards, after=after, seed=seed, grid=1e-4)
    return Loop(model, initial, most=24, block=block, **more)


def ours(preset: str, case: Loop) -> dllm_fast.Sampler:
    settings = {name: getattr(dllm_fast.presets()[preset], name) for name in ("order", "threshold", "length")}
    if preset == "daedal":  # which alone asks how sure positions are
        settings |= {"eos_check_tokens": case.checked, "low_confidence_threshold": case.unsure}
    config = dllm_fast.SamplerConfig(
        **settings,
        mask_token_id=MASK,
        eos_token_id=END,
        block_length=case.block,
        max_new_tokens=case.most,
        expansion_factor=case.factor,
    )
    sampler = dllm_fast.Sampler(config, [[*PROMPT, *[MASK] * case.initial]], block_start=len(PROMPT))
    while (request := sampler.next()) is not None:
        sampler.feed(case.model.alone(request.canvases[0])[request.positions[0]])
    return sampler


@pytest.mark.parametrize("preset", ["daedal", "rho-eos"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_intended_it_is_our_preset(preset, case):
    theirs = loop(*case)
    theirs.daedal() if preset == "daedal" else theirs.rho()
    sampler = ours(preset, theirs)
    assert sampler.canvases[0].tolist() == theirs.canvas
    assert sampler.nfe_per_row[0] == theirs.forwards
    assert theirs.lost == 0


def test_the_cases_do_everything():
    """They grow and shrink, at the end and within, and meet the bound."""
    edits = {preset: [ours(preset, loop(*case)) for case in CASES] for preset in ("daedal", "rho-eos")}
    for preset, samplers in edits.items():
        lengths = [len(sampler.canvases[0]) - len(PROMPT) for sampler in samplers]
        assert max(lengths) == 24
        assert any(length > case[1] for length, case in zip(lengths, CASES, strict=True))
        assert any(length < case[1] for length, case in zip(lengths, CASES, strict=True)) == (preset == "rho-eos")
    within = [edit for sampler in edits["daedal"] for edit in sampler.trajectory[0] if edit.kind == "insert" and edit.step > 0]
    assert within


def test_daedal_as_published_writes_ends_that_nobody_predicted():
    """So the answer never ends at its last sure position, and everything that follows sees these tokens."""
    for case in CASES:
        theirs = loop(*case, is_published=True)
        length = ours("daedal", theirs)
        theirs.daedal()
        if len(length.canvases[0]) - len(PROMPT) < theirs.most - theirs.checked and theirs.lost == 0:
            assert theirs.canvas[-1] == END
    differ = [loop(*case, is_published=True) for case in CASES]
    for theirs in differ:
        theirs.daedal()
    assert sum(ours("daedal", theirs).canvases[0].tolist() != theirs.canvas for theirs in differ) > len(CASES) // 4


def test_daedal_as_published_pushes_written_tokens_out():
    found = [loop(*case, is_published=True) for case in CASES]
    for theirs in found:
        theirs.daedal()
    assert any(theirs.lost for theirs in found)


def test_rho_eos_as_published_cuts_written_tokens():
    found = [loop(*case, is_published=True) for case in CASES]
    for theirs in found:
        theirs.rho()
    assert any(theirs.lost for theirs in found)


def test_rho_eos_as_shipped_measures_something_else():
    found = [loop(*case, is_published=True) for case in CASES]
    meant = [loop(*case, is_published=True) for case in CASES]
    for shipped, theirs in zip(found, meant, strict=True):
        shipped.rho(measures_sureness=True)
        theirs.rho()
    assert any(shipped.canvas != theirs.canvas for shipped, theirs in zip(found, meant, strict=True))
