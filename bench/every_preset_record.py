"""What `results/presets.json` holds, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import harness, quality
from dllm_fast.settings.presets import PRESETS

Record = Mapping[str, Any]

RESULT = harness.RESULTS / "presets.json"
PICTURE = harness.RESULTS / "presets.svg"
# In the order of the page.
TITLES = {
    "sudoku": "Sudoku (model)",
    "text": "Text (model)",
    "latin": "Latin square (oracle)",
    "shuffle": "List (oracle)",
}
ORACLES = ("latin", "shuffle")
# Why schedules that say by themselves how many forwards they take cannot be asked for another number.
_OF_THEMSELVES = {
    "first-hitting": "one forward for each position, by definition",
    "dilated": "its distances say how many, by definition",
}


def load(path: Path = RESULT) -> Record:
    """The committed result; without one, that of no preset."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"presets": [], "tasks": {}}  # type: ignore[no-any-return]


def tasks(record: Record) -> dict[str, Record]:
    """Rows and numbers of forwards of each task, in the order of the page."""
    return {task: record["tasks"][task] for task in TITLES if task in record["tasks"]}


def by_name(record: Record) -> dict[str, Record]:
    """What was found of each preset."""
    return {found["preset"]: found for found in record["presets"]}


def rows(point: Record) -> NDArray[np.bool_]:
    """Which rows were right."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(point["rows_hex"]), dtype=np.uint8))[: point["n"]].astype(bool)


def point(found: Record, task: str, forwards: int) -> Record | None:
    """The point at so many forwards, where the preset reaches them."""
    at = found.get(task, {}).get("at", {}).get(str(forwards), {})
    return at if "share" in at else None


def points(found: Record, task: str) -> Iterator[Record]:
    """All points of a preset: at its own settings, and at the numbers of forwards of the task."""
    at = found.get(task, {})
    yield from (one for one in (at.get("own"), *at.get("at", {}).values()) if one and "share" in one)


def why(found: Record, task: str, forwards: int | None = None) -> str:
    """In a few words, why a preset has no point on a task, or none at so many forwards."""
    settings = PRESETS[found["preset"]].settings
    if settings.noise != "mask" and task not in ORACLES:
        return "the embedded models know masks, not the noise that it shows"
    if settings.verify and task not in ORACLES:
        return "the embedded models cannot be read causally"
    if settings.verifier_mixture is not None and task not in ORACLES:
        return "there is no second, autoregressive model of the same tokens"
    if settings.length != "fixed" and task != "text":
        return "the answers of this task have one length"
    at = found.get(task, {})
    refused = at.get("refused") or at.get("at", {}).get(str(forwards), {}).get("refused") or "not measured yet"
    return _OF_THEMSELVES.get(settings.schedule, refused) if task in found else refused


# How it is written


def share(point: Record) -> str:
    """With its interval."""
    low, high = point["share_95"]
    return f"{percent(point['share'])} ({100 * low:.0f} to {100 * high:.0f})"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def over(point: Record) -> str:
    """What was laid over the preset."""
    return ", ".join(f"`{setting}={value}`" for setting, value in point["over"].items())


def called(name: str, point: Record) -> str:
    """The preset with what was laid over it."""
    return f"`{name}`" + (f" with {over(point)}" if point["over"] else "")


def difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> str:
    """In points, with its interval."""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * end for end in quality.paired_difference(a, b)))


def names(of: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in of)


def table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def folded(title: str, text: str) -> str:
    """For who wants it all."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"
