"""Floors and estimates of every kernel and of a step, as tables: `python -m bench.on_gpu.estimate`.

Without options those of docs/cuda.md, for an H200 and an H100; `--copy`, `--clock` and `--multiprocessors` for another card.
The model is `cost`, what is compiled comes from results/compiled.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence

from bench.on_gpu import compiled
from bench.on_gpu.compiled import Code
from bench.on_gpu.cost import attention, prediction
from bench.on_gpu.cost.attention import MERGED, TODAY, WGMMA, Seen
from bench.on_gpu.cost.card import COMMIT_S, H100, H200, HOST_S, Card, Estimate
from bench.on_gpu.cost.step import (
    AS_IT_IS,
    IN_8_BITS,
    ON_PAPER,
    SMALL,
    Build,
    experts_layer,
    llada_step,
    rows_of_graph,
    small,
)
from bench.on_gpu.floors import Rates
from bench.on_gpu.told import report, table

MERGED_ALONE = Build(form=MERGED)
RESULTS = compiled.PATH.parent / "gpu"


_DRAWS = {"greedy": {}, "T=0.7": {"temperature": 0.7}, "T=1 top-p": {"temperature": 1.0, "top_p": 0.9}}
_SIZES = [(rows, vocabulary) for vocabulary in (126_464, 262_144) for rows in (32, 512, 2048)]
_SEEN = [Seen(kv_heads=kv_heads, keys=keys) for kv_heads in (32, 8) for keys in (768, 4096, 32_768)]


def operations_table(cards: Sequence[Card], codes: dict[str, Code]) -> str:
    """Floors and estimates of operations, however many kernels they are."""
    rows: list[list[object]] = []
    for n, vocabulary in _SIZES:
        for name, draw in _DRAWS.items():
            found = [prediction.mask_prediction(card, codes, n, vocabulary, **draw) for card in cards]
            rows.append(_row(f"mask prediction, {name}", f"{n} x {vocabulary:,}", found))
    for seen in _SEEN:
        rows.append(_row("attention", _seen(seen), [attention.attention(card, codes, seen) for card in cards]))
    rows.append(_row("experts", "256, 8 of each of 32 tokens, 162 met", [experts_layer(card) for card in cards]))
    return table(_head("operation", cards), rows)


def kernels_table(cards: Sequence[Card], codes: dict[str, Code]) -> str:
    """Floors and estimates of every kernel."""
    rows: list[list[object]] = []

    def add(size: str, found: Sequence[dict[str, Estimate]], names: Iterable[str] | None = None) -> None:
        for name in found[0] if names is None else names:
            rows.append(_row(name, size, [one[name] for one in found]))

    def predicted(n: int, draw: dict[str, float]) -> list[dict[str, Estimate]]:
        return [prediction.kernels(card, codes, n, 126_464, **draw) for card in cards]  # type: ignore[arg-type]

    for n in (32, 2048):
        add(f"{n} x 126,464", predicted(n, _DRAWS["T=1 top-p"]))
        add(f"{n} x 126,464", predicted(n, _DRAWS["T=0.7"]), ["tempered tiles"])
    add("1 row of 32", [{"commit": Estimate(floor_s=2e3 / card.rates.copy, s=COMMIT_S, limit="latency")} for card in cards])
    for seen in (Seen(keys=768), Seen(batch=32, keys=768), Seen(kv_heads=8, keys=32_768)):
        add(_seen(seen), [attention.kernels(card, codes, seen) for card in cards])
    for name in SMALL:
        for tokens in (32, 1024):
            size = f"{tokens:,} x {'4,096' if name in ('add_norm', 'quantise') else '12,288'}"
            add(size, [{name: small(card, name, tokens)} for card in cards])
    return table(_head("kernel", cards), rows)


def _head(what: str, cards: Sequence[Card]) -> list[str]:
    each = (text for card in cards for text in (f"{card.name}: floor", "estimate, of the floor"))
    return [what, "size", *each, f"limited on an {cards[0].name} by"]


def _row(name: str, size: str, found: Sequence[Estimate]) -> list[object]:
    return [name, size, *(cell for one in found for cell in _cells(one)), found[0].limit]


def _seen(seen: Seen) -> str:
    return f"batch {seen.batch}, 32/{seen.kv_heads} heads, {seen.keys:,} keys"


def step_table(cards: Sequence[Card], codes: dict[str, Code]) -> str:
    """The step of LLaDA-8B's shape by part, today and with what is on paper."""
    builds = {"today": AS_IT_IS, "own skinny products, merged splits": ON_PAPER, "FP8 by torch": IN_8_BITS}
    forms = [(name, [llada_step(card, codes, build) for card in cards]) for name, build in builds.items()]
    rows: list[list[object]] = []
    for part in forms[-1][1][0].parts:
        rows.append([part, *(_ms(step.parts.get(part, 0.0)) for _, steps in forms for step in steps)])
    rows.append(["**a step begun ahead**", *(f"**{_ms(step.s)}**" for _, steps in forms for step in steps)])
    rows.append(["a step that waits", *(_ms(step.s + HOST_S) for _, steps in forms for step in steps)])
    rows.append(["floor", *(_ms(step.floor_s) for _, steps in forms for step in steps)])
    head = ["ms", *(f"{name}, {card.name}" for name, _ in forms for card in cards)]
    return table(head, rows)


def batches_table(cards: Sequence[Card], codes: dict[str, Code]) -> str:
    """The same step by batch, and tokens in a second where each row commits one a step."""
    rows: list[list[object]] = []
    for batch in (1, 8, 9, 16, 32):
        cells: list[object] = []
        for card in cards:
            now, later = (llada_step(card, codes, build, batch=batch) for build in (AS_IT_IS, MERGED_ALONE))
            cells += [_ms(now.floor_s), f"{_ms(now.s)}, {now.floor_s / now.s:.0%}", f"{batch / now.s:,.0f}", _ms(later.s)]
        rows.append([batch, rows_of_graph(batch), *cells])
    head = [
        f"{card.name}: {text}"
        for card in cards
        for text in ("floor, ms", "step, of the floor", "tokens/s", "with merged splits")
    ]
    return table(["batch", "rows of the graph", *head], rows)


def clusters_table(cards: Sequence[Card], codes: dict[str, Code]) -> str:
    """Attention today and with its splits merged in a cluster."""
    rows: list[list[object]] = []
    for seen in (Seen(), Seen(batch=8), Seen(batch=32), Seen(kv_heads=8, keys=4096), Seen(kv_heads=8, keys=32_768)):
        cells: list[object] = []
        for card in cards:
            forms = [1e6 * attention.attention(card, codes, seen, form).s for form in (TODAY, MERGED, WGMMA)]
            cells += [f"{us:.0f} us" for us in forms]
        rows.append([f"batch {seen.batch}, 32/{seen.kv_heads} heads, {seen.keys:,} keys", *cells])
    head = ["32 queries", *(f"{card.name}: {form}" for card in cards for form in ("today", "merged", "merged, wgmma"))]
    return table(head, rows)


def code_table(codes: dict[str, Code]) -> str:
    """What was compiled."""
    rows = [
        [name, code.registers, code.instructions, code.loop or "unrolled", _per_round(code)] for name, code in codes.items()
    ]
    return table(["kernel", "registers", "instructions", "of them in its loop", "a round of the loop"], rows)


def _per_round(code: Code) -> str:
    told = [f"{n} {name}" for name, n in code.opcodes.items() if name in ("HMMA", "LDSM", "ATOMS", "BAR", "MUFU")]
    read = [f"{n} bytes by {name}" for name, n in code.read.items() if n]
    return ", ".join(told + read)


def _cells(found: Estimate) -> tuple[str, str]:
    return f"{1e6 * found.floor_s:.1f} us", f"{1e6 * found.s:.0f} us, {found.share:.0%}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def measured() -> str:
    """What `bench/gpu.py` found on each card of which a result is committed."""
    found = [report(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(RESULTS.glob("*gpu.json"))]
    return "\n\n".join(found) or "Not measured yet."


def blocks(cards: Sequence[Card] = (H200, H100)) -> dict[str, str]:
    """The tables of docs/cuda.md by the names of their places."""
    codes = compiled.load()
    return {
        "operations": operations_table(cards, codes),
        "kernels": kernels_table(cards, codes),
        "step": step_table(cards, codes),
        "batches": batches_table(cards, codes),
        "clusters": clusters_table(cards, codes),
        "code": code_table(codes),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.on_gpu.estimate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--copy", type=float, help="TB/s that a copy reads and writes on the card")
    parser.add_argument("--flops", type=float, default=790, help="TFLOP/s of a large bfloat16 product (790)")
    parser.add_argument("--clock", type=float, default=1.755, help="GHz of its multiprocessors (1.755)")
    parser.add_argument("--multiprocessors", type=int, default=132, help="how many it has (132)")
    options = parser.parse_args(argv)
    cards: tuple[Card, ...] = (H200, H100)
    if options.copy:
        rates = Rates(copy=options.copy * 1e12, flops=options.flops * 1e12)
        card = Card(name="card", rates=rates, multiprocessors=options.multiprocessors, clock=options.clock * 1e9)
        cards = (card,)
    print("\n\n".join(blocks(cards).values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
