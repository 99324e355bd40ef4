"""Which tokens the rows of a model's logits depend on, measured by changing a token and looking at the other rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

from dllm_fast.modules.places import QUANTISED
from dllm_fast.transformers.probe_tokens import changed, difference

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.families.model_info import ModelInfo

# Ids [B, L] to logits [B, L, V].
Rows = Callable[["Tensor"], "Tensor"]
Sight = Literal["all", "both sides", "left", "itself"]

# A change below the first is rounding. In half precision and in quantised layers what comes later can move the roundings of
# what comes before (a mixture of experts multiplies more tokens at once, a scale is that of a whole text), so changes below
# the second are compared with those on the other side.
_ROUNDING, _COARSE = 1e-5, 2e-2
_MUCH = 20.0


def sight(forward: Rows, ids: Tensor, logits: Tensor, info: ModelInfo) -> Sight:
    """What rows depend on: all tokens, some on both sides, those to the left only, or their own only.

    Args:
        forward: the model; called once where the last token moves the row before it, up to four times where not.
        ids: tokens `[1, L]`.
        logits: of those.
        info: says which ids may be put in.
    """
    last = ids.shape[1] - 1
    least = 0.0
    # With blocks the last token may be alone in its own, but not the one before it, too.
    for place in (last, last - 1):
        other = forward(changed(ids, place, info))
        before = _moved(other, logits, slice(0, place))
        if before > _rounding(info):
            return "all" if place == last and _moved(other, logits, slice(0, 1)) > _rounding(info) else "both sides"
        least = max(least, before)
    if least > _ROUNDING:
        middle = forward(changed(ids, last // 2, info))
        if _moved(middle, logits, slice(0, last // 2)) * _MUCH > _moved(middle, logits, slice(last // 2 + 1, None)):
            return "both sides"
    after = _moved(forward(changed(ids, 0, info)), logits, slice(1, None))
    return "left" if after > _rounding(info) else "itself"


def block_of(forward: Rows, ids: Tensor, info: ModelInfo) -> int | None:
    """The length of the blocks of a block-causal model, where it is below that of the ids; one forward of as many rows."""
    count = ids.shape[1]
    rows = torch.cat([ids, *(changed(ids, place, info) for place in range(count))])
    logits = forward(rows)
    first = [
        next(r for r in range(place + 1) if r == place or difference(logits[place + 1, r], logits[0, r]) > _rounding(info))
        for place in range(count)
    ]
    fits = (block for block in range(2, count) if first == [place // block * block for place in range(count)])
    return next(fits, None)


def keeps_to(block: int, forward: Rows, ids: Tensor, info: ModelInfo) -> bool:
    """Do the rows of the first block depend on its last token, and on none behind it? Ids of a block and a token at least."""
    plain = forward(ids)
    beyond = _moved(forward(changed(ids, -1, info)), plain, slice(0, block))
    within = _moved(forward(changed(ids, block - 1, info)), plain, slice(0, block - 1))
    return beyond <= _rounding(info) and (block == 1 or within > max(_rounding(info), beyond))


def _moved(found: Tensor, expected: Tensor, rows: slice) -> float:
    """How far some rows are from what they were."""
    return difference(found[:, rows], expected[:, rows]) if found[:, rows].numel() else 0.0


def _rounding(info: ModelInfo) -> float:
    is_coarse = info.dtype in (torch.bfloat16, torch.float16) or any(note.startswith(QUANTISED) for note in info.notes)
    return _COARSE if is_coarse else _ROUNDING
