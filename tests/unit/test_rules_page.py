"""docs/rules.md: every preset is there, and what is derived of it is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dllm_fast
from bench import rules
from dllm_fast import SamplerConfig, _core
from dllm_fast.errors import InvalidTypeError, InvalidValueError

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")


def test_every_preset_has_its_rows() -> None:
    for name, preset in rules.PRESETS.items():
        assert f"| `{name}` | {preset.does} |" in PAGE
        assert f"| `{name}` | {rules.axes(preset.settings)} | {rules.bound(preset.settings)} |" in PAGE


def test_no_cell_is_empty() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(lines) >= 2 * len(rules.PRESETS)
    for line in lines:
        assert all(cell.strip() for cell in line.strip("|").split("|")), line


def test_whoever_adds_a_preset_measures_it() -> None:
    """And says why, where it cannot be."""
    todo = "run python -m bench.quality --presets, python -m bench.preset_control, python -m bench --write"
    for page in (PAGE, (Path(__file__).parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")):
        assert "not measured yet" not in page, todo


def test_every_setting_of_a_preset_belongs_to_an_axis() -> None:
    """Else its name would stand twice."""
    for name, preset in rules.PRESETS.items():
        assert {part.split(" ")[0] for part in rules.axes(preset.settings).split("; ") if part} <= rules.AXES.keys(), name


def test_axes_are_what_differs_from_the_default() -> None:
    assert rules.axes(SamplerConfig()) == ""
    settings = SamplerConfig(order="entropy", threshold=0.5, edit_threshold=0.25, block_length=8, shift=True)
    assert rules.axes(settings) == (
        "order `entropy`; cut `threshold=0.5`; window `block_length=8`; revise `edit_threshold=0.25`; shift `shift=True`"
    )


@pytest.mark.parametrize("name", dllm_fast.presets())
def test_the_bound_in_words_is_that_of_the_core(name: str) -> None:
    settings = dllm_fast.presets()[name]
    words = rules.bound(settings)
    formula = re.sub(r"(\d)([NB])", r"\1 * \2", words)
    for masks, several in ((1, 1), (5, 2), (31, 4), (500, 33)):
        blocks = several if settings.block_length else 1
        assert eval(formula, {"N": masks, "B": blocks, "M": 2048}) == _core.most_forwards(settings, masks, blocks), words


def test_bounds_by_hand() -> None:
    assert rules.bound(SamplerConfig()) == "N"
    assert rules.bound(SamplerConfig(edit_threshold=0.5)) == "N + 16"
    assert rules.bound(SamplerConfig(edit_threshold=0.5, block_length=4, max_post_steps=1)) == "N + B"
    assert rules.bound(SamplerConfig(steps_per_block=1, block_length=4, edit_threshold=0)) == "17B"
    with pytest.raises(ValueError, match="no sum"):
        rules.bound(SamplerConfig(steps=5))
    assert _core.most_forwards(SamplerConfig(steps=5), 3, 1) == 3
    assert _core.most_forwards(SamplerConfig(steps=5), 0, 0) == 0


def test_odd_counts_of_masks_and_blocks_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"blocks must be .* at most 3, got 4; a block that counts holds a mask"):
        _core.most_forwards(SamplerConfig(), 3, 4)
    with pytest.raises(InvalidValueError, match="masks must be"):
        _core.most_forwards(SamplerConfig(), 2**24 + 1, 1)
    with pytest.raises(InvalidTypeError):
        _core.most_forwards(SamplerConfig(), 1.5, 1)  # type: ignore[arg-type]
