"""How often is the answer right, and how many forwards does it take? `python -m bench.quality`

`measure` takes any model, canvases, a checker and settings; everything below it is the two embedded models as tasks.
All settings see the same canvases with the same seeds, so two of them are compared row by row. Intervals are 95 %:
Wilson's for a share, Bonett and Price's for a difference of two shares on the same rows.

    python -m bench.quality             measure everything (half an hour on one core), write JSON and picture
    python -m bench.quality --quick     a few canvases and settings, print the points
    python -m bench.quality --add       measure the settings that the JSON lacks, on the same puzzles, and put them into it
    python -m bench.quality --confirm   choose again from the JSON's points and measure that on further puzzles (two minutes)
    python -m bench.quality --table     print README's section and that of bench/README.md from the JSON
    python -m bench.quality --write     put them between the markers of both files, where they have them
    python -m bench.quality --picture   draw the picture from the JSON again
    python -m bench.quality --presets   measure every preset that results/presets.json lacks, at equal forwards on four tasks
                                        (half a minute each; with names: these again); `python -m bench --write` makes a page
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dllm_fast
from bench import harness, quality_report
from dllm_fast import demo
from dllm_fast.demo import word_tasks

Z95 = 1.959963984540054

Canvas = NDArray[np.int64]
Check = Callable[[Canvas], bool]


# --- any model, any task ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What to measure: a preset with settings laid over it.

    Attributes:
        family: settings that differ in one number only share a family; a line in the picture.
        preset: a name of `dllm_fast.presets()`.
        over: settings over the preset.
    """

    family: str
    preset: str
    over: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`preset` or `preset(name=value, ...)`; unique in a list of settings."""
        over = ", ".join(f"{name}={value}" for name, value in self.over.items())
        return f"{self.preset}({over})" if over else self.preset


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one setting did, row by row.

    Attributes:
        setting: what was measured.
        solved: did the checker accept the row? bool `[n]`.
        forwards: model calls that the row took part in, `[n]`.
        cpu_s: processor seconds of all rows.
    """

    setting: Setting
    solved: NDArray[np.bool_]
    forwards: NDArray[np.int64] | NDArray[np.float64]
    cpu_s: float

    @property
    def share(self) -> float:
        """Share of rows that were solved."""
        return float(self.solved.mean())

    @property
    def mean_forwards(self) -> float:
        """Mean over rows."""
        return float(self.forwards.mean())


def measure(
    model: Callable[[torch.Tensor], Any],
    canvases: Sequence[Canvas],
    check: Check,
    settings: Sequence[Setting],
    *,
    common: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 200,
    progress: Callable[[Point], object] | None = None,
) -> list[Point]:
    """Fills every canvas under every setting and counts what `check` accepts.

    Args:
        model: ids `[B, L]` to logits `[B, L, V]`, as for `dllm_fast.infill`.
        canvases: what is given, and masks; rows of equal length in a batch share forwards.
        check: is this filled canvas right? A checker that needs the question reads it off the canvas.
        settings: what to measure.
        common: settings of the task, laid over all of them.
        seed: row i has the seed `seed + i`, under every setting.
        batch_size: rows handed to `infill` at once.
        progress: called with each point.

    Returns:
        One point for each setting, in order.
    """
    points = []
    for setting in settings:
        began = time.process_time()
        rows = [
            _fill(model, canvases[start : start + batch_size], seed + start, setting, common or {})
            for start in range(0, len(canvases), batch_size)
        ]
        filled = [canvas for sequences, _ in rows for canvas in sequences]
        point = Point(
            setting=setting,
            solved=np.array([check(canvas) for canvas in filled], dtype=bool),
            forwards=np.array([nfe for _, forwards in rows for nfe in forwards], dtype=np.int64),
            cpu_s=time.process_time() - began,
        )
        points.append(point)
        if progress is not None:
            progress(point)
    return points


def measure_at(
    model: Callable[[torch.Tensor], Any],
    canvases: Sequence[Canvas],
    check: Check,
    forwards: NDArray[np.int64],
    *,
    preset: str,
    common: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Which rows a preset of fixed counts solves when row i has `steps=forwards[i]`: equal forwards on every single row."""
    solved = np.zeros(len(canvases), dtype=bool)
    for steps in np.unique(forwards).tolist():
        rows = np.flatnonzero(forwards == steps)
        result = dllm_fast.infill(
            model,
            [canvases[row] for row in rows.tolist()],
            preset=preset,
            seed=[seed + row for row in rows.tolist()],
            **{**(common or {}), "steps": steps},
        )
        assert result.stats.nfe_per_row == [steps] * len(rows)
        solved[rows] = [check(canvas) for canvas in result.sequences]
    return solved


def _fill(
    model: Callable[[torch.Tensor], Any],
    canvases: Sequence[Canvas],
    seed: int,
    setting: Setting,
    common: Mapping[str, Any],
) -> tuple[list[Canvas], list[int]]:
    seeds = list(range(seed, seed + len(canvases)))
    result = dllm_fast.infill(model, list(canvases), preset=setting.preset, seed=seeds, **{**common, **setting.over})
    return result.sequences, result.stats.nfe_per_row


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson, 1927)."""
    share = successes / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    radius = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    return max(0.0, centre - radius), min(1.0, centre + radius)


def paired_difference(a: NDArray[np.bool_], b: NDArray[np.bool_], z: float = Z95) -> tuple[float, float, float]:
    """Share of `a` minus share of `b` on the same rows, with an interval of 95 % or another `z` (Bonett and Price, 2012)."""
    n, gained, lost = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    radius = z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return (gained - lost) / n, max(-1.0, p - q - radius), min(1.0, p - q + radius)


def among(comparisons: int) -> float:
    """The z of each of so many two-sided intervals that miss, any of them, once in twenty times at most (Bonferroni)."""
    return NormalDist().inv_cdf(1 - 0.025 / max(comparisons, 1))


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value of "on the rows where they differ, either is right as often" (McNemar, 1947)."""
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    n, fewer = gained + lost, min(gained, lost)
    # Integers of any size, so that no tail underflows.
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return float(min(1.0, 2 * tail / 2**n))


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none solves as much with fewer forwards. Rising in both."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.mean_forwards, -p.share)):
        if not front or point.share > front[-1].share:
            front.append(point)
    return front


def recommend(points: Sequence[Point], loss: float = 0.01) -> Point:
    """The fewest forwards on the Pareto front for which the interval excludes losing more than `loss` to the best share."""
    best = best_of(points)
    fit = (p for p in pareto(points) if p is best or paired_difference(p.solved, best.solved)[1] >= -loss)
    return next(fit)


def best_of(points: Sequence[Point]) -> Point:
    """The largest share, and of these the fewest forwards; always on the front."""
    return max(points, key=lambda p: (p.share, -p.mean_forwards))


def compare(better: Point, other: Point, solved: NDArray[np.bool_] | None = None) -> dict[str, object]:
    """Two settings on the same rows; `solved` replaces the answers of `other`, given at the forwards of `better`."""
    answers = other.solved if solved is None else solved
    difference, low, high = paired_difference(better.solved, answers)
    return {
        "a": better.setting.label,
        "b": other.setting.label if solved is None else f"{other.setting.preset}(steps=forwards of a, row by row)",
        "a_forwards": round(better.mean_forwards, 3),
        "b_forwards": round(other.mean_forwards if solved is None else better.mean_forwards, 3),
        "a_share": round(better.share, 4),
        "b_share": round(float(answers.mean()), 4),
        "difference": round(difference, 4),
        "difference_95": [round(low, 4), round(high, 4)],
        "only_a": int((better.solved & ~answers).sum()),
        "only_b": int((answers & ~better.solved).sum()),
        "mcnemar_p": float(f"{mcnemar(better.solved, answers):.3g}"),
    }


def summary(point: Point, classes: Sequence[str]) -> dict[str, object]:
    """A point as JSON; `classes[i]` names the class of row i."""

    def part(rows: NDArray[np.bool_]) -> dict[str, Any]:
        solved, forwards = point.solved[rows], point.forwards[rows]
        low, high = wilson(int(solved.sum()), len(solved))
        return {
            "n": len(solved),
            "solved": int(solved.sum()),
            "share": round(float(solved.mean()), 4),
            "share_95": [round(low, 4), round(high, 4)],
            "forwards": {"mean": round(float(forwards.mean()), 3)},
        }

    names, forwards = np.array(classes), point.forwards
    everything = part(np.ones(len(names), dtype=bool))
    spread = {"sd": round(float(forwards.std(ddof=1)), 3), "min": int(forwards.min()), "max": int(forwards.max())}
    everything["forwards"] |= spread
    return {
        "label": point.setting.label,
        "family": point.setting.family,
        "preset": point.setting.preset,
        "over": dict(point.setting.over),
        **everything,
        "classes": {name: part(names == name) for name in dict.fromkeys(classes)},
        "cpu_s": round(point.cpu_s, 2),
        # Bit i, from the left: was row i solved? So that anybody can compare any two settings.
        "rows_hex": np.packbits(point.solved).tobytes().hex(),
    }


# --- what is measured -------------------------------------------------------------------------------------------------


def _series(family: str, preset: str, name: str, values: Sequence[object], **fixed: object) -> list[Setting]:
    """One setting for each value of `name`; None leaves it out."""
    return [
        Setting(family=family, preset=preset, over={**fixed, **({} if value is None else {name: value})}) for value in values
    ]


THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
WHOLE = {"block_length": None}  # lays the whole canvas over a preset that has blocks

# Without `steps` the counts are one position a forward.
SETTINGS: tuple[Setting, ...] = (
    # As many positions a forward as the schedule says, in different orders.
    *_series("count, most confident", "llada", "steps", (1, 2, 3, 4, 5, 6, 8, 12, 16, None)),
    *_series("count, random", "llada-random", "steps", (2, 4, 8, 16, None)),
    *_series("count, left to right", "left-to-right", "steps", (8, None)),
    *_series("count, most confident, blocks of 32", "llada-semi-ar", "steps_per_block", (1, 2, 4)),
    *_series("count, most confident, Dream's schedule", "dream-maskgit-plus", "steps", (4, 8, 16)),
    *_series("count, entropy", "dream-entropy", "steps", (4, 8, 16)),
    *_series("count, entropy", "dream-entropy", "schedule", ("even",)),
    *_series("count, margin", "dream-margin", "steps", (4, 8, 16)),
    *_series("count, margin", "dream-margin", "schedule", ("even",)),
    *_series("count, most confident, MaskGIT's schedule", "maskgit", "steps", (4, 8, 16)),
    # The reverse process: every position by itself, at random.
    *_series("reverse process, greedy", "dream-origin", "steps", (4, 8, 16)),
    *_series("reverse process, temperature 1", "mdlm", "steps", (4, 8, 16)),
    *_series("first hitting", "first-hitting", "temperature", (1.0, 0.5)),
    # As many positions a forward as are sure enough.
    *_series("threshold", "fast-dllm", "threshold", THRESHOLDS, **WHOLE),
    *_series("threshold, blocks of 32", "fast-dllm", "threshold", THRESHOLDS[:-1]),
    *_series("factor", "fast-dllm-factor", "factor", (0.01, 0.03, 0.1, 0.3, 1.0, 2.0), **WHOLE),
    *_series("factor, blocks of 32", "fast-dllm-factor", "factor", (0.1, 0.3, 1.0, 2.0)),
    *_series("entropy bound", "entropy-bound", "entropy_bound", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)),
    # Written tokens are replaced where another one is sure enough; blocks of 32, then the whole canvas.
    *(
        Setting(family="threshold with editing", preset=f"llada2.1-{mode}", over=over)
        for mode in ("quality", "speed", "conservative")
        for over in ({}, WHOLE)
    ),
    # Drawn tokens: ranked by the probability of the draw, as published, or by the distribution.
    *_series("temperature 1", "llada", "order", ("sampled-confidence", "confidence"), temperature=1.0),
    *_series("temperature 1", "fast-dllm", "threshold", (0.9, 0.99), **WHOLE, temperature=1.0),
)

TEXT_SETTINGS: tuple[Setting, ...] = (
    *_series("count, most confident", "llada", "steps", (1, 2, 4, None)),
    *_series("count, random", "llada-random", "steps", (2, 4, None)),
    *_series("threshold", "fast-dllm", "threshold", (0.5, 0.9, 0.99), **WHOLE),
)

QUICK_SETTINGS: tuple[Setting, ...] = (
    *_series("count, most confident", "llada", "steps", (4, None)),
    *_series("count, random", "llada-random", "steps", (None,)),
    *_series("threshold", "fast-dllm", "threshold", (0.99,), **WHOLE),
)

# Difficulty by the number of givens, both ends included.
GIVENS = {"easy": (42, 50), "medium": (34, 41), "hard": (26, 33)}
PER_CLASS, PUZZLE_SEED, CONFIRM_SEED = 200, 20_261, 20_263
PROMPTS, PROMPT_SEED, NEW_TOKENS = 200, 20_261, 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `measure` needs: canvases with the class of each, a checker, settings that belong to the task."""

    canvases: list[Canvas]
    classes: list[str]
    check: Check
    common: dict[str, Any]


def sudoku(per_class: int, seed: int = PUZZLE_SEED) -> Task:
    """Puzzles of each difficulty; no solution grid of theirs, by hash, occurs in training."""
    canvases = [canvas for givens in GIVENS.values() for canvas in demo.problems(per_class, seed, givens)]
    assert len({canvas.tobytes() for canvas in canvases}) == len(canvases)
    classes = [name for name in GIVENS for _ in range(per_class)]
    not_digits = [token for token in range(demo.load()[0].info.vocabulary) if not 1 <= token <= 9]
    # As in `dllm-fast demo`.
    return Task(canvases=canvases, classes=classes, check=demo.check, common={"suppress_tokens": not_digits})


def text(n: int, seed: int = PROMPT_SEED) -> Task:
    """Prompts of the text model, none of them in training, each followed by masks for its answer."""
    _, tokenizer = demo.load_text()
    mask, end = tokenizer.token_to_id("[MASK]"), tokenizer.token_to_id("[EOS]")
    prompts = [prompt for prompt, _ in demo.text_problems(n, seed)]
    canvases = [np.array(tokenizer.encode(prompt).ids + [mask] * NEW_TOKENS, dtype=np.int64) for prompt in prompts]

    def check(canvas: Canvas) -> bool:
        """Is what stands between `=` and the first end token the answer, to the letter?"""
        ends = np.flatnonzero(canvas == end)
        prompt, equals, answer = tokenizer.decode(canvas[: ends[0]].tolist() if ends.size else []).partition("=")
        return bool(equals) and answer == word_tasks.answer(prompt + equals)

    classes = [prompt.partition(":")[0] for prompt in prompts]
    return Task(canvases=canvases, classes=classes, check=check, common={"eos_token_id": end, "stop_at_eos": True})


# --- the run ----------------------------------------------------------------------------------------------------------


def run(*, quick: bool) -> dict[str, Any]:
    """The whole benchmark, on one thread, as JSON."""
    began = time.process_time()
    with harness.threads(1):
        content = {
            "question": "how often is the answer right, and how many forwards does it take?",
            "dtype": "float32",
            "threads": 1,
            "weights_sha256": {name: digest(name) for name in ("sudoku", "text")},
            "givens": {name: list(ends) for name, ends in GIVENS.items()},
            "seeds": {"puzzles": PUZZLE_SEED, "prompts": PROMPT_SEED, "row i": "i"},
            **_run_sudoku(4 if quick else PER_CLASS, QUICK_SETTINGS if quick else SETTINGS),
            **_run_text(12 if quick else PROMPTS, QUICK_SETTINGS if quick else TEXT_SETTINGS),
        }
    content["cpu_s"] = round(time.process_time() - began)
    return content


def _run_sudoku(per_class: int, settings: Sequence[Setting]) -> dict[str, Any]:
    model, _ = demo.load()
    task = sudoku(per_class, PUZZLE_SEED)
    points = measure(model, task.canvases, task.check, settings, common=task.common, progress=_tell)
    by_label = {point.setting.label: point for point in points}

    # Another order with the same counts: the same number of forwards on every row.
    orders = []
    for other in points:
        same = by_label.get(Setting(family="", preset="llada", over=other.setting.over).label)
        if other.setting.preset in ("llada-random", "left-to-right") and same is not None:
            orders.append(compare(same, other))
    counts = sorted((p for p in points if p.setting.family == "count, most confident"), key=lambda p: p.mean_forwards)
    on_average, by_row = [], []
    for point in (p for p in points if p.setting.family == "threshold"):
        enough = next((count for count in counts if count.mean_forwards >= point.mean_forwards), None)
        if enough is not None:
            on_average.append(compare(point, enough))
        solved = measure_at(model, task.canvases, task.check, point.forwards, preset="llada", common=task.common)
        by_row.append(compare(point, counts[0], solved))

    return {
        "n": len(task.canvases),
        "points": [summary(point, task.classes) for point in points],
        "pareto": [point.setting.label for point in pareto(points)],
        "confident_against_blind_order": orders,
        "threshold_against_fixed_count_with_no_fewer_forwards": on_average,
        "threshold_against_fixed_count_with_its_forwards_on_every_row": by_row,
        **_choose(points, per_class),
    }


def _add(record: Mapping[str, Any]) -> dict[str, Any]:
    """Points of the settings that a record lacks, on its puzzles, and what they change of it.

    Raises:
        SystemExit: the record is of other weights, or there is nothing to add.
    """
    known = {(point["preset"], json.dumps(point["over"])): point for point in record["points"]}
    keys = [(setting.preset, json.dumps(dict(setting.over))) for setting in SETTINGS]
    missing = [setting for setting, key in zip(SETTINGS, keys, strict=True) if key not in known]
    if record["weights_sha256"]["sudoku"] != digest("sudoku"):
        raise SystemExit("points can be added to those of the same weights; measure everything")
    if not missing:
        raise SystemExit("the JSON has a point for every setting")
    model, _ = demo.load()
    task = sudoku(PER_CLASS, PUZZLE_SEED)
    found = measure(model, task.canvases, task.check, missing, common=task.common, progress=_tell)
    known |= {(p.setting.preset, json.dumps(dict(p.setting.over))): summary(p, task.classes) for p in found}
    points = [known[key] for key in keys]
    recorded = [_recorded(point) for point in points]
    added = [*record.get("added", []), {**harness.commit(), "settings": [point.setting.label for point in found]}]
    return {
        "points": points,
        "pareto": [point.setting.label for point in pareto(recorded)],
        "best": best_of(recorded).setting.label,
        "recommended": recommend(recorded).setting.label,
        "added": added,
    }


def _choose(points: Sequence[Point], per_class: int) -> dict[str, Any]:
    """The setting to take, measured once more beside others on puzzles that had no part in the choice."""
    by_label = {point.setting.label: point for point in points}
    best, chosen = best_of(points), recommend(points)
    again = dict.fromkeys([chosen.setting.label, best.setting.label, "llada", "fast-dllm(block_length=None, threshold=0.99)"])
    repeated = [by_label[label] for label in again if label in by_label]
    fresh = sudoku(per_class, CONFIRM_SEED)
    model, _ = demo.load()
    settings = [point.setting for point in repeated]
    confirmed = measure(model, fresh.canvases, fresh.check, settings, common=fresh.common, progress=_tell)
    return {
        "best": best.setting.label,
        "recommended": chosen.setting.label,
        "recommended_against": [compare(chosen, point) for point in repeated[1:]],
        "confirmation": {**harness.commit(), "seed": CONFIRM_SEED},
        "confirmation_n": len(fresh.canvases),
        "confirmation_points": [summary(point, fresh.classes) for point in confirmed],
        "confirmation_recommended_against": [compare(confirmed[0], point) for point in confirmed[1:]],
    }


def _recorded(point: Mapping[str, Any]) -> Point:
    """A point of the JSON, with the mean forwards in every row: all that the front and the comparisons look at."""
    n = point["n"]
    solved = np.unpackbits(np.frombuffer(bytes.fromhex(point["rows_hex"]), dtype=np.uint8))[:n].astype(bool)
    setting = Setting(family=point["family"], preset=point["preset"], over=point["over"])
    return Point(setting=setting, solved=solved, forwards=np.full(n, point["forwards"]["mean"]), cpu_s=point["cpu_s"])


def _run_text(n: int, settings: Sequence[Setting]) -> dict[str, Any]:
    model, _ = demo.load_text()
    task = text(n, PROMPT_SEED)
    points = measure(model, task.canvases, task.check, settings, common=task.common, progress=_tell)
    return {
        "text_n": len(task.canvases),
        "text_points": [summary(point, task.classes) for point in points],
        "text_pareto": [point.setting.label for point in pareto(points)],
    }


def digest(model: str) -> str:
    """SHA-256 of the weights of an embedded model."""
    return hashlib.sha256((demo.FOLDER / model / "model.safetensors").read_bytes()).hexdigest()


def _tell(point: Point) -> None:
    harness.progress(
        f"{point.share:6.3f} solved, {point.mean_forwards:6.2f} forwards, {point.cpu_s:6.1f} s  {point.setting.label}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="a few canvases and settings: does it run? Writes nothing")
    what.add_argument("--add", action="store_true", help="measure the settings that the JSON lacks, and put them into it")
    what.add_argument("--confirm", action="store_true", help="choose again from the JSON's points, measure on further puzzles")
    what.add_argument("--table", action="store_true", help="print the texts of README.md and bench/README.md from the JSON")
    what.add_argument("--write", action="store_true", help="put them between the markers of both files")
    what.add_argument("--presets", nargs="*", metavar="NAME", help="every preset at equal forwards; with names, these again")
    what.add_argument("--picture", action="store_true", help="draw the picture from the JSON")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the JSON and the picture")
    options = parser.parse_args(arguments)

    if options.presets is not None:
        from bench import every_preset  # it is made of this module

        every_preset.run(options.out / "presets.json", options.presets)
        return
    if options.quick:
        print(quality_report.listing(run(quick=True)))
        return
    path: Path = options.out / "quality.json"
    if options.add:
        record = json.loads(path.read_text(encoding="utf-8"))
        chosen = record["best"], record["recommended"]
        with harness.threads(1):
            record |= _add(record)
        harness.write_json(path, record)
        if (record["best"], record["recommended"]) != chosen:
            print("another setting is best now: run --confirm, too")
    elif options.confirm:
        record = json.loads(path.read_text(encoding="utf-8"))
        with harness.threads(1):
            record |= _choose([_recorded(point) for point in record["points"]], PER_CLASS)
        harness.write_json(path, record)
    elif not (options.table or options.write or options.picture):
        others = harness.Others()
        harness.write("quality", options.out, run(quick=False), quick=False, others=others)
    record = json.loads(path.read_text(encoding="utf-8"))
    texts = {"README.md": quality_report.section(record), "bench/README.md": quality_report.details(record)}
    if options.table:
        print("\n".join(texts.values()))
    elif options.write:
        for name, block in texts.items():
            document = harness.ROOT / name
            document.write_text(quality_report.placed(document.read_text(encoding="utf-8"), block), encoding="utf-8")
    else:
        quality_report.draw(record, options.out / "quality.svg")


if __name__ == "__main__":
    main()
