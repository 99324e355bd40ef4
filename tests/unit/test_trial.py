"""Tokenizers are tried before they are believed; where no child can be had, only what is bounded by construction is taken."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import broken_tokenizers
import checkpoints
import dllm_fast
from dllm_fast import confined
from dllm_fast.errors import CheckpointError
from dllm_fast.text import bounded, trial
from dllm_fast.text.changes import Changes
from dllm_fast.text.tokenizer import Tokenizer
from dllm_fast.text.vocabulary import UnusableError


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_believed", {})


def written(folder: Path, shape: str = "bytes", **changes: object) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(broken_tokenizers.shape(shape) | changes))
    return folder


def without_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> None:
        raise confined.UnavailableError("processes have no limits of memory on this system")

    monkeypatch.setattr(confined, "ask", ask)


@pytest.mark.parametrize("shape", broken_tokenizers.SHAPES)
def test_shapes_that_people_have_are_believed(shape: str, tmp_path: Path) -> None:
    tokenizer, why = Tokenizer.find(written(tmp_path, shape))
    assert tokenizer is not None, why
    assert tokenizer.decode(tokenizer.encode("Paris is able", add_special_tokens=False)).lower() == "paris is able"


def test_one_trial_for_the_same_text_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = confined.ask
    monkeypatch.setattr(confined, "ask", lambda *given, **named: (asked.append(given[0]), ask(*given, **named))[1])
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path, tmp_path / "other"):
        Tokenizer.find(written(folder))
    assert asked == ["tokenizer"]
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "a"}')
    Tokenizer.find(tmp_path)
    assert asked == ["tokenizer"] * 2


def test_a_signal_handler_may_load_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, inner = written(tmp_path), []

    class Interrupted(dict[bytes, None]):
        def __contains__(self, digest: object) -> bool:  # where a handler may run
            if not inner:
                inner.append("begun")
                inner.append(Tokenizer.find(folder)[1])
            return super().__contains__(digest)

    monkeypatch.setattr(trial, "_believed", Interrupted())
    thread = threading.Thread(target=Tokenizer.find, args=(folder,), daemon=True)
    thread.start()
    thread.join(60)
    assert inner == ["begun", None]
    assert not thread.is_alive()


def test_what_was_believed_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "ask", lambda *_, **__: None)
    changes = Changes(kind=None, settings={}, added=[], special=[], file="")
    for number in range(2 * trial._MOST + 1):
        trial.believe(str(number), changes, "x")
    assert 0 < len(trial._believed) <= trial._MOST


def test_the_text_that_was_tried_is_the_text_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    ask = confined.ask

    def replaced(*given: Any, **named: Any) -> Any:
        (tmp_path / "tokenizer.json").write_text("no tokenizer")
        return ask(*given, **named)

    monkeypatch.setattr(confined, "ask", replaced)
    tokenizer, _ = Tokenizer.find(tmp_path)
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("Paris")) == "Paris"


def test_what_settings_add_is_tried_too(tmp_path: Path) -> None:
    """Nothing of the changes is made here before they were made in the child."""
    normalizer = {"type": "Replace", "pattern": {"Regex": r"\s"}, "content": ""}
    written(tmp_path, "word pieces", normalizer=normalizer)
    size = len(broken_tokenizers.shape("word pieces")["model"]["vocab"])
    added = {str(size): {"content": " ", "normalized": True, "special": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: the tokenizers library panicked on it \(AddedVocabulary bad split"
    ):
        Tokenizer.find(tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            confined.LimitError("it took longer than 30 seconds", "time"),
            "must keep within .* in a trial, .* but it took longer",
        ),
        (confined.DiedError("its process ended by signal 6"), r"the tokenizers library crashed on it \(its process ended by"),
        (confined.TaskError("PanicException", "index out of bounds"), r"the tokenizers library panicked on it \(index out of"),
        (
            confined.TaskError("GrowthError", "the text 'a' became 9 long"),
            "must keep a text as long as it is, but the text 'a'",
        ),
        (confined.TaskError("Exception", "data did not match"), r"^cannot read .*tokenizer.json: data did not match"),
    ],
)
def test_each_end_of_a_trial_is_an_error_of_the_checkpoint(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(confined, "ask", ask)
    for _ in range(2):  # what failed is not believed the second time either
        with pytest.raises(CheckpointError, match=said):
            Tokenizer.find(written(tmp_path))


# Where no child can be had


@pytest.mark.parametrize("shape", [name for name in broken_tokenizers.SHAPES if name != "sentencepiece"])
def test_bounded_parts_are_taken_without_a_trial(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_a_child(monkeypatch)
    tokenizer, why = Tokenizer.find(written(tmp_path, shape))
    assert tokenizer is not None, why


def test_the_tokenizers_of_the_package_and_of_the_tests_are_bounded() -> None:
    for text in (
        *(path.read_text() for path in dllm_fast.demo.FOLDER.glob("*/tokenizer.json")),
        checkpoints.byte_tokenizer().to_str(),
    ):
        assert bounded.beyond(text) is None


def test_a_folder_without_a_trial_opens_for_ids_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_a_child(monkeypatch)
    tokenizer, why = Tokenizer.find(written(tmp_path, "sentencepiece"))
    assert tokenizer is None
    assert why == (
        f"{tmp_path / 'tokenizer.json'} must be tried in a child process before it is used, because 'Precompiled' in its "
        "normalizer cannot be bounded, and no child can be had (processes have no limits of memory on this system); if you "
        "trust it, open it with `tokenizers` and pass tokenizer="
    )


PATTERN = {"type": "Split", "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
UNBOUNDED: dict[str, dict[str, Any]] = {
    "growth": {"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 3}},
    "a long string": {"normalizer": REPLACE | {"content": "a" * 99}},
    "a pattern in a normalizer": {"normalizer": REPLACE | {"pattern": {"Regex": "(a+)+$"}}},
    "two patterns": {"normalizer": REPLACE | {"pattern": {"Regex": "a", "String": "a"}}},
    "a pattern that finds nothing": {
        "normalizer": {"type": "Sequence", "normalizers": [REPLACE | {"pattern": {"Regex": "x*"}}] * 2}
    },
    "a charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "a part that nobody knows": {"pre_tokenizer": {"type": "New"}},
    "sequences in sequences": {"decoder": {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": []}]}},
    **{
        f"the pattern {pattern}": {"pre_tokenizer": PATTERN | {"pattern": {"Regex": pattern}}}
        for pattern in (
            *(
                "(a+)+$",
                "(a|aa)+$",
                r"(\w+\s?)*$",
                "(?:a?){30}",
                r"(a)\1",
                "a**",
                "a++",
                "a*a*a*a*",
                "(?<x>a)",
                "(?<=a)b",
                "(?R)",
            ),
            *("[a-z&&[^b]]", r"\g<1>", "a{1000}", "(?>a)", "(?i)a"),
        )
    },
    "the second text alone": {"post_processor": TEMPLATE | {"single": [{"Sequence": {"id": "B", "type_id": 0}}]}},
    "a text twice": {"post_processor": TEMPLATE | {"single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2}},
    "an unknown special token": {
        "post_processor": TEMPLATE | {"single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "x", "type_id": 0}}]}
    },
    "stripping": {"decoder": {"type": "Strip", "content": "a", "start": 3, "stop": 5}},
    "a decoder that grows": {"decoder": REPLACE | {"content": "a" * 9999}},
    "CTC": {"decoder": {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}},
    "ids far apart": {"model": {"type": "BPE", "vocab": {"a": 0, "b": 2**32 - 1}, "merges": []}},
    "ids twice": {"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}},
    "no ids": {"model": {"type": "BPE", "vocab": {"a": "0"}, "merges": []}},
    "an empty added token": {"added_tokens": [{"content": ""}]},
    "parts that nobody knows": {"more": 1},
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_cannot_be_bounded_is_refused_without_a_trial(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(broken_tokenizers.shape("bytes") | UNBOUNDED[name])
    assert bounded.beyond(text) is not None
    without_a_child(monkeypatch)
    changes = trial_changes()
    with pytest.raises(UnusableError, match="must be tried in a child process before it is used, because "):
        trial.believe(text, changes, "tokenizer.json")


def trial_changes() -> Any:
    from dllm_fast.text.changes import Changes

    return Changes(kind=None, settings={}, added=[], special=[], file="")


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"model": 5}', '{"added_tokens": {}}'])
def test_what_is_no_tokenizer_is_not_bounded(text: str) -> None:
    assert bounded.beyond(text) is not None
