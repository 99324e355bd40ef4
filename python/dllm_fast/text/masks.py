"""Text with masks as ids, so that it reads as it was written once they are filled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from dllm_fast.errors import DllmFastError, InvalidValueError
from dllm_fast.text.tokens import around, decode, encode_plain, spelling

#: What stands for a mask in a text, however the tokenizer spells its own.
MASK = "[MASK]"

# A mask that stands for tokens of unknown number, or was meant to.
_GAP = re.compile(r"\[MASK:([^\[\]\n]{0,40})\]")
# They stand for the word before a piece of text. Many, because a vocabulary may lack one, or join it to what follows.
_LETTERS = "xeaiotnsqzjvkw0123456789"


def canvas(text: str, tokenizer: Any, mask: int) -> list[int]:
    """Ids of a text in which each [MASK] is the mask, and so is the mask as the tokenizer spells it.

    The text around the masks is encoded piece by piece, and which token a space belongs to is asked of the tokenizer:

    - A space behind a mask stays with the word that follows.
    - A space before a mask belongs to the token that fills it, where words carry the space before them (byte-level BPE,
      Metaspace): it is left out, once, for the token brings its own. Where the tokenizer's mask takes all space around it
      (`lstrip`, as RoBERTa's), all of it is left out, as in its own fill-mask. Where a space is a token by itself, it stays.
    - A piece behind a mask is encoded as it would be behind a letter: no space is put before it (Metaspace,
      `add_prefix_space`), and one that begins with letters continues the word of the mask (WordPiece: `##able`).
    - What the tokenizer puts around every text stands around the canvas.
    """
    spelled = _spelled(tokenizer, mask)
    pieces = re.split("|".join(re.escape(written) for written in {MASK, spelled or MASK}), text)
    if len(pieces) > 1:
        left, right = _taken(tokenizer, spelled, mask)
        if left:
            pieces[:-1] = [piece.rstrip() for piece in pieces[:-1]]
        if right:
            pieces[1:] = [piece.lstrip() for piece in pieces[1:]]
        if any(piece.endswith(" ") for piece in pieces[:-1]) and _carries_space(tokenizer, text):
            pieces[:-1] = [piece.removesuffix(" ") for piece in pieces[:-1]]
    head, tail = around(tokenizer, max(pieces, key=len))
    found = [*head, *(encode_plain(tokenizer, pieces[0]) if pieces[0] else ())]
    for piece in pieces[1:]:
        found += [mask, *continued(tokenizer, piece)]
    return found + tail


def gaps(text: str, tokenizer: Any, mask: int) -> tuple[str, dict[int, tuple[int, int]]]:
    """A text in which each gap, [MASK:3-10] say, is one mask, and which of its masks are gaps, with least and most lengths.

    Raises:
        InvalidValueError: a gap without two numbers.
    """
    if not _GAP.search(text):
        return text, {}
    spelled = _spelled(tokenizer, mask)
    masks = "|".join(re.escape(written) for written in {MASK, spelled or MASK})
    found: dict[int, tuple[int, int]] = {}
    for number, written in enumerate(re.finditer(f"{_GAP.pattern}|{masks}", text)):
        if written[1] is None:
            continue
        bounds = re.fullmatch(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*", written[1])
        if bounds is None:
            raise InvalidValueError(
                f"a gap must be written with its least and its most number of tokens, got {written[0]!r}; write [MASK:3-10]"
            )
        found[number] = int(bounds[1]), int(bounds[2])
    return _GAP.sub(MASK, text), found


def _spelled(tokenizer: Any, mask: int) -> str | None:
    """The text in which the tokenizer sees its mask, or None: an id may have none."""
    written = spelling(tokenizer, mask)
    return written if written and mask in encode_plain(tokenizer, written) else None


def _taken(tokenizer: Any, spelled: str | None, mask: int) -> tuple[bool, bool]:
    """Does the tokenizer's mask take the space before it, and the space behind it?"""
    if spelled is None:
        return False, False
    for letter in _known(tokenizer, _LETTERS):
        spaced, glued = encode_plain(tokenizer, f"{spelled}  {letter}"), encode_plain(tokenizer, spelled + letter)
        if mask not in glued:
            return False, False  # a word like any other, which takes nothing
        left = encode_plain(tokenizer, f"{letter}  {spelled}") == encode_plain(tokenizer, letter + spelled)
        # Where spaces are no tokens, as in WordPiece, they are not taken either: they end a word.
        right = spaced == glued and glued[glued.index(mask) + 1 :] != continued(tokenizer, f"  {letter}")
        return left, right
    return False, False


def _known(tokenizer: Any, words: Iterable[str]) -> Iterator[str]:
    """Those of the words that the tokenizer can write."""
    for word in words:
        try:
            ids = encode_plain(tokenizer, word)
        except DllmFastError:
            continue
        if ids:
            yield word


def _carries_space(tokenizer: Any, text: str) -> bool:
    """Is there a word, a letter or one of the text, that makes one token with the space before it?"""
    for word in _known(tokenizer, [*_LETTERS, *re.findall(r"\w+", text.replace(MASK, " "))[:16]]):
        apart = encode_plain(tokenizer, f"{word} ")
        if encode_plain(tokenizer, f"{word} {word}")[: len(apart)] != apart:
            return True
    return False


def continued(tokenizer: Any, piece: str) -> list[int]:
    """Ids of a piece of text that stands behind other tokens, so that it does not begin like a text of its own."""
    if not piece:
        return []
    alone = encode_plain(tokenizer, piece)
    for letter in _known(tokenizer, _LETTERS):
        before = encode_plain(tokenizer, letter)
        shown = decode(tokenizer, before)
        if shown.strip() != letter:
            continue  # it is unknown
        # What reads right by itself is taken as it is: most tokenizers begin a piece as they go on.
        if decode(tokenizer, before + alone) == shown + piece:
            return alone
        try:
            whole = encode_plain(tokenizer, letter + piece)
        except DllmFastError:  # a word that the tokenizer does not know
            continue
        if whole[: len(before)] == before and len(whole) > len(before):
            return whole[len(before) :]
    return alone
