"""What `bench/quality.py` measured, for people: JSON with a line for each point, README's section, the picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]

# Colours of Okabe and Ito, told apart by every kind of colour vision; markers say the same once more.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
    "#8A8A8A",
)

# Lines of the picture: family -> colour, marker, label. Families that are not here become grey dots.
LINES: dict[str, tuple[str, str, str]] = {
    "threshold": (BLUE, "o", "threshold (Fast-dLLM's rule, whole canvas)"),
    "entropy bound": (GREEN, "^", "entropy bound"),
    "factor": (SKY, "v", "factor (whole canvas)"),
    "threshold, blocks of 32": (PURPLE, "D", "threshold, blocks of 32"),
    "count, most confident": (BLACK, "s", "fixed count, most confident first (LLaDA)"),
    "count, left to right": (ORANGE, ">", "fixed count, left to right"),
    "count, random": (VERMILION, "x", "fixed count, random order"),
}


def listing(record: Record) -> str:
    """Every point on a line."""
    said = []
    for task, n in (("points", "n"), ("text_points", "text_n")):
        said.append(f"{task}, n = {record[n]}")
        for point in record[task]:
            low, high = point["share_95"]
            said.append(f"  {point['share']:.3f} [{low:.3f}, {high:.3f}]  {point['forwards']['mean']:6.2f}  {point['label']}")
    return "\n".join(said)


def percent(share: float) -> str:
    """`98.3 %`."""
    return f"{100 * share:.1f} %"


def interval(pair: Sequence[float]) -> str:
    """`97.9-99.1`, in percent."""
    return f"{100 * pair[0]:.1f}-{100 * pair[1]:.1f}"


def points_of(difference: float, pair: Sequence[float]) -> str:
    """`+8.5 (+6.2 to +10.8)`, in percentage points."""
    return f"{100 * difference:+.1f} ({100 * pair[0]:+.1f} to {100 * pair[1]:+.1f})"


def wrap(paragraph: str) -> str:
    """Lines as wide as README's."""
    return textwrap.fill(paragraph, 150, break_long_words=False, break_on_hyphens=False)


def section(record: Record) -> str:
    """README's section on quality, all numbers from the record."""
    found, again = record["sudoku"], record["confirmation"]
    points = {point["label"]: point for point in record["points"]}
    chosen, base = points[record["recommended"]], points["llada"]
    text = {point["label"]: point for point in record["text"]["points"]}

    def cells(label: str) -> str:
        point = points[label]
        classes = " | ".join(percent(point["classes"][name]["share"]) for name in record["givens"])
        forwards = point["forwards"]
        name = f"**`{label}`**" if label == record["recommended"] else f"`{label}`"
        spread = f"{forwards['mean']:.2f} ± {forwards['sd']:.2f}" if forwards["sd"] else f"{forwards['mean']:.0f}"
        return f"| {name} | {spread} | {percent(point['share'])} ({interval(point['share_95'])}) | {classes} |"

    givens = ", ".join(f"{name} {low}-{high}" for name, (low, high) in record["givens"].items())
    head = f"| setting | forwards | solved (95 %) | {' | '.join(record['givens'])} |\n| --- | --- | --- | --- | --- | --- |"

    def rows(comparisons: Sequence[Record]) -> str:
        return "\n".join(
            f"| `{c['a']}` | `{c['b']}` | {c['a_forwards']:.2f} / {c['b_forwards']:.2f} | "
            f"{percent(c['a_share'])} / {percent(c['b_share'])} | {points_of(c['difference'], c['difference_95'])} |"
            for c in comparisons
        )

    versus = "| a | b | forwards a / b | solved a / b | a - b, points (95 %) |\n| --- | --- | --- | --- | --- |"
    by_row = record["threshold_against_fixed_count_row_by_row"]
    blind = [c for c in record["confidence_against_blind_orders"] if c["b"].startswith("llada-random")]
    confirmed = again["points"][0]
    against = next(c for c in again["comparisons"] if c["b"] == "llada")
    intro = (
        f"The embedded Sudoku model on {record['n']} fresh puzzles ({givens} givens; none of the solutions occurs in training). "
        f"Every rule gets the same puzzles and the same seeds: {len(record['points'])} settings, each preset at several "
        "(`python -m bench.quality`; all of them in [`bench/results/quality.json`](bench/results/quality.json)). "
        "The Pareto front, where no other setting solves as many with fewer forwards:"
    )
    take = (
        f"**The setting to take** is `{record['recommended']}`: the fewest forwards on the front within one point of the best. "
        f"It solves {percent(chosen['share'])} in {chosen['forwards']['mean']:.1f} forwards where one cell a forward solves "
        f"{percent(base['share'])} in {base['forwards']['mean']:.1f}. On {again['n']} further puzzles that had no part in the "
        f"choice it solves {percent(confirmed['share'])} ({interval(confirmed['share_95'])}) in "
        f"{confirmed['forwards']['mean']:.1f} forwards, one cell a forward {percent(against['b_share'])}: a difference of "
        f"{points_of(against['difference'], against['difference_95'])} points."
    )
    sure = text["fast-dllm(block_length=None, threshold=0.9)"]
    other = (
        f"The same function measures the text model with a checker of its own (exact answers to {record['text']['n']} fresh "
        f"prompts): {percent(text['llada']['share'])} at one character a forward ({text['llada']['forwards']['mean']:.1f} "
        f"forwards), {percent(sure['share'])} in {sure['forwards']['mean']:.1f} with a threshold of 0.9."
    )
    return "\n\n".join(
        [
            "![Solved puzzles against forwards, for each rule](bench/results/quality.svg)",
            wrap(intro),
            "\n".join([head, *(cells(label) for label in record["pareto"])]),
            "For comparison:",
            "\n".join([head, *(cells(label) for label in ("llada", "llada-random") if label not in record["pareto"])]),
            "**Confidence beats random order** at equal forwards:",
            f"{versus}\n{rows(blind)}",
            wrap(
                "**A threshold beats a fixed count** at equal forwards. First against the fixed count with at least as many "
                "forwards on average, then against a fixed count that gets, on each single puzzle, exactly the forwards that "
                "the threshold took there:"
            ),
            f"{versus}\n{rows([*record['threshold_against_fixed_count'], *by_row])}",
            wrap(take),
            wrap(other),
        ]
    )


def draw(record: Record, path: Path) -> None:
    """The picture: all puzzles on the left, the three difficulties on the right."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    points = record["points"]
    style: Any = {
        "font.size": 9,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "svg.hashsalt": "quality",
        "svg.fonttype": "path",
    }

    def line(axes: Any, chosen: Sequence[Record], part: str | None, **look: Any) -> None:
        """Points in order of forwards with their 95 % intervals."""
        parts = [point if part is None else point["classes"][part] for point in chosen]
        parts = sorted(parts, key=lambda p: p["forwards"]["mean"])
        x, y = [p["forwards"]["mean"] for p in parts], [100 * p["share"] for p in parts]
        below = [v - 100 * p["share_95"][0] for v, p in zip(y, parts, strict=True)]
        above = [100 * p["share_95"][1] - v for v, p in zip(y, parts, strict=True)]
        axes.errorbar(x, y, yerr=[below, above], elinewidth=0.8, capsize=0, linewidth=1.3, markersize=4.5, **look)

    def family(name: str) -> list[Record]:
        return [point for point in points if point["family"] == name]

    with plt.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.2), sharey=True, width_ratios=(3, 2), layout="constrained")
        others = [point for point in points if point["family"] not in LINES]
        left.scatter(
            [point["forwards"]["mean"] for point in others],
            [100 * point["share"] for point in others],
            s=11,
            color=GREY,
            linewidth=0,
            label="other presets and settings",
        )
        for name, (colour, marker, label) in LINES.items():
            line(left, family(name), None, color=colour, marker=marker, label=label)
        front = [point for point in points if point["label"] in record["pareto"]]
        left.scatter(
            [point["forwards"]["mean"] for point in front],
            [100 * point["share"] for point in front],
            s=95,
            facecolor="none",
            edgecolor=BLACK,
            linewidth=0.9,
            zorder=5,
            label="Pareto front",
        )
        chosen = next(point for point in points if point["label"] == record["recommended"])
        at = (chosen["forwards"]["mean"], 100 * chosen["share"])
        left.annotate("recommended", at, (at[0], 106), ha="center", arrowprops={"arrowstyle": "-", "linewidth": 0.8})
        left.set_title(f"all {record['n']} puzzles", loc="left", fontsize=10)

        looks = {"easy": (GREEN, "-"), "medium": (BLUE, "-"), "hard": (VERMILION, "-")}
        for part, (colour, _) in looks.items():
            low, high = record["givens"][part]
            look = {"color": colour, "marker": "o", "label": f"{part} ({low}-{high} givens): threshold"}
            line(right, family("threshold"), part, **look)
            look = {"color": colour, "marker": "s", "linestyle": "--", "markerfacecolor": "white", "label": "fixed count"}
            line(right, family("count, most confident"), part, **look)
        right.set_title("by difficulty", loc="left", fontsize=10)

        ticks = (1, 2, 3, 5, 10, 20, 50)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.set_xlabel("forwards for a puzzle (mean, logarithmic)")
            axes.set_ylim(-3, 109)
            axes.set_yticks(range(0, 101, 20))
        left.set_ylabel("puzzles solved, % (bars: 95 % interval)")
        left.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        right.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 110}
        figure.savefig(path, facecolor="white", **options)
        plt.close(figure)
