"""Which `tokenizer.json` is made of parts alone that can neither crash the library nor grow or run without bound.

Only asked where no child process can be had in which a tokenizer is tried: then everything else is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Of parts in a sequence, and of strings in a part.
_PARTS, _STRING = 16, 16
_TOKENS, _TOKEN = 2_000_000, 1000
# Letters that the normalizer makes of one.
_GROWTH = 64
# Repetitions without an end in one branch of a pattern: the time is that power of the length of a word.
_REPEATED = 3

_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "BertNormalizer", "Strip")
_SPLITTERS = (
    "ByteLevel", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace", "Digits", "Punctuation", "UnicodeScripts",
    "CharDelimiterSplit",
)  # fmt: skip
_AROUND = ("BertProcessing", "RobertaProcessing", "ByteLevel")
_DECODERS = ("ByteLevel", "WordPiece", "Metaspace", "BPEDecoder", "ByteFallback", "Fuse")
_MODELS = ("BPE", "WordPiece", "WordLevel", "Unigram")


class _BeyondError(Exception):
    """Says which part is not known to be bounded."""


def beyond(text: str) -> str | None:
    """Which part of a `tokenizer.json` is not known to be bounded, as a clause for an error; None where all are."""
    try:
        _check(_object(json.loads(text), "it"))
    except _BeyondError as error:
        return str(error)
    except (ValueError, RecursionError):
        return "it is no JSON"
    return None


def _check(found: Mapping[str, Any]) -> None:
    _require(set(found) <= {"version", "truncation", "padding", "added_tokens", *_SECTIONS}, "it has unknown parts")
    for token in _list(found.get("added_tokens") or [], "added_tokens", _TOKENS):
        content = _object(token, "added_tokens").get("content")
        _require(isinstance(content, str) and 0 < len(content) <= _TOKEN, "an added token has no text")
    growth = 1.0
    for part in _parts(found.get("normalizer"), "normalizers", "normalizer"):
        growth *= _normalizer(part)
    _require(growth <= _GROWTH, "its normalizer makes a text longer and longer")
    for part in _parts(found.get("pre_tokenizer"), "pretokenizers", "pre_tokenizer"):
        _known(part, _SPLITTERS, "pre_tokenizer") if part.get("type") != "Split" else _pattern(part, "pre_tokenizer")
    for part in _parts(found.get("post_processor"), "processors", "post_processor"):
        _known(part, _AROUND, "post_processor") if part.get("type") != "TemplateProcessing" else _template(part)
    for part in _parts(found.get("decoder"), "decoders", "decoder"):
        _decoder(part)
    _model(_object(found.get("model"), "its model"))


_SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _BeyondError(otherwise)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    _require(isinstance(value, Mapping), f"{name} is no object")
    return value  # type: ignore[no-any-return]


def _list(value: Any, name: str, most: int) -> list[Any]:
    _require(isinstance(value, list) and len(value) <= most, f"{name} is no list of at most {most:,}")
    return value  # type: ignore[no-any-return]


def _parts(value: Any, plural: str, name: str) -> list[Mapping[str, Any]]:
    """A part, or those of a sequence, which may hold no other sequence."""
    if value is None:
        return []
    part = _object(value, f"its {name}")
    parts = _list(part.get(plural), f"its {name}", _PARTS) if part.get("type") == "Sequence" else [part]
    return [_object(one, f"its {name}") for one in parts]


def _known(part: Mapping[str, Any], names: tuple[str, ...], of: str) -> None:
    name = part.get("type")
    _require(name in names, f"{str(name)[:40]!r} in its {of} cannot be bounded")
    for value in part.values():
        _require(not isinstance(value, str) or len(value) <= _TOKEN, f"a string in its {of} is very long")


def _short(part: Mapping[str, Any], name: str, of: str, least: int = 0) -> str:
    value = part.get(name)
    _require(isinstance(value, str) and least <= len(value) <= _STRING, f"{name} in its {of} is no short text")
    return str(value)


def _normalizer(part: Mapping[str, Any]) -> float:
    """How many letters it makes of one at most."""
    if part.get("type") == "Prepend":
        _short(part, "prepend", "normalizer")
        return 1
    if part.get("type") == "Replace":
        return _replaced(part, "normalizer")
    _known(part, _NORMALIZERS, "normalizer")
    return 18 if str(part.get("type")).startswith("NFK") else 4 if str(part.get("type")).startswith("NF") else 2


def _replaced(part: Mapping[str, Any], of: str) -> float:
    content, found = _short(part, "content", of), _pattern(part, of)
    # A pattern may find nothing between two letters, and both.
    return max(1.0, len(content) / len(found)) if found else 1.0 + len(content)


def _pattern(part: Mapping[str, Any], of: str) -> str:
    """The text that is looked for, or "" where it is a pattern.

    One without repetition inside of what is repeated, and without references to what was found.
    """
    pattern = _object(part.get("pattern"), f"a pattern in its {of}")
    text = pattern.get("Regex", pattern.get("String"))
    _require(len(pattern) == 1 and isinstance(text, str) and 0 < len(text) <= _TOKEN, f"a pattern in its {of} has no text")
    if "Regex" not in pattern:
        return str(text)
    cannot = f"a pattern in its {of} cannot be bounded"
    # One sign for each class of letters and each escaped one; what stands in brackets within brackets is not understood.
    plain = re.sub(r"\[\^?\]?(?:\\.|[^\]\\\[])*\]|\\[pP]\{\^?\w+\}|\\[^0-9gkKRXyYGN]", "x", str(text), flags=re.DOTALL)
    _require(not re.search(r"[\[\]\\]", plain), cannot)
    plain = re.sub(r"\(\?(?:[:=!]|i:)", "(", plain)
    _require("(?" not in plain and not re.search(r"\)\s*[*+{]", plain), cannot)
    plain = re.sub(r"\{(\d{1,2})(?:,(\d{1,2}))?\}", "?", plain)
    _require("{" not in plain and not re.search(r"[*+?][*+]|\+\?", plain.replace("?", "")), cannot)
    _require(all(len(re.findall(r"[*+]", branch)) <= _REPEATED for branch in plain.split("|")), cannot)
    return ""


def _template(part: Mapping[str, Any]) -> None:
    """Each text stands once, and a special token has ids."""
    tokens = _object(part.get("special_tokens"), "its template")
    for name, wanted in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces = [_object(piece, "its template") for piece in _list(part.get(name), "its template", _PARTS)]
        texts = [_object(piece["Sequence"], "its template").get("id") for piece in pieces if "Sequence" in piece]
        _require(sorted(map(str, texts)) == wanted, f"its template has not each text once in {name!r}")
        for piece in pieces:
            if "Sequence" not in piece:
                token = _object(piece.get("SpecialToken"), "its template").get("id")
                _require(isinstance(token, str) and token in tokens, "its template has unknown tokens")
    for token in tokens.values():
        _list(_object(token, "its template").get("ids"), "ids in its template", _PARTS)


def _decoder(part: Mapping[str, Any]) -> None:
    if part.get("type") == "Replace":
        _require(_replaced(part, "decoder") <= _GROWTH, "its decoder makes a text longer and longer")
    elif part.get("type") == "Strip":
        _require(part.get("start") in (0, 1) and part.get("stop") == 0, "its decoder strips more than one sign")
    else:
        _known(part, _DECODERS, "decoder")


def _model(model: Mapping[str, Any]) -> None:
    kind = model.get("type")
    _require(kind in _MODELS, f"its model is of the type {str(kind)[:40]!r}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) is not None:
            _short(model, name, "model")
    most = model.get("max_input_chars_per_word", 100)
    _require(isinstance(most, int) and 0 < most <= _TOKEN, "its model takes words of any length")
    if kind == "Unigram":
        _list(model.get("vocab"), "its vocabulary", _TOKENS)
        return
    vocab = _object(model.get("vocab"), "its vocabulary")
    ids = set(vocab.values())
    _require(0 < len(vocab) <= _TOKENS and all(type(one) is int for one in ids), "its vocabulary is none")
    _require(len(ids) == len(vocab) and min(ids) >= 0 and max(ids) < 2 * len(ids) + _TOKEN, "its ids are not those of a list")
