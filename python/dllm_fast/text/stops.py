"""Texts that end an answer: looked for while it is written, and cut off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dllm_fast.text.tokens import decode

# What a decoder shows of a character of which bytes are missing. No character of UTF-8 has more than four.
_PARTIAL, _MOST_PARTS = "\ufffd", 4


class Reader:
    """Reads the tokens of one answer in their order, and says which one completes a text that ends it.

    Each token is decoded with the few before it, so reading costs what the answer is long: a text may straddle tokens, and a
    character the bytes of several. Of the text itself only as much is kept as may be the beginning of a stop.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], least: int = 0) -> None:
        """Stops are looked for in the text behind the first `least` tokens."""
        self._tokenizer, self._stops, self._least = tokenizer, tuple(stops), least
        self._kept = max(map(len, self._stops)) - 1
        self._tail = ""
        self._recent: list[int] = []  # tokens behind those that were shown the last time but one
        self._shown = 0  # so many of them were shown the last time
        self._text = ""  # of these
        self.count = 0  # tokens read

    def read(self, tokens: Iterable[int]) -> int | None:
        """Goes on reading; the index of the token that ends the answer, where one does."""
        for token in tokens:
            if self._is_ended_by(token):
                return self.count - 1
        return None

    def _is_ended_by(self, token: int) -> bool:
        if self.count == self._least:
            self._tail = ""
        self._recent.append(token)
        self.count += 1
        text = decode(self._tokenizer, self._recent)
        new = text[len(self._text) :]
        if self.count > self._least and any(stop in self._tail + new.rstrip(_PARTIAL) for stop in self._stops):
            return True
        is_partial = not new or new.endswith(_PARTIAL)
        if is_partial and len(self._recent) - self._shown < _MOST_PARTS:
            return False
        self._tail = (self._tail + new)[-self._kept :] if self._kept else ""
        del self._recent[: self._shown]
        self._shown, self._text = len(self._recent), decode(self._tokenizer, self._recent)
        return False


def cut(text: str, stops: Sequence[str], begin: int = 0) -> str:
    """A text without the stop that is complete first from `begin` on, and without what stands behind it."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop, begin)) >= 0]
    return text[: min(found)[1]] if found else text
