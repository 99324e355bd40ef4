"""Do the claims of the authors hold here, and does revision repair what parallel decoding breaks?

Every number is on the same rows. Intervals that are printed are of 95 % each; a verdict asks more (`quality.among`): so much
that of all verdicts of a table not one is wrong by chance, with a probability of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import quality
from bench.every_preset_record import (
    ORACLES,
    TITLES,
    Record,
    called,
    difference,
    folded,
    names,
    percent,
    point,
    points,
    rows,
    share,
    table,
    why,
)
from dllm_fast.settings.presets import PRESETS

# A claim of "as many right" holds where the interval excludes a loss of more than this.
LOSS = 0.05
# Forwards that are fewer by less than this factor are as many.
FEWER = 1.05
# What keeps what it writes has so much right that a reviser has nothing to do.
NOTHING_LEFT = 0.99
# What a verdict may be, in the order in which it is told.
WORDS = ("holds", "mixed", "does not hold", "open", "the same answers", "no equal forwards", "not measured")


@dataclass(frozen=True, slots=True)
class Compared:
    """A preset beside the one that its authors compare it with, on a task.

    Attributes:
        name: the preset.
        task: what both did.
        pairs: points of both with the number of forwards; at their own settings for a claim of fewer forwards.
        own: at their own settings, where both have such a point.
    """

    name: str
    task: str
    pairs: tuple[tuple[int, Record, Record], ...]
    own: tuple[Record, Record] | None


def compared(of: Mapping[str, Record], name: str, task: str, budgets: Sequence[int]) -> Compared:
    """What there is to compare for the claim of a preset."""
    claim = PRESETS[name].claim
    assert claim is not None
    mine, theirs = of.get(name, {}), of.get(claim.than, {})
    a, b = mine.get(task, {}).get("own"), theirs.get(task, {}).get("own")
    own = (a, b) if a and b else None
    if claim.kind != "better":
        return Compared(name, task, ((round(b["forwards"]), a, b),) if own else (), own)
    found = [(n, point(mine, task, n), point(theirs, task, n)) for n in budgets]
    pairs = [(n, x, y) for n, x, y in found if x and y]
    if not pairs and own and abs(a["forwards"] - b["forwards"]) < 0.02 * b["forwards"]:
        pairs = [(round(b["forwards"]), a, b)]
    return Compared(name, task, tuple(pairs), own)


def all_compared(of: Mapping[str, Record], tasks: Mapping[str, Any]) -> list[Compared]:
    """Of every preset that claims something, on every task."""
    claiming = [name for name, preset in PRESETS.items() if preset.claim is not None]
    return [compared(of, name, task, facts["forwards"]) for name in claiming for task, facts in tasks.items()]


def count(all: Sequence[Compared]) -> int:
    """Intervals that verdicts look at."""
    return sum(len(one.pairs) for one in all)


def verdict(one: Compared, z: float = quality.Z95) -> str:
    """One of `WORDS`. What speaks for it must do so by intervals of this z; what speaks against it, by those of 95 %."""
    claim = PRESETS[one.name].claim
    assert claim is not None
    if not one.pairs:
        return "no equal forwards" if one.own else "not measured"
    wide, narrow = ([quality.paired_difference(rows(a), rows(b), by)[1:] for _, a, b in one.pairs] for by in (z, quality.Z95))
    if claim.kind == "fewer":
        _, a, b = one.pairs[0]
        least, most = times(a, b, z)
        low, high = wide[0]
        return _word(least >= FEWER and low >= -LOSS, most < FEWER or high < -LOSS)
    if claim.kind == "same":
        low, high = wide[0]
        return _word(low <= 0 <= high, not low <= 0 <= high)
    if all(a["rows_hex"] == b["rows_hex"] for _, a, b in one.pairs):
        return "the same answers"
    gains, losses = any(low > 0 for low, _ in wide), any(high < 0 for _, high in wide)
    is_mixed = any(low > 0 for low, _ in narrow) and any(high < 0 for _, high in narrow)
    return "mixed" if is_mixed and (gains or losses) else _word(gains, losses)


def times(a: Record, b: Record, z: float) -> tuple[float, float]:
    """How many times more forwards `b` takes than `a`: an interval by the delta method, as if the rows were not the same, which
    makes it no narrower where hard rows are hard for both."""
    error = math.hypot(*(one["forwards_sd"] / one["forwards"] / math.sqrt(one["n"]) for one in (a, b)))
    ratio = b["forwards"] / a["forwards"]
    return ratio * math.exp(-z * error), ratio * math.exp(z * error)


def _word(holds: bool, fails: bool) -> str:
    return "holds" if holds else "does not hold" if fails else "open"


def numbers(one: Compared) -> str:
    """What the verdict says it of."""
    claim = PRESETS[one.name].claim
    assert claim is not None
    if not one.pairs:
        if one.own is None:
            return ""
        a, b = one.own
        return f"{share(a)} in {a['forwards']:.1f}, {share(b)} in {b['forwards']:.1f}"
    if claim.kind == "fewer":
        _, a, b = one.pairs[0]
        low, high = times(a, b, quality.Z95)
        ratio = b["forwards"] / a["forwards"]
        return (
            f"{a['forwards']:.1f} forwards, not {b['forwards']:.1f}: {ratio:.2f}x ({low:.2f} to {high:.2f}); "
            f"{difference(rows(a), rows(b))}"
        )
    return "; ".join(f"{difference(rows(a), rows(b))} at {n}" for n, a, b in one.pairs)


def claims(of: Mapping[str, Record], tasks: Mapping[str, Any]) -> str:
    """How many hold, which, and all numbers."""
    all = all_compared(of, tasks)
    z = quality.among(count(all))
    words = {(one.name, one.task): verdict(one, z) for one in all}
    alone = {(one.name, one.task): verdict(one) for one in all}
    more = sum(words[key] == "open" and alone[key] != "open" for key in words)
    rule = (
        f"A claim of fewer forwards *holds* where a preset at its own settings takes at least {FEWER:g} times fewer than the "
        f"other and the interval excludes a loss of more than {100 * LOSS:.0f} points; a claim of better answers where, at "
        "equal forwards, the interval lies above zero for one of the numbers of forwards, and for none of them below it even "
        "at 95 % (*mixed* where it does). *Open*: the rows do not decide it."
    )
    said = (
        f"{count(all)} comparisons stand behind these verdicts; at 95 % each, about {0.05 * count(all):.0f} of them would find "
        "a difference where there is none. A verdict therefore asks that of all together none is wrong by chance, with a "
        f"probability of 95 %: an interval of {z:.2f} standard errors, not 1.96. At 95 % each {more} of the open ones would be "
        "decided."
    )
    lines = [("preset", "its authors say", "than", *(TITLES[task] for task in tasks))]
    for name in dict.fromkeys(one.name for one in all):
        claim = PRESETS[name].claim
        assert claim is not None
        lines.append(
            (f"`{name}`", claim.words, f"`{claim.than}`", *(_cell(of, name, words[name, task], task) for task in tasks))
        )
    every = [("preset", "task", "verdict", "in numbers")]
    every += [
        (f"`{one.name}`", TITLES[one.task], words[one.name, one.task], numbers(one)) for one in all if one.own or one.pairs
    ]
    listed = "\n".join(_told(task, {name: word for (name, on), word in words.items() if on == task}) for task in tasks)
    return "\n\n".join((rule, said, listed, table(lines), folded("Every verdict in numbers", table(every))))


def tally(of: Mapping[str, Record], tasks: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Presets by verdict, on every task."""
    all = all_compared(of, tasks)
    z, found = quality.among(count(all)), {task: {word: [] for word in WORDS} for task in tasks}
    for one in all:
        found[one.task][verdict(one, z)].append(one.name)
    return found


def _told(task: str, words: Mapping[str, str]) -> str:
    by = {word: [name for name, found in words.items() if found == word] for word in WORDS[:5]}
    said = [f"{word}: {names(found)}" for word, found in by.items() if found]
    return f"- {TITLES[task]}: {'; '.join(said) or 'not measured yet'}."


def _cell(of: Mapping[str, Record], name: str, word: str, task: str) -> str:
    if word == "not measured":
        than = getattr(PRESETS[name].claim, "than", "")
        lacking = than if any(points(of.get(name, {}), task)) else name
        return why(of.get(lacking, {"preset": lacking}), task)
    if word == "does not hold" and task not in ORACLES and PRESETS[name].settings.edit_threshold is not None:
        return f"{word}: the model was never trained on what is written"
    return f"**{word}**" if word == "holds" else word


# Revision


@dataclass(frozen=True, slots=True)
class Repair:
    """A rule that revises, at so many forwards.

    Attributes:
        name: the preset.
        task, forwards: where.
        mine: what it got right.
        base: the preset that its authors compare with, and its point; None where that reaches no such number of forwards.
        best: of all presets that keep what they write, the one with the most right there.
    """

    name: str
    task: str
    forwards: int
    mine: Record
    base: tuple[str, Record] | None
    best: tuple[str, Record]


def revises(name: str) -> bool:
    """Does it take back or replace what is written?"""
    settings = PRESETS[name].settings
    return settings.edit_threshold is not None or settings.remask is not None


def keeps(name: str) -> bool:
    """Does it write in parallel, over masks, what stands to the end, and what nobody verified?"""
    settings = PRESETS[name].settings
    is_verified = settings.verify or settings.verifier_mixture is not None
    return not revises(name) and settings.noise == "mask" and not is_verified


def best_without(of: Mapping[str, Record], task: str, forwards: int) -> tuple[str, Record] | None:
    """Of those that keep what they write, the most right at so many forwards."""
    found = [(name, at) for name in of if keeps(name) and (at := point(of[name], task, forwards))]
    return max(found, key=lambda pair: pair[1]["share"], default=None)


def all_repairs(of: Mapping[str, Record], tasks: Mapping[str, Any]) -> Iterator[Repair]:
    """Every reviser on the oracles, at every number of forwards that it reaches."""
    for task, forwards in _budgets(tasks):
        best = best_without(of, task, forwards)
        for name in filter(revises, of):
            mine, claim = point(of[name], task, forwards), PRESETS[name].claim
            base = point(of.get(claim.than, {}), task, forwards) if claim else None
            if mine and best:
                yield Repair(name, task, forwards, mine, (claim.than, base) if claim and base else None, best)


def found_of(mine: Record, other: Record, z: float) -> str:
    """Is the first better?"""
    _, low, high = quality.paired_difference(rows(mine), rows(other), z)
    return "better" if low > 0 else "worse" if high < 0 else "open"


def repairs(of: Mapping[str, Record], tasks: Mapping[str, Any]) -> str:
    """In words, task by task and budget by budget; then every number."""
    all = list(all_repairs(of, tasks))
    z = repair_z(all)
    lines = [("preset", "task", "forwards", "right", "without, as its authors compare", "the best that keeps what it writes")]
    for one in all:
        against = [_against(one.mine, pair, z) if pair else "reaches no such number" for pair in (one.base, one.best)]
        lines.append((f"`{one.name}`", TITLES[one.task], str(one.forwards), percent(one.mine["share"]), *against))
    said = (
        "*Above*, *below*, *better* and *worse* are said where all of these comparisons together are wrong by chance once in "
        f"twenty at most ({z:.2f} standard errors). The best that keeps what it writes is chosen on these rows, which flatters "
        "it a little."
    )
    words = [_repaired([one for one in all if (one.task, one.forwards) == where], z) for where in _budgets(tasks)]
    return "\n\n".join(("\n".join(filter(None, words)), said, folded("Every reviser in numbers", table(lines))))


def _against(mine: Record, pair: tuple[str, Record], z: float) -> str:
    """In numbers and a word."""
    name, other = pair
    words = {"better": "better than", "worse": "worse than", "open": "not told apart from"}
    return f"{difference(rows(mine), rows(other))}: {words[found_of(mine, other, z)]} `{name}`"


def repair_z(all: Sequence[Repair]) -> float:
    """For all comparisons of revisers together."""
    return quality.among(sum(1 + (one.base is not None) for one in all))


def _budgets(tasks: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(task, n) for task in ORACLES if task in tasks for n in tasks[task]["forwards"]]


def _repaired(here: Sequence[Repair], z: float) -> str:
    """The revisers of a task at so many forwards, in a few sentences."""
    if not here:
        return ""
    (name, best), title = here[0].best, f"{TITLES[here[0].task]}, {here[0].forwards} forwards"
    by: dict[str, list[str]] = {}
    for one in sorted(here, key=lambda one: -one.mine["share"]):
        shown = f"`{one.name}` {percent(one.mine['share'])}, {difference(rows(one.mine), rows(best))}"
        by.setdefault(found_of(one.mine, best, z), []).append(shown)
        if one.base:
            by.setdefault(f"{found_of(one.mine, one.base[1], z)} than base", []).append(f"`{one.name}`")
    answer = "revision repairs" if "better" in by else "revision does not repair"
    if best["share"] >= NOTHING_LEFT:
        answer = "nothing is left to repair"
    said = [
        f"- **{title}: {answer}.** Of what keeps what it writes, {called(name, best)} is best, {share(best)}.",
        *(f"{words}: {'; '.join(by[key])}." for key, words in _SAID.items() if key in by),
    ]
    return " ".join(said)


_SAID = {
    "better": "Above it",
    "open": "Not told apart from it",
    "worse": "Below it",
    "better than base": "Better than what their authors compare them with",
    "worse than base": "Worse than that",
}
