"""Every error that dllm_fast raises itself. A model's own exception is passed on as it is."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from dllm_fast.tensors import is_readable, is_tensor

_T = TypeVar("_T")
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
#: No text that shows what somebody gave is longer.
MOST_CHARACTERS = 1900


def cut(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text without its middle, where it is longer: the rule stands at its beginning, the remedy at its end."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... {text[len(text) - most // 3 + 5 :]}"


def shown(value: object) -> str:
    """A value for an error text: quoted, and not longer than a line; of any value, also of one that has no text."""
    try:
        text = _tensor(value) or repr(value)
    except Exception:  # numbers of thousands of digits, and whatever others wrote
        return f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:100]}..."


def _tensor(value: Any) -> str | None:
    """What a tensor is, where torch cannot show its values: it may have none, and then torch's own text crashes."""
    if not is_tensor(value):
        return None
    return None if is_readable(value) else f"<tensor of {value.dtype}, {value.layout}, {value.device}>"


class DllmFastError(Exception):
    """Base of every error of dllm_fast. However large what it shows, its text is shorter than 2,000 characters."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(cut(arg) if isinstance(arg, str) else arg for arg in args))


class InvalidValueError(DllmFastError, ValueError):
    """A value out of its range, or values that do not fit together. The text states the rule, the value and a remedy."""


class InvalidTypeError(DllmFastError, TypeError):
    """A value of a type that is not understood."""


class InvalidIndexError(DllmFastError, IndexError):
    """A row that is not there."""


class CheckpointError(DllmFastError, ValueError):
    """A model folder that cannot be used: the text names the file and the key."""


class KernelError(DllmFastError, RuntimeError):
    """A CUDA kernel that cannot be compiled or used here. The text says why and what to install."""


class DllmFastWarning(UserWarning):
    """Base of the warnings that the command says in one line."""


class EqualSamplesWarning(DllmFastWarning):
    """Several samples of a prompt where nothing is drawn."""


class LoweredTextWarning(DllmFastWarning):
    """A folder whose text is made lower case although its vocabulary seems to be cased. Its text is the note of `explain`."""


class UnknownTextWarning(DllmFastWarning):
    """Text of a prompt that the tokenizer does not know. The warning shows some of it, and how many tokens it became."""


class Place(NamedTuple):
    """A line that calls something of ours, for a warning."""

    file: str
    line: int
    module: str
    registry: dict[str | tuple[str, type[Warning], int], int]


def place_of_caller() -> Place | None:
    """The line of the first caller who is none of ours."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        if frame.f_code is called_at.__code__:
            return frame.f_locals["place"]  # type: ignore[no-any-return]
        frame = frame.f_back
    if frame is None:
        return None
    names = frame.f_globals
    registry = names.setdefault("__warningregistry__", {})
    return Place(frame.f_code.co_filename, frame.f_lineno, str(names.get("__name__", "<string>")), registry)


def called_at(place: Place | None, work: Callable[..., _T], *arguments: Any) -> _T:
    """Does work, in a thread that nobody called, for somebody at a place: what it warns of is warned of there."""
    return work(*arguments)


def warn(message: str, kind: type[Warning]) -> None:
    """Warns in the line of the first caller who is none of ours."""
    place = place_of_caller()
    if place is None:
        warnings.warn(message, kind, stacklevel=2)
    else:
        warnings.warn_explicit(message, kind, place.file, place.line, place.module, place.registry)
