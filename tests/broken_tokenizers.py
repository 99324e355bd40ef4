"""Tokenizers of real shapes, broken at random: what somebody hostile, or a bad disk, may leave in a `tokenizer.json`."""

from __future__ import annotations

import base64
import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors, trainers

import text_models

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def charsmap() -> bytes:
    """A table of sentencepiece that changes nothing: 256 empty units, in which no letter is found."""
    return struct.pack("<I", 1024) + bytes(1024) + b"a\0"


def precompiled() -> tokenizers.Tokenizer:
    """As XLM-R's: a normalizer from sentencepiece."""
    made = text_models.metaspace("always", unigram=True, closed=True)
    made.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap()), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    )
    return made


def split_by_pattern() -> tokenizers.Tokenizer:
    """As Qwen's: a pattern cuts, bytes are joined, special tokens are added."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        text_models.CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"])
    made.add_tokens([AddedToken("<tool>", normalized=True), AddedToken(" spaced ", lstrip=True, rstrip=True)])
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def with_bytes() -> tokenizers.Tokenizer:
    """As Llama 2's: what is unknown is written in bytes, and one space is stripped from a text."""
    made = text_models.prepended()
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [("<unk>", 0)]
    made.post_processor = processors.TemplateProcessing(single="<unk> $A", pair="<unk> $A <unk> $B", special_tokens=special)
    return made


SHAPES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "word pieces": text_models.word_piece,
    "bytes": lambda: text_models.byte_level(lstrip=True, closed=True),
    "pattern": split_by_pattern,
    "metaspace": lambda: text_models.metaspace("first", closed=True),
    "sentencepiece": precompiled,
    "byte fallback": with_bytes,
}

_NUMBERS = (0, 1, -1, 2, 5, 17, 255, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, -(2**63), 0.5, -1e308, 1e308)
_STRINGS = ("", " ", "a", "\n", "\0", "\u0301", "é", "▁", "👍", "##", "A", "B", "x" * 300, "ab" * 30_000, "[UNK]", "<s>", "\\s")
_PATTERNS = (
    r"\s", r".", r"", r"a*", r"(a+)+$", r"(a|aa)+$", r"(\w+\s?)*$", r"(?:a?){30}a{30}", r"(.*)(.*)(.*)(.*)x", r"(?=a)", r"\b",
    r"(x+x+)+y", r"^", r"$", r"(?<=a)b", r"[\s\S]", r"\p{L}", r"((a*)*)*$", r"a{0,1000}b",
)  # fmt: skip
Value = Any


def _parts(dice: random.Random) -> dict[str, Value]:
    """A part of each kind that nobody publishes."""
    pattern: Value = {"Regex": dice.choice(_PATTERNS)} if dice.random() < 0.8 else {"String": dice.choice(_STRINGS)}
    number = dice.choice([0, 1, 2, 3, 5, 9, 100, 2**31])
    makers = {"normalizer": _normalizers, "pre_tokenizer": _splitters, "post_processor": _templates, "decoder": _decoders}
    return {name: dice.choice(made(dice, pattern, number)) for name, made in makers.items()}


def _normalizers(dice: random.Random, pattern: Value, number: int) -> list[Value]:
    size = struct.pack("<I", dice.choice([0, 4, 8, 1024, 2**31, 2**32 - 1]))
    table = base64.b64encode(dice.choice([b"", dice.randbytes(3), size + dice.randbytes(2000)])).decode()
    ten = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    return [
        {"type": "Precompiled", "precompiled_charsmap": table},
        {"type": "Replace", "pattern": pattern, "content": dice.choice(["", "", " ", "aa", "x" * 5000])},
        {"type": "Prepend", "prepend": dice.choice(_STRINGS)},
        {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Nmt"}]},
        {"type": "Sequence", "normalizers": [ten] * min(number, 12)},
        {"type": "ByteLevel"},
    ]


def _splitters(dice: random.Random, pattern: Value, number: int) -> list[Value]:
    behavior = dice.choice(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
    replacement, scheme = dice.choice(["▁", "a", " "]), dice.choice(["always", "never", "first"])
    return [
        {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": dice.random() < 0.5},
        {"type": "CharDelimiterSplit", "delimiter": dice.choice(["a", " ", "é"])},
        {"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": True},
        {"type": "UnicodeScripts"},
        {"type": "Digits", "individual_digits": True},
        {"type": "FixedLength", "length": number},
        {"type": "Sequence", "pretokenizers": []},
    ]


def _templates(dice: random.Random, pattern: Value, number: int) -> list[Value]:
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    single = [dice.choice([first, second]) for _ in range(dice.choice([0, 1, 1, 2, 50]))]
    special = {"SpecialToken": {"id": dice.choice(["<s>", "[CLS]", "<nobody>"]), "type_id": dice.choice([0, 1])}}
    tokens = {
        "<s>": {"id": "<s>", "ids": [number], "tokens": ["<s>"]},
        "[CLS]": {"id": "[CLS]", "ids": [], "tokens": []},
    }
    return [
        {"type": "TemplateProcessing", "single": [*single, special], "pair": single, "special_tokens": tokens},
        {"type": "TemplateProcessing", "single": [second], "pair": [first, second], "special_tokens": {}},
        {"type": "BertProcessing", "sep": ["[SEP]", number], "cls": ["[CLS]", number]},
        {"type": "Sequence", "processors": []},
        {"type": "RobertaProcessing", "sep": ["", 0], "cls": ["", number], "trim_offsets": True, "add_prefix_space": True},
    ]


def _decoders(dice: random.Random, pattern: Value, number: int) -> list[Value]:
    some, other = dice.choice(_STRINGS), dice.choice(_STRINGS)
    strip = {
        "type": "Strip",
        "content": dice.choice([" ", "a", "P", "▁"]),
        "start": number,
        "stop": dice.choice([0, 1, 5, 2**31]),
    }
    end = {"type": "Strip", "content": " ", "start": 0, "stop": number}
    return [
        strip,
        {"type": "CTC", "pad_token": some, "word_delimiter_token": other, "cleanup": True},
        {"type": "Replace", "pattern": pattern, "content": dice.choice(["", "y" * 5000])},
        {"type": "WordPiece", "prefix": some, "cleanup": True},
        {"type": "BPEDecoder", "suffix": some},
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, end]},
        {"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": False},
    ]


def _places(value: Value, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something to break; of long lists and vocabularies a few entries."""
    found = [path] if path else []
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for name, item in items if len(items) <= 40 else [*items[:3], *items[-3:]]:
        found += _places(item, (*path, name))
    return found


def _other(dice: random.Random, value: Value) -> Value:
    if dice.random() < 0.3:
        return dice.choice(
            [None, True, False, [], {}, dice.choice(_NUMBERS), dice.choice(_STRINGS), {"type": "Sequence"}, [[]]]
        )
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return dice.choice([*_STRINGS, value * 50, value[:-1], value + "\0"])
    if isinstance(value, list):
        return dice.choice([[], value * 2, value[:-1], value[::-1], value * 20 if len(value) < 50 else value, [value]])
    if isinstance(value, dict) and value:
        without = dice.choice(list(value))
        return {name: item for name, item in value.items() if name != without}
    return dice.choice(_NUMBERS)


def _put(found: Value, path: tuple[Any, ...], change: Callable[[Value], Value]) -> None:
    for name in path[:-1]:
        found = found[name]
    found[path[-1]] = change(found[path[-1]])


def broken(seed: int) -> tuple[str, str]:
    """A shape, and the text of a `tokenizer.json` of it in which one to three things are wrong."""
    dice = random.Random(f"broken tokenizers {seed}")
    name = dice.choice(list(SHAPES))
    found = copy.deepcopy(shape(name))
    for _ in range(dice.choice([1, 1, 2, 3])):
        kind = dice.choice(["value", "part", "part", "part", "added", "model"])
        if kind == "value":
            _put(found, dice.choice(_places(found)), lambda value: _other(dice, value))
        elif kind == "part":
            parts = _parts(dice)
            name = dice.choice(list(parts))
            found[name] = parts[name]
        elif kind == "added" and isinstance(found.get("added_tokens"), list):
            token = {"id": dice.choice([0, 3, 500, 10_000, 2**31, 2**32 - 1]), "content": dice.choice(_STRINGS[:14])}
            flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
            found["added_tokens"].append(token | {name: dice.random() < 0.5 for name in flags})
        elif isinstance(found.get("model"), dict):
            model = found["model"]
            _put(model, (dice.choice(list(model) or ["type"]),), lambda value: _other(dice, value)) if model else None
    text = json.dumps(found)
    if dice.random() < 0.05:  # a bad disk
        at = dice.randrange(len(text))
        text = text[:at] + dice.choice(["", "}", '"', "9", "\\u0000"]) + text[at + dice.randrange(40) :]
    return name, text


_shapes: dict[str, Value] = {}


def shape(name: str) -> Value:
    """The parts of a shape, with a vocabulary that is the same in every process: what training makes is not."""
    if name not in _shapes:
        found = json.loads(SHAPES[name]().to_str())
        template = found["post_processor"]
        if "special_tokens" in template:
            template["special_tokens"] = dict(sorted(template["special_tokens"].items()))
        model = found["model"]
        tokens = [token["content"] for token in sorted(found["added_tokens"], key=lambda token: token["id"])]
        for number, token in enumerate(sorted(found["added_tokens"], key=lambda token: token["id"])):
            token["id"] = number
        if name == "byte fallback":
            model["byte_fallback"] = True
            tokens += [f"<0x{byte:02X}>" for byte in range(256)]
        letters, longer = _pieces("Ġ" if name in ("bytes", "pattern") else "" if name == "word pieces" else "▁")
        if name in ("bytes", "pattern"):
            letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        if model["type"] == "WordPiece":
            longer = [piece.lower() for piece in longer]
            longer += [f"##{piece.lower()}" for piece in [*letters, *longer]]
        listed = list(dict.fromkeys([*tokens, *letters, *longer]))
        if model["type"] == "Unigram":
            model["vocab"], model["unk_id"] = [[piece, -0.1 * i] for i, piece in enumerate(listed)], tokens.index("<unk>")
        else:
            model["vocab"] = {piece: i for i, piece in enumerate(listed)}
        if model["type"] == "BPE":
            model["merges"] = [[piece[:-1], piece[-1]] for piece in longer]
        _shapes[name] = found
    return _shapes[name]


def _pieces(space: str) -> tuple[list[str], list[str]]:
    """The letters of the corpus, and beginnings of its words; each is there without its last letter, too."""
    words = sorted({space + word for line in text_models.CORPUS for word in line.split()})
    letters = sorted(set("".join(words)) | set("abcdefghijklmnopqrstuvwxyz"))
    longer = {word[:length] for word in words for length in range(2, 6) if len(word) >= length}
    return letters, sorted(longer, key=lambda piece: (len(piece), piece))
