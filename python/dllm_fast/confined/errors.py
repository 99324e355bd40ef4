"""How a question to the child process can end without an answer."""

from __future__ import annotations

from typing import Literal

from dllm_fast.errors import DllmFastError


class ConfinedError(DllmFastError, RuntimeError):
    """Base of what `ask` raises."""


class LimitError(ConfinedError):
    """A limit was met.

    Attributes:
        limit: which one; `answer` is the length of what came back.
    """

    def __init__(self, text: str, limit: Literal["time", "memory", "answer"]) -> None:
        super().__init__(text)
        self.limit = limit


class DiedError(ConfinedError):
    """The child ended without an answer: a crash, an abort, or somebody's signal."""


class TaskError(ConfinedError):
    """The task raised an exception.

    Attributes:
        kind: name of its class.
        text: what it says.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


class UnavailableError(ConfinedError):
    """No child with limits can be had here. The text says why."""
