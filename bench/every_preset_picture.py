"""The picture of docs/quality.md: right answers against forwards, all presets, a panel for each task."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bench import harness
from bench.every_preset_claims import revises
from bench.every_preset_record import PICTURE, TITLES, Record, by_name, points, tasks
from bench.every_preset_report import front_of
from bench.quality_report import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION
from dllm_fast.settings.presets import PRESETS

# Kinds of rules: colour and marker say the same.
KINDS = {
    "as many as are sure": (BLUE, "o"),
    "counts, by confidence": (BLACK, "s"),
    "counts, order of its own": (ORANGE, ">"),
    "reverse process": (GREY, "v"),
    "takes back or replaces": (VERMILION, "X"),
    "noise instead of masks": (GREEN, "D"),
}
SURE = ("threshold", "factor", "entropy_bound", "entropy_threshold", "gap_stop")


def kind(name: str) -> str:
    """Of the rule of a preset, one of `KINDS`."""
    settings = PRESETS[name].settings
    if settings.noise != "mask":
        return "noise instead of masks"
    if revises(name):
        return "takes back or replaces"
    if settings.order == "ancestral" or settings.schedule == "first-hitting":
        return "reverse process"
    if any(getattr(settings, cut) is not None for cut in SURE):
        return "as many as are sure"
    return "counts, order of its own" if settings.order in {"random", "left-to-right"} else "counts, by confidence"


def digest(record: Record) -> str:
    """Of all that the picture shows; it stands in the picture, so that an old one is seen to be old."""
    shown = [
        (found["preset"], task, [(at["share_95"], at["share"], at["forwards"]) for at in points(found, task)])
        for found in record["presets"]
        for task in tasks(record)
    ]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def is_of(record: Record, path: Path = PICTURE) -> bool:
    """Does the picture show this?"""
    return path.exists() and digest(record) in path.read_text(encoding="utf-8")


def draw(record: Record, path: Path = PICTURE) -> None:
    """One panel for each task; the front is joined and named."""
    plt = harness.pyplot()
    style: Any = {
        "font.size": 9.5,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.6,
        "svg.fonttype": "path",
        "svg.hashsalt": "presets",
    }
    with plt.rc_context(style):
        figure, panels = plt.subplots(2, 2, figsize=(10, 8.2), sharey=True)
        figure.subplots_adjust(left=0.065, right=0.985, top=0.95, bottom=0.12, wspace=0.06, hspace=0.28)
        for axes, (task, facts) in zip(panels.flat, tasks(record).items(), strict=False):
            _panel(axes, record, task)
            axes.set_title(f"{TITLES[task]}, {facts['n']} rows", loc="left", fontsize=10)
        for axes in panels[:, 0]:
            axes.set_ylabel("right, % (bars: 95 %)")
        for axes in panels[1]:
            axes.set_xlabel("forwards a row, mean")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="lower center", ncols=4, fontsize=9)
        figure.savefig(path, facecolor="white", metadata={"Date": None, "Title": digest(record)})
        plt.close(figure)


def _panel(axes: Any, record: Record, task: str) -> None:
    of = by_name(record)
    for name, (colour, marker) in KINDS.items():
        found = [at for preset, facts in of.items() if kind(preset) == name for at in points(facts, task)]
        x, y = [at["forwards"] for at in found], [100 * at["share"] for at in found]
        ends = [[100 * abs(at["share"] - at["share_95"][end]) for at in found] for end in (0, 1)]
        look = {"color": colour, "marker": marker, "markersize": 4.5, "elinewidth": 0.7, "linestyle": "none", "alpha": 0.8}
        axes.errorbar(x, y, yerr=ends, label=name, **look)
    front = front_of(of, task)
    x, y = [at["forwards"] for _, at in front], [100 * at["share"] for _, at in front]
    axes.plot(x, y, color=BLACK, linewidth=1.0, drawstyle="steps-post", zorder=1, label="front")
    named: dict[str, float] = {}
    for name, at in reversed(front):
        # Names need room; the upper end is what most look for.
        if name not in named and 0.1 < at["share"] < min(named.values(), default=2) - 0.05:
            named[name] = at["share"]
            place = {"textcoords": "offset points", "xytext": (-4, 5), "ha": "right", "fontsize": 7.5}
            axes.annotate(name, (at["forwards"], 100 * at["share"]), **place)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 3, 5, 10, 20, 40], labels=["1", "2", "3", "5", "10", "20", "40"])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.9, 60)
    axes.set_ylim(-3, 112)
    axes.set_yticks(range(0, 101, 20))
