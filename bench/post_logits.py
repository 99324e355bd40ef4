"""How long does one step take after the logits, ours against plain torch? `python -m bench.post_logits`.

Every case is one shape, dtype, mode and number of threads. All forms are checked against float64 first, then timed in
turn. The logits are Gaussian with standard deviation 3, and one row in four is sure (one id 25 higher). Successive calls
read successive parts of a pool that is larger than the caches, as after a model whose weights went through them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import dllm_fast
from bench import forms, harness
from bench.harness import Effort, Json

ROWS = (1, 8, 32, 256)
VOCABULARIES = (32_000, 126_464, 262_144)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
POOL = 256 * 262_144
MEMORY_LIMIT = 6e9
# A form that would need longer for one call is left out: its cost per row is known from fewer rows.
SLOWEST_S = 2.0
CHECKED_ROWS = 32
TOP_K, TOP_P, MIN_P = 50, 0.95, 0.05

OURS, COMPILED = "dllm_fast", "compiled float32"
RETURNS = {
    OURS: "token, its probability, the two largest, entropy, log-sum-exp; probabilities before the filter",
    "softmax in own dtype": "token, its probability (LLaDA)",
    "float32": "token, its probability (diffusers)",
    "float32 first": "token, its probability (nobody's: widened before the argmax as well)",
    "float64": "token, its probability (Fast-dLLM)",
    COMPILED: "token, its probability (torch.compile, dynamic shapes)",
    "margin by sort": "token, margin (Dream)",
    "margin by top-2": "token, margin",
    "float64 Gumbel": "token, its probability before the temperature (LLaDA)",
    "multinomial": "token, its probability (diffusers)",
    "sort": "token, its probability after the filter (Dream, diffusers)",
    "topk": "token, its probability after the filter (diffusers)",
    "mask": "token, its probability after the filter (vLLM)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """A way to choose tokens.

    Attributes:
        ours: settings of `mask_predict`.
        theirs: the forms that do the same work.
        width: bytes that the widest temporaries of a form take for every logit, an upper bound.
    """

    ours: dict[str, Any]
    theirs: dict[str, forms.TokenForm]
    width: int


MODES = {
    "T=0": Mode(
        ours={},
        theirs={
            "softmax in own dtype": forms.own_dtype,
            "float32": forms.float32,
            "float32 first": forms.float32_first,
            "float64": forms.float64,
            "margin by sort": forms.margin_by_sort,
            "margin by top-2": forms.margin_by_topk,
        },
        width=24,
    ),
    "T=1": Mode(
        ours={"temperature": 1.0},
        theirs={"float64 Gumbel": forms.gumbel_float64, "multinomial": forms.multinomial},
        width=40,
    ),
    "top-p 0.95": Mode(ours={"temperature": 1.0, "top_p": TOP_P}, theirs={"sort": forms.top_p_by_sort}, width=40),
    "top-k 50": Mode(ours={"temperature": 1.0, "top_k": TOP_K}, theirs={"topk": forms.top_k_by_topk}, width=24),
    "min-p 0.05": Mode(ours={"temperature": 1.0, "min_p": MIN_P}, theirs={"mask": forms.min_p_by_mask}, width=24),
}


def main(argv: Sequence[str] | None = None) -> None:
    options = harness.arguments(__doc__, argv)
    others = harness.Others()
    quick: bool = options.quick
    effort = harness.QUICK if quick else Effort()
    counts = sorted({1, harness.cores()})
    compiled, why = (None, "quick run") if quick else _compiled()
    pool = Pool(8 * VOCABULARIES[0] * 4 if quick else POOL)
    bandwidth = {str(n): harness.copy_bandwidth(n, mib=32 if quick else 256, samples=3 if quick else 15) for n in counts}

    cases: list[Json] = []
    slow: dict[tuple[object, ...], float] = {}
    with torch.inference_mode():
        for dtype, vocabulary in itertools.product(DTYPES, VOCABULARIES[:1] if quick else VOCABULARIES):
            views = pool.of(DTYPES[dtype], vocabulary)
            for mode, rows in itertools.product(MODES, (1, 8) if quick else ROWS):
                for count in counts[-1:] if quick else counts:
                    case = {"rows": rows, "vocabulary": vocabulary, "dtype": dtype, "mode": mode, "threads": count}
                    theirs = dict(MODES[mode].theirs)
                    if dtype == "float32":  # would be the same form three times
                        for name in ("softmax in own dtype", "float32 first"):
                            theirs.pop(name, None)
                    skipped = {}
                    if mode == "T=0":
                        if compiled is None:
                            skipped[COMPILED] = why
                        else:
                            theirs[COMPILED] = compiled
                    with harness.threads(count):
                        measured = _case(views, case, theirs, effort, slow)
                    measured["forms"] |= {name: {"skipped": reason} for name, reason in skipped.items()}
                    bytes_read = rows * vocabulary * views.itemsize
                    ours_s = measured["forms"][OURS]["seconds"]["median"]
                    share = bytes_read / ours_s / bandwidth[str(count)]["median"]
                    cases.append(case | {"bytes_read": bytes_read, "share_of_copy_bandwidth": share} | measured)
                    harness.progress(_line(cases[-1]))
    content = {
        "logits": "Gaussian, standard deviation 3; one row in four has one id 25 higher; read cold, from a pool of "
        f"{pool.size * 4 >> 20} MiB in float32",
        "returns": RETURNS,
        "compiled": why or "torch.compile(dynamic=True, fullgraph=True)",
        "copy_bytes_per_s": bandwidth,
        "cases": cases,
    }
    harness.progress(str(harness.write("post_logits", options.out, content, quick=quick, others=others)))


class Pool:
    """Logits for all cases, in one piece of memory for each dtype."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 3

    def of(self, dtype: torch.dtype, vocabulary: int) -> Tensor:
        """`[N, vocabulary]`, as many rows as there are."""
        rows = self.size // vocabulary
        logits = self._values[: rows * vocabulary].reshape(rows, vocabulary).to(dtype, copy=True)
        sure = torch.arange(0, rows, 4)
        logits[sure, sure * 7919 % vocabulary] += 25
        return logits


def _case(
    logits: Tensor, case: Json, theirs: dict[str, forms.TokenForm], effort: Effort, slow: dict[tuple[object, ...], float]
) -> Json:
    """Checks and times all forms of a case. `slow` remembers the seconds per row of every form at this vocabulary."""
    mode = MODES[case["mode"]]
    rows = case["rows"]
    functions: dict[str, Callable[[Tensor], object]] = {OURS: partial(dllm_fast.mask_predict, **mode.ours)}
    skipped = {}
    for name, form in theirs.items():
        needed = rows * case["vocabulary"] * mode.width
        key = (name, case["vocabulary"], case["dtype"], case["threads"])
        expected = slow.get(key, 0.0) * rows
        if needed > MEMORY_LIMIT:
            skipped[name] = f"would need about {needed / 1e9:.0f} GB"
        elif expected > SLOWEST_S:
            skipped[name] = f"one call would take about {expected:.0f} s; its cost is linear in the rows"
        else:
            functions[name] = form
    errors, estimates = {}, {}
    for name, function in functions.items():
        view = logits[:rows]
        began = time.perf_counter()
        try:
            answer = function(view)
        except Exception as error:
            if name != COMPILED:
                raise
            skipped[name] = _short(error)
            continue
        estimates[name] = time.perf_counter() - began
        errors[name] = check(case["mode"], name, view, answer)
        if estimates[name] < 0.1 or name == COMPILED:  # the first call may have compiled or allocated
            estimates[name] = harness.seconds(partial(function, view))
        slow[name, case["vocabulary"], case["dtype"], case["threads"]] = estimates[name] / rows
    in_turn = {name: _over(functions[name], logits, rows) for name in estimates}
    measured = harness.report(harness.interleave(in_turn, estimates, effort), OURS)
    return {
        "largest_error": errors,
        "forms": measured | {name: {"skipped": reason} for name, reason in skipped.items()},
    }


def _over(function: Callable[[Tensor], object], logits: Tensor, rows: int) -> Callable[[], object]:
    """Calls `function` with the next `rows` of `logits` each time."""
    views: Iterator[Tensor] = itertools.cycle([logits[i : i + rows] for i in range(0, len(logits) - rows + 1, rows)])
    return lambda: function(next(views))


def check(mode: str, name: str, logits: Tensor, answer: Any) -> float:
    """Fails unless tokens are allowed and probabilities right. Returns the largest error of a probability, relative."""
    logits = logits[:CHECKED_ROWS].double()
    if name == OURS:
        token, number = torch.from_numpy(answer.token), torch.from_numpy(answer.probability)
        tolerance = 1e-6
    else:
        token, number = answer
        # bfloat16 has eight bits; a float32 softmax adds up to 262,144 numbers.
        tolerance = 2**-8 if number.dtype == torch.bfloat16 else 1e-4
    token, number = token[:CHECKED_ROWS, None], number[:CHECKED_ROWS].double()
    exact = torch.softmax(logits, -1)
    logit, expected = logits.gather(-1, token), exact.gather(-1, token)[:, 0]
    top1, top2 = exact.topk(2, -1).values.unbind(-1)

    if mode == "T=0":
        allowed = logit[:, 0] == logits.amax(-1)
        if name.startswith("margin"):
            expected = top1 - top2
    elif mode == "T=1":
        allowed = expected > 0
    elif mode == "top-k 50":
        allowed = (logits > logit).sum(-1) < TOP_K
        kept = exact.topk(TOP_K, -1).values.sum(-1)
    elif mode == "top-p 0.95":
        allowed = (exact * (logits > logit)).sum(-1) < TOP_P + 1e-5
        kept = torch.full_like(expected, TOP_P)
    else:
        allowed = expected >= MIN_P * top1 * (1 - 1e-5)
        kept = (exact * (exact >= MIN_P * top1[:, None])).sum(-1)
    assert allowed.all(), f"{name}: a token that {mode} does not allow"
    if name != OURS and mode not in ("T=0", "T=1"):
        # Theirs is taken after the filter. Ids that tie at the cut are kept or not, so what is kept is known roughly.
        expected, tolerance = expected / kept, 0.06
    scale = 1 if name.startswith("margin") else expected  # a margin may be 0
    error = ((number - expected).abs() / scale).max().item()
    assert error < tolerance, f"{name}: off by {error:.2g}"
    return error


def _compiled() -> tuple[forms.TokenForm | None, str]:
    """The float32 form through torch.compile, or why not."""
    try:
        # A graph for each dtype and number of threads, for one row and for more.
        torch._dynamo.config.recompile_limit = 32
        function = torch.compile(forms.float32, dynamic=True, fullgraph=True)
        function(torch.randn(2, 64))
    except Exception as error:  # no compiler, no support on this platform: whatever it is, the others can be measured
        return None, _short(error)
    return function, ""


def _short(error: Exception) -> str:
    return f"torch.compile failed: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def _line(case: Json) -> str:
    times = [f"{name} {form['seconds']['median'] * 1e3:.3g}" for name, form in case["forms"].items() if "seconds" in form]
    return (
        f"{case['rows']:>4} x {case['vocabulary']} {case['dtype']:>8} {case['mode']:>10} t{case['threads']}  ms: "
        + ", ".join(times)
    )


if __name__ == "__main__":
    main()
