"""Hostile tokenizers: each ends as an answer or as an error of ours, and the process that opens them lives on.

The process that opens them here has limits itself, so that a fault costs one test. `TOKENIZER_MUTATIONS=1200` runs the long
form of the campaign and prints what became of each.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from typing import Any

import pytest

import limited

# Opens the tokenizers that its argument lists, uses those that it is given, and prints a line for each.
OPEN = """
    import json, pathlib, sys, tempfile, time
    sys.path.insert(0, "tests")
    import broken_tokenizers
    from dllm_fast.errors import DllmFastError
    from dllm_fast.text import trial
    from dllm_fast.text.tokenizer import Tokenizer

    def end(name, text):
        folder = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[2]))
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        began = time.monotonic()
        try:
            tokenizer, why = Tokenizer.find(folder)
            said = why
        except DllmFastError as error:
            tokenizer, said = None, f"{type(error).__name__}: {error}"
        opened = time.monotonic() - began
        later = []
        for some in ("", "Paris is 12 times able, isn't it?", "a" * 500 + "!", "e\\u0301 \\u4f60 \\U0001f44d\\n\\n "):
            try:
                if tokenizer is not None:
                    ids = tokenizer.encode(some)
                    tokenizer.decode(ids), tokenizer.decode(ids[:3], skip_special_tokens=False)
            except DllmFastError as error:
                later.append(str(error))
        print(json.dumps([name, tokenizer is not None, said, later, opened]), flush=True)

    what = json.loads(pathlib.Path(sys.argv[1]).read_text())
    if "seeds" in what:
        trial._SECONDS, trial._SECONDS_PER_MB = what["seconds"], 0
        for seed in range(*what["seeds"]):
            end(str(seed), broken_tokenizers.broken(seed)[1])
    else:
        for name, changes in what["cases"].items():
            shape, changes = changes
            end(name, json.dumps(broken_tokenizers.shape(shape) | changes))
"""


def opened(
    what: dict[str, Any], folder: Any, seconds: float
) -> tuple[dict[str, tuple[bool, str | None, list[str], float]], Any]:
    """By name: could the tokenizer be opened, what was said, the errors of its use, and seconds; and how the process ended."""
    (folder / "what.json").write_text(json.dumps(what))
    ended = limited.run(OPEN, folder / "what.json", folder, seconds=seconds, gigabytes=6)
    return {name: tuple(rest) for name, *rest in map(json.loads, ended.output.splitlines())}, ended


A, B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
SPACE_TOKENS = [
    {"id": i, "content": text, "single_word": False, "lstrip": i == 0, "rstrip": False, "normalized": True, "special": i == 0}
    for i, text in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
] + [{"id": 900, "content": " ", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}]


def split(pattern: str) -> dict[str, Any]:
    return {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}}


def template(single: list[Any], pair: list[Any]) -> dict[str, Any]:
    return {"post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {}}}


def replace(text: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


# A shape, what is changed of it, and what must be said; None where it may open, as long as nothing of it ends the process.
CASES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "charsmap that is empty": (
        "sentencepiece",
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        "panicked",
    ),
    "charsmap at random": (
        "sentencepiece",
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "EAAAAP////8A/wD/ESIzRKq7zN0AYQBi"}},
        "panicked|cannot read",
    ),
    "charsmap that promises 4 GB": (
        "sentencepiece",
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}},
        "panicked|cannot read|crashed",
    ),
    "template with the second text alone": ("bytes", template([B], [A, B]), "panicked"),
    "template that repeats the text": (
        "bytes",
        template([A] * 5000, [A, B]),
        "must keep a text as long as it is|must keep within",
    ),
    "decoder that strips past the end": (
        "bytes",
        {"decoder": {"type": "Strip", "content": "a", "start": 3, "stop": 5}},
        "panicked",
    ),
    "spaces replaced by nothing, and a token of space": (
        "word pieces",
        {
            "normalizer": {"type": "Replace", "pattern": {"Regex": r"\s"}, "content": ""},
            "added_tokens": SPACE_TOKENS,
        },
        "panicked",
    ),
    "pattern that goes back (nested)": ("pattern", split(r"(a+)+$"), "panicked|must keep within"),
    "pattern that goes back (either)": ("pattern", split(r"(a|aa)+$"), "panicked|must keep within"),
    "pattern that goes back (words)": ("pattern", split(r"(\w+\s?)*$"), "panicked|must keep within"),
    "normalizer that grows": (
        "bytes",
        {"normalizer": {"type": "Sequence", "normalizers": [replace("a", "a" * 10)] * 12}},
        "crashed|must keep",
    ),
    "normalizer that grows a little": ("bytes", {"normalizer": replace("a", "b" * 20_000)}, "must keep"),
    "decoder that grows": (
        "bytes",
        {"decoder": replace("a", "b" * 20_000)},
        "must keep a text as long as it is, but the text of",
    ),
    "brackets without an end": ("bytes", {"normalizer": json.loads("[" * 500 + "]" * 500)}, "cannot read"),
    "as it is": ("bytes", {}, None),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Any:
    cases = {name: case[:2] for name, case in CASES.items()}
    return opened({"cases": cases}, tmp_path_factory.mktemp("tokenizers"), 240)


@pytest.mark.parametrize("name", CASES)
def test_named_cases(ends: Any, name: str) -> None:
    found, ended = ends
    assert name in found, f"the process ended before: {ended.code}, {ended.errors[-2000:]}"
    is_open, said, later, _ = found[name]
    expected = CASES[name][2]
    if expected is None:
        assert is_open, said
    else:
        assert not is_open
        assert re.match(f"CheckpointError: (?=.*tokenizer.json).*({expected})", str(said)), said
    assert name != "as it is" or not later
    assert ended.code == 0


def test_a_campaign_of_mutations(tmp_path: Any) -> None:
    """Each ends as an answer or as an error of ours; the parent neither dies nor hangs."""
    count = int(os.environ.get("TOKENIZER_MUTATIONS", "40"))
    found, ended = opened({"seeds": [0, count], "seconds": 4}, tmp_path, 60 + 10 * count)
    assert ended.code == 0, (len(found), ended.code, ended.errors[-3000:])
    assert len(found) == count
    kinds = Counter()
    for is_open, said, later, _ in found.values():
        if is_open:
            kinds["answers" if not later else "opened, later an error of ours"] += 1
        else:
            words = ("panicked", "crashed", "must keep within", "must keep a text", "cannot read")
            kinds[next((word for word in words if word in str(said)), "other errors")] += 1
    print(dict(kinds), "longest:", max(seconds for *_, seconds in found.values()))
    assert kinds["answers"] > count / 10
    assert kinds["panicked"] > 0
    assert not [said for is_open, said, *_ in found.values() if not is_open and not str(said).startswith("CheckpointError: ")]
