"""What was found, as lines for a terminal and as tables of Markdown. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Json = dict[str, Any]

_ROWS, _NAME = 28, 72
# What says most of the counters of a kernel.
_COUNTERS = ("Duration", "DRAM Throughput", "Issued Warp Per Scheduler", "No Eligible", "L2 Hit Rate", "Registers Per Thread")


def has_error(found: object) -> bool:
    """Is there an error anywhere in it?"""
    if isinstance(found, dict):
        return "error" in found or any(map(has_error, found.values()))
    return isinstance(found, list) and any(map(has_error, found))


def has_failed(found: object) -> bool:
    """Is there an error, or a check that did not hold, anywhere in it?"""
    if isinstance(found, dict):
        return found.get("passed") is False or "error" in found or any(map(has_failed, found.values()))
    return isinstance(found, list) and any(map(has_failed, found))


def lines(case: Json) -> list[str]:
    """A case for a terminal, and a table of kernels below it."""
    told = [f"{name} {number(value)}" for name, value in case.items() if isinstance(value, dict)]
    plain = [f"{name} {value}" for name, value in case.items() if name == "experts met"]
    said = [f"  {case['what']}: {', '.join(plain + told)}"]
    for value in case.values():
        if isinstance(value, dict) and "kernels" in value:
            said += [f"    {line}" for line in as_text(value["kernels"])]
        if isinstance(value, dict) and "error" in value:
            said += [f"    {line}" for line in value["error"].rstrip().splitlines()]
    return said


def number(value: Json) -> str:
    """What matters of a measurement."""
    key = next((key for key in _TOLD if key in value), None)
    if key is not None:
        return _TOLD[key](value)
    counted = [f"{name} {value[name]}" for name in _COUNTERS if name in value]
    return ", ".join(counted) or f"{len(value)} counters"


def _share(value: Json) -> str:
    return f" ({value['of_floor']:.0%} of its floor's speed)" if "of_floor" in value else ""


def _rate(value: Json) -> str:
    time = f", {value['us']:.1f} us" if "us" in value else ""
    return f"{value['bytes_per_s'] / 1e12:.2f} TB/s{time}{_share(value)}"


def _step(value: Json) -> str:
    return f"{value.get('ms', value.get('mean_ms')):.3f} ms{_share(value)}, {value['tokens_per_s']:.0f} tokens/s"


def _breakdown(value: Json) -> str:
    gaps, waits = value["gaps_us_per_step"], value["waits_per_step"]
    return f"{value['busy_us_per_step']:.0f} us busy, {gaps:.0f} us of gaps, {waits:.2f} waits a step"


# By the first of these keys that a measurement has.
_TOLD: dict[str, Callable[[Json], str]] = {
    "error": lambda value: f"FAILED: {last_line(value['error'])}",
    "skipped": lambda value: f"skipped, {value['skipped']}",
    "bytes_per_s": _rate,
    "flops_per_s": lambda value: f"{value['flops_per_s'] / 1e12:.0f} TFLOP/s",
    "tokens_per_s": _step,
    "busy_us_per_step": _breakdown,
    "us_per_node": lambda value: f"{value['us_per_node']:.2f} us a node",
    "us": lambda value: f"{value['us']:.1f} us{_share(value)}",
    "host_us": lambda value: f"{value['host_us']:.1f} us of the host",
    "ms": lambda value: f"{1e3 * value['ms']:.1f} us",
    "ran": lambda _: "ran",
}


def as_text(kernels: list[Json]) -> list[str]:
    """A table of kernels for a terminal."""
    total = sum(row["us"] for row in kernels) or 1.0
    lines = [f"{'a step':>8} {'us':>9} {'each':>8} {'share':>6}  kernel"]
    for row in kernels[:_ROWS]:
        each, share = row["us"] / row["count"], row["us"] / total
        lines.append(f"{row['count']:8.1f} {row['us']:9.1f} {each:8.2f} {share:6.1%}  {row['kernel'][:_NAME]}")
    if rest := kernels[_ROWS:]:
        lines.append(f"{sum(r['count'] for r in rest):8.1f} {sum(r['us'] for r in rest):9.1f}  {len(rest)} other kernels")
    return lines


def report(result: Json) -> str:
    """A table for each section, the card first."""
    card, versions = result.get("card", {}), result["versions"]
    first = (
        f"{card.get('name', 'no card, a rehearsal')}, driver {card.get('driver_version', 'unknown')}, "
        f"{card.get('clocks.max.sm', 'unknown clock')} at most; torch {versions['torch']}, CUDA {versions['cuda']}; "
        f"dllm_fast {versions['dllm_fast']} at {result['commit'][:12]}, {result['taken']}."
    )
    parts = [first]
    for name, found in result["sections"].items():
        rows = [[case["what"], _cell(case)] for case in found.get("cases", [])]
        if why := found.get("skipped") or (found.get("error") and last_line(found["error"])):
            rows.append([f"the section: {why}", ""])
        parts.append(f"**{name.capitalize()}**\n\n" + table([name, "found"], rows))
    return "\n\n".join(parts)


def _cell(case: Json) -> str:
    return "; ".join(f"{name} {number(value)}" for name, value in case.items() if isinstance(value, dict))


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def last_line(text: str) -> str:
    """Of a traceback: what was raised."""
    return text.rstrip().splitlines()[-1][:200]
