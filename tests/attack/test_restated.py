"""Samplers of every preset, schedule, order, cut, block, temperature and dtype against a restatement that shares nothing.

ATTACK_SAMPLERS is how many are tried (1,500 by default). Where float64 cannot say what our arithmetic does, the case is passed
over, and no more than a seventh of them may be.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import torch
from restated import Edit, Row, Unsure

from dllm_fast import Sampler, SamplerConfig
from dllm_fast.settings.belongs import PARTS
from reference.sampler import CUTS as KNOWN_CUTS
from toys import presets_of_any_model

SAMPLERS = int(os.environ.get("ATTACK_SAMPLERS", "1500"))
VOCABULARY, MASK, ENDS = 13, 5, (2, 9)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCHEDULES = ("even", "linear", "cosine", "dream", "maskgit", "first-hitting")
ORDERS = (
    *("confidence", "margin", "entropy", "random", "left-to-right", "sampled-confidence", "ancestral", "certainty-prior"),
    "ranks",
)
# What the restatement knows of a rule.
REACH = ("sub_block_length", "inherit_token", "window_length")
RULE = (
    *("order", "schedule", "temperature", *KNOWN_CUTS, *REACH, "block_length", "edit_threshold", "gap_stop", "spacing"),
    *("position_penalty", "prior_sigma", "temperature_end", "eos_policy", "eos_penalty", "stop", "min_new_tokens"),
)
# Of presets that say anything else, and of other orders and schedules, it says nothing.
PRESETS = {
    name: preset
    for name, preset in presets_of_any_model().items()
    if preset.order in ORDERS
    and preset.schedule in SCHEDULES
    and dataclasses.replace(SamplerConfig(), **{field: getattr(preset, field) for field in RULE}) == preset
}


# Beside the rule: what it is with which chance, and one of these values.
BESIDE = {
    "block_length": (0.5, range(1, 9)),
    "temperature": (0.5, [0.0, 0.2, 0.7, 1.0, 1.9]),
    "top_k": (0.3, range(1, VOCABULARY + 2)),
    "top_p": (0.3, [0.3, 0.77, 0.95, 1.0]),
    "min_p": (0.2, [0.0, 1e-9, 0.01, 0.3]),
    "suppress_tokens": (0.2, [(), (0,), (MASK, 12), (4, 8)]),
    "eps": (0.3, [1e-3, 0.3]),
    "min_commit": (0.2, [1, 2, 3]),
    "order_temperature": (0.3, [0.0, 0.5, 4.0]),
    "edit_threshold": (0.3, [0.0, 0.2, 0.5, 0.95, 1.0]),
    "max_post_steps": (0.3, [0, 1, 3, 16]),
    "temperature_end": (0.1, [0.1, 1.0, 3.0]),
    "gap_stop": (0.1, [0.0, 0.2, 1.0]),
    "spacing": (0.1, [2, 3]),
    "position_penalty": (0.1, [0.05, 2.0]),
    "prior_sigma": (0.1, [0.5, 3.0]),
    "min_new_tokens": (0.1, range(1, 6)),
    "stop": (0.15, [(4,), ((4, 8),), ((0, 1), 4)]),
    "eos_policy": (0.2, ["suffix", "delay"]),
    "eos_penalty": (0.1, [0.5, 4.0]),
    "sub_block_length": (0.1, range(1, 5)),
    "inherit_token": (0.1, [True]),
    "window_length": (0.1, range(1, 9)),
    "steps": (0.3, range(1, 17)),
    "steps_per_block": (0.4, range(1, 17)),
}
CUTS = [
    {},
    {},
    *({"threshold": value} for value in (0.0, 0.33, 0.9, 1.5)),
    *({"factor": value} for value in (0.5, 1.0, 3.3)),
    *({"entropy_bound": value} for value in (0.1, 1.7, 9.0)),
    *({"entropy_threshold": value} for value in (0.0, 0.7, 2.1)),
    {"threshold": 0.6, "neighbour_threshold": 0.2, "neighbour_distance": 2},
    {"threshold": 0.9, "run_threshold": 0.3},
    {"run_threshold": 0.4},
]


def excluded(chosen: dict[str, Any]) -> set[str]:
    """Of what is chosen, the names that do not go with the others."""
    without = {"steps_per_block"} if "steps" in chosen else set()
    if chosen["order"] == "ancestral":
        without |= {"threshold", "factor", "entropy_bound", "min_commit", "order_temperature"}
        if chosen["schedule"] in ("first-hitting", "maskgit"):
            chosen["schedule"] = "linear"
    if chosen["order"] == "random":
        without |= {"order_temperature"}
    if chosen["order"] == "ancestral" or chosen["schedule"] == "first-hitting":
        without |= {"edit_threshold"}
    if chosen["schedule"] == "maskgit" and chosen["order"] in ("entropy", "left-to-right"):
        without |= {"order_temperature"}
    if chosen["schedule"] == "first-hitting":
        without |= {"steps", "steps_per_block", "min_commit"}
    is_reverse = chosen["order"] == "ancestral" or chosen["schedule"] == "first-hitting"
    reaches = [name for name in REACH if name in chosen]
    if is_reverse:
        without |= {*KNOWN_CUTS, *REACH, "gap_stop", "spacing", "position_penalty"}
    elif reaches:
        without |= {*REACH} - ({reaches[0]} if reaches[0] == "window_length" else {*REACH[:2]})
        without |= {"steps", "steps_per_block", "gap_stop", "edit_threshold"}
        chosen["schedule"] = "even"
    if chosen["order"] == "ranks" and chosen["schedule"] == "maskgit":
        without |= {"order_temperature"}
    without |= set() if chosen.get("temperature") else {"temperature_end"}
    if "edit_threshold" in chosen or chosen["order"] == "ancestral":
        without |= {"eos_policy"}
    if "eos_penalty" in chosen:
        chosen["eos_policy"] = "penalise"
    if "suppress_tokens" in chosen and {"stop", "eos_policy"} & {*chosen}:
        without |= {"suppress_tokens"}
    return without


def unread(chosen: dict[str, Any]) -> set[str]:
    """Of what is left, the names that nothing reads."""
    return {name for part in PARTS if not part.is_read(chosen.get(part.owner)) for name in part.names}


def settings(rng: np.random.Generator) -> dict[str, Any]:
    """A rule, of a preset in one of three cases, with all that may be set beside it."""
    if rng.random() < 1 / 3:
        preset = PRESETS[rng.choice(list(PRESETS))]
        chosen = {name: getattr(preset, name) for name in RULE if getattr(preset, name) is not None}
    else:
        chosen = {"order": str(rng.choice(ORDERS)), "schedule": str(rng.choice(SCHEDULES)), **CUTS[rng.integers(len(CUTS))]}
    for name, (chance, values) in BESIDE.items():
        if rng.random() < chance:
            chosen[name] = values[rng.integers(len(values))]
    without = excluded(chosen)
    chosen = {name: value for name, value in chosen.items() if name not in without}
    chosen = {name: value for name, value in chosen.items() if name not in unread(chosen)}
    return chosen | {"mask_token_id": MASK, "eos_token_id": ENDS, "stop_at_eos": bool(rng.random() < 0.3)}


def wishes(rng: np.random.Generator, chosen: dict[str, Any], rows: list[tuple[np.ndarray, int]]) -> dict[str, list[Any]]:
    """Ranks where they are the order, and now and then positions that wait for one on their left."""
    told: dict[str, list[Any]] = {}
    if chosen["order"] == "ranks":
        told["order"] = [rng.integers(-3, 4, len(tokens)).astype(float).tolist() for tokens, _ in rows]
    is_reverse = chosen["order"] == "ancestral" or chosen["schedule"] == "first-hitting"
    if is_reverse or {*REACH, "gap_stop"} & {*chosen} or chosen.get("eos_policy") == "delay" or rng.random() < 0.8:
        return told
    told["eligible_after"] = []
    for tokens, _ in rows:
        masks = np.flatnonzero(tokens == MASK).tolist()
        pairs = {later: [masks[rng.integers(i)]] for i, later in enumerate(masks) if i and rng.random() < 0.3}
        told["eligible_after"].append(pairs)
    return told


def canvas(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Given tokens and masks, and where blocks are counted from."""
    length = int(rng.integers(1, 17))
    tokens = rng.integers(0, VOCABULARY, length)
    tokens[tokens == MASK] = 0
    kind = rng.integers(3)
    start = 0
    if kind == 0:
        tokens[:] = MASK
    elif kind == 1:
        start = int(rng.integers(0, length))
        tokens[start:] = MASK
    else:
        tokens[rng.random(length) < rng.random()] = MASK
    return tokens, start


class Model:
    """Logits that depend on the whole canvas: of a kind, in a dtype, some positions alike."""

    def __init__(self, number: int, rng: np.random.Generator) -> None:
        self.number, self.dtype = number, DTYPES[rng.integers(3)]
        self.kind, self.scale = (
            rng.choice(["normal", "coarse", "sharp", "infinite", "holes", "alike"]),
            rng.choice([0.3, 2.0, 8.0]),
        )
        self.known: dict[bytes, torch.Tensor] = {}

    def __call__(self, tokens: np.ndarray) -> torch.Tensor:
        key = np.asarray(tokens, dtype=np.int64).tobytes()
        if key not in self.known:
            rng = np.random.default_rng([self.number, *tokens])
            x = rng.normal(0, self.scale, (len(tokens), VOCABULARY))
            match self.kind:
                case "coarse":
                    x = np.round(x * 2) / 2
                case "sharp":
                    x[np.arange(len(x)), rng.integers(0, VOCABULARY, len(x))] += 9
                case "infinite":
                    x[rng.integers(len(x)), rng.integers(0, VOCABULARY, 2)] = np.inf
                case "holes":
                    x[:, 6:][rng.random((len(x), VOCABULARY - 6)) < 0.5] = -np.inf
                case "alike":
                    x[:] = x[rng.integers(0, min(2, len(x)), len(x))]
            self.known[key] = torch.from_numpy(x).to(self.dtype)
        return self.known[key]


def one(number: int) -> str:
    """Tries a sampler: what came of it."""
    rng = np.random.default_rng(number)
    chosen, model = settings(rng), Model(number, rng)
    rows = [canvas(rng) for _ in range(rng.integers(1, 4))]
    seeds = [int(rng.integers(2**63)) for _ in rows]
    requests = [int(rng.integers(2**32)) for _ in rows]
    config, told = SamplerConfig(**chosen), wishes(rng, chosen, rows)
    restated = [
        Row(
            config,
            *(tokens, seeds[i], requests[i], start),
            ranks=told["order"][i] if "order" in told else None,
            after=told["eligible_after"][i] if "eligible_after" in told else None,
        )
        for i, (tokens, start) in enumerate(rows)
    ]
    if config.steps is not None and any(len(row._blocks()) > config.steps for row in restated):
        return "refused"  # a step for each block
    try:
        for row in restated:
            row.run(lambda tokens: model(tokens).double().numpy())
    except Unsure:
        return "unsure"
    starts = [start for _, start in rows]
    sampler = Sampler(config, [tokens for tokens, _ in rows], seed=seeds, request=requests, block_start=starts, **told)
    while (request := sampler.next()) is not None:
        asked = zip(request.canvases, request.positions, strict=True)
        sampler.feed(torch.cat([model(tokens)[torch.from_numpy(positions)] for tokens, positions in asked]))
    for i, row in enumerate(restated):
        case = f"case {number}, row {i}, {chosen}, {model.kind}, {model.dtype}, {rows[i]}, {told}"
        edits = [Edit(e.step, e.position, e.token, e.kind) for e in sampler.trajectory[i]]
        assert sorted(edits) == sorted(row.edits), case
        assert sampler.canvases[i].tolist() == row.canvas, case
        assert sampler.nfe_per_row[i] == row.forwards, case
    return "equal"


def test_samplers_do_what_the_words_say() -> None:
    found = {"equal": 0, "unsure": 0, "refused": 0}
    for number in range(SAMPLERS):
        found[one(number)] += 1
    print(found)
    assert found["equal"] > 0.8 * SAMPLERS
    assert found["unsure"] < SAMPLERS / 7
