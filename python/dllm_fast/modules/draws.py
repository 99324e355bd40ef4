"""Random numbers of a model that is tried out: from generators of the trial's own, so that other threads keep theirs.

The global generators of torch and NumPy belong to the whole process. To put them back after a trial would repeat what another
thread has drawn in the meantime. So operations of this thread that draw are handed a generator, and nothing is put back.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from dllm_fast.modules.hold import Hold

# Twists of NumPy's generator that are followed, each of 624 numbers: as many as others may draw during a trial.
_MOST_TWISTS = 4096


class OwnDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In here this thread draws from generators of its own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generators: dict[torch.device, torch.Generator] = {}

    def enter(self, hold: Hold) -> None:
        """Until it is given back."""
        hold.afterwards(self._leave)
        self.__enter__()  # type: ignore[no-untyped-call]

    def seed(self) -> None:
        """From now on it draws the same as after every other call of this."""
        self._generators.clear()

    def _leave(self) -> None:
        while self in _get_current_dispatch_mode_stack():
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        drawing = _with_generator(func)
        if drawing is None and _is_off(func, args, kwargs):
            return func(*args, **kwargs)
        device = _device(args, kwargs)
        if device.type not in ("cpu", "cuda"):
            return func(*args, **kwargs)
        own = self._generators.get(device)
        if own is None:
            own = self._generators[device] = torch.Generator(device).manual_seed(0)
        if drawing is not None:
            return drawing(*args, **kwargs, generator=own)
        # The few that are left know no generator but that of all, which is theirs for as long as one of them takes.
        shared = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index]
        before = shared.get_state()
        shared.set_state(own.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            own.set_state(shared.get_state())
            shared.set_state(before)


def _with_generator(func: Any) -> Any:
    """The form of an operation that takes a generator, or None."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    return getattr(func.overloadpacket, name, None)


def _is_off(func: Any, args: Any, kwargs: Any) -> bool:
    """Is it a dropout, or an attention with one, of which nothing is dropped?"""
    given = {argument.name: argument.default_value for argument in func._schema.arguments}
    given |= dict(zip(given, args, strict=False)) | kwargs
    return given.get("train") is False or any(given.get(name) == 0 for name in ("p", "dropout", "dropout_p"))


def _device(args: Any, kwargs: Any) -> torch.device:
    tensor = next((value for value in args if isinstance(value, torch.Tensor)), None)
    device = torch.device(kwargs.get("device") or (tensor.device if tensor is not None else "cpu"))
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device


class Generators:
    """The global generators of this process as they were, for models that seed them in a forward."""

    def __init__(self) -> None:
        self._numpy = np.random.get_state()
        self._seed, self._torch = torch.initial_seed(), torch.get_rng_state()

    def restore(self) -> None:
        """Puts back what was seeded anew. What has only been drawn from was so by others, where there are any."""
        is_alone = threading.active_count() == 1
        if is_alone or torch.initial_seed() != self._seed:
            torch.set_rng_state(self._torch)
        if is_alone or not _is_later(self._numpy, np.random.get_state()):
            np.random.set_state(self._numpy)


def _is_later(before: Any, now: Any) -> bool:
    """Was this state of NumPy's generator reached from that one by drawing alone?"""
    if before[0] != "MT19937" or now[0] != before[0]:
        return bool(before[0] == now[0])
    drawer = np.random.RandomState()
    drawer.set_state(before)
    for _ in range(_MOST_TWISTS):
        if np.array_equal(drawer.get_state()[1], now[1]):  # type: ignore[index]
            return True
        drawer.bytes(4 * 624)
    return False
