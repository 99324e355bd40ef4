"""Does a forward read a value of the device on the host? A graph would replay what was read once, or could not be captured."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dllm_fast.ops.shared import is_making

if TYPE_CHECKING:
    from types import FrameType

# Operations whose result, or its size, comes to the host.
_READS = frozenset(
    ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "unique_dim", "unique_consecutive")
) | {"_unique", "_unique2", "bincount"}
_COPIES = frozenset(("_to_copy", "copy_", "_copy_from"))
_OURS = tuple(os.path.dirname(os.path.abspath(path)) + os.sep for path in (str(torch.__file__), os.path.dirname(__file__)))


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, notes the first such read of this thread; the forward goes on.

    Attributes:
        found: what was read and where, or None.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: str | None = None
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.found is None and not is_making() and self._waits(func, args, kwargs):
            self.found = f"its forward reads a value on the host ({func.overloadpacket.__name__}, {_place()})"
        return func(*args, **kwargs)

    def _waits(self, func: Any, args: Any, kwargs: Any) -> bool:
        name = func.overloadpacket.__name__
        if name in _READS:
            return self._is_here(args[0])
        if name in _COPIES:
            # Either way. From memory of the host that is pinned nothing is waited for, but a graph would copy from the same
            # place again, where something else may stand by then.
            target = args[0].device if name != "_to_copy" else kwargs.get("device") or args[0].device
            source = args[1] if name == "copy_" else args[0]
            ends = {torch.device(target).type, source.device.type}
            return len(ends) > 1 and self._device.type in ends
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            # By a mask: how many there are is read.
            return any(x is not None and x.dtype in (torch.bool, torch.uint8) and self._is_here(x) for x in args[1])
        if name == "repeat_interleave":
            return self._is_here(args[0]) and kwargs.get("output_size") is None and func._overloadname == "Tensor"
        return False

    def _is_here(self, tensor: Any) -> bool:
        return isinstance(tensor, torch.Tensor) and tensor.device.type == self._device.type


def _place() -> str:
    """File and line of the first caller that is neither torch's nor ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return "unknown" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
