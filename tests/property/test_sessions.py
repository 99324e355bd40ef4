"""Rows that join a session while others run, each with a rule of its own, write what each writes alone."""

from __future__ import annotations

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
from dllm_fast import prepare
from dllm_fast.open import open_runner
from dllm_fast.runners.predictor import Predictor
from dllm_fast.runners.runner import Task
from dllm_fast.settings.resolve import resolve
from dllm_fast.text import prompts as text
from engines import with_engine
from families import MASK, TWINS
from joining import carried_out

RULES = (
    {"preset": "llada", "steps_per_block": 2},
    {"preset": "llada", "temperature": 0.8, "block_length": 4, "steps_per_block": 4},
    {"preset": "fast-dllm", "threshold": 0.02},
    {"preset": "fast-dllm", "threshold": 0.02, "temperature": 0.7, "top_k": 9, "edit_threshold": 0.0, "max_post_steps": 2},
    {"preset": "left-to-right"},
    {"preset": "entropy-bound", "entropy_bound": 20.0},
    {"preset": "klass", "threshold": 0.02, "kl_threshold": 0.5, "kl_steps": 1, "credit": 0.7, "temperature": 0.8},
)
# Under `exact_block`, one of them with shifted predictions, whose features are carried.
GROWING = ["sdar", *(twin.name for twin in TWINS if twin.attention == "block_causal" and twin.shift)][:2]
KINDS = {
    "none": ("llada", "dream", "sdar", "wedlm"),
    "exact_block": [twin.name for twin in TWINS if twin.attention in ("block_causal", "causal_context")],
    "prefix": ("llada", "dream", "sdar"),
    "dual": ("llada", "dream", "sdar"),
    "callable": ("llada", "dream"),
}


def model_of(opened, name: str, kind: str):
    model = opened(name)
    return model.__call__ if kind == "callable" else model


@st.composite
def rows(draw):
    """What a row starts from, and the step before which it comes."""
    return SimpleNamespace(
        prompt=draw(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=20)),
        settings={
            **draw(st.sampled_from(RULES)),
            "max_new_tokens": draw(st.integers(1, 5)) * 4,
            "mask_token_id": MASK,
            "stop_at_eos": draw(st.booleans()),
            "eos_token_id": 3,
        },
        seed=draw(st.integers(0, 99)),
        comes=draw(st.integers(0, 12)),
        follows=draw(st.booleans()),
    )


def planned(runner, row, cache: str):
    read = functools.partial(text.prompts, row.prompt, name="prompt", attention_mask=None, chat=None)
    preset, given = row.settings.get("preset"), {name: value for name, value in row.settings.items() if name != "preset"}
    given = resolve(preset, None, {**given, "cache": cache}, runner.info)
    return prepare.plan(runner, None, given, read, seed=row.seed, num_samples=1, is_infilling=False)


def together(model, drawn, *, cache: str, max_rows: int | None):
    """The canvases of all rows, which join one after the other."""
    runner, _ = open_runner(model)
    plans = [planned(runner, row, cache) for row in drawn]
    first = plans[0]
    sampler = dllm_fast.Sampler(
        first.rule, first.canvases, seed=first.seeds, request=first.requests, block_start=first.block_starts, max_rows=max_rows
    )
    predictor = Predictor(sampler, first.rule, first.special)
    session = runner.begin(
        Task(
            lengths=[len(first.canvases[0])],
            starts=first.starts,
            prompts=[0],
            mask_token_id=MASK,
            eos_token_ids=first.config.eos_token_ids,
            shift=first.config.shift,
            cache=cache,
            refresh_every=first.config.refresh_every,
            max_rows=max_rows,
            predictor=predictor,
        )
    )
    numbers = {tuple(drawn[0].prompt): 0}

    def told(row):
        return lambda number: {"prompt": numbers.setdefault(tuple(row.prompt), number)}

    waiting = [(row.comes, plan, told(row)) for row, plan in zip(drawn[1:], plans[1:], strict=True)]
    return carried_out(sampler, session, predictor, waiting)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_rows_that_join_write_what_each_writes_alone(opened, kind, data):
    name = data.draw(st.sampled_from(KINDS[kind]))
    model, cache = model_of(opened, name, kind), "none" if kind == "callable" else kind
    drawn = data.draw(st.lists(rows(), min_size=2, max_size=5))
    drawn[1:] = sorted(drawn[1:], key=lambda row: row.comes)
    for before, row in itertools.pairwise(drawn):
        if row.follows:
            row.prompt = before.prompt  # which may copy what that one has computed
    refresh = data.draw(st.sampled_from([None, 2])) if cache in ("prefix", "dual") else None
    for row in drawn:
        row.settings["refresh_every"] = refresh
    max_rows = data.draw(st.sampled_from([None, 2]))
    alone = [
        dllm_fast.sample(model, row.prompt, seed=row.seed, cache=cache, **row.settings).sequences[0].tolist() for row in drawn
    ]
    assert together(model, drawn, cache=cache, max_rows=max_rows) == alone


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("name", GROWING)
def test_a_long_row_joins_short_ones_of_which_some_leave(opened, monkeypatch, name, captured):
    """The cache grows, lines of it move, and what is in them stays: rows of one prompt copy it, others go on in it."""
    model = opened(name)
    monkeypatch.setattr(model, "engine", None)
    engine = with_engine(model) if captured else None
    made = []
    rows = [(3, 8, 0), (5, 40, 1), (60, 64, 2), (60, 64, 5), (2, 4, 9), (150, 8, 13), (170, 8, 15), (190, 8, 18)]
    for number, (length, new, comes) in enumerate(rows):
        row = SimpleNamespace(prompt=[*np.arange(length) % MASK], seed=number, comes=comes)
        row.settings = {
            "max_new_tokens": new,
            "mask_token_id": MASK,
            "stop_at_eos": False,
            "preset": "llada",
            "temperature": 0.7,
        }
        made.append(row)
    alone = [dllm_fast.sample(model, row.prompt, seed=row.seed, **row.settings).sequences[0].tolist() for row in made]
    assert together(model, made, cache="exact_block", max_rows=None) == alone
    assert engine is None or engine.captured
