"""docs/quality.md from `results/presets.json`: every preset at equal forwards, and whether its authors' claim holds here."""

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

# A claim of "as many right" holds where the interval excludes a loss of more than this.
LOSS = 0.05
# Forwards that are fewer by less than this factor are as many.
FEWER = 1.05
TITLES = {
    "sudoku": "Sudoku (embedded model)",
    "text": "Text (embedded model)",
    "shuffle": "A list in any order (oracle)",
    "latin": "A Latin square (oracle)",
}


def load(path: Path = RESULT) -> Record:
    """The committed result; without one, that of no preset."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"presets": [], "tasks": {}}  # type: ignore[no-any-return]


def blocks(record: Record) -> dict[str, str]:
    """What stands between which markers of docs/quality.md."""
    of = {found["preset"]: found for found in record["presets"]}
    return {
        "tasks": _tasks(record, of),
        "equal": "\n\n".join(
            _equal(of, task, forwards) for task, facts in record["tasks"].items() for forwards in facts["forwards"]
        ),
        "front": "\n\n".join(_front(of, task) for task in record["tasks"]),
        "claims": _claims(of, record["tasks"]),
        "repairs": _repairs(of),
        "pairs": "\n\n".join(_pairs(of, task, facts["forwards"][-1]) for task, facts in record["tasks"].items()),
    }


def at_equal_forwards(record: Record, preset: str) -> str:
    """The cell of docs/rules.md: solved puzzles of the embedded model at the numbers of forwards of the bench."""
    found = next((found for found in record["presets"] if found["preset"] == preset), None)
    if found is None or "sudoku" not in found:
        return "not measured yet"
    points = [(forwards, _point(found, "sudoku", forwards)) for forwards in record["tasks"]["sudoku"]["forwards"]]
    if shown := [f"{_percent(point['share'])} at {forwards}" for forwards, point in points if point]:
        return ", ".join(shown)
    own = found["sudoku"].get("own")
    return f"{_percent(own['share'])} in its own {own['forwards']:.1f}" if own else "needs another kind of model"


def _tasks(record: Record, of: Mapping[str, Record]) -> str:
    lines = [("task", "rows", "compared at forwards")]
    for name, facts in record["tasks"].items():
        lines.append((TITLES[name], str(facts["n"]), ", ".join(map(str, facts["forwards"]))))
    each = [(found["preset"], found[task]) for found in record["presets"] for task in record["tasks"] if task in found]
    dirty = sorted({preset for preset, at in each if at["uncommitted_changes"]})
    absent = [(TITLES[task], [name for name in PRESETS if task not in of.get(name, {})]) for task in TITLES]
    notes = [
        *(f"Not measured yet, {title}: {_names(missing)}." for title, missing in absent if missing),
        *([f"Measured with changes that were not committed: {_names(dirty)}."] if dirty else []),
    ]
    refused: dict[str, list[str]] = {}
    for found in record["presets"]:
        for task in (task for task in record["tasks"] if "refused" in found.get(task, {})):
            refused.setdefault(f"`{found['preset']}`: {found[task]['refused']}", []).append(TITLES[task])
    notes += [f"{reason} ({', '.join(on)})." for reason, on in refused.items()]
    return _table(lines) + "\n\n" + "\n".join(f"- {note}" for note in notes)


def _equal(of: Mapping[str, Record], task: str, forwards: int) -> str:
    """Presets at so many forwards, the best first, each against `llada` and against all others."""
    points = {name: point for name, found in of.items() if (point := _point(found, task, forwards))}
    solved = {name: rows(point) for name, point in points.items()}
    lines = [("preset", "with", "forwards", "right (95 %)", "against `llada` (95 %)", "better than, worse than")]
    for name in sorted(points, key=lambda name: -points[name]["share"]):
        point = points[name]
        signs = [_sign(solved[name], solved[other], len(solved)) for other in solved if other != name]
        lines.append(
            (
                f"`{name}`",
                ", ".join(f"`{setting}={value}`" for setting, value in point["over"].items()),
                f"{point['forwards']:.1f}",
                _share(point),
                "" if name == "llada" or "llada" not in solved else _difference(solved[name], solved["llada"]),
                f"{signs.count('+')}, {signs.count('-')}",
            )
        )
    return f"**{TITLES[task]}, {forwards} forwards**\n\n{_table(lines)}"


def _front(of: Mapping[str, Record], task: str) -> str:
    """Points that no other beats: at their own settings, or with the knob turned."""
    found = [(name, point) for name, facts in of.items() for point in _points(facts, task)]
    found.sort(key=lambda pair: (pair[1]["forwards"], -pair[1]["share"]))
    lines, best = [("preset", "with", "forwards", "right (95 %)")], -1.0
    for name, point in found:
        if point["share"] > best:
            best = point["share"]
            over = ", ".join(f"`{setting}={value}`" for setting, value in point["over"].items())
            lines.append((f"`{name}`", over, f"{point['forwards']:.1f}", _share(point)))
    return f"**{TITLES[task]}**\n\n{_table(lines)}"


def _claims(of: Mapping[str, Record], tasks: Mapping[str, Any]) -> str:
    """In a sentence for each task, then with the numbers."""
    lines = [("preset", "its authors say", *(TITLES[task] for task in tasks))]
    said: dict[str, dict[str, list[str]]] = {task: {} for task in tasks}
    for name, preset in PRESETS.items():
        if preset.claim is None or name not in of:
            continue
        cells = [_verdict(of, name, task, facts["forwards"]) for task, facts in tasks.items()]
        lines.append((f"`{name}`", f"{preset.claim.words} (than `{preset.claim.than}`)", *cells))
        for task, cell in zip(tasks, cells, strict=True):
            said[task].setdefault(cell.partition(":")[0].strip("*"), []).append(name)
    words = ("holds", "mixed", "does not hold", "open", "no equal forwards")
    found = [
        f"- {TITLES[task]}: " + "; ".join(f"{word}: {_names(by[word])}" for word in words if word in by) + "."
        for task, by in said.items()
        if by.keys() & {*words}
    ]
    return "\n".join(found) + "\n\n" + _table(lines)


def _verdict(of: Mapping[str, Record], name: str, task: str, budgets: Sequence[int]) -> str:
    """Does the claim hold on this task? With the numbers that say so."""
    claim = PRESETS[name].claim
    assert claim is not None
    mine, theirs = of[name].get(task, {}), of.get(claim.than, {}).get(task, {})
    a, b = mine.get("own"), theirs.get("own")
    pairs = [(n, _point(of[name], task, n), _point(of[claim.than], task, n)) for n in budgets if claim.than in of]
    both = [(n, rows(x), rows(y)) for n, x, y in pairs if x and y]
    if not both and a and b and abs(a["forwards"] - b["forwards"]) < 0.02 * b["forwards"]:
        both = [(round(b["forwards"]), rows(a), rows(b))]
    if claim.kind == "better" and both:
        ends = [quality.paired_difference(x, y)[1:] for _, x, y in both]
        numbers = "; ".join(f"{_difference(x, y)} at {n}" for n, x, y in both)
        return f"{_word(any(low > 0 for low, _ in ends), any(high < 0 for _, high in ends))}: {numbers}"
    if not a or not b:
        return "not measured"
    if claim.kind == "better":
        return f"no equal forwards: {_share(a)} in {a['forwards']:.1f}, {_share(b)} in {b['forwards']:.1f}"
    low, high = quality.paired_difference(rows(a), rows(b))[1:]
    if claim.kind == "fewer":
        times = b["forwards"] / a["forwards"]
        numbers = f"{a['forwards']:.1f} forwards, not {b['forwards']:.1f} ({times:.1f}x); {_difference(rows(a), rows(b))}"
        return f"{_word(times >= FEWER and low >= -LOSS, times < FEWER or high < 0)}: {numbers}"
    return f"{_word(low <= 0 <= high, not low <= 0 <= high)}: {_difference(rows(a), rows(b))}"


def _word(holds: bool, fails: bool) -> str:
    if holds and fails:
        return "mixed"
    return "**holds**" if holds else "**does not hold**" if fails else "open"


def _repairs(of: Mapping[str, Record]) -> str:
    """Rules that revise against what they are compared with, at equal forwards, where each position alone is wrong."""
    lines = [("preset", "compared with", "task", "forwards", "right", "without", "difference (95 %)", "repairs?")]
    for name, preset in PRESETS.items():
        revises = preset.settings.edit_threshold is not None or getattr(preset.settings, "remask", None) is not None
        if not revises or name not in of:
            continue
        others = dict.fromkeys([*([preset.claim.than] if preset.claim else []), "llada", "llada-random"])
        for task, forwards in ((on, int(n)) for on in ("shuffle", "latin") for n in of[name].get(on, {}).get("at", {})):
            mine = _point(of[name], task, forwards)
            for other in filter(of.__contains__, others):
                theirs = _point(of[other], task, forwards)
                if mine is None or theirs is None:
                    continue
                low, high = quality.paired_difference(rows(mine), rows(theirs))[1:]
                found = "yes" if low > 0 else "no, it harms" if high < 0 else "open"
                shares = _percent(mine["share"]), _percent(theirs["share"]), _difference(rows(mine), rows(theirs))
                lines.append((f"`{name}`", f"`{other}`", TITLES[task], str(forwards), *shares, found))
    return _table(lines)


def _pairs(of: Mapping[str, Record], task: str, forwards: int) -> str:
    """A sign for every pair."""
    solved = {name: rows(point) for name, found in of.items() if (point := _point(found, task, forwards))}
    names = list(solved)
    wide = max(map(len, names), default=0)
    lines = [f"{TITLES[task]}, {forwards} forwards"]
    for i, name in enumerate(names):
        signs = [" " if other == name else _sign(solved[name], solved[other], len(names)) for other in names]
        lines.append(f"{i + 1:>3} {name:<{wide}} {' '.join(signs)}")
    return "```\n" + "\n".join(lines) + "\n```"


def _sign(a: NDArray[np.bool_], b: NDArray[np.bool_], n: int) -> str:
    """Is the first better (+) or worse (-)? By McNemar's test, at 5 % over all pairs of n together."""
    if quality.mcnemar(a, b) * n * (n - 1) / 2 > 0.05:
        return "."
    return "+" if a.sum() > b.sum() else "-"


def rows(point: Record) -> NDArray[np.bool_]:
    """Which rows were right."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(point["rows_hex"]), dtype=np.uint8))[: point["n"]].astype(bool)


def _point(found: Record, task: str, forwards: int) -> Record | None:
    """The point at so many forwards, where the preset reaches them."""
    point = found.get(task, {}).get("at", {}).get(str(forwards), {})
    return point if "share" in point else None


def _points(found: Record, task: str) -> Iterator[Record]:
    at = found.get(task, {})
    yield from (point for point in (at.get("own"), *at.get("at", {}).values()) if point and "share" in point)


def _share(point: Record) -> str:
    low, high = point["share_95"]
    return f"{_percent(point['share'])} ({100 * low:.0f} to {100 * high:.0f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> str:
    difference, low, high = quality.paired_difference(a, b)
    return f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))
