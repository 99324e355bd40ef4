"""Whatever is passed as a setting, only our own errors come out, and what is accepted can be used."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import dllm_fast
from dllm_fast import Sampler, SamplerConfig, _core
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.settings.aliases import ALIASES
from dllm_fast.settings.config import changed
from dllm_fast.settings.manual import entries
from dllm_fast.settings.resolve import NAMES, resolve

BIG = [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -1, -(2**63), 0, 1, 2, 7]
WORDS = [
    *("even", "linear", "cosine", "dream", "maskgit", "first-hitting", "confidence", "margin", "entropy", "random"),
    *("left-to-right", "sampled-confidence", "ancestral", "low_confidence", "origin", "maskgit_plus", "topk_margin"),
    *("", "EVEN", "nan", "1", "\ud800", "\0"),
]

integers = st.one_of(st.sampled_from(BIG), st.integers(-3, 40), st.integers())
floats = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1e-3, 1e300, 5e-324]), st.floats())
scalars = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    floats,
    st.sampled_from(WORDS),
    st.text(max_size=8),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.sampled_from([Decimal("0.5"), Decimal("nan"), Fraction(1, 3), object(), int, ..., range(3), frozenset({1})]),
    st.sampled_from([np.int64(5), np.uint8(3), np.float32(0.5), np.bool_(True), np.float64("nan"), np.str_("even")]),
)
arrays = st.sampled_from(
    [np.array([1, 2]), np.array([-1]), np.array(3), np.array([]), np.array([0.5]), np.zeros((2, 2), int), torch.tensor([1, 2]),
     torch.tensor(4), torch.tensor([2**40]), torch.tensor(0.25)]
)  # fmt: skip
anything = st.one_of(
    scalars,
    arrays,
    st.lists(scalars, max_size=3),
    st.lists(scalars, max_size=3).map(tuple),
    st.lists(st.lists(integers, max_size=2), max_size=2),
    st.dictionaries(st.text(max_size=2), integers, max_size=2),
    st.sets(st.integers(0, 5), max_size=3),
)

# What people pass, which is mostly accepted, so that the search reaches the rules behind the types.
typed = {
    "int": st.one_of(st.none(), st.integers(0, 9), st.sampled_from(BIG)),
    "float": st.one_of(st.none(), st.floats(0, 1), st.sampled_from([-0.1, 1.5, 1e308, float("nan"), float("inf")])),
    "bool": st.sampled_from([True, False, None]),
}
plausible = {entry.name: typed.get(entry.kind.removesuffix(" | None")) for entry in entries()} | {
    **{name: st.sampled_from(_core.names()[name]) for name in ("schedule", "order", "eos_policy")},
    "remask": st.sampled_from([None, None, *_core.names()["remask"]]),
    "length": st.sampled_from(["fixed", *_core.names()["length"]]),
    "token_frequencies": st.sampled_from([None, None, dllm_fast.TokenFrequencies([1, 2, 0, 3])]),
    "mask_token_id": st.sampled_from([None, 7, 0, 2**32 - 1, 2**32]),
    "eos_token_id": st.sampled_from([None, 3, 7, (3, 5), [3], (), (3, 7)]),
    "suppress_tokens": st.sampled_from([(), (1,), [1, 2], (7,), (2**32,), (1, 1), "[UNK]", ["[UNK]", 1]]),
    "stop": st.sampled_from([(), 1, "a", ["ab", 3], [(1, 2)], [[1], 5], "", [7], (2**32,), np.array([1, 2]), [()]]),
    "noise": st.sampled_from(["mask", "mask", "uniform", "hybrid", "uniformly"]),
    "cache": st.sampled_from(["auto", "none", "prefix", "dual", "exact_block"]),
}
assert None not in plausible.values(), "say what people pass to a setting that is no number and no flag"


def ours(name):
    return ALIASES[name].ours if name in ALIASES else name


def settings_of(names):
    """Values for some names: anything at all, or mostly what belongs there."""

    def value(name):
        return st.one_of(plausible.get(ours(name), anything), anything)

    some = st.lists(st.sampled_from(sorted(names)), unique=True, max_size=5)
    wild = some.flatmap(lambda chosen: st.fixed_dictionaries({name: value(name) for name in chosen}))
    sensible = st.fixed_dictionaries({}, optional={name: plausible[name] for name in NAMES})
    return st.one_of(wild, sensible)


def use(config: SamplerConfig) -> None:
    """A configuration that was accepted drives a small canvas to its end."""
    if config.mask_token_id is None:
        config = dataclasses.replace(config, mask_token_id=7)
    # Dream's schedule spreads its masks over as many steps as it is told to, and who takes tokens back has as many forwards as
    # steps; both end, but not while we wait.
    forwards = 0
    canvas = np.array([1, config.mask_token_id, 2, config.mask_token_id, config.mask_token_id])
    sampler = Sampler(config, [canvas, canvas[:2]], seed=[0, 1])
    excluded = {config.mask_token_id, *np.ravel(config.suppress_tokens).tolist(), *config.eos_token_ids, *config.stop}
    free = next(token for token in range(100) if token not in excluded)
    while (request := sampler.next()) is not None:
        forwards += 1
        if forwards > 10**3 and (config.schedule == "dream" or config.remask is not None):
            return
        n = sum(map(len, request.positions))
        if config.entropy_bound is None:
            sampler.feed(tokens=[free] * n, scores=[0.5] * n)
        else:
            v = np.full(n, 0.5)
            sampler.feed(prediction=dllm_fast.Prediction(token=[free] * n, probability=v, top1=v, top2=v, entropy=v))
    assert all(config.mask_token_id not in filled for filled in sampler.canvases)


def make(call):
    """What the call returns, or None where it was refused as it should be."""
    try:
        return call()
    except (InvalidValueError, InvalidTypeError):
        return None


@given(settings_of(NAMES))
@example({"block_length": 2**64 - 1})
@example({"block_length": 2**63})
@example({"block_length": 2**63 - 1})
def test_sampler_config(settings):
    config = make(lambda: SamplerConfig(**settings))
    if config is not None:
        make(lambda: use(config))


def said(call):
    """A configuration in full, or what is said against it."""
    try:
        config = call()
    except (InvalidValueError, InvalidTypeError) as error:
        return type(error), str(error)
    return {field.name: repr(getattr(config, field.name)) for field in dataclasses.fields(config)}


@given(settings_of(NAMES), settings_of(NAMES))
@example({"steps": 3}, {"steps_per_block": 3})
@example({"eos_token_id": 3}, {"mask_token_id": 3})
@example({"eos_token_id": 3, "stop_at_eos": True}, {"eos_token_id": ()})
@example({"suppress_tokens": "[UNK]", "cache": "dual"}, {"suppress_tokens": None, "cache": None})
def test_what_is_changed_is_checked_as_the_whole_is(settings, changes):
    config = make(lambda: SamplerConfig(**settings))
    if config is not None:
        assert said(lambda: changed(config, **changes)) == said(lambda: dataclasses.replace(config, **changes))


presets = st.one_of(st.none(), st.sampled_from([*dllm_fast.presets()]), st.text(max_size=4), anything)
configs = st.one_of(st.none(), st.none(), settings_of(NAMES), anything)
words = st.text(st.characters(codec="utf-8"), max_size=6)


@given(presets, configs, st.one_of(settings_of([*NAMES, *ALIASES]), st.dictionaries(words, scalars)))
@example(None, None, {"suppress_tokens": np.array([1, 2])})
@example(None, {"suppress_tokens": np.array([1, 2])}, {})
@example(None, None, {"steps": np.array([1, 2]), "diffusion_steps": np.array([1, 2])})
def test_resolve(preset, config, settings):
    if isinstance(config, dict):
        config = make(lambda: SamplerConfig(**{name: config[name] for name in config if name in NAMES}))
    resolved = make(lambda: resolve(preset, config, settings))
    if resolved is not None:
        said = set(", ".join(resolved.aliases.values()).split(", "))
        assert resolved.given >= set(settings) - set(ALIASES) | said & set(NAMES)
        assert set(resolved.aliases) == set(settings) & set(ALIASES)
        make(lambda: use(resolved.config))


class ModelError(Exception):
    """What the model below raises."""


@given(
    st.one_of(anything, st.lists(st.integers(-1, 9), max_size=6)),
    settings_of([*NAMES, "seed", "num_samples", "preset", "config"]),
)
@example([1, 2], {"suppress_tokens": None})
@example([1, 2], {"suppress_tokens": 3})
@example([1, 2], {"temperature": None, "order_temperature": None, "shift": None})
def test_infill(canvas, settings):
    """The whole way in, with a canvas of anything; the model raises, so that nothing that was accepted runs for long."""

    def model(ids):
        raise ModelError

    with contextlib.suppress(ModelError):
        make(lambda: dllm_fast.infill(model, canvas, **{"mask_token_id": 7} | settings))


@pytest.mark.skipif("FUZZ_SECONDS" not in os.environ, reason="a long search: FUZZ_SECONDS says how long")
@pytest.mark.parametrize(
    "test", [test_sampler_config, test_what_is_changed_is_checked_as_the_whole_is, test_resolve, test_infill]
)
def test_for_a_while(test):
    """The properties above again and again, with other examples, until the time is over."""
    from hypothesis import seed
    from hypothesis import settings as profile

    until = time.monotonic() + float(os.environ["FUZZ_SECONDS"]) / 4
    rounds = 0
    again = profile(max_examples=2000, deadline=None, database=None)(test)  # settings can be applied once
    while time.monotonic() < until:
        seed(rounds)(again)()
        rounds += 1
    print(f"{rounds * 2000} cases")
