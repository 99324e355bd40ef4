"""Markdown tables from the JSON results: what README carries, and everything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]

OURS = "dllm_fast"
BENCHES = ("post_logits", "control", "end_to_end", "models", "peers", "kernels")
# The forms that some published loop runs as they are, by mode; the fastest of them is what we compare with.
PUBLISHED = {
    "T=0": ("softmax in own dtype", "float32"),
    "T=1": ("multinomial",),
    "top-p 0.95": ("sort",),
    "top-k 50": ("topk",),
    "min-p 0.05": ("mask",),
}
IN_FLOAT64 = {"T=0": "float64", "T=1": "float64 Gumbel"}


def load(folder: Path) -> dict[str, Json]:
    """The results that are there, by bench."""
    paths = {name: folder / f"{name}.json" for name in BENCHES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def readme(results: dict[str, Json]) -> str:
    """The block of README."""
    parts = []
    if "post_logits" in results:
        parts += _post_logits(results["post_logits"])
    if "control" in results:
        parts += _control(results["control"])
    if "end_to_end" in results:
        parts += _end_to_end(results["end_to_end"])
    if "models" in results:
        parts += _models(results["models"])
    if "peers" in results:
        parts += _peers(results["peers"])
    if aims := _aims(results):
        parts += ["**What we aimed at**", _table(["aim", "measured", ""], aims)]
    if not parts:
        return "Not measured yet."
    return "\n\n".join([_facts(list(results.values())), *parts])


def everything(results: dict[str, Json]) -> str:
    """Every case of every bench."""
    parts = [readme(results)]
    if "post_logits" in results:
        rows = [
            [case["rows"], case["vocabulary"], case["dtype"], case["mode"], case["threads"], name, *_form(form)]
            for case in results["post_logits"]["cases"]
            for name, form in case["forms"].items()
        ]
        head = ["rows", "vocabulary", "logits", "mode", "threads", "form", "time", "times ours (quartiles)"]
        parts += ["**After the logits, every case**", _table(head, rows)]
    if "kernels" in results:
        rows = [
            [c["function"], c["argument"], _time(c["median_s"]), _time(c["fastest_s"]), _rate(c.get("bytes_per_s"))]
            for c in results["kernels"]["cases"]
        ]
        head = ["function", "argument", "median", "fastest", "logits read"]
        parts += ["**Rust alone, one thread, 8 rows of 126,464**", _table(head, rows)]
    return "\n\n".join(parts)


def _facts(results: Sequence[Json]) -> str:
    first = results[0]
    machine, versions = first["machine"], first["versions"]
    commits = sorted({r["commit"][:12] + (" with changes" if r["uncommitted_changes"] else "") for r in results})
    others = {r["bench"]: o["busy"] + o["stolen"] for r in results if (o := r["cores_used_by_others"])}
    busy = ", ".join(f"{name} ({cores:.1f} cores)" for name, cores in others.items() if cores > 0.25)
    note = f" **Taken beside a busy neighbour, do not trust: {busy}.**" if busy else ""
    return (
        f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['isa'])}), {machine['memory_gb']:.0f} GB, "
        f"{machine['system']}; dllm_fast {versions['dllm_fast']} at {', '.join(commits)}, torch {versions['torch']}, "
        f"Python {versions['python']}. Medians of samples taken in turn; in brackets the quartiles.{note}"
    )


def _post_logits(result: Json) -> list[str]:
    cases = result["cases"]
    threads = max(case["threads"] for case in cases)
    rows = max(case["rows"] for case in cases if case["rows"] <= 32)
    vocabulary = max(case["vocabulary"] for case in cases if case["vocabulary"] <= 126_464)
    bandwidth = result["copy_bytes_per_s"][str(threads)]["median"] / 1e9
    table = []
    for case in cases:
        if (case["rows"], case["vocabulary"], case["threads"]) != (rows, vocabulary, threads):
            continue
        forms = case["forms"]
        wide = IN_FLOAT64.get(case["mode"])
        table.append(
            [
                case["mode"],
                case["dtype"],
                _time(forms[OURS]["seconds"]["median"]),
                f"{case['share_of_copy_bandwidth']:.0%}",
                _ratio(forms[fastest_published(case)]),
                _ratio(forms[wide]) if wide else "",
                _ratio(forms.get("compiled float32", {})),
                _ratio(forms.get("float32 first", {})),
            ]
        )
    head = [
        "mode",
        "logits",
        "ours",
        "of copy bandwidth",
        "fastest published form",
        "float64 form",
        "torch.compile",
        "best eager",
    ]
    grid = []
    vocabularies = sorted({case["vocabulary"] for case in cases})
    for n in sorted({case["rows"] for case in cases}):
        by_size = [_case(cases, rows=n, vocabulary=v, threads=threads, dtype="bfloat16", mode="T=0") for v in vocabularies]
        shown = [f"{_time(c['forms'][OURS]['seconds']['median'])}, {_ratio(c['forms'][fastest_published(c)])}" for c in by_size]
        grid.append([n, *shown])
    return [
        f"**One step after the logits** (`python -m bench.post_logits`): {rows} rows of {vocabulary:,}, {threads} threads for "
        "all. How many times longer plain torch takes. Ours returns the token, its probability, the two largest, entropy and "
        f"log-sum-exp; the others the token and its probability. The copy runs at {bandwidth:.0f} GB/s, reads and writes "
        "counted. *Best eager* widens bfloat16 before the argmax, which no published loop does.",
        _table(head, table),
        "The same at temperature 0 on bfloat16 by size: ours, and the fastest published form over it.",
        _table(["rows", *(f"{v:,}" for v in vocabularies)], grid),
    ]


def fastest_published(case: Json) -> str:
    """Name of the fastest form that some published loop runs."""
    names = [name for name in PUBLISHED[case["mode"]] if "seconds" in case["forms"].get(name, {})]
    # All left out for being too slow: the reason is shown.
    return min(names, key=lambda name: case["forms"][name]["seconds"]["median"], default=PUBLISHED[case["mode"]][-1])


def _control(result: Json) -> list[str]:
    table = []
    for case in result["cases"]:
        forms = case["forms"]
        (other,) = (name for name in forms if name != OURS)
        mine = forms[OURS]["seconds"]
        spread = f"{_time(mine['median'])} ({_time(mine['q1'])} to {_time(mine['q3'])})"
        their = f"{other} {_time(forms[other]['seconds']['median'])}, {_ratio(forms[other])}"
        table.append([case["batch"], case["block"], case["rule"], spread, their])
    return [
        "**Control of a step**, statistics given: `next`, `groups` and `feed` against the same code in Python and torch "
        "(`python -m bench.control`).",
        _table(["batch", "block", "rule", "ours", "theirs"], table),
        *_host_side(result.get("host_side")),
    ]


def _host_side(found: Json | None) -> list[str]:
    if found is None:
        return []
    spans = (found["step_seconds"], found["call_seconds"])
    step, call = (f"{_time(x['median'])} ({_time(x['q1'])} to {_time(x['q3'])})" for x in spans)
    model = f"{found['layers']} layers and {found['vocabulary']} tokens, batch {found['batch']}"
    return [
        f"Around a forward of `sample` (a model of {model}), the host is busy for {step}; "
        f"a call of one forward, all its preparation included, for {call}."
    ]


def _end_to_end(result: Json) -> list[str]:
    table = []
    for case in result["cases"]:
        for name, form in sorted(case["forms"].items(), key=lambda form: form[0] != OURS):
            row = [case["model"], case["forwards"], name] if name == OURS else ["", "", name]
            if "skipped" in form:
                table.append([*row, form["skipped"], "", ""])
                continue
            outside, grown = form["outside_model"], form["peak_bytes"] - form["after_one_forward_bytes"]
            total = _time(form["total"]["seconds"]["median"])
            ratio = f", {_ratio(outside)}" if "ratio" in outside else ""
            memory = f"{form['peak_bytes'] / 1e6:,.0f} MB ({grown / 1e6:+,.0f})"
            table.append([*row, total, _time(outside["seconds"]["median"]) + ratio, memory])
    head = ["task", "forwards", "loop", "total", "outside the model", "peak memory (over one forward)"]
    return [
        "**A whole generation**, the same tokens from all, each in a process of its own (`python -m bench.end_to_end`).",
        _table(head, table),
    ]


def _models(result: Json) -> list[str]:
    cases = result["cases"]
    prompts = sorted({case["prompt"] for case in cases})
    table = []
    for opened in result["checkpoints"]:
        by_prompt = [_case(cases, family=opened["family"], prompt=prompt) for prompt in prompts]
        row = [opened["family"], by_prompt[0]["cache"]]
        for case in by_prompt:
            forms = case["forms"]
            row += [_time(forms[OURS]["step"]["median"]), _ratio({"ratio": forms[OURS]["ratio"]["step"]})]
        old = (by_prompt[-1]["forms"].get(cache) for cache in ("prefix", "dual"))
        row += [_number(form["ratio"]["step"]["median"]) + "x" if form else "" for form in old]
        table.append(row + _opening(opened))
    sizes = f"width {result['width']}, {result['layers']} layers, vocabulary {result['vocabulary']:,}, {result['dtype']}"
    timed = [head for prompt in prompts for head in (f"step, prompt {prompt}", "full forward")]
    old_heads = [f"{cache}, prompt {prompts[-1]}" for cache in ("prefix", "dual")]
    head = ["family", "`auto` takes", *timed, *old_heads, "load, of the checkpoint", "load", "sampling, of the formula"]
    first = cases[0]
    return [
        f"**A step by family** (`python -m bench.models`): random weights, {sizes}; {first['new_tokens']} new tokens in "
        "blocks of 32 or the family's own. *Full forward*: how many times longer the same network takes with the whole canvas "
        "and the head on all of it, for the same tokens. *prefix* and *dual*, which are approximate: the same ratio. Then the "
        "peak private memory of `load` over the checkpoint, its speed from a warm page cache, and the peak of sampling over "
        "what the formula says.",
        _table(head, table),
    ]


def _opening(opened: Json) -> list[str]:
    if "skipped" in opened:
        return [opened["skipped"], "", ""]
    sampling = opened["sample_peak_bytes"] / opened["formula_bytes"]
    load = f"{opened['load_peak_bytes'] / opened['checkpoint_bytes']:.2f}x"
    return [load, _rate(opened["load_bytes_per_s"]), f"{sampling:.0%}"]


def _peers(result: Json) -> list[str]:
    table = []
    for case in result["cases"]:
        mine = case["forms"][OURS]
        for name, form in case["forms"].items():
            if name != OURS:
                step, forward = (_ratio({"ratio": form["ratio"][what]}) for what in ("step", "forward"))
                ours = _time(mine["step"]["median"])
                table.append([name, case["prompt"], case["cache"], ours, _time(form["step"]["median"]), step, forward])
    head = ["loop", "prompt", "our cache", "our step", "theirs", "theirs over ours", "inside the model alone"]
    return [
        "**Peers' loops on the same weights** (`python -m bench.peers`): the same prompt, schedule, forwards and tokens.",
        _table(head, table),
    ]


def _aims(results: dict[str, Json]) -> list[list[str]]:
    aims: list[list[str]] = []

    def aim(text: str, value: float, *, at_least: float | None = None, below: float | None = None, unit: str = "x") -> None:
        met = value >= at_least if at_least is not None else below is not None and value < below
        shown = f"{value:.0%}" if unit == "%" else f"{value:.1f} {unit}" if unit != "x" else f"{value:.1f}x"
        aims.append([text, shown, "met" if met else "missed"])

    cases = results.get("post_logits", {}).get("cases", [])
    threads = max((case["threads"] for case in cases), default=0)

    def ratios(form: str | None, **wanted: object) -> list[float]:
        chosen = [c for c in cases if all(c[k] == v for k, v in wanted.items())]
        forms = [c["forms"].get(form or fastest_published(c), {}) for c in chosen]
        return [f["ratio"]["median"] for f in forms if "ratio" in f]

    middle = {"rows": 32, "vocabulary": 126_464, "threads": threads}
    if _case(cases, **middle, mode="T=0", dtype="bfloat16"):
        greedy = {**middle, "mode": "T=0", "dtype": "bfloat16"}
        aim("32 x 126,464 bfloat16 T=0: 8x the fastest published eager form", min(ratios(None, **greedy)), at_least=8)
        aim("the same: 10x float64", min(ratios("float64", **greedy)), at_least=10)
        aim("T=1: 10x float64 Gumbel (either dtype)", min(ratios("float64 Gumbel", **middle, mode="T=1")), at_least=10)
        aim("top-p: 20x the sort (either dtype)", min(ratios("sort", **middle, mode="top-p 0.95")), at_least=20)
        large = [c for c in cases if c["rows"] >= 32 and c["dtype"] == "float32" and c["mode"] == "T=0"]
        shares = [c["share_of_copy_bandwidth"] for c in large if c["threads"] == threads]
        aim("float32 T=0 from 32 rows up: 30 % of copy bandwidth (lowest)", min(shares), at_least=0.3, unit="%")
    steps = results.get("control", {}).get("cases", [])
    if small := [c for c in steps if (c["batch"], c["block"]) == (1, 32)]:
        slowest = max(c["forms"][OURS]["seconds"]["median"] for c in small)
        aim("control at batch 1, block 32: below 50 us", slowest * 1e6, below=50, unit="us")
    for block in sorted({c["block"] for c in steps if c["batch"] == 64}):
        per_row = {
            batch: max(c["forms"][OURS]["seconds"]["median"] for c in steps if (c["batch"], c["block"]) == (batch, block))
            / batch
            for batch in (8, 64)
        }
        growth = per_row[64] / per_row[8]
        aim(f"control linear in the batch, block {block}: a row at batch 64 over a row at batch 8", growth, below=1.3)
    if opened := [c for c in results.get("models", {}).get("checkpoints", []) if "skipped" not in c]:
        load = max(c["load_peak_bytes"] / c["checkpoint_bytes"] for c in opened)
        aim("private memory of `load` over the checkpoint (largest)", load, below=1.2)
    return aims


def _case(cases: Iterable[Json], **wanted: object) -> Json:
    return next((case for case in cases if all(case[k] == v for k, v in wanted.items())), {})


def _form(form: Json) -> tuple[str, str]:
    if "skipped" in form:
        return f"left out: {form['skipped']}", ""
    return _time(form["seconds"]["median"]), _ratio(form)


def _ratio(form: Json) -> str:
    if "ratio" in form:
        r = form["ratio"]
        return f"{_number(r['median'])}x ({_number(r['q1'])} to {_number(r['q3'])})"
    return f"left out: {form['skipped']}" if "skipped" in form else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{_number(seconds / size)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _rate(bytes_per_s: float | None) -> str:
    return "" if bytes_per_s is None else f"{_number(bytes_per_s / 1e9)} GB/s"


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
