"""The rows of the presets: what each must say of itself."""

from __future__ import annotations

import re

import numpy as np
import pytest

import dllm_fast
from dllm_fast.settings.presets import PRESETS, Preset


def test_every_row_is_a_preset_with_its_settings() -> None:
    assert {name: preset.settings for name, preset in PRESETS.items()} == dllm_fast.presets()
    dllm_fast.presets().clear()
    assert dllm_fast.presets()


def test_every_algorithm_has_its_name() -> None:
    """What people look for: a preset that is gone, or is called otherwise, is a break."""
    names = """
        llada llada-semi-ar llada-random dream-origin dream-maskgit-plus dream-entropy dream-margin maskgit mdlm first-hitting
        fast-dllm fast-dllm-factor entropy-bound left-to-right llada2.1-quality llada2.1-speed llada2.1-conservative
        remdm-cap remdm-rescale remdm-conf remdm-loop p2 remedi wino saber revise-low-confidence
        klass credit local-leap prophet certainty-prior hierarchy
        dus pc-sampler fast-dllm-v2 d2f wedlm
        diffusion-gemma udlm gidd block-refinement
        daedal rho-eos linear-spec apd
    """
    assert {*names.split()} <= {*dllm_fast.presets()}


# As their papers, or their code, have them; what a preset leaves to the default of a setting is among them.
NUMBERS: dict[str, dict[str, object]] = {
    "remdm-cap": {"temperature": 1.0, "top_p": 0.9},
    "remdm-rescale": {"temperature": 1.0, "top_p": 0.9},
    "remdm-conf": {"temperature": 1.0, "top_p": 0.9},
    "remdm-loop": {"temperature": 1.0, "top_p": 0.9},
    "p2": {"temperature": 1.0},
    "remedi": {"block_length": 32},
    "saber": {"min_commit": 2},
    "wino": {"threshold": 0.6, "block_length": 128},
    "fast-dllm": {"threshold": 0.9, "block_length": 32},
    "fast-dllm-factor": {"factor": 1.0},
    "llada2.1-quality": {"threshold": 0.7, "edit_threshold": 0.5, "max_post_steps": 16},
    "llada2.1-speed": {"threshold": 0.5, "edit_threshold": 0.0, "max_post_steps": 16},
    "llada2.1-conservative": {"threshold": 0.95, "edit_threshold": 0.9, "max_post_steps": 16},
    "entropy-bound": {"entropy_bound": 0.1},
    "local-leap": {"threshold": 0.9, "neighbour_threshold": 0.75, "neighbour_distance": 4},
    "klass": {"threshold": 0.9, "kl_threshold": 0.01, "kl_steps": 2},
    "credit": {"credit": 0.7, "credit_power": 0.2, "credit_decay": 0.8},
    "hierarchy": {"run_threshold": 0.4},
    "prophet": {"gap_stop": 2.5, "gap_length": 5},
    "certainty-prior": {"prior_sigma": 10.0},
    "pc-sampler": {"position_decay": 0.25, "information_cap": 10.0},
    "dus": {"dilation": 2, "block_length": 32},
    "wedlm": {"entropy_threshold": 0.4, "position_penalty": 0.02, "window_length": 16},
    "fast-dllm-v2": {"threshold": 0.9, "block_length": 32, "sub_block_length": 8, "inherit_token": True},
    "d2f": {"threshold": 0.9, "block_length": 32, "add_block_at": 0.1, "activate_block_at": 0.95},
    "diffusion-gemma": {
        "temperature": 0.8,
        "temperature_end": 0.4,
        "steps_per_block": 48,
        "entropy_bound": 0.1,
        "stop_stable": 1,
        "stop_entropy": 0.005,
        "block_length": 256,
    },
    "block-refinement": {"threshold": 0.95, "steps_per_block": 32, "block_length": 32},
    "daedal": {
        "threshold": 0.9,
        "expansion_factor": 8,
        "eos_check_tokens": 32,
        "eos_confidence_threshold": 0.5,
        "expand_eos_confidence_threshold": 0.9,
        "low_confidence_threshold": 0.1,
    },
    "rho-eos": {"threshold": 0.9, "expansion_factor": 8, "low_density_threshold": 0.4, "high_density_threshold": 0.6},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_are_those_of_the_authors(name: str) -> None:
    settings = dllm_fast.presets()[name]
    assert {field: getattr(settings, field) for field in NUMBERS[name]} == NUMBERS[name]


@pytest.mark.parametrize(
    ("name", "left_open"),
    [
        ("remdm-cap", {"remask_eta": 0.008}),
        ("remdm-rescale", {"remask_eta": 0.015}),
        ("remdm-conf", {"remask_eta": 1.0}),
        ("remdm-loop", {"remask_eta": 0.02}),
        ("p2", {"remask_eta": 1.0}),
        ("remedi", {"remask_eta": 1.0}),
        ("wino", {"remask_threshold": 0.9}),
        ("revise-low-confidence", {"remask_budget": 8}),
    ],
)
def test_what_a_preset_leaves_open_is_what_its_authors_have(name: str, left_open: dict[str, float]) -> None:
    """The core fills it in: the run is the same, and another number is another run."""

    def run(**more: object) -> list[list[tuple[int, int, int]]]:
        rule = dllm_fast.presets()[name].to_dict() | {"mask_token_id": 9, "vocabulary": None, "block_length": 40} | more
        if rule["order"] == "ancestral":
            rule["steps"] = 120
        sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig.from_dict(rule), [[9] * 40] * 6, seed=list(range(6)))
        turn = 0
        while (request := sampler.next()) is not None:
            count = sum(map(len, request.positions))
            sampler.feed(np.random.default_rng(turn).normal(0, 2, (count, 10)).astype(np.float32))
            turn += 1
        return [[(edit.step, edit.position, edit.token) for edit in row] for row in sampler.trajectory]

    ((field, value),) = left_open.items()
    assert getattr(dllm_fast.presets()[name], field) is None
    assert run(**left_open) == run()
    assert run(**{field: type(value)(0.5 * value)}) != run()


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_says_what_it_is_and_where_from(name: str) -> None:
    preset = PRESETS[name]
    assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name)
    for words in filter(None, (preset.does, preset.quirks, preset.remark)):
        # A cell of a table.
        assert re.fullmatch(r"[A-Z0-9][^|\n]*\.", words), words
    assert preset.does
    if preset.paper is not None:
        assert preset.paper.name
        assert preset.paper.authors
        assert re.fullmatch(r"\d{4}\.\d{4,5}", preset.paper.arxiv)
    if preset.claim is not None:
        assert preset.claim.than in {*PRESETS} - {name}
        assert re.fullmatch(r"[a-z][^|\n]*[^.|\n]", preset.claim.words)


def test_no_two_rows_are_one() -> None:
    rows: list[Preset] = list(PRESETS.values())
    assert all(rows[i].settings != rows[j].settings for i in range(len(rows)) for j in range(i))
    assert len({row.does for row in rows}) == len(rows)
