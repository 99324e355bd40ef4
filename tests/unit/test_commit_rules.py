"""The commit kernel decides by the rules that it knows, and refuses all others by name: the host decides then."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

import strategies
from dllm_fast import SamplerConfig, _core
from dllm_fast.kernels import files, layout
from dllm_fast.ops import commit, launcher

CPU = torch.device("cpu")
NAMES = _core.names()
# Settings that give a name of each kind, beside what else there is.
CUTS: dict[str, dict[str, Any]] = {
    "count": {},
    "threshold": {"threshold": 0.5},
    "factor": {"factor": 1.0},
    "factor as published": {"factor": 1.0, "as_published": True},
    "entropy_bound": {"entropy_bound": 0.5},
    "neighbour_threshold": {"threshold": 0.5, "neighbour_threshold": 0.4},
    "run_threshold": {"run_threshold": 0.4},
    "entropy_threshold": {"entropy_threshold": 0.4},
    "kl_threshold": {"threshold": 0.9, "kl_threshold": 0.01},
    "verify": {"verify": True, "order": "left-to-right"},
    "verifier_mixture": {"verifier_mixture": 0.5, "order": "left-to-right"},
}
BY_NAME = {
    "order": lambda name: {"order": name} | ({} if name == "ancestral" else {"threshold": 0.5}),
    "cut": lambda name: CUTS[name],
    "schedule": lambda name: (
        {"schedule": name}
        | (
            {"order": "left-to-right"}
            if name == "dilated"
            else {"noise": "uniform", "mask_token_id": None}
            if name == "cumulative"
            else {}
        )
    ),
    "revise": lambda _: {},
    "eos_policy": lambda name: {"eos_policy": name} | ({"eos_penalty": 1.0} if name == "penalise" else {}),
    "remask": lambda name: (
        {"remask": name}
        | ({"order": "ancestral"} if name in strategies.REMASKS[:4] else {})
        | ({"threshold": 0.5} if name == "verify" else {})
    ),
    "length": lambda name: {"length": name},
}
# Settings that the rule of the kernel follows, and those that change nothing about it: they say where a run begins and ends,
# how tokens are predicted, or how many the host wants at least.
FOLLOWED = {
    *("order", "order_temperature", "threshold", "factor", "entropy_bound", "schedule", "as_published", "mask_token_id"),
    *("eos_token_id", "stop_at_eos", "edit_threshold", "remask", "neighbour_threshold", "run_threshold", "gap_stop"),
    *("eos_policy", "min_new_tokens", "length"),
    *("entropy_threshold", "position_penalty", "spacing", "sub_block_length", "inherit_token", "window_length", "add_block_at"),
    *("kl_threshold", "credit"),
    *("verify", "verifier_mixture"),
}
ELSEWHERE = {
    *("max_new_tokens", "steps", "steps_per_block", "block_length", "eps", "min_commit", "temperature", "top_k", "top_p"),
    *("min_p", "suppress_tokens", "allow_special", "shift", "cache", "refresh_every", "max_batch_rows", "sources"),
    *("max_post_steps", "neighbour_distance", "gap_start", "gap_length", "prior_sigma", "stop", "eos_penalty", "dilation"),
    *("token_frequencies", "position_decay", "information_cap"),
    *("kl_steps", "credit_power", "credit_decay", "activate_block_at"),
    *("remask_eta", "remask_threshold", "remask_budget"),
    # Noise has no mask; who changes the temperature is predicted on the host.
    *("noise", "vocabulary", "noise_share", "drafts", "stop_stable", "stop_entropy", "temperature_end"),
    "guidance",
    *("initial_length", "expansion_factor", "eos_check_tokens", "eos_confidence_threshold", "expand_eos_confidence_threshold"),
    *("low_confidence_threshold", "low_density_threshold", "high_density_threshold"),
}


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    monkeypatch.setattr(launcher, "usable", lambda *_: True)


def rule_of(**settings):
    return commit.Rule.of(SamplerConfig(**{"mask_token_id": 4, **settings}), CPU)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in NAMES if kind != "kind" for name in NAMES[kind]])
def test_every_name_is_known_or_refused_with_its_name(kind, name):
    found = rule_of(**BY_NAME[kind](name))
    if name in commit.KNOWN[kind]:
        assert isinstance(found, commit.Rule)
        assert getattr(found, kind, name) == name
    else:
        assert found == commit.Refusal(f"the commit kernel does not know the {kind} {name!r}")


@pytest.mark.parametrize("kind", commit.KNOWN)
def test_a_name_that_is_not_known_is_refused(monkeypatch, kind):
    """As every name of a rule that somebody adds to the core will be."""
    for name in commit.KNOWN[kind]:
        monkeypatch.setitem(commit.KNOWN, kind, tuple(other for other in commit.KNOWN[kind] if other != name))
        found = rule_of(**BY_NAME[kind](name))
        monkeypatch.undo()
        monkeypatch.setattr(launcher, "usable", lambda *_: True)
        assert found == commit.Refusal(f"the commit kernel does not know the {kind} {name!r}")


def test_a_rule_that_looks_back_is_refused():
    assert rule_of(threshold=0.9, edit_threshold=0.5) == commit.Refusal("the commit kernel does not know the revise 'edit'")


def test_noise_is_refused():
    found = commit.Rule.of(SamplerConfig(noise="uniform", vocabulary=9), CPU)
    assert found == commit.Refusal("the commit kernel needs a mask, by which it knows what is open")


@pytest.mark.parametrize("name", ["gap_stop", "credit"])
def test_what_only_the_host_sees_is_refused(name):
    assert rule_of(**{name: 2.5}) == commit.Refusal(f"the commit kernel does not know {name}")


@pytest.mark.parametrize("order", ["random", "left-to-right"])
def test_positions_that_are_chosen_before_the_forward_are_refused(order):
    found = rule_of(order=order)
    assert isinstance(found, commit.Refusal)
    assert repr(order) in found.why
    assert isinstance(rule_of(order=order, threshold=0.5), commit.Rule)


def test_what_else_is_refused_says_why(monkeypatch):
    assert commit.Rule.of(SamplerConfig(), CPU) == commit.Refusal(
        "the commit kernel needs a mask, by which it knows what is open"
    )
    monkeypatch.setattr(launcher, "usable", lambda *_: False)
    assert rule_of() == commit.Refusal("the commit kernel cannot be used on cpu")


def test_every_setting_has_been_thought_of():
    """A new one fails here until somebody says whether the kernel has to know it."""
    settings = {field.name for field in dataclasses.fields(SamplerConfig)}
    assert settings <= FOLLOWED | ELSEWHERE, settings - FOLLOWED - ELSEWHERE
    assert not FOLLOWED & ELSEWHERE


@pytest.mark.parametrize("kind", ["order", "cut"])
def test_the_names_that_are_known_are_those_in_the_kernel(kind):
    """By the names of the header that is made of the core's, whose numbers are theirs."""
    numbers = dict(re.findall(rf"{kind.upper()}_(\w+) = (\d+),", layout.header()))
    spelled = {name.upper().replace("-", "_").replace(" ", "_"): i for i, name in enumerate(NAMES[kind])}
    assert {name: int(number) for name, number in numbers.items()} == spelled
    used = set(re.findall(rf"\b{kind.upper()}_([A-Z_]+)\b", files.text("commit").decode()))
    assert used == {name.upper().replace("-", "_").replace(" ", "_") for name in commit.KNOWN[kind]}
