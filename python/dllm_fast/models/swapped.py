"""Torch's attention function with a door in it: for classes that call it directly, not through transformers' registry.

While at least one such model runs, `torch.nn.functional.scaled_dot_product_attention` is a function that hands the calls of
our own forwards to our attention and all others, from other models and threads, to what stood there before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

# What takes a call if it is ours, and says None if it is not.
Door = Callable[..., Tensor | None]

_NAME = "scaled_dot_product_attention"
_LOCK = threading.Lock()
_users = 0
_before: Callable[..., Tensor] = F.scaled_dot_product_attention


def swap(door: Door) -> None:
    """Puts the door in, or counts one more who needs it."""
    global _users, _before  # noqa: PLW0603, one function of torch for all
    with _LOCK:
        _users += 1
        if _users > 1:
            return
        before = _before = getattr(F, _NAME)

        def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Tensor:
            ours = door(query, key, value, *rest, **named)
            return before(query, key, value, *rest, **named) if ours is None else ours

        attention._dllm_fast = True  # type: ignore[attr-defined]
        setattr(F, _NAME, attention)


def restore() -> None:
    """Takes it out once nobody needs it. Where somebody else has put a function over ours, that stays, and ours passes on."""
    global _users  # noqa: PLW0603
    with _LOCK:
        _users -= 1
        if _users == 0 and hasattr(getattr(F, _NAME), "_dllm_fast"):
            setattr(F, _NAME, _before)
