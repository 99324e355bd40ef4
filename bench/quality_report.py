"""What `bench/quality.py` measured, for people: a listing, README's section, the picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import harness

Record = Mapping[str, Any]

# Colours of Okabe and Ito, told apart by every kind of colour vision; markers say the same once more.
BLACK, GREY = "#000000", "#8A8A8A"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"

# Lines of the picture: family -> colour, marker, label. Families that are not here become grey dots.
LINES: dict[str, tuple[str, str, str]] = {
    "threshold": (BLUE, "o", "threshold (rule of Fast-dLLM)"),
    "factor": (SKY, "v", "factor (rule of Fast-dLLM)"),
    "entropy bound": (GREEN, "^", "entropy bound"),
    "threshold, blocks of 32": (PURPLE, "D", "threshold, blocks of 32"),
    "count, most confident": (BLACK, "s", "fixed count, most confident first"),
    "count, left to right": (ORANGE, ">", "fixed count, left to right"),
    "count, random": (VERMILION, "X", "fixed count, random order"),
}
# From viridis: told apart by their brightness, and not those of the lines.
CLASSES = {"easy": "#35B779", "medium": "#31688E", "hard": "#440154"}
ON_AVERAGE = "threshold_against_fixed_count_with_no_fewer_forwards"
BY_ROW = "threshold_against_fixed_count_with_its_forwards_on_every_row"


BEGIN, END = "<!-- quality -->", "<!-- /quality -->"


def placed(document: str, block: str) -> str:
    """`document` with what stands between the markers replaced by `block`; unchanged where it has no markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}{END}{after}" if begin and end else document


def listing(record: Record) -> str:
    """Every point on a line."""
    said = []
    for task, n in (("points", "n"), ("text_points", "text_n")):
        said.append(f"{task}, n = {record[n]}")
        for point in record[task]:
            low, high = point["share_95"]
            said.append(f"  {point['share']:.3f} [{low:.3f}, {high:.3f}]  {point['forwards']['mean']:6.2f}  {point['label']}")
    return "\n".join(said)


def section(record: Record) -> str:
    """README's section on quality; every number comes from the record."""
    points, again = _by_label(record["points"]), _by_label(record["confirmation_points"])
    chosen, one = points[record["recommended"]], points["llada"]
    versus_one = next(c for c in record["confirmation_recommended_against"] if c["b"] == "llada")
    in_order = next(c for c in record["confident_against_blind_order"] if c["b"] == "llada-random")
    above = min(_better_than_counts(record))
    fixed = next(c for c in record[ON_AVERAGE] if _threshold(c) == 0.99)
    by_row = next(c for c in record[BY_ROW] if _threshold(c) == 0.99)
    presets = len({point["preset"] for point in record["points"]})
    givens = ", ".join(f"{name} {low}-{high}" for name, (low, high) in record["givens"].items())
    return _paragraphs(
        "![Solved puzzles against forwards, a line for each rule](bench/results/quality.svg)",
        f"""The embedded Sudoku model on {record["n"]} fresh puzzles ({givens} givens; by hash, none of the solutions is in
        training) under {len(record["points"])} settings of {presets} presets, with the same puzzles and seeds for each
        (`python -m bench.quality`; all points in [`quality.json`](bench/results/quality.json), comparisons in
        [`bench/README.md`](bench/README.md)). The Pareto front, where no other setting solves as many with fewer forwards,
        and two settings beside it:""",
        _front(record),
        f"""Differences in points on the same puzzles, with 95 % intervals: the most confident cell first beats random order at
        one cell a forward by {_difference(in_order)}. A threshold beats a fixed count at equal forwards from {above:g} upwards,
        and loses below {_first_loss(record)}, where it commits guesses. At 0.99 it takes {fixed["a_forwards"]:.1f} forwards on
        average; the difference is {_difference(fixed)} to a fixed count of {fixed["b_forwards"]:.0f} forwards, and
        {_difference(by_row)} to a fixed count that gets, on every single puzzle, the forwards that the threshold took
        there.""",
        f"""**The setting to take** is {_code(chosen)}: the fewest forwards on the front for which the interval excludes a loss
        of more than one point against the best. On {record["confirmation_n"]} further puzzles, which had no part in the choice,
        it solves {_solved(again[chosen["label"]])} in {again[chosen["label"]]["forwards"]["mean"]:.1f} forwards, and one cell a
        forward {_solved(again[one["label"]])} in {again[one["label"]]["forwards"]["mean"]:.1f}: a difference of
        {_difference(versus_one)} points. `dllm-fast demo` therefore takes it.""",
    )


def details(record: Record) -> str:
    """The comparisons for `bench/README.md`."""
    text = _by_label(record["text_points"])
    sure = next(p for p in record["text_points"] if p["family"] == "threshold" and p["over"]["threshold"] == 0.9)
    points = _by_label(record["points"])
    blocks = _best_of(record, "threshold, blocks of 32")
    bound = _best_of(record, "entropy bound")
    reverse = _best_of(record, "reverse process, greedy", "reverse process, temperature 1", "first hitting")
    return _paragraphs(
        "The most confident first against random order, with the same number of forwards on every puzzle:",
        _orders(record),
        """A threshold on the confidence against the most confident first in a fixed number of steps: with no fewer forwards on
        average, and with exactly the forwards that the threshold took on each single puzzle. A threshold spends its forwards
        where a puzzle is hard; that it wins the second comparison, too, says that it also spreads them better within one. A low
        threshold commits guesses, and loses.""",
        _counts(record),
        f"""Confidence, margin and entropy order the cells about equally well: at one cell a forward they solve
        {_percent(points["llada"]["share"])}, {_percent(points["dream-margin(schedule=even)"]["share"])} and
        {_percent(points["dream-entropy(schedule=even)"]["share"])}. With tokens drawn at temperature 1 the most confident
        first solves {_solved(points["llada(temperature=1.0, order=sampled-confidence)"])} where it looks at the probability of
        the drawn token, {_solved(points["llada(temperature=1.0, order=confidence)"])} where it looks at the distribution.""",
        f"""What does worse here, and why. Blocks: the first cells must be finished before the others, however unsure they are;
        `fast-dllm` and its thresholds with blocks of 32 solve {_percent(blocks["share"])} at best. The entropy bound leaves the
        largest entropy out of its sum, so that every forward also commits the first cell that is *not* sure; it solves
        {_percent(bound["share"])} at best, in {bound["forwards"]["mean"]:.1f} forwards. The reverse process (`mdlm`,
        `first-hitting`, `dream-origin`) does not look at confidence at all and lies with the random order, at
        {_percent(reverse["share"])} at best.""",
        f"""The same function measures the text model with a checker of its own ({record["text_n"]} fresh prompts, answers to
        the letter): {_solved(text["llada"])} at one character a forward, {_solved(sure)} in
        {sure["forwards"]["mean"]:.1f} forwards with a threshold of 0.9, {_solved(text["llada-random"])} in random order. Its
        answers hardly depend on the order, so it ranks none.""",
    )


def _paragraphs(*texts: str) -> str:
    """Prose wrapped as wide as README's; tables and pictures as they are."""
    wrapped = (
        t
        if t.startswith(("|", "!"))
        else textwrap.fill(" ".join(t.split()), 150, break_long_words=False, break_on_hyphens=False)
        for t in texts
    )
    return "\n\n".join(wrapped) + "\n"


def _by_label(points: Sequence[Record]) -> dict[str, Record]:
    return {point["label"]: point for point in points}


def _best_of(record: Record, *families: str) -> Record:
    return max((p for p in record["points"] if p["family"] in families), key=lambda p: float(p["share"]))


def _threshold(comparison: Record) -> float:
    return float(comparison["a"].partition("threshold=")[2].rstrip(")"))


def _better_than_counts(record: Record) -> list[float]:
    """The thresholds from which on every interval of both comparisons lies above 0."""
    losing = [_threshold(c) for c in (*record[ON_AVERAGE], *record[BY_ROW]) if c["difference_95"][0] <= 0]
    return [t for c in record[BY_ROW] if (t := _threshold(c)) > max(losing, default=0)]


def _first_loss(record: Record) -> str:
    """The lowest threshold that does not lose in either comparison."""
    losing = [_threshold(c) for c in (*record[ON_AVERAGE], *record[BY_ROW]) if c["difference_95"][1] < 0]
    return f"{min(t for c in record[BY_ROW] if (t := _threshold(c)) > max(losing, default=0)):g}"


def _front(record: Record) -> str:
    points, names = _by_label(record["points"]), list(record["givens"])
    lines = [f"| setting | forwards | solved (95 %) | {' | '.join(names)} |", "| --- " * (3 + len(names)) + "|"]
    for label in dict.fromkeys([*record["pareto"], "llada", "llada-random"]):
        point = points[label]
        forwards = point["forwards"]
        mean = f"{forwards['mean']:.1f} ± {forwards['sd']:.1f}" if forwards["sd"] else f"{forwards['mean']:.0f}"
        shares = " | ".join(_percent(point["classes"][name]["share"]) for name in names)
        name = f"**{_code(point)}**" if label == record["recommended"] else _code(point)
        name += "" if label in record["pareto"] else " (not on the front)"
        lines.append(f"| {name} | {mean} | {_percent(point['share'])} ({_interval(point)}) | {shares} |")
    return "\n".join(lines)


def _orders(record: Record) -> str:
    lines = ["| forwards | most confident | random | difference, points (95 %) |", "| --- | --- | --- | --- |"]
    for c in record["confident_against_blind_order"]:
        if c["b"].startswith("llada-random"):
            forwards = f"{c['a_forwards']:.1f}, one cell a forward" if c["b"] == "llada-random" else f"{c['a_forwards']:.0f}"
            lines.append(f"| {forwards} | {_percent(c['a_share'])} | {_percent(c['b_share'])} | {_difference(c)} |")
    return "\n".join(lines)


def _counts(record: Record) -> str:
    average = {c["a"]: c for c in record[ON_AVERAGE]}
    head = (
        "threshold",
        "forwards",
        "solved",
        "fixed, on average",
        "difference (95 %)",
        "fixed, each puzzle",
        "difference (95 %)",
    )
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for c in record[BY_ROW]:
        cells = [f"{_threshold(c):g}", f"{c['a_forwards']:.2f}", _percent(c["a_share"])]
        fixed = average.get(c["a"])
        cells += [f"{_percent(fixed['b_share'])} in {fixed['b_forwards']:.0f}", _difference(fixed)] if fixed else ["", ""]
        cells += [_percent(c["b_share"]), _difference(c)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _code(point: Record) -> str:
    """A setting as one types it."""
    over = ", ".join(f"{name}={value!r}" for name, value in point["over"].items())
    return f"`{point['preset']}`" + (f" with `{over}`" if over else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(point: Record) -> str:
    low, high = point["share_95"]
    return f"{100 * low:.1f}-{100 * high:.1f}"


def _solved(point: Record) -> str:
    return f"{_percent(point['share'])} ({_interval(point)})"


def _difference(c: Record) -> str:
    low, high = c["difference_95"]
    return f"{100 * c['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def draw(record: Record, path: Path) -> None:
    """The picture: all puzzles on the left, the difficulties on the right."""
    plt = harness.pyplot()
    style: Any = {
        "font.size": 10,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.6,
        "svg.fonttype": "path",
        "svg.hashsalt": "quality",
    }
    with plt.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.5), sharey=True, width_ratios=(3, 2))
        figure.subplots_adjust(left=0.065, right=0.985, top=0.94, bottom=0.315, wspace=0.07)
        _draw_rules(left, record)
        _draw_classes(right, record)
        for axes in (left, right):
            _scales(axes)
        left.set_ylabel("puzzles solved, % (bars: 95 % intervals)")
        if path.suffix == ".svg":
            figure.savefig(path, facecolor="white", metadata={"Date": None})
        else:
            figure.savefig(path, facecolor="white", dpi=110)
        plt.close(figure)


def _draw_rules(axes: Any, record: Record) -> None:
    points = record["points"]
    for name, (colour, marker, label) in LINES.items():
        family = [point for point in points if point["family"] == name]
        _line(axes, family, color=colour, marker=marker, label=label)
    _scatter(axes, [p for p in points if p["family"] not in LINES], s=12, color=GREY, label="other presets and settings")
    front = [point for point in points if point["label"] in record["pareto"]]
    _scatter(axes, front, s=90, facecolor="none", edgecolor=BLACK, linewidth=0.9, zorder=5, label="Pareto front")
    chosen = next(point for point in points if point["label"] == record["recommended"])
    x, y = chosen["forwards"]["mean"], 100 * chosen["share"]
    axes.annotate("recommended", (x, y + 1.5), (x, 105.5), ha="center", arrowprops={"arrowstyle": "-", "linewidth": 0.8})
    axes.set_title(f"all {record['n']} puzzles", loc="left", fontsize=10.5)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


def _draw_classes(axes: Any, record: Record) -> None:
    from matplotlib.lines import Line2D

    for name, colour in CLASSES.items():
        for family, look in (
            ("threshold", {"marker": "o"}),
            ("count, most confident", {"marker": "s", "linestyle": "--", "markerfacecolor": "white"}),
        ):
            parts = [point["classes"][name] for point in record["points"] if point["family"] == family]
            _line(axes, parts, color=colour, **look)
    axes.set_title("by difficulty", loc="left", fontsize=10.5)
    handles = [
        Line2D([], [], color=colour, linewidth=4, label=f"{name} ({low}-{high} givens)")
        for (name, colour), (low, high) in zip(CLASSES.items(), record["givens"].values(), strict=True)
    ]
    handles.append(Line2D([], [], color=BLACK, marker="o", label="threshold 0.5 to 0.999"))
    handles.append(
        Line2D(
            [], [], color=BLACK, marker="s", markerfacecolor="white", linestyle="--", label="fixed count, most confident first"
        )
    )
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def _line(axes: Any, points: Sequence[Record], **look: Any) -> None:
    """Points joined in order of forwards, with their intervals."""
    points = sorted(points, key=lambda p: float(p["forwards"]["mean"]))
    x, y = [p["forwards"]["mean"] for p in points], [100 * p["share"] for p in points]
    low = [v - 100 * p["share_95"][0] for v, p in zip(y, points, strict=True)]
    high = [100 * p["share_95"][1] - v for v, p in zip(y, points, strict=True)]
    axes.errorbar(x, y, yerr=[low, high], elinewidth=0.9, linewidth=1.4, markersize=4.5, **look)


def _scatter(axes: Any, points: Sequence[Record], **look: Any) -> None:
    axes.scatter([p["forwards"]["mean"] for p in points], [100 * p["share"] for p in points], **look)


def _scales(axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 3, 5, 10, 20, 50], labels=["1", "2", "3", "5", "10", "20", "50"])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.9, 62)
    axes.set_xlabel("forwards a puzzle, mean")
    axes.set_ylim(-2, 109)
    axes.set_yticks(range(0, 101, 20))
