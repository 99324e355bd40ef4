"""Tokenizers that fail: an error of ours that names them, and no answer that was computed is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

import checkpoints
import dllm_fast
from dllm_fast import cli
from dllm_fast.errors import CheckpointError, DllmFastError, InvalidTypeError, InvalidValueError
from dllm_fast.text import prompts as text
from dllm_fast.text import tokens
from dllm_fast.text.failures import is_panic, reason, translated
from dllm_fast.text.tokenizer import Tokenizer

# Only sequence B: the library looks for a second text, and panics.
SECOND_ONLY = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "B", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {},
}
TEXT, WORDS = dllm_fast.demo.load_text()


def changed(tokenizer: tokenizers.Tokenizer, **parts: object) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | parts))


def panic() -> BaseException:
    with pytest.raises(BaseException, match="index out of bounds") as caught:
        changed(WORDS, post_processor=SECOND_ONLY).encode("a")
    return caught.value


class Failing:
    """A tokenizer of somebody's own, one letter a token, that fails where it is told to."""

    def __init__(self, error: BaseException, *methods: str) -> None:
        self.error, self.methods = error, methods

    def _maybe(self, method: str) -> None:
        if method in self.methods:
            raise self.error

    def encode(self, words: str, add_special_tokens: bool = True) -> list[int]:
        self._maybe("encode")
        return WORDS.encode(words, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        self._maybe("decode")
        return WORDS.decode(ids, skip_special_tokens=skip_special_tokens)

    def get_vocab(self) -> dict[str, int]:
        self._maybe("get_vocab")
        return WORDS.get_vocab()

    def __len__(self) -> int:
        self._maybe("__len__")
        return WORDS.get_vocab_size()

    @property
    def special_ids(self) -> set[int]:
        self._maybe("special_ids")
        return set()

    @property
    def eos_token_id(self) -> int | None:
        self._maybe("eos_token_id")
        return None


def test_a_panic_is_no_exception_and_becomes_an_error_of_ours() -> None:
    error = panic()
    assert not isinstance(error, Exception)
    assert is_panic(error)
    assert reason(error).startswith("it panicked: index out of bounds")
    with pytest.raises(CheckpointError, match=r"^it panicked") as caught, translated(lambda e: CheckpointError(reason(e))):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), InvalidTypeError("ours")])
def test_what_ends_a_program_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, translated(lambda e: CheckpointError("made")):
        raise error
    assert caught.value is error
    for ask in (tokens.vocabulary, tokens.special_ids, lambda t: tokens.encode(t, "a"), lambda t: tokens.decode(t, [1])):
        with pytest.raises(type(error)) as caught:
            ask(Failing(error, "encode", "decode", "get_vocab", "special_ids"))
        assert caught.value is error


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_every_exception_has_a_reason() -> None:
    assert [reason(error) for error in (ValueError("a\nb"), ValueError(), WordlessError())] == [
        "a b",
        "ValueError",
        "WordlessError",
    ]
    assert len(reason(ValueError("x" * 9999))) < 320


METHODS: dict[str, Callable[[Any], object]] = {
    "encode": lambda t: text.prompts("sort:ab=", t, "prompt"),
    "decode": lambda t: text.decode(t, np.array([3]), np.array([True]), []),
    "get_vocab": lambda t: tokens.ids_of(("a",), t, "suppress_tokens"),
    "__len__": tokens.size,
    "special_ids": lambda t: tokens.not_written(t, (), None),
    "eos_token_id": lambda t: tokens.remarks(t, (), None),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [ZeroDivisionError("no"), StopIteration("no"), "panic"])
def test_each_way_to_ask_a_tokenizer_in_memory(method: str, error: Any) -> None:
    error = panic() if error == "panic" else error
    ask = METHODS[method]
    ask(Failing(error))
    if method == "eos_token_id":
        failing = type("Special", (Failing,), {"special_ids": {1}})(error, method)
    else:
        failing = Failing(error, method)
    with pytest.raises(InvalidValueError, match=r"Failing|Special|made of what the tokenizer knows, got 'sort:ab='"):
        ask(failing)
    if is_panic(error):
        with pytest.raises(InvalidValueError, match=r"a tokenizer must .*(Failing|Special) that did not: it panicked: index"):
            ask(failing)


def test_a_tokenizer_of_a_folder_that_panics(tmp_path: Path) -> None:
    opened = Tokenizer(changed(WORDS, post_processor=SECOND_ONLY), special_tokens={}, templates={}, origin=str(tmp_path))
    with pytest.raises(
        CheckpointError, match=rf"^{tmp_path}: the tokenizer must make ids of a text such as 'ab', but it panicked"
    ):
        opened.encode("ab")
    for model in (TEXT, lambda ids: np.zeros((*ids.shape, 40), np.float32)):
        with pytest.raises(DllmFastError, match="it panicked: index out of bounds"):
            dllm_fast.sample(model, "sort:ab=", tokenizer=opened, mask_token_id=1, max_new_tokens=2)


def test_what_is_asked_of_a_tokenizer_of_a_folder_is_checked(tmp_path: Path) -> None:
    opened = Tokenizer.from_folder(checkpoints.write_tokenizer(tmp_path))
    assert opened is not None
    assert [opened.id_to_token(i) for i in (-1, 2**32, 2**80)] == [None] * 3
    assert opened.decode(np.array([104, 105])) == opened.decode([104, 105])  # type: ignore[arg-type]
    for ask in (
        lambda: opened.id_to_token("a"),  # type: ignore[arg-type]
        lambda: opened.token_to_id(5),  # type: ignore[arg-type]
        lambda: opened.decode("ab"),  # type: ignore[arg-type]
        lambda: opened.decode([0.5]),  # type: ignore[list-item]
    ):
        with pytest.raises(InvalidTypeError):
            ask()
    for ids in ([-1], [2**32], [[1]], [2**70]):
        with pytest.raises((InvalidValueError, InvalidTypeError), match="ids must"):
            opened.decode(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["abc", b"abc", 5, {"a": 1}])
def test_what_is_no_tokenizer_is_refused_first(wrong: object) -> None:
    def model(ids: Any) -> Any:
        raise AssertionError("a forward")

    with pytest.raises(InvalidTypeError, match=f"a tokenizer must have encode and decode, got {type(wrong).__name__}"):
        dllm_fast.sample(model, [3, 4], tokenizer=wrong, mask_token_id=1, max_new_tokens=2)


# An answer that was computed


@pytest.fixture(params=["panic", "exception"])
def failing(request: pytest.FixtureRequest) -> Failing:
    return Failing(panic() if request.param == "panic" else ZeroDivisionError("panicked: index out of bounds"), "decode")


def test_ids_are_returned_although_there_is_no_text(failing: Failing) -> None:
    whole = dllm_fast.sample(TEXT, ["sort:cab=", "sort:b="], max_new_tokens=8, num_samples=2, order="random")
    result = dllm_fast.sample(
        TEXT, ["sort:cab=", "sort:b="], max_new_tokens=8, num_samples=2, order="random", tokenizer=failing
    )
    assert [row.tolist() for row in result.sequences] == [row.tolist() for row in whole.sequences]
    assert list(map(repr, result.trajectory)) == list(map(repr, whole.trajectory))
    assert (whole.texts_error, result.texts) == (None, None)
    assert whole.texts is not None
    assert result.texts_error is not None
    assert "Failing that did not: " in result.texts_error
    assert "panicked: index out of bounds" in result.texts_error
    with pytest.raises(InvalidValueError, match=r"could not make text of the answer: .*panicked.*; the ids are in new_tokens"):
        _ = result.text
    assert "texts_error='a tokenizer must" in repr(result)
    again = dllm_fast.Result.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    assert again.texts_error == result.texts_error
    written = result.to_dict()
    del written["texts_error"]
    assert dllm_fast.Result.from_dict(written).texts_error is None
    for wrong in ({"texts_error": 5}, {"texts": ["a"] * 4}):
        with pytest.raises((InvalidTypeError, InvalidValueError), match="texts_error"):
            dllm_fast.Result.from_dict(result.to_dict() | wrong)


def test_distributions_are_returned_although_there_is_no_text(failing: Failing) -> None:
    canvas = [*WORDS.encode("sort:cab=").ids, TEXT.mask_token_id, TEXT.mask_token_id]
    plain = dllm_fast.distributions(TEXT, canvas, tokenizer=WORDS)
    found = dllm_fast.distributions(TEXT, canvas, tokenizer=failing)
    assert [one.ids.tolist() for one in found] == [one.ids.tolist() for one in plain]
    assert all(one.tokens is None and "panicked" in str(one.tokens_error) for one in found)
    assert all(one.tokens is not None and one.tokens_error is None for one in plain)
    one = found[0]
    assert dllm_fast.Distribution.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    with pytest.raises(InvalidValueError, match="tokens_error"):
        dllm_fast.Distribution.from_dict(one.to_dict() | {"tokens": ["a"] * 5})


def test_the_command_prints_ids_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(dllm_fast.demo.FOLDER / "text")
    command = ["generate", folder, "-p", "sort:ab=", "--max-new-tokens", "4"]
    assert cli.main([*command, "--json"]) == 0
    (entry,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert "text_error" not in entry

    def broken(*_: object, **__: object) -> str:
        raise panic()

    monkeypatch.setattr(Tokenizer, "decode", broken)
    assert cli.main(command) == 1
    shown = capsys.readouterr()
    assert shown.out.split() == list(map(str, entry["new_tokens"]))
    assert "dllm-fast: the answer is shown as ids, because there is no text of it: " in shown.err
    assert "panicked" in shown.err
    assert cli.main([*command, "--json"]) == 1
    shown = capsys.readouterr()
    failed = json.loads(shown.out)
    assert failed["text"] is None
    assert "panicked" in failed["text_error"]
    assert failed["new_tokens"] == entry["new_tokens"]
    assert "panicked" in shown.err


@pytest.mark.parametrize("wrong", ["x", 1.5, True, [1, 2]])
def test_generate_reads_the_padding_before_it_runs_anything(wrong: object) -> None:
    import torch

    def model(ids: Any) -> Any:
        raise AssertionError("a forward")

    with pytest.raises(InvalidTypeError, match="pad_token_id must be a whole number, got "):
        dllm_fast.generate(model, torch.tensor([[3, 4]]), pad_token_id=wrong, max_new_tokens=2, mask_token_id=1)
