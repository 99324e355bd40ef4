"""Every preset on four tasks, at its own settings and at equal forwards: `python -m bench.quality --presets`.

A preset comes by itself: whatever `dllm_fast.presets()` holds is measured, what the core refuses is written down with its
reason. Equal forwards: each preset has a knob (`KNOBS`), which is turned on some of the rows until the mean number of
forwards is the one that is asked for; then all rows are measured. All presets see the same rows with the same seeds.

Tasks: the two embedded models, and two oracles (`bench/oracle.py`) whose every distribution is exact, at temperature 1, so that
what goes wrong is the sampler's doing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import grown, harness, oracle, quality, verified
from bench.quality import Check, Point, Setting
from dllm_fast import DllmFastError, SamplerConfig, TokenFrequencies, demo
from dllm_fast.settings.presets import PRESETS, presets

# A mean of forwards this far from the one asked for, relatively, is another number of forwards.
TOLERANCE = 0.1
# A knob is turned so often at most, or until it is as near as this.
TURNS, NEAR = 8, 0.02
PROMPTS, DRAWS = 300, 1000


@dataclass(frozen=True, slots=True)
class Knob:
    """The setting by which a rule takes more or fewer forwards.

    Attributes:
        name: of the setting.
        value: the setting for a number from 0 (few forwards) to 1 (many).
    """

    name: str
    value: Callable[[float], float]


def _sure(turn: float) -> float:
    """A probability, in finer steps towards 1."""
    return float(f"{1 - 10 ** (-6 * turn):.6g}")


def _small(turn: float) -> float:
    """A bound that falls over seven powers of ten."""
    return float(f"{100 * 10 ** (-7 * turn):.3g}")


# In the order in which they decide: the first that a preset has is turned.
KNOBS = (
    Knob("threshold", _sure),
    Knob("factor", _small),
    Knob("entropy_bound", _small),
    Knob("entropy_threshold", _small),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What all presets do.

    Attributes:
        model: ids to logits.
        canvases: rows.
        check: is a filled row right?
        common: settings of the task, laid over every preset.
        forwards: the numbers of forwards at which presets are compared.
        batch_size: rows in a forward.
        searched: every so many rows are those on which a knob is turned; rows that are alike in turn want all of them.
        needs: arguments that single presets need, by name.
        noisy: models of the same answers for rules of noise, by the name of the noise, and whether they are reverse processes.
        mask: where answers are of any length: what stands for them behind a prompt, in every canvas.
        swept: points of `results/quality.json` are of these rows, and need not be measured again. The model is slow: what is
            one position a forward in yet another order is left out at its own settings, but for claims of fewer forwards.
    """

    model: Callable[..., Any]
    canvases: Sequence[quality.Canvas]
    check: Check
    common: Mapping[str, Any]
    forwards: tuple[int, ...]
    batch_size: int = 25
    searched: int = 1
    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    noisy: Mapping[tuple[str, bool], oracle.NoisyOracle] = field(default_factory=dict)
    mask: int | None = None
    swept: bool = False


def tasks(*, quick: bool = False) -> dict[str, Task]:
    """Every task by name."""
    puzzles = quality.sudoku(2 if quick else quality.PER_CLASS, quality.PUZZLE_SEED)
    prompts = quality.text(6 if quick else PROMPTS, quality.PROMPT_SEED)
    letters, square = oracle.Oracle(oracle.orders((0, 0, 1, 1, 2, 2, 3, 4))), oracle.Oracle(oracle.latin_squares())
    rows = 20 if quick else DRAWS

    def exact(model: oracle.Oracle, forwards: tuple[int, ...]) -> Task:
        length = model.answers.shape[1]
        common = {"mask_token_id": model.mask, "temperature": 1.0}
        return Task(
            model=model,
            canvases=[np.full(length, model.mask)] * rows,
            check=model.check,
            common=common,
            forwards=forwards,
            batch_size=rows,
            searched=6,
            needs=_counted(model.answers, model.vocabulary + 1),
            noisy={
                ("uniform", False): oracle.NoisyOracle(model.answers),
                ("uniform", True): oracle.NoisyOracle(model.answers, own=False),
                ("hybrid", True): oracle.NoisyOracle(model.answers, presets()["gidd"].noise_share, own=False),
            },
        )

    # The quickest first.
    return {
        "latin": exact(square, (6, 10)),
        "shuffle": exact(letters, (4, 6)),
        "text": Task(
            model=_loaded("text"),
            canvases=prompts.canvases,
            check=prompts.check,
            common=prompts.common,
            forwards=(2, 4),
            mask=_loaded("text").info.mask_token_id,
            needs=_given(prompts.canvases, _loaded("text")),
        ),
        "sudoku": Task(
            model=_loaded("sudoku"),
            canvases=puzzles.canvases,
            check=puzzles.check,
            common=puzzles.common,
            forwards=(4, 8),
            searched=6,
            needs=_given(puzzles.canvases, _loaded("sudoku")),
            swept=not quick,
        ),
    }


def _counted(ids: NDArray[np.int64], vocabulary: int) -> dict[str, dict[str, Any]]:
    """What presets need that ask how frequent tokens are, by name."""
    table = TokenFrequencies.of(ids.ravel(), vocabulary)
    return {name: {"token_frequencies": table} for name, preset in PRESETS.items() if preset.settings.order == "calibrated"}


def _given(canvases: Sequence[quality.Canvas], model: Any) -> dict[str, dict[str, Any]]:
    """The same of what is not to be filled."""
    ids = np.concatenate([np.asarray(canvas).ravel() for canvas in canvases])
    return _counted(ids[ids != model.info.mask_token_id], model.info.vocabulary)


@cache
def _loaded(name: str) -> Any:
    return (demo.load if name == "sudoku" else demo.load_text)()[0]


def lacks(task: Task, preset: str, found: Mapping[str, Any]) -> list[str]:
    """What is to be measured yet: `own`, its own settings, and numbers of forwards."""
    if "refused" in found:
        return []
    needs_own = "own" not in found and not (task.swept and _is_yet_another_order(preset))
    return [*(["own"] if needs_own else []), *(str(n) for n in task.forwards if str(n) not in found.get("at", {}))]


def measure(task: Task, preset: str, before: Mapping[str, Any] | None = None, part: str | None = None) -> dict[str, Any]:
    """A preset at its own settings, and at each number of forwards of the task; reasons where that cannot be.

    Args:
        task: what to do.
        preset: its name.
        before: what was found already.
        part: what to add to it, of what `lacks` names; None for all of that.
    """
    settings = PRESETS[preset].settings
    model, common = task.model, {**task.common, **task.needs.get(preset, {})}
    noisy = task.noisy.get((settings.noise, settings.order == "ancestral"))
    if settings.noise != "mask" and noisy is None:
        return {"refused": f"noise={settings.noise!r}: the model knows masks alone"}
    if settings.length != "fixed" and task.mask is None:
        return {"refused": "length: the answers of this task have one length"}
    if settings.verify or settings.verifier_mixture is not None:
        return _verified(task, preset)
    if noisy is not None:
        # Its temperatures are its own.
        masks = {} if noisy.share is None else {"mask_token_id": noisy.mask}
        model, common = noisy, {"vocabulary": noisy.vocabulary + len(masks), **masks}

    def point(over: Mapping[str, Any], step: int = 1) -> Point:
        setting = Setting(family="", preset=preset, over=over)
        canvases, more = task.canvases[::step], {}
        if noisy is not None and noisy.share is None:
            canvases = [np.zeros_like(canvas) for canvas in canvases]
            more = {"open": [np.ones(len(canvas), dtype=bool) for canvas in canvases]}
        given = {**common, **more}
        if settings.length != "fixed" and task.mask is not None:
            sizes = {"mask": task.mask, "batch_size": task.batch_size}
            return grown.measure(model, canvases, task.check, setting, common=given, **sizes)
        (found,) = quality.measure(model, canvases, task.check, [setting], common=given, batch_size=task.batch_size)
        return found

    known = sweep(preset, _knob(settings, 1).name) if task.swept else []
    found: dict[str, Any] = {**(before or {})}
    found["at"] = {**found.get("at", {})}
    for what in [part] if part else lacks(task, preset, found):
        try:
            if what == "own":
                own = (at for at in known if all(getattr(settings, name) == value for name, value in at["over"].items()))
                found["own"] = next(own, None) or summary(point({}))
            else:
                found["at"][what] = _near(known, int(what)) or _at(point, settings, int(what), task.searched)
        except DllmFastError as error:
            if what == "own":
                return {"refused": str(error)}
            found["at"][what] = {"refused": str(error)}
    return found


def _near(known: Sequence[Mapping[str, Any]], forwards: int) -> Mapping[str, Any] | None:
    """The point of so many forwards, where there is one."""
    near = min(known, key=lambda at: abs(at["forwards"] - forwards), default=None)
    return near if near is not None and abs(near["forwards"] - forwards) <= TOLERANCE * forwards else None


def _verified(task: Task, preset: str) -> dict[str, Any]:
    """A rule that asks for a causal look: with an oracle, which has one."""
    if not isinstance(task.model, oracle.Oracle):
        second = PRESETS[preset].settings.verifier_mixture is not None
        return {"refused": "verifier: no second model" if second else "verify: the model cannot be read causally"}
    setting = Setting(family="", preset=preset)
    own = summary(verified.measure(task.model, PRESETS[preset].settings, len(task.canvases), setting))
    drafts = {"refused": "its drafts say how many, by definition"}
    return {
        "own": own,
        "at": {str(n): own if abs(own["forwards"] - n) <= TOLERANCE * n else drafts for n in task.forwards},
    }


def _is_yet_another_order(preset: str) -> bool:
    """Does it write one position a forward, and does no claim of fewer forwards look at it?"""
    claims = {name: row.claim for name, row in PRESETS.items() if row.claim is not None and row.claim.kind == "fewer"}
    looked_at = claims.keys() | {claim.than for claim in claims.values()}
    return _knob(PRESETS[preset].settings, 1).name == "steps" and preset not in looked_at


def sweep(preset: str, knob: str) -> list[dict[str, Any]]:
    """Points of a preset in the sweep of `bench.quality` (the same puzzles, seeds and settings of the task), in which only its
    knob is turned."""
    record = json.loads((harness.RESULTS / "quality.json").read_text(encoding="utf-8"))
    settings = PRESETS[preset].settings
    if record["weights_sha256"]["sudoku"] != quality.digest("sudoku"):
        return []
    return [
        {
            "over": at["over"],
            "n": at["n"],
            "share": at["share"],
            "share_95": at["share_95"],
            "forwards": at["forwards"]["mean"],
            "forwards_sd": at["forwards"]["sd"],
            "cpu_s": at["cpu_s"],
            "rows_hex": at["rows_hex"],
        }
        for at in record["points"]
        if at["preset"] == preset
        and all(name == knob or getattr(settings, name) == value for name, value in at["over"].items())
    ]


def _knob(settings: SamplerConfig, forwards: int) -> Knob:
    """What is turned. Counts are told the number of steps, of which a schedule may pass over some."""
    counts = "steps" if settings.steps_per_block is None else "steps_per_block"
    steps = Knob(counts, lambda turn: max(1, round(forwards * 16 ** (turn - 0.5))))
    knobs = (knob for knob in KNOBS if getattr(settings, knob.name) is not None)
    return steps if settings.steps_per_block is not None else next(knobs, steps)


def _at(point: Callable[..., Point], settings: SamplerConfig, forwards: int, searched: int) -> dict[str, Any]:
    """The point of so many forwards on average, or why there is none."""
    knob = _knob(settings, forwards)
    least, most, best, over = 0.0, 1.0, math.inf, {}
    for _ in range(TURNS):
        turn = (least + most) / 2
        turned = _turned(settings, knob, turn)
        mean = point(turned, searched).mean_forwards
        if abs(mean - forwards) < best:
            best, over = abs(mean - forwards), turned
        if best <= NEAR * forwards:
            break
        least, most = (turn, most) if mean < forwards else (least, turn)
    found = point(over)
    if abs(found.mean_forwards - forwards) <= TOLERANCE * forwards:
        return summary(found)
    return {"refused": f"{knob.name}={over[knob.name]} comes nearest, with {found.mean_forwards:.1f} forwards"}


def _turned(settings: SamplerConfig, knob: Knob, turn: float) -> dict[str, Any]:
    """The knob at this turn, and what goes with it: neighbours keep their share of the threshold."""
    over = {knob.name: knob.value(turn)}
    if settings.neighbour_threshold is not None and settings.threshold is not None:
        over["neighbour_threshold"] = over["threshold"] * settings.neighbour_threshold / settings.threshold
    return over


def summary(point: Point) -> dict[str, Any]:
    """A point as JSON."""
    solved = int(point.solved.sum())
    low, high = quality.wilson(solved, len(point.solved))
    return {
        "over": dict(point.setting.over),
        "n": len(point.solved),
        "share": round(point.share, 4),
        "share_95": [round(low, 4), round(high, 4)],
        "forwards": round(point.mean_forwards, 3),
        "forwards_sd": round(float(point.forwards.std(ddof=1)), 3),
        "cpu_s": round(point.cpu_s, 2),
        # Bit i, from the left: was row i solved? So that anybody can compare any two.
        "rows_hex": np.packbits(point.solved).tobytes().hex(),
    }


def run(path: Path, names: Sequence[str], *, quick: bool = False) -> dict[str, Any]:
    """Measures the presets that the JSON lacks or has with other settings, and those that are named; writes it after each.

    Raises:
        SystemExit: a name is no preset.
    """
    if unknown := [name for name in names if name not in PRESETS]:
        raise SystemExit(f"no preset is called {', '.join(unknown)}")
    todo = tasks(quick=quick)
    record: dict[str, Any] = {
        "bench": "presets",
        "command": "python -m bench.quality --presets",
        "question": "how often is the answer right at equal forwards, for every preset?",
        "machine": harness.machine(),
        "weights_sha256": {name: quality.digest(name) for name in ("sudoku", "text")},
        "tasks": {name: {"n": len(task.canvases), "forwards": list(task.forwards)} for name, task in todo.items()},
    }
    known: dict[str, dict[str, Any]] = {}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        stale = [task for task, facts in before["tasks"].items() if facts != record["tasks"].get(task)]
        if before["weights_sha256"] == record["weights_sha256"]:
            known = {found["preset"]: found for found in before["presets"]}
        for found in known.values():
            for task in stale:
                found.pop(task, None)
    defaults = SamplerConfig().to_dict()
    for name, preset in PRESETS.items():
        # What a preset sets, so that a new setting makes nothing old.
        settings = {key: value for key, value in preset.settings.to_dict().items() if value != defaults[key]}
        if name in names or known.get(name, {}).get("settings") != settings:
            known[name] = {"preset": name, "settings": settings}
    # Task by task and part by part, so that whoever stops it has all presets on some.
    parts = ((task, part) for task, facts in todo.items() for part in ("own", *map(str, facts.forwards)))
    for task, part, name in ((task, part, name) for task, part in parts for name in PRESETS):
        before = known[name].get(task, {})
        if part not in lacks(todo[task], name, before):
            continue
        began = time.process_time()
        with harness.threads(1):
            found = measure(todo[task], name, before, part)
        taken = time.process_time() - began + before.get("cpu_s", 0)
        known[name][task] = {**found, **harness.commit(), "cpu": record["machine"]["cpu"], "cpu_s": round(taken, 1)}
        record["presets"] = [known[name] for name in PRESETS]
        harness.write_json(path, record)
        at = found.get("own", {}) if part == "own" else found.get("at", {}).get(part, {})
        said = f"{at['share']:.3f} in {at['forwards']:.1f}" if "share" in at else at.get("refused") or found.get("refused")
        harness.progress(f"{task:8s} {part:>4s} {name:24s} {taken:6.1f} s  {said}")
    record["presets"] = [known[name] for name in PRESETS]
    harness.write_json(path, record)
    return record
