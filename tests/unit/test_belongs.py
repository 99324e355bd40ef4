"""Settings that belong to another one are refused without it, and go with it where somebody takes it away."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import dllm_fast
from dllm_fast import SamplerConfig, TokenFrequencies
from dllm_fast.errors import InvalidValueError
from dllm_fast.settings.belongs import PARTS, Part
from dllm_fast.settings.resolve import resolve

DEFAULTS = {field.name: field.default for field in dataclasses.fields(SamplerConfig)}
# Of each setting a value that is not its default.
VALUES: dict[str, Any] = {
    "eps": 0.5,
    "dilation": 3,
    "prior_sigma": 2.0,
    "token_frequencies": TokenFrequencies([1, 2]),
    "position_decay": 1.0,
    "information_cap": 2.0,
    "neighbour_distance": 1,
    "kl_steps": 3,
    "credit_power": 1.0,
    "credit_decay": 0.5,
    "gap_start": 2,
    "gap_length": 3,
    "activate_block_at": 0.5,
    "max_post_steps": 2,
    "vocabulary": 9,
    "noise_share": 0.1,
    "stop_stable": 2,
    "stop_entropy": 1.0,
    "remask_eta": 0.3,
    "remask_threshold": 0.5,
    "remask_budget": 3,
    "eos_penalty": 2.0,
    "initial_length": 9,
    "expansion_factor": 4,
    "eos_check_tokens": 4,
    "eos_confidence_threshold": 0.4,
    "expand_eos_confidence_threshold": 0.4,
    "low_confidence_threshold": 0.4,
    "low_density_threshold": 0.2,
    "high_density_threshold": 0.8,
    "refresh_every": 3,
}
# Presets under which an owner has a value that reads its settings, or settings that give it one.
WITH: dict[str, dict[str, Any]] = {
    "schedule dream": {"schedule": "dream"},
    "schedule dilated": {"schedule": "dilated", "order": "left-to-right"},
    "order certainty-prior": {"order": "certainty-prior"},
    "order calibrated": {"order": "calibrated", "token_frequencies": TokenFrequencies([3, 4])},
    "neighbour_threshold": {"threshold": 0.9, "neighbour_threshold": 0.5},
    "kl_threshold": {"threshold": 0.9, "kl_threshold": 0.5},
    "credit": {"credit": 1.0},
    "gap_stop": {"gap_stop": 2.0},
    "gap_start": {"gap_stop": 2.0, "gap_start": 1},
    "add_block_at": {"add_block_at": 0.5},
    "edit_threshold": {"edit_threshold": 0.5},
    "noise uniform": {"noise": "uniform", "order": "ancestral"},
    "noise hybrid": {"noise": "hybrid", "order": "ancestral", "mask_token_id": 1},
    "drafts True": {"noise": "uniform", "drafts": True, "entropy_bound": 0.1, "steps_per_block": 4},
    "remask planner": {"remask": "planner"},
    "remask cap": {"remask": "cap", "order": "ancestral"},
    "remask rescale": {"remask": "rescale", "order": "ancestral"},
    "remask confidence": {"remask": "confidence", "order": "ancestral"},
    "remask loop": {"remask": "loop", "order": "ancestral"},
    "remask verify": {"remask": "verify", "threshold": 0.6},
    "remask low-confidence": {"remask": "low-confidence"},
    "eos_policy penalise": {"eos_policy": "penalise", "eos_penalty": 1.0},
    "length daedal": {"length": "daedal"},
    "length rho-eos": {"length": "rho-eos"},
    "cache prefix": {"cache": "prefix"},
    "cache dual": {"cache": "dual"},
}
CASES = [(part, name) for part in PARTS for name in part.names]


def owners(part: Part) -> list[dict[str, Any]]:
    """Settings under which those of a part are read, for each value of its owner."""
    return [WITH[f"{part.owner} {value}"] for value in part.values] or [WITH[part.owner]]


@pytest.mark.parametrize(("part", "name"), CASES, ids=[name for _, name in CASES])
def test_what_nothing_reads_is_refused_and_its_default_says_nothing(part: Part, name: str) -> None:
    value = VALUES[name]
    assert value != DEFAULTS[name]
    with pytest.raises(InvalidValueError, match=f"^{name} is read .*{part.owner}.*, got .*; leave it out, or set "):
        SamplerConfig(**{name: value})
    SamplerConfig(**{name: DEFAULTS[name]})
    for owner in owners(part):
        assert getattr(SamplerConfig(**owner | {name: value}), name) == value


@pytest.mark.parametrize(("part", "name"), CASES, ids=[name for _, name in CASES])
def test_who_takes_a_rule_away_takes_what_belongs_to_it(part: Part, name: str) -> None:
    for owner in owners(part):
        config = SamplerConfig(**owner | {name: VALUES[name]})
        without: dict[str, Any] = {part.owner: DEFAULTS[part.owner]}
        # What else its value alone allows.
        if part.owner == "noise":
            without |= {"mask_token_id": None}
        elif owner.get("drafts"):
            without |= {"noise": "mask", "mask_token_id": 1}
        found = resolve(None, config, without)
        assert getattr(found.config, name) == DEFAULTS[name]
        assert found.config.sources[name] == "default"
        assert name not in found.given
        # Of what the caller names beside it he is told that nothing reads it.
        with pytest.raises(InvalidValueError, match=f"^({'|'.join(VALUES)}) is read "):
            resolve(None, config, without | {name: VALUES[name]})


@pytest.mark.parametrize(
    ("preset", "settings", "default"),
    [
        ("daedal", {"length": "fixed"}, ()),
        ("gidd", {"noise": "mask"}, ("noise_share",)),
        ("gidd", {"noise": "uniform"}, ("noise_share",)),
        ("d2f", {"add_block_at": None}, ("activate_block_at",)),
        ("fast-dllm", {"cache": "auto"}, ()),
        ("llada2.1-quality", {"edit_threshold": None}, ()),
    ],
)
def test_a_preset_without_its_rule(preset: str, settings: dict[str, Any], default: tuple[str, ...]) -> None:
    config = resolve(preset, None, settings).config
    for name in default:
        assert getattr(dllm_fast.presets()[preset], name) != getattr(config, name) == DEFAULTS[name]


def test_what_belongs_to_what_belongs_goes_too() -> None:
    config = SamplerConfig(gap_stop=2.0, gap_start=1, gap_length=3)
    found = resolve(None, config, {"gap_stop": None})
    assert found.config == SamplerConfig()
    assert found.given == {"gap_stop"}
