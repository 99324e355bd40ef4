"""The rows of the presets: what each must say of itself."""

from __future__ import annotations

import re

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
