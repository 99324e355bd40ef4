"""docs/rules.md and README's list of presets, from their rows: `python -m bench --write`.

What can be derived is: the axes from the settings, the bound on forwards from the core, costs and accuracies from the committed
results. Only `settings/presets.py` is written by hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from bench import preset_control
from bench.every_preset_report import at_equal_forwards as equal
from dllm_fast import _core
from dllm_fast.settings.config import SamplerConfig, changed
from dllm_fast.settings.presets import PRESETS, Paper

# Which axis of a rule a setting belongs to, where a preset sets it; what is not here stands under its own name.
AXES = {
    "order": ("order", "order_temperature", "prior_sigma", "position_decay", "information_cap", "position_penalty", "spacing"),
    "cut": (
        "threshold",
        "factor",
        "entropy_bound",
        "entropy_threshold",
        "min_commit",
        "neighbour_threshold",
        "neighbour_distance",
        "run_threshold",
    ),
    "schedule": ("schedule", "eps", "steps", "steps_per_block", "dilation"),
    "window": ("block_length", "sub_block_length", "inherit_token", "window_length", "add_block_at", "activate_block_at"),
    "revise": ("edit_threshold", "max_post_steps", "remask", "remask_eta", "remask_threshold", "remask_budget"),
    "memory": ("kl_threshold", "kl_steps", "credit", "credit_power", "credit_decay"),
    "ends": ("gap_stop", "gap_start", "gap_length", "stop_at_eos", "stop_entropy", "stop_stable"),
    "tokens": ("temperature", "temperature_end", "top_k", "top_p", "min_p"),
    "noise": ("noise", "noise_share", "drafts"),
    "verify": ("verify", "verifier_mixture"),
    "guide": ("guidance",),
    "length": (
        *("length", "max_new_tokens", "min_new_tokens", "eos_policy", "eos_penalty", "initial_length", "expansion_factor"),
        *("eos_check_tokens", "eos_confidence_threshold", "expand_eos_confidence_threshold", "low_confidence_threshold"),
        *("low_density_threshold", "high_density_threshold"),
    ),
}
# The setting that an axis is named after: its value says enough.
_NAMED = frozenset(("order", "schedule", "remask", "noise", "length"))


def names() -> str:
    """README's table: a line for each paper, with its presets."""
    by_paper: dict[Paper | None, list[str]] = {}
    for name, preset in PRESETS.items():
        by_paper.setdefault(preset.paper, []).append(f"`{name}`")
    return _table(("paper", "presets"), [(_paper(paper), ", ".join(found)) for paper, found in by_paper.items()])


def table(quality: Mapping[str, Any], costs: Mapping[str, Any]) -> str:
    """Every preset: what it does and where it is from, then what it is made of, what it may cost and what it is worth."""
    said = [(f"`{name}`", preset.does, _paper(preset.paper)) for name, preset in PRESETS.items()]
    made = [
        (f"`{name}`", axes(preset.settings), bound(preset.settings), preset_control.cell(costs, name), equal(quality, name))
        for name, preset in PRESETS.items()
    ]
    known = [
        (f"`{name}`", preset.quirks or "nothing", preset.remark or "nothing")
        for name, preset in PRESETS.items()
        if preset.quirks or preset.remark
    ]
    return "\n\n".join(
        (
            _table(("preset", "rule", "paper"), said),
            "What each is made of, where that is not the default (`even` counts of the surest positions, the whole canvas, "
            "temperature 0); how many forwards a row of N masks in B blocks takes at most (with `steps`: at most those, and "
            "what a reviser adds to each block; M is `max_new_tokens`, where the length changes); what the control of a step "
            "costs at batch 1, 8 and 64, as a "
            f"multiple of `{preset_control.BASELINE}`, whose own are microseconds (`python -m bench.preset_control`; medians, "
            "in brackets the quartiles); and the share of Sudoku puzzles that the embedded model solves with it at equal "
            "forwards ([quality.md](quality.md) has other tasks and intervals).",
            _table(("preset", "axes", "forwards at most", "control", "solved"), made),
            "What `as_published` changes, and what else to know.",
            _table(("preset", "as published", "remark"), known),
        )
    )


def axes(settings: SamplerConfig) -> str:
    """What differs from the defaults, axis by axis."""
    axis_of = {name: axis for axis, names in AXES.items() for name in names}
    found: dict[str, list[str]] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name != "sources" and value != field.default:
            text = f"`{value}`" if field.name in _NAMED else f"`{field.name}={value}`"
            found.setdefault(axis_of.get(field.name, field.name), []).append(text)
    order = [*AXES, *(axis for axis in found if axis not in AXES)]
    return "; ".join(f"{axis} {', '.join(found[axis])}" for axis in order if axis in found)


def bound(settings: SamplerConfig) -> str:
    """`_core.most_forwards` as a sum of multiples of N and B and a constant; of M, where the length changes.

    Raises:
        ValueError: it is no such sum.
    """
    if settings.length != "fixed":
        return _bound_of_lengths(settings)

    def most(masks: int, blocks: int) -> int:
        return _core.most_forwards(settings, masks, blocks)

    per_block = (most(1000, 20) - most(1000, 10)) // 10
    per_mask = (most(1000, 10) - most(900, 10)) // 100
    rest = most(1000, 10) - 1000 * per_mask - 10 * per_block
    for masks, blocks in ((1, 1), (2, 2), (7, 1), (7, 3), (64, 2), (64, 64), (999, 17)):
        if most(masks, blocks) != per_mask * masks + per_block * blocks + rest:
            raise ValueError(f"the bound is no sum of multiples of N and B: {settings}, {masks} masks in {blocks} blocks")
    if settings.block_length is None:  # one window
        per_block, rest = 0, rest + per_block
    parts = [
        *([f"{per_mask if per_mask > 1 else ''}N"] if per_mask else []),
        *([f"{per_block if per_block > 1 else ''}B"] if per_block else []),
        *([str(rest)] if rest else []),
    ]
    return " + ".join(parts) or "0"


def _bound_of_lengths(settings: SamplerConfig) -> str:
    """As many as the longest answer has positions, and a part of that where some forwards only add masks."""

    def beyond(longest: int) -> int:
        return _core.most_forwards(changed(settings, max_new_tokens=longest), 1, 1) - longest

    growing = Fraction(beyond(4096), 4096)
    if growing.numerator > 1 or any(beyond(longest) != longest * growing for longest in (64, 512, 2048)):
        raise ValueError(f"the bound is no M and a part of it: {settings}")
    return f"M + M/{growing.denominator}" if growing else "M"


def _paper(paper: Paper | None) -> str:
    return (
        "no paper" if paper is None else f"{paper.name}, {paper.authors}, [{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
