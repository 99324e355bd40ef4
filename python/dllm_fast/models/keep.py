"""A model stays as it was found: what a forward changes in it besides its answer is put back.

Some classes change themselves for good: BigBird leaves its sparse attention behind the first short text, Reformer chooses its
number of buckets by the first length.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Where transformers notes that its hooks for hidden states are in a model.
_CAPTURES = "_output_capturing_hooks_installed"
# Puts one thing back; says whether it had changed.
_Undo = Callable[[], bool]


class Snapshot:
    """What modules hold besides their parameters: attributes, submodules, hooks, buffers, configs.

    Args:
        modules: whose; the values of the containers and configs that they name are kept, too.
        hooks: all of them. Otherwise those that transformers itself hung in, which go with its notes that they are there (it
            hangs in what captures hidden states when first asked for them); any other that is hung in or out while a model
            runs is somebody's wish.
        was_training: what `training` will be.
        others: modules of which only those hooks of transformers are put back, with its note of them.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        *,
        hooks: bool = True,
        was_training: bool = False,
        others: Iterable[nn.Module] = (),
    ) -> None:
        self.training = was_training
        self._hooks = hooks
        self._undo: list[_Undo] = []
        self._seen: set[int] = set()
        for module in modules:
            self._dictionary(vars(module))
            if not hooks:
                self._undo.append(functools.partial(_take_out, module, _hooks(module)))
        for module in others:
            self._undo.append(functools.partial(_take_out, module, _hooks(module)))
            if not hasattr(module, _CAPTURES):
                self._undo.append(functools.partial(_forget, module))

    def restore(self) -> bool:
        """Puts everything back. Was anything else than it had been?"""
        changed = False
        with torch.inference_mode():
            for undo in self._undo:
                changed = undo() or changed
        return changed

    def _keep(self, value: Any) -> None:
        if isinstance(value, dict):
            self._dictionary(value)
        elif isinstance(value, list | set):
            self._once(value, self._container)
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self._once(value, self._tensor)
        elif not isinstance(value, nn.Module | Tensor | type) and _is_theirs(value):
            self._dictionary(vars(value))

    def _once(self, value: Any, keep: Callable[[Any], None]) -> None:
        if id(value) not in self._seen:
            self._seen.add(id(value))
            keep(value)

    def _dictionary(self, items: dict[Any, Any]) -> None:
        if id(items) in self._seen:
            return
        self._seen.add(id(items))
        before = dict(items)

        def undo() -> bool:
            changed = len(items) != len(before) or any(items.get(key, items) is not value for key, value in before.items())
            if changed:
                for key in [key for key in items if key not in before]:
                    del items[key]
                items.update(before)
                if list(items) != list(before):
                    items.clear()
                    items.update(before)
            return changed

        self._undo.append(undo)
        for key, value in before.items():
            # Who fetches parameters for a forward (accelerate, FSDP) keeps books on which ones are there.
            if key != "_parameters" and (self._hooks or not (isinstance(key, str) and "_hooks" in key)):
                self._keep(value)

    def _container(self, found: list[Any] | set[Any]) -> None:
        before = list(found)

        def undo() -> bool:
            changed = len(found) != len(before) or any(a is not b for a, b in zip(found, before, strict=True))
            if changed:
                found.clear()
                found.extend(before) if isinstance(found, list) else found.update(before)
            return changed

        self._undo.append(undo)
        for value in before:
            self._keep(value)

    def _tensor(self, found: Tensor) -> None:
        if found.is_meta:
            return
        before = found.detach().clone()
        version = None if found.is_inference() else found._version

        def undo() -> bool:
            changed = version is None or found._version != version
            if changed:
                found.copy_(before)
            return changed and version is not None

        self._undo.append(undo)


def _hooks(module: nn.Module) -> dict[str, set[int]]:
    """Numbers of the hooks that are in a module, under the names of the tables that hold them."""
    return {name: set(table) for name, table in vars(module).items() if name.endswith("_hooks") and isinstance(table, dict)}


def _take_out(module: nn.Module, before: dict[str, set[int]]) -> bool:
    """Takes out hooks of transformers that were not there; says whether there were any."""
    found = False
    for name, known in before.items():
        table = vars(module)[name]
        for number in [number for number in table if number not in known and _is_of_transformers(table[number])]:
            found = True
            # A number stands in other tables, too, which say how the hook is called.
            for other in (vars(module)[key] for key in vars(module) if key.startswith(name)):
                other.pop(number, None)
    return found


def _forget(module: nn.Module) -> bool:
    return vars(module).pop(_CAPTURES, None) is not None


def _is_of_transformers(value: object) -> bool:
    return str(getattr(value, "__module__", "")).startswith("transformers.")


def _is_theirs(value: object) -> bool:
    """Is it a config, or a helper of a class of transformers?"""
    return hasattr(value, "__dict__") and (
        hasattr(value, "to_dict") or type(value).__module__.startswith("transformers.models.")
    )


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[Snapshot]:
    """Inside anything may be tried with a model, uncompiled and in evaluation mode without gradients.

    Afterwards it and the generators of random numbers are as before.
    """
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda" and p.device.index is not None})
    numbers = np.random.get_state()
    modes = [(module, module.training, vars(module).get("_compiled_call_impl")) for module in model.modules()]
    with torch.random.fork_rng(devices):
        try:
            for module, _, compiled in modes:
                module.training = False
                if compiled is not None:
                    module._compiled_call_impl = None
            snapshot = Snapshot(model.modules(), was_training=any(training for _, training, _ in modes))
            try:
                with torch.inference_mode():
                    yield snapshot
            finally:
                snapshot.restore()
        finally:
            for module, training, compiled in modes:
                module.training = training
                if compiled is not None:
                    module._compiled_call_impl = compiled
            np.random.set_state(numbers)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, for as many runs as there are at a time; with the last of them the model is as it was.

    Of a class that is not transformers' own only the mode is put back: what such a class counts or notes is meant to stay.
    """
    with _LOCK:
        run = _RUNS.setdefault(model, _Run())
        run.enter(model)
    try:
        yield
    finally:
        with _LOCK:
            run.leave()


@contextlib.contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Around a forward of a class that changes itself, one at a time."""
    with _FORWARD:
        snapshot = Snapshot(model.modules(), hooks=False)
        try:
            yield
        finally:
            snapshot.restore()


class _Run:
    """How many runs use a model, and what it was before the first of them."""

    def __init__(self) -> None:
        self._users = 0
        self._training: list[nn.Module] = []
        self._snapshot: Snapshot | None = None

    def enter(self, model: nn.Module) -> None:
        if self._users == 0:
            modules = list(model.modules())
            self._training = [module for module in modules if module.training]
            for module in self._training:
                module.training = False
            others = [module for module in modules if not _is_of_transformers(type(module))]
            self._snapshot = Snapshot((m for m in modules if _is_of_transformers(type(m))), hooks=False, others=others)
        self._users += 1

    def leave(self) -> None:
        self._users -= 1
        if self._users == 0 and self._snapshot is not None:
            self._snapshot.restore()
            for module in self._training:
                module.training = True
            self._training, self._snapshot = [], None


_LOCK = threading.Lock()
_FORWARD = threading.Lock()
_RUNS: weakref.WeakKeyDictionary[nn.Module, _Run] = weakref.WeakKeyDictionary()
