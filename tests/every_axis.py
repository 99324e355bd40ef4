"""Settings of every axis of the rules together, and rows that go with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

import dllm_fast
import strategies
from reference import sampler as reference
from strategies import END, MASK, OTHER_END, VOCABULARY


@dataclass(frozen=True)
class Start:
    """What a row begins with."""

    canvas: np.ndarray
    is_open: np.ndarray
    seed: int
    request: int
    block_start: int
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> dict[str, Any]:
        """Arguments of `Sampler.add`, and of the reference."""
        return {"seed": self.seed, "request": self.request, "block_start": self.block_start} | self.more


def together(starts: list[Start]) -> dict[str, Any]:
    """Arguments of a `Sampler` over these rows, which have the same settings."""
    names = dict.fromkeys(name for start in starts for name in start.where)
    return {name: [start.where.get(name) for start in starts] for name in names}


def is_accepted(config: dict[str, Any]) -> bool:
    """Do these settings go together, and with a row?"""
    is_masked = config["mask_token_id"] is not None
    row = {} if is_masked else {"open": [[True]]}
    if config["order"] == "ranks":
        row["order"] = [0.0]
    try:
        dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), [[MASK if is_masked else 0]], **row)
    except dllm_fast.DllmFastError:
        return False
    return True


@st.composite
def verified(draw) -> dict[str, Any]:
    """Settings of drafts that a causal look verifies."""
    optional = {
        "block_length": st.integers(1, 8),
        "suppress_tokens": st.lists(st.integers(0, VOCABULARY - 1), max_size=3).map(tuple),
        "shift": st.booleans(),
    }
    chosen = {"mask_token_id": MASK, "order": "left-to-right", "verify": True, "schedule": "even", "temperature": 0.0}
    return chosen | draw(strategies.ends) | draw(st.fixed_dictionaries({}, optional=optional))


@st.composite
def owed(draw) -> dict[str, Any]:
    """Settings of shares that are owed, over noise."""
    orders = tuple(order for order in strategies.ORDERS if order != "ancestral")
    chosen = draw(strategies.settings(orders=orders, schedules=["even"], annealed=False))
    chosen |= {"noise": "uniform", "vocabulary": VOCABULARY, "schedule": "cumulative", "mask_token_id": None}
    return {"steps_per_block": 5} | chosen


#: What may stand beside the rules, where it means something there.
BESIDE = (
    {"temperature_end": st.sampled_from([0.001, 0.4, 2.0])},
    {"steps": st.integers(16, 40), "steps_per_block": st.none()},
    {"spacing": st.sampled_from([2, 3, 99])},
    {"position_penalty": st.sampled_from([0.02, 10.0])},
    {"min_commit": st.integers(1, 4)},
    {"mask_token_id": st.none()},
    {"mask_token_id": st.none(), "noise": st.just("uniform"), "vocabulary": st.sampled_from([1, VOCABULARY])},
    {"eos_token_id": st.sampled_from([END, (OTHER_END, END)]), "stop_at_eos": st.booleans()},
)
RULES = {
    "plain": strategies.settings(orders=strategies.ORDERS, annealed=False),
    "editing": strategies.editing(),
    "placed": strategies.placed(),
    "remasking": strategies.remasking(),
    "remembering": strategies.remembering(),
    "drafting": strategies.drafting(),
    "posterior": strategies.posteriors(),
    "owed": owed(),
    "verified": verified(),
    "growing": strategies.growing(),
}


@st.composite
def settings(draw, rules=tuple(RULES)) -> dict[str, Any]:
    """Settings of any rule with whatever may stand beside it."""
    chosen = {"mask_token_id": None, "schedule": "even"} | draw(RULES[draw(st.sampled_from(rules))])
    assert is_accepted(chosen), chosen
    for beside in draw(st.lists(st.sampled_from(BESIDE), max_size=3)):
        more = chosen | draw(st.fixed_dictionaries(beside))
        if is_accepted(more):
            chosen = {name: value for name, value in more.items() if value is not None or name == "mask_token_id"}
    if draw(st.booleans()):
        more = draw(strategies.endings({"eos_token_id": END} | chosen))
        chosen = more if is_accepted(more) else chosen
    return chosen


@st.composite
def starts(draw, config: dict[str, Any]) -> Start:
    """A row under these settings: its canvas, its ranks where they order it, and sometimes positions that wait for others."""
    canvas = draw(strategies.answers() if "length" in config else strategies.canvases())
    is_open = canvas == MASK
    more: dict[str, Any] = {}
    if config["mask_token_id"] is None:
        more["open"] = is_open
        canvas = np.where(is_open, draw(st.integers(0, VOCABULARY - 1)), canvas)
    if config["order"] == "ranks":
        ranks = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3))
        more["order"] = draw(st.lists(ranks, min_size=len(canvas), max_size=len(canvas)))
    number = st.integers(0, 2**32 - 1)
    start = Start(canvas, is_open, draw(strategies.seeds), draw(number), draw(st.integers(0, 10)), more)
    if draw(st.integers(0, 2)) == 0:
        after = {"eligible_after": draw(waiting(config, start))}
        try:
            dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), [canvas], **together([start]), **after)
        except dllm_fast.DllmFastError:
            return start
        more |= after
    return start


@st.composite
def waiting(draw, config: dict[str, Any], start: Start) -> dict[int, list[int]]:
    """Open positions, and for some of them others that are written before."""
    windows = reference.windows(len(start.canvas), config.get("block_length"), start.block_start)
    block = {p: i for i, window in enumerate(windows) for p in window}
    # Any order of the masks that goes from block to block has no cycles: whoever waits, waits for some before him in it.
    line = sorted(draw(st.permutations(np.flatnonzero(start.is_open).tolist())), key=block.__getitem__)
    after = {}
    for i, position in enumerate(line):
        if i and draw(st.booleans()):
            after[position] = draw(st.lists(st.sampled_from(line[:i]), max_size=3))
    return after


@st.composite
def batches(draw, rules=tuple(RULES), most: int = 4) -> tuple[dict[str, Any], list[Start]]:
    """Settings, and rows under them."""
    config = draw(settings(rules))
    return config, draw(st.lists(starts(config), min_size=1, max_size=most))
