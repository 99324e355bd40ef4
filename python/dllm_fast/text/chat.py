"""Chat templates: programs that come with a checkpoint, and what they make of a conversation.

They are rendered in the child process of `confined`, within limits of time and memory that the kernel keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dllm_fast import confined
from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError, shown

SECONDS = 10.0  # for one conversation; an ordinary one takes a thousandth of it
GIGABYTES = 1.0
MOST_NESTED = 100
MOST_ITEMS = 200_000


class ChatTemplate:
    """One template, ready to be rendered.

    Args:
        source: text of the template.
        origin: where it comes from, for errors.
    """

    def __init__(self, source: str, origin: str) -> None:
        self.source = source
        self._origin = origin

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The text of a conversation.

        Args:
            messages: each with `role` and `content`.
            variables: further names that the template sees.

        Raises:
            InvalidTypeError, InvalidValueError: messages of another form, or messages that the template refuses.
            CheckpointError: the template fails, reaches for what it must not see, takes too long or too much memory.
        """
        values = plain(dict(variables)) | {"messages": _checked(messages)}
        remedy = "correct it, or pass text instead"
        try:
            kind, text = confined.ask("render", [self.source, values], seconds=SECONDS, gigabytes=GIGABYTES)
        except confined.UnavailableError as error:
            from dllm_fast.text import strict

            kind, text = strict.render(self.source, values)
            remedy = f"pass text instead, or run it where a child process with limits can be had ({error})"
        except confined.TaskError as error:
            kind, text = "failed", str(error)
        except confined.ConfinedError as error:
            kind, text = "failed", f"{error} where it was rendered"
        if kind == "refused":
            raise InvalidValueError(f"the chat template refuses these messages: {text}; change them")
        if kind == "invalid":
            raise CheckpointError(f"{self._origin} is no valid template: {text}; {remedy}")
        if kind == "failed":
            raise CheckpointError(f"{self._origin} failed: {text}; {remedy}")
        return str(text)


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    if not messages:
        raise InvalidValueError("messages must hold at least one, got none; pass [{'role': 'user', 'content': ...}]")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidTypeError(
                f"a message must be a mapping with role and content, got {shown(message)}; "
                "pass {'role': 'user', 'content': ...}"
            )
    checked: list[Any] = plain(list(messages))
    return checked


def plain(value: Any) -> Any:
    """The same value out of JSON's own types: the methods of any other object would be within reach of the template."""
    return _Plain().copy(value, 0)


class _Plain:
    """Copies a value, and counts what it copies: lists can hold themselves, and a small one can be endless."""

    def __init__(self) -> None:
        self._items = 0

    def copy(self, value: Any, depth: int) -> Any:
        self._items += 1
        if depth > MOST_NESTED or self._items > MOST_ITEMS:
            raise InvalidValueError(
                f"a chat template takes values nested at most {MOST_NESTED} deep and of at most {MOST_ITEMS:,} items, "
                "got one with more; shorten it"
            )
        if value is None or type(value) in (bool, float, str):
            return value
        if type(value) is int:
            if value.bit_length() > 10_000:
                raise InvalidValueError(
                    "a chat template takes whole numbers of at most 3,000 digits, got a longer one; pass text"
                )
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, Mapping):
            return {str(name): self.copy(item, depth + 1) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(item, depth + 1) for item in value]
        raise InvalidTypeError(
            f"a chat template takes strings, numbers, lists and mappings, got {type(value).__name__}; convert it"
        )
