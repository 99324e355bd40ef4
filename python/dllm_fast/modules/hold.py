"""What is changed in things of others for as long as somebody needs it: a mode, settings of a config, a hook, torch's function.

Several runs, in several threads, may need the same change at once: of one model, of models that share a part, of models that
share a config. So who needs it is kept for each thing that is changed, and with the last of them it is as it was before.

An interrupt (Ctrl-C) comes between any two instructions, also those of a `with` statement or a `finally`. So what puts a thing
back is noted before the thing is changed, and may be done twice. `Settled`, around a public function, does it once more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch.overrides import _get_current_function_mode_stack

from dllm_fast._core import Lock


class OfThread:
    """A value that a thread has set for itself, or None.

    A `ContextVar` would be handed to threads that are started meanwhile: by `asyncio.to_thread`, and without the GIL always.
    """

    def __init__(self) -> None:
        self._local: Any = threading.local()

    def get(self) -> Any:
        """What this thread has set last."""
        return getattr(self._local, "value", None)

    def set(self, value: object) -> None:
        """Sets it for this thread alone."""
        self._local.value = value


class Change(Protocol):
    """A change of one thing. Both may be called again at any time; `undo` also where nothing has been changed yet."""

    def apply(self) -> None:
        """Makes the change, as far as it is not made."""
        ...

    def undo(self) -> None:
        """Puts back what was found when this object was made."""
        ...


class Hooked:
    """A change: a module calls a hook before its forward, which has to find out whose forward it is in.

    One for all threads: without the GIL, torch fails where a hook comes or goes while another thread is in the module.
    """

    def __init__(self, module: torch.nn.Module, hook: Callable[..., Any]) -> None:
        self._hooks, self._module, self._hook = module._forward_pre_hooks, module, hook

    def apply(self) -> None:
        if self._hook not in self._hooks.values():
            self._module.register_forward_pre_hook(self._hook)

    def undo(self) -> None:
        for number in [number for number, hook in [*self._hooks.items()] if hook is self._hook]:
            self._hooks.pop(number, None)


class _Thing:
    def __init__(self, owner: object, change: Change) -> None:
        self.owner = owner  # a number of an object is its own only as long as it lives
        self.change = change
        self.holders: set[Hold] = set()


class Hold:
    """What one user needs changed, until `give_back`, which may be called again, also in the midst of itself.

    Args:
        lasting: longer than the call in which it is made, perhaps from thread to thread, so that `Settled` leaves it alone
            where it is not told of it.
    """

    def __init__(self, *, lasting: bool = False) -> None:
        self._things: list[tuple[Hashable, _Thing]] = []
        self._undone: list[Callable[[], object]] = []
        self._open = [] if lasting else _open()
        self._open.append(self)

    def change(self, kind: str, owner: object, make: Callable[[], Change]) -> None:
        """Changes something of `owner`, or is one more who needs it changed.

        Args:
            kind: of the change; of one kind there is one change of an owner at a time.
            owner: whose.
            make: looks at the thing as it is and says how to change it; called for the first who needs it.
        """
        key = kind, id(owner)
        with LOCK.held():
            thing = _THINGS.get(key)
            if thing is None:
                thing = _Thing(owner, make())
            self._things.append((key, thing))
            thing.holders.add(self)
            _THINGS[key] = thing
            # Also where somebody else has: an interrupt may have kept him from it.
            thing.change.apply()

    def afterwards(self, undo: Callable[[], object]) -> None:
        """`undo` is called when this is given back, the last first; perhaps twice."""
        self._undone.append(undo)

    def give_back(self) -> None:
        """Undoes what nobody else needs.

        Raises:
            Exception: the first that was raised meanwhile; all the rest is undone nevertheless.
        """
        failure: Exception | None = None
        while self._undone:
            try:
                self._undone[-1]()
            except Exception as error:  # of a broken device, or of somebody's module
                failure = failure or error
            self._undone.pop()
        with LOCK.held():
            while self._things:
                key, thing = self._things[-1]
                thing.holders.discard(self)
                if not thing.holders and _THINGS.get(key) is thing:
                    try:
                        thing.change.undo()
                    except Exception as error:  # of somebody's module
                        failure = failure or error
                    del _THINGS[key]
                self._things.pop()
        with contextlib.suppress(ValueError):
            self._open.remove(self)
        if failure is not None:
            raise failure


def held(kind: str, owner: object) -> Change | None:
    """The change of that kind which is made in `owner` just now."""
    thing = _THINGS.get((kind, id(owner)))
    return None if thing is None else thing.change


class Settled:
    """Around a public function, twice, so that an interrupt in the midst of one is made good by the other.

    What was taken inside by this thread and is not given back yet is given back. Torch's own contexts, which an interrupt can
    leave open, are closed. Inside, no forward of an outer run is seen.

    Args:
        lasting: given back, too, where anything is raised inside.
    """

    def __init__(self, *lasting: Hold) -> None:
        self._lasting = lasting
        self._before = len(_open())
        self._forward = FORWARD.get()
        self._grad = torch.is_grad_enabled()
        self._modes = _modes()

    def __enter__(self) -> None:
        FORWARD.set(None)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        found = _open()
        while len(found) > self._before:
            found[-1].give_back()
        if kind is not None:
            for hold in self._lasting:
                hold.give_back()
        FORWARD.set(self._forward)
        # After anything else they are as somebody in the run wanted them.
        if kind is not None and not issubclass(kind, Exception):
            torch.set_grad_enabled(self._grad)
            for mode in _modes():
                if all(mode is not before for before in self._modes):
                    mode.__exit__(None, None, None)


def _modes() -> list[Any]:
    """Contexts of torch that are open in this thread, such as that of a device."""
    found: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return found


def _open() -> list[Hold]:
    """The holds of this thread that are not given back."""
    found: list[Hold] = _local.__dict__.setdefault("open", [])
    return found


# The forward of ours in which this thread is, for what is called in it.
FORWARD = OfThread()
LOCK = Lock()  # an object may be collected, and give back, while its thread is in here
_THINGS: dict[Hashable, _Thing] = {}
_local: Any = threading.local()
