"""From what people type to settings."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

import dllm_fast
from dllm_fast.settings.resolve import resolve


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"order": "best"}, "order must be one of confidence, .* got 'best'"),
        ({"schedule": "warp"}, "schedule must be one of even, .* got 'warp'"),
        ({"order": "confidnce"}, "got 'confidnce'; did you mean 'confidence'"),
        ({"schedule": "cosin"}, "got 'cosin'; did you mean 'cosine'"),
        ({"threshold": 0.9, "factor": 1.0}, "at most one of threshold, factor, entropy_bound"),
        ({"threshold": float("nan")}, "threshold must be a number, got NaN"),
        ({"factor": -1}, "factor must be at least 0, got -1"),
        ({"entropy_bound": -0.5}, "entropy_bound must be at least 0 .nats., got -0.5"),
        ({"temperature": -0.1}, "temperature must be at least 0 and finite, got -0.1"),
        ({"temperature": float("inf")}, "temperature must be at least 0 and finite, got inf"),
        ({"order_temperature": -1}, "order_temperature must be at least 0 and finite, got -1"),
        ({"top_p": 0}, r"top_p must lie in \(0, 1\], got 0"),
        ({"top_p": 1.1}, r"top_p must lie in \(0, 1\], got 1.1"),
        ({"min_p": -0.1}, r"min_p must lie in \[0, 1\], got -0.1"),
        ({"top_k": -2}, "top_k must be a whole number, at least 1, got -2"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps_per_block": 0}, "steps_per_block must be at least 1, got 0"),
        ({"block_length": 0}, "block_length must be at least 1, got 0"),
        ({"min_commit": 0}, "min_commit must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0; use infill"),
        ({"max_new_tokens": -4}, "max_new_tokens must be a whole number, at least 1, got -4"),
        ({"schedule": "dream", "eps": 1}, r"eps must lie in \(0, 1\), got 1"),
        ({"mask_token_id": 3, "eos_token_id": 3}, "eos_token_id must differ from mask_token_id, got 3"),
        ({"stop_at_eos": True, "eos_token_id": ()}, "stop_at_eos needs an eos_token_id"),
        ({"suppress_tokens": [-1]}, "suppress_tokens must be token ids"),
    ],
)
def test_bad_values_state_rule_value_and_remedy(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=says) as caught:
        resolve(None, None, settings)
    assert isinstance(caught.value, ValueError)
    assert ";" in str(caught.value), "a remedy follows the semicolon"


@pytest.mark.parametrize("settings", [{"temperature": "hot"}, {"steps": 2.5}, {"shift": "yes"}, {"order": 3}])
def test_wrong_types_are_type_errors(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(dllm_fast.DllmFastError, match=f"{name} must be .*, got {re.escape(repr(settings[name]))};") as caught:
        resolve(None, None, settings)
    assert isinstance(caught.value, TypeError)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(dllm_fast.DllmFastError, match="got 'lada'; did you mean 'llada'"):
        resolve("lada", None, {})


def test_preset_and_config_exclude_each_other() -> None:
    with pytest.raises(dllm_fast.DllmFastError, match="preset and config both give all settings"):
        resolve("llada", dllm_fast.SamplerConfig(), {})
    with pytest.raises(dllm_fast.DllmFastError, match="config must be a SamplerConfig, got dict"):
        resolve(None, {"steps": 3}, {})  # type: ignore[arg-type]


def test_settings_lie_over_the_preset() -> None:
    config = resolve("fast-dllm", None, {"threshold": 0.8, "temperature": 0.5}).config
    assert (config.threshold, config.temperature, config.block_length) == (0.8, 0.5, 32)
    config = resolve("fast-dllm", None, {"entropy_bound": 0.1}).config
    assert (config.threshold, config.entropy_bound) == (None, 0.1)
    config = resolve("local-leap", None, {"threshold": 0.8}).config
    assert (config.threshold, config.neighbour_threshold) == (0.8, 0.75)
    config = resolve("local-leap", None, {"run_threshold": 0.5}).config
    assert (config.threshold, config.neighbour_threshold, config.run_threshold) == (0.9, None, 0.5)
    config = resolve("local-leap", None, {"factor": 1.0}).config
    assert (config.threshold, config.neighbour_threshold, config.factor) == (None, None, 1.0)
    config = resolve("entropy-bound", None, {"threshold": 0, "verify": False}).config
    assert (config.threshold, config.entropy_bound) == (0, None)
    config = resolve("linear-spec", None, {"threshold": 0.8}).config
    assert (config.threshold, config.verify) == (0.8, False)
    with pytest.raises(dllm_fast.DllmFastError, match="factor must be a number, got array"):
        resolve("linear-spec", None, {"factor": np.ones(2)})
    config = resolve(None, dllm_fast.SamplerConfig(steps=4), {"steps_per_block": 2}).config
    assert (config.steps, config.steps_per_block) == (None, 2)


def test_presets_are_frozen_and_the_table_is_a_copy() -> None:
    before = list(dllm_fast.presets())
    dllm_fast.presets().clear()
    assert list(dllm_fast.presets()) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        dllm_fast.presets()["llada"].steps = 3  # type: ignore[misc]
