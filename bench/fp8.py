"""What weights of 8 bits cost in quality, on the embedded models. `python -m bench.fp8`.

`load(..., quantise="fp8")` as it is on a CPU, which has the operands of the product on a GPU, beside what it might have been:
the head quantised as well, one scale for a whole matrix, and whole numbers of 8 bits. Every form fills the same canvases by
the same rule at temperature 0. What is compared with float32: the logits of canvases that are half filled, the tokens that
each form writes, and the problems that are solved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

import dllm_fast
from bench import harness, quality
from bench.harness import Json
from dllm_fast import demo
from dllm_fast.checkpoint.checkpoint import IN_LAYER
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.layers import Linear
from dllm_fast.ops import quantise as ops

PLAIN, OURS = "float32", "fp8, as `load` does"
SEED = 7


@dataclass(frozen=True, slots=True)
class Grid:
    """Numbers that a scale stretches over a row or a matrix: the largest, and the nearest one of each."""

    largest: float
    nearest: Callable[[Tensor], Tensor]

    def rounded(self, x: Tensor, *, by_row: bool) -> Tensor:
        largest = x.abs().amax(dim=-1, keepdim=True) if by_row else x.abs().amax()
        scale = (largest / self.largest).clamp(min=torch.finfo(torch.float32).tiny)
        return self.nearest(x / scale) * scale


E4M3 = Grid(ops.LARGEST, lambda x: x.to(ops.E4M3).float())
INT8 = Grid(127.0, torch.round)


class Rounded(Linear):
    """A linear layer whose weight and inputs are rounded to a grid."""

    def __init__(self, layer: nn.Linear, grid: Grid, *, by_channel: bool) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.grid = grid
        self.weight = nn.Parameter(grid.rounded(layer.weight, by_row=by_channel), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.grid.rounded(x, by_row=True), self.weight, self.bias)


def main() -> None:
    options = harness.arguments(__doc__)
    others = harness.Others()
    size = 1 if options.quick else 34
    tasks = {"sudoku": quality.sudoku(size, SEED), "text": quality.text(2 if options.quick else 120, SEED)}
    cases = [case for name, task in tasks.items() for case in _cases(name, task)]
    print(harness.write("fp8", options.out, {"cases": cases}, quick=options.quick, others=others))


def _cases(name: str, task: quality.Task) -> list[Json]:
    plain = dllm_fast.load(demo.FOLDER / name, dtype="float32")
    half = _half_filled(plain, task)
    wanted = _logits(plain, half)
    canvases = _filled(plain, task)
    cases = []
    for form, model in _forms(name).items():
        logits = _logits(model, half)
        rows = canvases if form == PLAIN else _filled(model, task)
        free = [canvas == plain.mask_token_id for canvas in task.canvases]
        differing = sum(int((row != other)[where].sum()) for row, other, where in zip(rows, canvases, free, strict=True))
        case = {
            "model": name,
            "form": form,
            "problems": len(rows),
            "solved": sum(task.check(row) for row in rows),
            "tokens": sum(int(where.sum()) for where in free),
            "differing": differing,
            "logits_error": float((logits - wanted).norm() / wanted.norm()),
            "argmax_differs": float((logits.argmax(-1) != wanted.argmax(-1)).float().mean()),
        }
        cases.append(case)
        harness.progress(
            f"{name}, {form}: solved {case['solved']} of {case['problems']}, {differing} of {case['tokens']} tokens differ, "
            f"logits {case['logits_error']:.2%}"
        )
    return cases


def _forms(name: str) -> dict[str, LoadedModel]:
    """The model of a folder in every form."""

    def opened(**named: Any) -> LoadedModel:
        return dllm_fast.load(demo.FOLDER / name, dtype="float32", **named)

    with_head = opened(quantise="fp8")
    _round_the_head(with_head)
    return {
        PLAIN: opened(),
        OURS: opened(quantise="fp8"),
        "fp8, the head too": with_head,
        "fp8, one scale a matrix": _with(opened(), E4M3, by_channel=False),
        "int8, a scale a channel": _with(opened(), INT8, by_channel=True),
        "int8, one scale a matrix": _with(opened(), INT8, by_channel=False),
    }


def _with(model: LoadedModel, grid: Grid, *, by_channel: bool) -> LoadedModel:
    """The layers that `load` quantises, rounded otherwise."""
    for place, parent in list(cast(nn.Module, model.network).named_modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Linear) and IN_LAYER.search(f"{place}.{name}."):
                parent.add_module(name, Rounded(layer, grid, by_channel=by_channel))
    return model


def _round_the_head(model: LoadedModel) -> None:
    """Its dense layer, and the product with the token table."""
    network: Any = model.network
    head = network.cls["predictions"]
    head.transform.add_module("dense", Rounded(head.transform["dense"], E4M3, by_channel=True))
    table = E4M3.rounded(network.bert["embeddings"].word_embeddings.weight, by_row=True)
    network.logits = lambda hidden: F.linear(E4M3.rounded(hidden, by_row=True), table, head.bias)


def _half_filled(model: LoadedModel, task: quality.Task) -> list[Tensor]:
    """Canvases as they are after half of the steps, as the plain model fills them."""
    result = dllm_fast.infill(model, task.canvases, **task.common)
    drawn = np.random.default_rng(SEED)
    half = []
    for canvas, filled in zip(task.canvases, result.sequences, strict=True):
        hidden = (canvas == model.mask_token_id) & (drawn.random(len(canvas)) < 0.5)
        half.append(torch.from_numpy(np.where(hidden, model.mask_token_id, filled)).to(torch.int64))
    return half


def _logits(model: LoadedModel, canvases: list[Tensor]) -> Tensor:
    """Of the masks, `[n, V]`."""
    return torch.cat([model(ids[None])[0, ids == model.mask_token_id] for ids in canvases])


def _filled(model: LoadedModel, task: quality.Task) -> list[Any]:
    return list(dllm_fast.infill(model, task.canvases, **task.common).sequences)


def table(record: Json) -> str:
    """For docs/cuda.md."""
    rows = ["| model | form | logits off by | most likely token differs | tokens that differ | solved |", "| --- " * 6 + "|"]
    rows += [
        f"| {case['model']} | {case['form']} | {case['logits_error']:.2%} | {case['argmax_differs']:.2%} | "
        f"{case['differing'] / case['tokens']:.2%} | {case['solved']} of {case['problems']} |"
        for case in record["cases"]
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
