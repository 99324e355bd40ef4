"""A model stays as it was found: what a forward changes in it besides its answer is put back.

Some classes change themselves for good: BigBird leaves its sparse attention behind the first short text, Reformer chooses its
number of buckets by the first length.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dllm_fast._core import Lock
from dllm_fast.modules.draws import Generators, OwnDraws
from dllm_fast.modules.hold import LOCK, Hold, held

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
        self.number = next(_numbers)
        self.seen: set[int] = set()
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
        if id(value) not in self.seen:
            self.seen.add(id(value))
            keep(value)

    def _dictionary(self, items: dict[Any, Any]) -> None:
        if id(items) in self.seen:
            return
        self.seen.add(id(items))
        before = dict(items)

        def undo() -> bool:
            if not self._hooks and "training" in before:
                before["training"] = items.get("training", False)  # which goes with its own count of runs
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
                with torch.inference_mode():
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
def untouched(model: nn.Module, draws: OwnDraws) -> Iterator[Snapshot]:
    """Inside anything may be tried with a model, uncompiled and in evaluation mode without gradients.

    Afterwards it is as before, and so are the global generators of random numbers. Whoever calls has `ALONE` and `hold.LOCK`,
    so that no run begins or ends meanwhile.
    """
    hold, generators = Hold(), Generators()
    hold.afterwards(generators.restore)
    try:
        modules = list(model.modules())
        for module in modules:
            if vars(module).get("_compiled_call_impl") is not None:
                hold.change("compiled call", module, functools.partial(_Without, module, "_compiled_call_impl"))
        was_training = _evaluate(hold, modules)
        snapshot = Snapshot(modules, was_training=was_training)
        hold.afterwards(snapshot.restore)
        without_gradients(hold)
        draws.enter(hold)
        yield snapshot
    finally:
        hold.give_back()


def evaluate(hold: Hold, model: nn.Module) -> None:
    """Evaluation mode, for as many runs as there are at a time; with the last of them the model is as it was.

    Of a class that is not transformers' own only the mode is put back: what such a class counts or notes is meant to stay.
    """
    _evaluate(hold, list(model.modules()))
    hold.change("state", model, functools.partial(_State, model))


def put_back(hold: Hold, model: nn.Module) -> None:
    """Before a forward of a class that changes itself, one at a time, inside `ALONE`; giving back undoes what it changed."""
    hold.afterwards(Snapshot(model.modules(), hooks=False).restore)


def without_gradients(hold: Hold) -> None:
    """Inference mode of this thread, until it is given back."""
    mode, thread = torch.inference_mode(), threading.get_ident()
    entered: list[list[Any]] = _local.__dict__.setdefault("entered", [])
    entry = [mode, False]

    def leave() -> None:
        if threading.get_ident() != thread:
            return  # a mode is its thread's
        # After an interrupt the outer one may be given back first, but what each puts back is what it found.
        entry[1] = True
        while entered and entered[-1][1]:
            with contextlib.suppress(AttributeError):  # never entered
                entered[-1][0].__exit__(None, None, None)
            entered.pop()

    hold.afterwards(leave)
    entered.append(entry)
    mode.__enter__()


@contextlib.contextmanager
def stepping(*changes: Callable[[Hold], object]) -> Iterator[None]:
    """Around forwards of this thread: no gradients, and what `changes` change for as long. Inside another it costs nothing."""
    if not changes and torch.is_inference_mode_enabled():
        yield
        return
    hold = Hold()
    try:
        for change in changes:
            change(hold)
        without_gradients(hold)
        yield
    finally:
        hold.give_back()


def _evaluate(hold: Hold, modules: list[nn.Module]) -> bool:
    """Takes modules out of training mode, each for as long as somebody runs it; says whether any was in it."""
    with LOCK.held():
        training = [module for module in modules if module.training or held("training", module) is not None]
        for module in training:
            hold.change("training", module, functools.partial(_Without, module, "training"))
    return bool(training)


class _Without:
    """An attribute of a module is off: False, or None where it is no flag."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self._module, self._name = module, name
        self._before = getattr(module, name)

    def apply(self) -> None:
        setattr(self._module, self._name, False if self._before is True else None)

    def undo(self) -> None:
        setattr(self._module, self._name, self._before)


class _State:
    """What the forwards of a run change in a model of transformers is put back.

    Where another run uses a part of it, or a config, that is done when that one ends.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        others = [module for module in modules if not _is_of_transformers(type(module))]
        snapshot = Snapshot((m for m in modules if _is_of_transformers(type(m))), hooks=False, others=others)
        self._seen = snapshot.seen | {id(module) for module in modules}
        # The latest first.
        self._snapshots = [snapshot]

    def apply(self) -> None:
        if self not in _RUNNING:
            _RUNNING.append(self)

    def undo(self) -> None:
        other = next((run for run in _RUNNING if run is not self and not run._seen.isdisjoint(self._seen)), None)
        if other is None:
            for snapshot in self._snapshots:
                snapshot.restore()
        else:
            other._snapshots = sorted({*other._snapshots, *self._snapshots}, key=lambda kept: kept.number, reverse=True)
            other._seen |= self._seen
        if self in _RUNNING:
            _RUNNING.remove(self)


# Whoever probes a model, or runs a class that changes itself. Taken before `hold.LOCK`.
ALONE = Lock()
_RUNNING: list[_State] = []
_numbers = itertools.count()
_local = threading.local()
