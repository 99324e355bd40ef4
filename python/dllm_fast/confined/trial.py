"""Tries a tokenizer of a folder, in the child process: what its file says may crash the library, hang it or take all memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

# Of one probe in letters: long enough that a search which goes back over it again and again comes to no end.
_RUN = 1000
# Letters, bytes or tokens that a text may become for each of its own: U+FDFA has 18 letters in NFKC, a letter up to 4 bytes.
_GROWTH, _FREE = 64, 4096
# Of ids that are made text: one by one, and some together.
_SINGLE, _SEVERAL, _TOGETHER = 256, 64, 24

_WRITTEN = (
    "",
    "a",
    " ",
    "\n",
    "\t",
    " a",
    "a ",
    "  a  b  ",
    "\r\n\r\n \n\t ",
    "Hello, world! It's 12:30, isn't it?",
    "0123456789 3.14159 1,000,000 1e-5 ½ ² Ⅷ ٣",
    "def f(x):\n    return x ** 2  # two\n\n\n\tif not x: pass\n",
    "ÄÖÜ ß façade naïve Ångström ŁÓDŹ",
    "Привет, мир. Ελληνικά. Հայերեն. ქართული",
    "שלום עולם. مرحبا بالعالم. ﷺ ﷽",
    "नमस्ते दुनिया। ไทย ภาษา. தமிழ். 한국어. ᄒᆞᆫ",
    "你好,世界。日本語のテキスト、カタカナ。𠀀𠜎",
    "e\u0301\u0323 a\u0308 o\u0302\u0303\u0304 Z\u0351\u036b\u0343\u036a\u0302\u036b",
    "👍\U0001f3fd 👩\u200d👩\u200d👧 🇩🇪🇫🇷 ❤\ufe0f 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\x00\x01\x1f\x7f\x80\xa0\xad\u200b\u200d\u2028\u2029\u202e\u3000\ufeff\ufffd\uffff\ue000\U0010ffff",
    "\ufb01 \ufb00 \uff26\uff55\uff4c\uff4c \u3314 ①② ™ \u0130\u0131 \u017f \u01c5",
    "https://example.org/a?b=c&d=%20#e <a href='x'>&amp;</a> {\"a\": [1, null]} \\n \\u0041 ^$.*+?()[]{}|",
    "▁ ▁▁a ## ##a Ġ Ġa Ċ <0x0A> </w> @@ _",
)


class GrowthError(Exception):
    """A short text or a few ids became very much."""


def tried(question: Any) -> None:
    """Builds a tokenizer as its folder says, and makes ids of probe texts and text of ids.

    Args:
        question: `text`, that of `tokenizer.json`, and `changes`, what the settings change of it.

    Raises:
        Exception: whatever is wrong. That the vocabulary has no token for a text is an answer like any other.
    """
    import tokenizers

    from dllm_fast.text.changes import Changes

    made = tokenizers.Tokenizer.from_str(question["text"])
    Changes(**question["changes"]).apply(made)
    _write(made)
    _read(made)


def _write(made: tokenizers.Tokenizer) -> None:
    special = [token.content for _, token in sorted(made.get_added_tokens_decoder().items())]
    for text in _texts(special):
        most = _FREE + _GROWTH * len(text.encode())
        if made.normalizer is not None:
            _check(len(made.normalizer.normalize_str(text)), most, f"the text {text[:20]!r}")
        ids: list[int] = []
        for around in (False, True):
            try:
                ids = made.encode(text, add_special_tokens=around).ids
            except Exception:  # a word that the vocabulary does not have
                continue
            _check(len(ids), most, f"the text {text[:20]!r}")
        _text(made, ids)


def _texts(special: Sequence[str]) -> Iterator[str]:
    yield from _WRITTEN
    yield "".join(_WRITTEN)
    yield " ".join(_WRITTEN) * 4
    # Where patterns are searched: runs, runs that end otherwise, and runs of pairs.
    for letter in ("a", "A", "1", " ", "\n", "-", "é", "你", "\u0301", "👍", "▁", "\x00"):
        yield letter * _RUN
        yield letter * _RUN + "!"
        yield (letter + "b") * (_RUN // 2) + "!"
    yield "a b " * (_RUN // 4) + "!"
    dice = random.Random(0)
    words = ["".join(dice.choices("etaoinshrdlucmfwypvbgkjqxz", k=dice.randrange(1, 12))) for _ in range(600)]
    yield " ".join(words)
    # All special tokens, alone and in the middle of others.
    some = special if len(special) <= _SINGLE else dice.sample(special, _SINGLE)
    for token in some:
        yield token
        yield f"a{token} b {token}{token}"
    yield "".join(some)


def _read(made: tokenizers.Tokenizer) -> None:
    count = made.get_vocab_size(with_added_tokens=True)
    added = sorted(made.get_added_tokens_decoder())
    dice = random.Random(0)
    known = sorted(set(made.get_vocab(with_added_tokens=True).values()))
    ends = [0, 1, 2, *known[:8], *known[-8:], count - 1, count, 2**31, 2**32 - 1]
    single = [i for i in [*ends, *added[:_SINGLE], *dice.choices(known, k=_SINGLE)] if i >= 0] if known else []
    for token in single:
        _text(made, [token])
    _text(made, [])
    for pool in (known, added, [*added, *known[:300]]):
        for _ in range(_SEVERAL if pool else 0):
            _text(made, dice.choices(pool, k=dice.randrange(1, _TOGETHER)))
        if pool:
            _text(made, [pool[0]] * _RUN)
            _text(made, dice.choices(pool, k=_RUN))


def _text(made: tokenizers.Tokenizer, ids: list[int]) -> None:
    for skipped in (False, True):
        try:
            text = made.decode(ids, skip_special_tokens=skipped)
        except Exception:  # an id that the library does not take
            continue
        if len(text) > _FREE:
            size = sum(len(made.id_to_token(token) or "") for token in ids)
            _check(len(text), _FREE + _GROWTH * (size + len(ids)), f"the text of {len(ids)} ids")


def _check(length: int, most: int, what: str) -> None:
    if length > most:
        raise GrowthError(f"{what} became {length:,} long, where at most {most:,} can be meant")
