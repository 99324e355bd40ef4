"""Every error that dllm_fast raises itself. A model's own exception is passed on as it is."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from dllm_fast.tensors import is_readable, is_tensor

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


def warn(message: str, kind: type[Warning]) -> None:
    """Warns in the line of the first caller who is none of ours."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, kind, stacklevel=level)
