"""The engine of somebody's model that runs on our attention: its steps are captured like those of a loaded one.

The engine belongs to the model as long as that lives, and holds no reference to it. What the model was when its graphs were
captured is compared before every run (`constants.py`); where it has changed, they are captured anew.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from torch.nn.modules import module as torchs

from dllm_fast._core import Lock
from dllm_fast.modules.places import storage
from dllm_fast.runners.capture import CudaCapture
from dllm_fast.runners.graphs import Engine
from dllm_fast.runners.host_reads import HostReads
from dllm_fast.transformers.constants import constants

if TYPE_CHECKING:
    from collections.abc import Hashable

    import torch
    from torch import nn

    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.runners.graphs import Capture
    from dllm_fast.transformers.native import NativeNetwork, Plan
    from dllm_fast.transformers.study import Study

_LOCK = Lock()  # what is collected meanwhile, or a signal handler, may run a model
_ENGINES: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Plan, torch.dtype, torch.device], NativeEngine]]
_ENGINES = weakref.WeakKeyDictionary()
# Whose hooks go along with our runs, or do nothing in a forward.
_HARMLESS = ("dllm_fast.", "transformers.")


def capture_on(device: torch.device) -> Capture | None:
    """What captures on a device; None where there are no graphs."""
    return CudaCapture(device) if device.type == "cuda" else None


class NativeEngine(Engine):
    """An `Engine` that looks at the model before every run."""

    def __init__(self, network: NativeNetwork, model: nn.Module, info: ModelInfo, capture: Capture) -> None:
        super().__init__(network, dtype=info.dtype, where=info.device, capture=capture, reads=lambda: HostReads(info.device))
        self._model = weakref.ref(model)

    def _state_now(self) -> Hashable | None:
        model = self._model()
        return None if model is None or obstacle(model) is not None else constants(model)


def engine_of(model: nn.Module, network: NativeNetwork, plan: Plan, info: ModelInfo) -> NativeEngine | None:
    """The engine of a model; None on a device without graphs."""
    key = plan, info.dtype, info.device
    with _LOCK.held():
        kept = _ENGINES.get(model)
        if kept is not None and kept[0] == key:
            return kept[1]
        capture = capture_on(info.device)
        if capture is None:
            return None
        engine = NativeEngine(network, model, info, capture)
        _ENGINES[model] = key, engine
        return engine


def report(model: nn.Module, found: Study) -> tuple[bool, str | None]:
    """Whether there are graphs where a studied model is, and why its steps are none of them, as far as is known."""
    if found.plan is None or capture_on(found.info.device) is None:
        return False, None
    with _LOCK.held():
        kept = _ENGINES.get(model)
    return True, found.not_captured or (None if kept is None else kept[1].trouble) or obstacle(model)


def obstacle(model: nn.Module) -> str | None:
    """What of a model a graph would pass over, or what it would be in the way of, by name."""
    modules = list(model.modules())
    if any(module.training for module in modules):
        return "it is in training mode, and memory of graphs would stay beside that of the training; call .eval()"
    if any("_hf_hook" in vars(module) for module in modules):
        return "hooks of accelerate fetch its tensors in every forward"
    if (quantised := storage(model)) is not None:
        return f"its weights are {quantised}, whose kernels are not known to allow it"
    tables = [vars(module)[name] for module in modules for name in ("_forward_hooks", "_forward_pre_hooks")]
    tables += [torchs._global_forward_hooks, torchs._global_forward_pre_hooks]
    hooks = [hook for table in tables for hook in table.values()]
    strange = [hook for hook in hooks if not str(getattr(hook, "__module__", "")).startswith(_HARMLESS)]
    if strange:
        name = getattr(strange[0], "__qualname__", type(strange[0]).__name__)
        return f"{len(strange)} forward hooks would not run in a graph, the first of them {name}"
    return None
