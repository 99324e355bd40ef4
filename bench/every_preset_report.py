"""docs/quality.md from `results/presets.json`: every preset at equal forwards, the answer first, then all of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bench import every_preset_claims, quality
from bench.every_preset_claims import LOSS
from bench.every_preset_record import (
    ORACLES,
    TITLES,
    Record,
    by_name,
    called,
    difference,
    folded,
    load,
    names,
    over,
    percent,
    point,
    points,
    rows,
    share,
    table,
    tasks,
    why,
)
from dllm_fast.settings.presets import PRESETS

__all__ = ["at_equal_forwards", "blocks", "load"]


def blocks(record: Record) -> dict[str, str]:
    """What stands between which markers of docs/quality.md."""
    of, on = by_name(record), tasks(record)
    each = [(task, forwards) for task, facts in on.items() for forwards in facts["forwards"]]
    return {
        "short": _short(on, of),
        "tasks": _tasks(record, of),
        "glance": _glance(on, of),
        "equal": "\n\n".join(_equal(of, *where) for where in each),
        "front": "\n\n".join(_front(of, task) for task in on),
        "claims": every_preset_claims.claims(of, on),
        "repairs": every_preset_claims.repairs(of, on),
        "pairs": "\n\n".join(_pairs(of, task, facts["forwards"][-1]) for task, facts in on.items()),
    }


def at_equal_forwards(record: Record, preset: str) -> str:
    """The cell of docs/rules.md: solved puzzles of the embedded model at the numbers of forwards of the bench."""
    found = by_name(record).get(preset, {"preset": preset})
    budgets = record["tasks"].get("sudoku", {}).get("forwards", ())
    shown = [f"{percent(at['share'])} at {n}" for n in budgets if (at := point(found, "sudoku", n))]
    return ", ".join(shown) or _own(found, "sudoku")


# The answer


def _short(on: Mapping[str, Record], of: Mapping[str, Record]) -> str:
    lines = [("task", "take", "right (95 %)", "forwards", "`llada`, one position a forward", "the front")]
    for task in on:
        if not (found := front_of(of, task)):
            continue
        one = of.get("llada", {}).get(task, {}).get("own")
        name, at = take(of, task)
        ends = [f"{percent(end['share'])} in {end['forwards']:.1f}" for _, end in (found[0], found[-1])]
        slow = f"{share(one)} in {one['forwards']:.1f}" if one else "not measured yet"
        cells = f"**{called(name, at)}**", share(at), f"**{at['forwards']:.1f}**", slow, " to ".join(ends)
        lines.append((TITLES[task], *cells))
    all = list(every_preset_claims.all_repairs(of, on))
    z = every_preset_claims.repair_z(all)
    better = {
        task: sorted({one.name for one in all if one.task == task and _is_above(one, z)}) for task in on if task in ORACLES
    }
    said = "; ".join(f"{TITLES[task]}: {f'yes, {names(by)}' if by else 'no'}" for task, by in better.items())
    counts = [
        f"{TITLES[task]}: {len(by['holds'])} hold, {len(by['does not hold'])} do not, {len(by['mixed']) + len(by['open'])} are "
        "mixed or open"
        for task, by in every_preset_claims.tally(of, on).items()
    ]
    return "\n".join(
        (
            table(lines),
            "",
            "- **Does revision repair what parallel decoding breaks**, at equal forwards, against the best that keeps what it "
            f"writes? {said} ([in figures](#does-revision-repair-what-parallel-decoding-breaks)).",
            f"- **What authors claim of their rules**: {'; '.join(counts)} ([which](#do-the-claims-hold)).",
        )
    )


def _is_above(one: every_preset_claims.Repair, z: float) -> bool:
    return every_preset_claims.found_of(one.mine, one.best[1], z) == "better"


def take(of: Mapping[str, Record], task: str) -> tuple[str, Record]:
    """Of the front, the fewest forwards for which the interval excludes a loss of more than `LOSS` against its best."""
    front = front_of(of, task)
    best, z = front[-1][1], quality.among(len(front))
    kept = (pair for pair in front if quality.paired_difference(rows(pair[1]), rows(best), z)[1] >= -LOSS)
    return next(kept, front[-1])


# What was measured


def _tasks(record: Record, of: Mapping[str, Record]) -> str:
    on = tasks(record)
    lines = [("task", "rows", "compared at forwards")]
    for task, facts in on.items():
        lines.append((TITLES[task], str(facts["n"]), ", ".join(map(str, facts["forwards"]))))
    each = [(found["preset"], found[task]) for found in record["presets"] for task in on if task in found]
    dirty = sorted({preset for preset, at in each if at["uncommitted_changes"]})
    absent = [(TITLES[task], [name for name in PRESETS if task not in of.get(name, {})]) for task in TITLES]
    commits = sorted({at["commit"][:7] for _, at in each})
    machines = " and ".join(sorted({at["cpu"] for _, at in each if "cpu" in at}))
    notes = [
        *([f"Measured on {machines}, one core, {sum(at['cpu_s'] for _, at in each) / 60:.0f} minutes of it, at "
           f"{', '.join(commits)}."] if machines else []),
        *(f"Not measured yet, {title}: {names(missing)}." for title, missing in absent if missing),
        *([f"Measured with changes that were not committed: {names(dirty)}."] if dirty else []),
    ]  # fmt: skip
    lacking: dict[tuple[str, str], list[str]] = {}
    for found in record["presets"]:
        bare = [task for task in on if task in found and not any(points(found, task))]
        reasons, refused = {why(found, task) for task in bare}, [TITLES[task] for task in bare]
        for reason in sorted(reasons):
            lacking.setdefault((reason, ", ".join(refused)), []).append(found["preset"])
    notes += [f"No point, {where}: {names(who)}: {reason}." for (reason, where), who in lacking.items()]
    return table(lines) + "\n\n" + "\n".join(f"- {note}" for note in notes)


# Tables


def _glance(on: Mapping[str, Record], of: Mapping[str, Record]) -> str:
    """Every preset at the fewest forwards of each task; where it has none such, at its own settings, or why not at all."""
    where = [(task, facts["forwards"][0]) for task, facts in on.items()]
    lines = [("preset", *(f"{TITLES[task]}, {n}" for task, n in where))]
    lines += [(f"`{name}`", *(_seen(of.get(name, {"preset": name}), task, n) for task, n in where)) for name in PRESETS]
    return table(lines)


def _seen(found: Record, task: str, forwards: int) -> str:
    if at := point(found, task, forwards):
        return share(at)
    return _own(found, task, forwards)


def _own(found: Record, task: str, forwards: int | None = None) -> str:
    """What there is to say where a preset reaches no such number of forwards."""
    if own := found.get(task, {}).get("own"):
        return f"{percent(own['share'])} in its own {own['forwards']:.1f}"
    return why(found, task, forwards)


def _equal(of: Mapping[str, Record], task: str, forwards: int) -> str:
    """Presets at so many forwards, the best first, each against `llada` and against all others; then who is not there."""
    found = {name: at for name, facts in of.items() if (at := point(facts, task, forwards))}
    solved = {name: rows(at) for name, at in found.items()}
    lines = [("preset", "with", "forwards", "right (95 %)", "against `llada` (95 %)", "better than, worse than")]
    for name in sorted(found, key=lambda name: -found[name]["share"]):
        signs = [_sign(solved[name], solved[other], len(solved)) for other in solved if other != name]
        against = difference(solved[name], solved["llada"]) if name != "llada" and "llada" in solved else "itself"
        cells = over(found[name]) or "its own", f"{found[name]['forwards']:.1f}", share(found[name]), against
        lines.append((f"`{name}`", *cells, f"{signs.count('+')}, {signs.count('-')}"))
    absent = [f"- `{name}`: {why(of[name], task, forwards)}" for name in of if name not in found and task in of[name]]
    reasons = ["Not there:", "\n".join(absent)] if absent else []
    title = f"{TITLES[task]}, {forwards} forwards: {len(found)} presets"
    return folded(title, "\n\n".join((table(lines), *reasons)))


def front_of(of: Mapping[str, Record], task: str) -> list[tuple[str, Record]]:
    """Points that no other beats: at their own settings, or with the knob turned; rising in both."""
    found = [(name, at) for name, facts in of.items() for at in points(facts, task)]
    front: list[tuple[str, Record]] = []
    for name, at in sorted(found, key=lambda pair: (pair[1]["forwards"], -pair[1]["share"])):
        if not front or at["share"] > front[-1][1]["share"]:
            front.append((name, at))
    return front


def _front(of: Mapping[str, Record], task: str) -> str:
    lines = [("preset", "with", "forwards", "right (95 %)", "against the best (95 %)")]
    if front := front_of(of, task):
        best = rows(front[-1][1])
        lines += [
            (
                f"`{name}`",
                over(at) or "its own",
                f"{at['forwards']:.1f}",
                share(at),
                difference(rows(at), best) if at is not front[-1][1] else "itself",
            )
            for name, at in front
        ]
    return f"**{TITLES[task]}**\n\n{table(lines)}"


def _pairs(of: Mapping[str, Record], task: str, forwards: int) -> str:
    """A sign for every pair."""
    solved = {name: rows(at) for name, found in of.items() if (at := point(found, task, forwards))}
    every = list(solved)
    wide = max(map(len, every), default=0)
    lines = []
    for i, name in enumerate(every):
        signs = [" " if other == name else _sign(solved[name], solved[other], len(every)) for other in every]
        lines.append(f"{i + 1:>3} {name:<{wide}} {' '.join(signs)}")
    return folded(f"{TITLES[task]}, {forwards} forwards", "```\n" + "\n".join(lines) + "\n```")


def _sign(a: NDArray[np.bool_], b: NDArray[np.bool_], n: int) -> str:
    """Is the first better (+) or worse (-)? By McNemar's test, at 5 % over all pairs of n together."""
    if quality.mcnemar(a, b) * n * (n - 1) / 2 > 0.05:
        return "."
    return "+" if a.sum() > b.sum() else "-"
