"""Torch's attention function with a door in it: for classes that call it directly, not through transformers' registry.

While at least one such model runs, `torch.nn.functional.scaled_dot_product_attention` is a function that hands the calls of
our own forwards to our attention and all others, from other models and threads, to what stood there before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

# What takes a call if it is ours, and says None if it is not.
Door = Callable[..., Tensor | None]

_NAME = "scaled_dot_product_attention"
# Where our function keeps what it passes calls on to.
_BEFORE = "_dllm_fast_before"


class Swap:
    """A change for `hold.py`: the door is in.

    Where somebody else has put a function over ours, that stays, and ours, which it may call, passes on.
    """

    def __init__(self, door: Door) -> None:
        before = getattr(F, _NAME)
        # Somebody may have put back a function of ours that he had found.
        before = getattr(before, _BEFORE, before)

        def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Tensor:
            ours = door(query, key, value, *rest, **named)
            return before(query, key, value, *rest, **named) if ours is None else ours

        setattr(attention, _BEFORE, before)
        self._before, self._attention = before, attention
        self._is_in = False

    def apply(self) -> None:
        if not self._is_in:
            setattr(F, _NAME, self._attention)
            self._is_in = True

    def undo(self) -> None:
        if getattr(F, _NAME) is self._attention:
            setattr(F, _NAME, self._before)
