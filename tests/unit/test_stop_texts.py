"""Texts that end an answer: at every door, and read token by token."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from dllm_fast import cli, demo
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.text.stops import Reader, cut

PROMPT, ANSWER = "sort:hagbd=", "abdgh"
MODEL, TOKENIZER = demo.load_text()


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ("gh", "abd", "abdgh"),
        ("d", "ab", "abd"),
        (["d", "bd"], "a", "abd"),  # the longer of two that end together
        (["zz", "g"], "abd", "abdg"),
        ("zz", ANSWER, None),
        (ids("d")[0], "ab", "abd"),
        ([tuple(ids("bd"))], "a", "abd"),
        (["h", *ids("b")], "a", "ab"),
    ],
)
@pytest.mark.parametrize("rule", [{}, {"threshold": 0.9}, {"order": "left-to-right"}, {"block_length": 3}, {"cache": "none"}])
def test_sample(stop: Any, text: str, tokens: str | None, rule: dict[str, Any]) -> None:
    result = dllm_fast.sample(MODEL, PROMPT, tokenizer=TOKENIZER, max_new_tokens=9, stop=stop, **rule)
    end = int(result.config.eos_token_ids[0])
    assert result.text == text
    assert result.new_tokens[0].tolist() == ([*ids(ANSWER), end] if tokens is None else ids(tokens))
    assert result.finish_reasons == ["stop"]
    assert set(result.sequences[0][len(ids(PROMPT)) + len(result.new_tokens[0]) :].tolist()) <= {end}
    assert dllm_fast.Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_row_ends_with_the_step_that_makes_the_stop_final() -> None:
    rule: dict[str, Any] = {"tokenizer": TOKENIZER, "max_new_tokens": 9, "order": "left-to-right", "stop": "bd"}
    events = list(dllm_fast.stream(MODEL, PROMPT, **rule))
    assert [event.finish_reasons for event in events] == [[None], [None], ["stop"]]
    assert [event.is_done for event in events] == [[False], [False], [True]]
    assert [edit.kind for edit in events[-1].edits[0]] == ["commit"] + ["pad"] * 6
    assert events[-1].canvases[0].tolist() == dllm_fast.sample(MODEL, PROMPT, **rule).sequences[0].tolist()


@pytest.mark.parametrize(
    "rule",
    [
        {"preset": "saber"},
        {"preset": "p2"},
        {"preset": "remedi", "block_length": 3},
        {"preset": "remdm-cap", "remask_eta": 0.3},
        {"preset": "remdm-loop", "steps": 40},
        {"preset": "revise-low-confidence", "block_length": 3},
        {"preset": "llada2.1-speed", "block_length": 3},
        {"preset": "wino", "block_length": 9, "threshold": 0.3},
        {"preset": "d2f", "block_length": 3},
        {"preset": "wedlm"},
        {"preset": "daedal", "initial_length": 3},
    ],
    ids=lambda rule: rule["preset"],
)
def test_what_may_still_change_ends_nothing(rule: dict[str, Any]) -> None:
    """Whatever takes back, replaces or moves tokens: the text is that of the whole answer up to the first stop."""
    given_: dict[str, Any] = {"tokenizer": TOKENIZER, "max_new_tokens": 9, "seed": 3, **rule}
    prompts = [PROMPT, "reverse:cab=", "sort:gfh="]
    whole = dllm_fast.sample(MODEL, prompts, **given_)
    stopped = dllm_fast.sample(MODEL, prompts, **given_, stop=["b", "g"])
    assert whole.texts is not None
    assert stopped.texts == [re.split("[bg]", text)[0] for text in whole.texts]
    assert stopped.finish_reasons == ["stop"] * 3
    assert all(a <= b for a, b in zip(stopped.stats.nfe_per_row, whole.stats.nfe_per_row, strict=True))


def test_rows_end_each_for_itself() -> None:
    rule: dict[str, Any] = {"tokenizer": TOKENIZER, "max_new_tokens": 9, "stop": "b"}
    prompts = [PROMPT, "reverse:cab=", "sort:gfh="]
    together = dllm_fast.sample(MODEL, prompts, **rule)
    assert (together.texts, together.finish_reasons) == (["a", "", "fgh"], ["stop"] * 3)
    for limit in (1, 2):
        assert dllm_fast.sample(MODEL, prompts, **rule, max_batch_rows=limit).texts == together.texts
    for prompt, text in zip(prompts, together.texts, strict=True):
        assert dllm_fast.sample(MODEL, prompt, **rule).text == text


def test_a_cancelled_row_is_cancelled() -> None:
    with dllm_fast.stream(
        MODEL, [PROMPT, PROMPT], tokenizer=TOKENIZER, max_new_tokens=9, stop="bd", order="left-to-right"
    ) as run:
        next(run)
        run.cancel(0)
        for _ in run:
            pass
    result = run.result()
    assert (result.finish_reasons, result.texts) == (["cancelled", "stop"], ["a", "a"])


def test_no_stop_counts_before_the_least_number_of_tokens() -> None:
    rule: dict[str, Any] = {"tokenizer": TOKENIZER, "max_new_tokens": 9}
    assert dllm_fast.sample(MODEL, PROMPT, **rule, stop="b", min_new_tokens=1).text == "a"
    assert dllm_fast.sample(MODEL, PROMPT, **rule, stop="b", min_new_tokens=2).text == ANSWER
    assert dllm_fast.sample(MODEL, PROMPT, **rule, stop="bd", min_new_tokens=2).text == ANSWER, "it would begin too early"
    for least in (5, 6, 8, 9):
        result = dllm_fast.sample(MODEL, PROMPT, **rule, min_new_tokens=least)
        end = result.config.eos_token_ids
        assert not np.isin(result.new_tokens[0][:least], end).any()
        assert len(result.new_tokens[0]) >= least


def test_generate_of_transformers() -> None:
    prompt = torch.tensor([ids(PROMPT)])
    written = dllm_fast.generate(MODEL, prompt, max_new_tokens=9, stop="d", tokenizer=TOKENIZER)[0, prompt.shape[1] :]
    assert written.tolist() == ids("abd")
    written = dllm_fast.generate(MODEL, prompt, max_new_tokens=9, stop_strings=["d"], tokenizer=TOKENIZER)
    assert written[0, prompt.shape[1] :].tolist() == ids("abd")


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(demo.FOLDER / "text")
    assert cli.main(["generate", folder, "--prompt", PROMPT, "--max-new-tokens", "9", "--stop", "zz", "--stop", "d"]) == 0
    assert capsys.readouterr().out == "ab\n"


def test_what_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="a stop of text needs a tokenizer, got 'd' and none; pass tokenizer=, or"):
        dllm_fast.sample(lambda ids: None, [1], mask_token_id=3, stop="d")
    for name, value in [("stop", "d"), ("min_new_tokens", 1)]:
        with pytest.raises(InvalidValueError, match=f"so that nothing ends it, got {name}="):
            dllm_fast.infill(MODEL, PROMPT + "[MASK]", **{name: value})
    with pytest.raises(InvalidValueError, match="stop must be an id of the vocabulary, got 4000"):
        dllm_fast.sample(MODEL, PROMPT, stop=4000)
    with pytest.raises(InvalidTypeError, match="stop must be token ids"):
        dllm_fast.sample(MODEL, PROMPT, stop=object())


@pytest.mark.parametrize(
    ("least", "most", "says"), [(60, None, r"got 11 \+ 60 at least"), (4, 3, "got 4 and 3"), (60, 60, r"got 11 \+ 60")]
)
def test_the_least_number_must_have_room(least: int, most: int | None, says: str) -> None:
    """The model has 64 positions, of which the prompt takes 11: nobody gets fewer tokens than he asks for."""
    with pytest.raises(InvalidValueError, match=says):
        dllm_fast.sample(MODEL, PROMPT, min_new_tokens=least, max_new_tokens=most)
    result = dllm_fast.sample(MODEL, PROMPT, min_new_tokens=50)
    assert result.config.max_new_tokens == 53
    assert len(result.new_tokens[0]) >= 50


class Pieces:
    """A tokenizer whose tokens are bytes, one or several, some of them none; an unfinished character shows as one sign."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.decoded = pieces, 0

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        self.decoded += len(ids)
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")


letters = st.text("ab é€", max_size=20)


@given(letters, st.lists(st.text("ab é€", min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_the_reader_finds_what_the_whole_text_shows(text: str, stops: list[str], data: st.DataObject) -> None:
    """However bytes are dealt to tokens and tokens to steps: the first token with which the text so far holds a stop."""
    raw = text.encode()
    ends = sorted({*data.draw(st.lists(st.integers(0, len(raw)))), len(raw)})
    pieces = [raw[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    tokenizer = Pieces(pieces)
    least = data.draw(st.integers(0, 3))
    reader = Reader(tokenizer, stops, least)
    whole = [raw[: ends[i]].decode(errors="ignore") for i in range(len(ends))]
    begin = len(raw[: ends[least - 1] if least and least <= len(ends) else 0].decode(errors="replace"))
    expected = next((i for i, seen in enumerate(whole) if i >= least and any(stop in seen[begin:] for stop in stops)), None)
    found, i = None, 0
    while i < len(pieces) and found is None:
        step = data.draw(st.integers(1, 4))
        found = reader.read(range(i, min(i + step, len(pieces))))
        i += step
    is_split = least and begin and raw[: ends[min(least, len(ends)) - 1]].decode(errors="replace").endswith("\ufffd")
    if not is_split:
        assert found == expected


def test_reading_costs_what_the_answer_is_long() -> None:
    for pieces in ([b"ab"] * 5000, [b"\xe2"] * 5000, [b""] * 5000):
        tokenizer = Pieces(pieces)
        assert Reader(tokenizer, ["a b"]).read(range(5000)) is None
        assert tokenizer.decoded < 15 * 5000


def test_cutting() -> None:
    assert cut("abcabc", ["c"]) == "ab"
    assert cut("abcabc", ["c"], 3) == "abcab"
    assert cut("abc", ["c", "bc"]) == "a"
    assert cut("abc", ["abcd"]) == "abc"
