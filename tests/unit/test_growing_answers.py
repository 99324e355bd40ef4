"""Answers that grow and shrink, as people see them: `sample`, its events and its result, and what cannot grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dllm_fast
import toys
from dllm_fast import _core, demo
from dllm_fast.errors import InvalidValueError
from dllm_fast.runners import caches
from driving import replayed

MASK, END, FILLER = 40, 39, 38
GIVEN: dict[str, Any] = {"mask_token_id": MASK, "eos_token_id": END}


class Counting(toys.Toy):
    """Writes 0, 1, 2, ... behind the prompt, as many tokens as its first one says, and then end tokens; it is sure of all."""

    vocabulary = 41

    def row(self, canvas: np.ndarray) -> np.ndarray:
        start = 1 + int((canvas[1:] == FILLER).sum())  # what follows the first token of a prompt is filler
        places = np.arange(len(canvas)) - start
        tokens = np.where(places < canvas[0], places % 7, END)
        return 20.0 * np.eye(41)[tokens]


def counting(ids: torch.Tensor) -> torch.Tensor:
    return Counting()(ids)


@pytest.mark.parametrize("preset", ["daedal", "rho-eos"])
@pytest.mark.parametrize("initial", [1, 3, 8, 64])
def test_answers_get_the_length_that_they_need(preset: str, initial: int) -> None:
    prompts = [[5], [2, FILLER, FILLER], [7, FILLER]]
    result = dllm_fast.sample(counting, prompts, preset=preset, initial_length=initial, **GIVEN)
    for prompt, new in zip(prompts, result.new_tokens, strict=True):
        assert new.tolist() == [*(i % 7 for i in range(prompt[0])), END]
    assert result.finish_reasons == ["stop"] * 3
    assert result.config.initial_length == initial
    assert result.config.max_new_tokens == 2048


def test_what_is_sure_of_its_end_is_cut_to_it() -> None:
    """64 masks for six tokens: the density falls into its band, and 40 to 60 % of what is left are end tokens."""
    result = dllm_fast.sample(counting, [[5]], preset="rho-eos", threshold=None, order="left-to-right", **GIVEN)
    assert result.new_tokens[0].tolist() == [0, 1, 2, 3, 4, END]
    assert len(result.sequences[0]) < 1 + 16
    kinds = [edit.kind for edit in result.trajectory[0]]
    assert kinds.count("delete") - kinds.count("insert") == 65 - len(result.sequences[0])


@pytest.mark.parametrize("preset", ["daedal", "rho-eos"])
def test_events_tell_every_change(preset: str) -> None:
    """Canvases, open positions and what stands where are those of the sampler, made from the edits."""
    prompts = [[5], [2, FILLER, FILLER], [7, FILLER]]
    settings: dict[str, Any] = {"preset": preset, "initial_length": 4, "threshold": None, "block_length": None, **GIVEN}
    plain = dllm_fast.sample(counting, prompts, seed=3, order="random", **settings)
    told = dict(enumerate([*prompt, *[MASK] * 4] for prompt in prompts))
    stable = dict.fromkeys(range(3), 0)
    with dllm_fast.stream(counting, prompts, seed=3, order="random", guesses=True, **settings) as run:
        for event in run:
            assert event.guess_positions is not None
            assert event.guess_tokens is not None
            for i, row in enumerate(event.rows.tolist()):
                canvas = told[row] = replayed(told[row], event.edits[i])
                assert event.canvases[i].tolist() == canvas
                assert event.open_positions[i].tolist() == [p for p, token in enumerate(canvas) if token == MASK]
                assert set(event.guess_positions[i].tolist()) <= set(event.open_positions[i].tolist())
                assert event.tokens[i].tolist() == [canvas[p] for p in event.positions[i].tolist()]
                assert event.stable_prefix[i] >= stable[row]
                stable[row] = event.stable_prefix[i]
            assert dllm_fast.StepEvent.from_dict(event.to_dict()) == event
    result = run.result()
    assert [row.tolist() for row in result.sequences] == [told[row] for row in range(3)]
    assert [row.tolist() for row in result.sequences] == [row.tolist() for row in plain.sequences]
    assert dllm_fast.Result.from_dict(result.to_dict()) == result


def test_rows_are_what_they_are_alone() -> None:
    """In a batch, one after the other, and by themselves."""
    prompts = [[5], [2, FILLER, FILLER], [7, FILLER], [30]]
    for preset in ("daedal", "rho-eos"):
        settings: dict[str, Any] = {"preset": preset, "initial_length": 8, "temperature": 1.0, "seed": 4, **GIVEN}
        together = dllm_fast.sample(counting, prompts, **settings)
        in_turn = dllm_fast.sample(counting, prompts, max_batch_rows=2, **settings)
        alone = [dllm_fast.sample(counting, [prompt], **settings).sequences[0] for prompt in prompts]
        for rows in (in_turn.sequences, alone):
            assert [row.tolist() for row in together.sequences] == [row.tolist() for row in rows]


def test_the_bound_is_max_new_tokens() -> None:
    for preset in ("daedal", "rho-eos"):
        result = dllm_fast.sample(counting, [[30]], preset=preset, initial_length=4, max_new_tokens=20, **GIVEN)
        assert result.new_tokens[0].tolist() == [i % 7 for i in range(20)]
        assert result.finish_reasons == ["length"]
        assert len(result.sequences[0]) == 21
        short = dllm_fast.sample(counting, [[3]], preset=preset, max_new_tokens=2, **GIVEN)
        assert (short.config.initial_length, short.new_tokens[0].tolist()) == (2, [0, 1])


def test_the_least_holds() -> None:
    for preset in ("daedal", "rho-eos"):
        result = dllm_fast.sample(counting, [[3]], preset=preset, min_new_tokens=70, max_new_tokens=90, **GIVEN)
        assert result.config.initial_length == 70
        assert len(result.new_tokens[0]) >= 70
        assert END not in result.new_tokens[0][:70].tolist()


def test_the_usual_bound_is_no_less_than_the_least() -> None:
    found = dllm_fast.SamplerConfig(length="daedal", min_new_tokens=3000, initial_length=3000, **GIVEN)
    assert _core.most_forwards(found, 3000, 1) == 3000 + 3000 // 8
    with pytest.raises(InvalidValueError, match="got 3001 for 3000 to 3000"):
        dllm_fast.SamplerConfig(length="daedal", min_new_tokens=3000, initial_length=3001, **GIVEN)


def test_stops_end_a_row() -> None:
    result = dllm_fast.sample(counting, [[30], [2]], preset="rho-eos", stop=[(3, 4)], **GIVEN)
    assert [row.tolist() for row in result.new_tokens] == [[0, 1, 2, 3, 4], [0, 1, END]]
    assert result.finish_reasons == ["stop", "stop"]


@pytest.mark.parametrize("preset", ["daedal", "rho-eos"])
def test_the_text_model_answers_as_with_a_length_that_fits(preset: str) -> None:
    """A network, text, prompts of several lengths, and what a tokenizer adds behind an answer."""
    model = demo.load_text()[0]
    problems = demo.text_problems(12, seed=5)
    prompts = [prompt for prompt, _ in problems]
    fixed = dllm_fast.sample(model, prompts, preset="fast-dllm", max_new_tokens=32)
    grown = dllm_fast.sample(model, prompts, preset=preset, initial_length=16)
    assert grown.texts is not None
    assert fixed.texts is not None
    right = [text == answer for text, (_, answer) in zip(grown.texts, problems, strict=True)]
    assert sum(right) >= sum(text == answer for text, (_, answer) in zip(fixed.texts, problems, strict=True)) - 1
    stopped = dllm_fast.sample(model, prompts, preset=preset, initial_length=16, stop=["a"])
    assert stopped.texts is not None
    assert stopped.texts == [text.partition("a")[0] for text in grown.texts]


def test_the_layout_of_a_forward_is_made_anew_when_a_row_grows() -> None:
    """Same rows, same block, another length: what is new behind the block is seen from the next forward on."""
    model = demo.load_text()[0]
    given: dict[str, Any] = {"preset": "rho-eos", "initial_length": 4, "block_length": 4, "threshold": None}
    ours = dllm_fast.sample(model, "pack:aabccdeefg=", **given)

    def whole(ids: torch.Tensor) -> Any:
        return model(ids)

    called = dllm_fast.sample(whole, "pack:aabccdeefg=", like=model, **given)
    edits = ours.trajectory[0]
    assert [(edit.step, edit.position, edit.token) for edit in edits] == [
        (edit.step, edit.position, edit.token) for edit in called.trajectory[0]
    ]
    grown = [edit.step for edit in edits if edit.kind == "insert"]
    assert grown
    assert grown[0] < 3, "within the first block"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"initial_length": 30, "max_new_tokens": 20}, "initial_length must be at least .* got 30 for 1 to 20"),
        ({"cache": "dual"}, "length='rho-eos' changes how many positions .* got cache='dual' beside it"),
        ({"guidance": 1.0}, "length='rho-eos' changes how many positions .* got guidance=1.0 beside it"),
        ({"eos_token_id": ()}, "length 'rho-eos' needs an end token, .* got none for row 0; pass eos_token_id"),
        ({"order": [1, 2, 3]}, "length 'rho-eos' moves positions .* got an order of the caller's beside it"),
        ({"eligible_after": {1: [0]}}, "length 'rho-eos' moves positions .* got eligible_after for row 0"),
        ({"steps": 4}, "length 'rho-eos' moves positions .* got steps beside it"),
        ({"suppress_tokens": [END, 3]}, r"length='rho-eos' asks where .* got suppress_tokens=\(39, 3\) beside it"),
        ({"eos_policy": "penalise", "eos_penalty": np.inf}, "length='rho-eos' asks where .* got eos_penalty=inf beside it"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], says: str) -> None:
    def model(ids: torch.Tensor) -> torch.Tensor:
        raise AssertionError("no forward is made")

    if "order" in settings:
        settings = settings | {"max_new_tokens": 3}
    with pytest.raises(InvalidValueError, match=says):
        dllm_fast.sample(model, [1], preset="rho-eos", **{**GIVEN, **settings})


def test_an_end_that_may_be_proposed_is_enough() -> None:
    """One of two, or a stop of one token."""
    ends: dict[str, Any] = {"mask_token_id": MASK, "preset": "rho-eos", "suppress_tokens": [3]}
    for given in ({"eos_token_id": [END, 3]}, {"eos_token_id": 3, "stop": [END]}):
        assert dllm_fast.sample(counting, [[2]], **ends, **given).new_tokens[0].tolist() == [0, 1, END]


def test_a_canvas_keeps_its_length() -> None:
    with pytest.raises(InvalidValueError, match=r"infill keeps what stands .* got length='daedal'; .* or with gaps="):
        dllm_fast.infill(counting, [1, MASK], preset="daedal", **GIVEN)


def test_a_context_is_checked_before_anything() -> None:
    model = demo.load_text()[0]
    with pytest.raises(InvalidValueError, match=r"must fit the model's context of 64 tokens, got 11 \+ 60"):
        dllm_fast.sample(model, "pack:aabcc=", preset="rho-eos", max_new_tokens=60)
    with pytest.raises(InvalidValueError, match=r"got 11 \+ 60 at least; .* or lower initial_length"):
        dllm_fast.sample(model, "pack:aabcc=", preset="rho-eos", initial_length=60)
    with pytest.raises(InvalidValueError, match=r"asks where .* got suppress_tokens=.* no end token is ever proposed"):
        dllm_fast.sample(model, "pack:aabcc=", preset="rho-eos", suppress_tokens=["[EOS]"])
    assert dllm_fast.sample(model, "pack:aabcc=", preset="rho-eos").config.max_new_tokens == 53


def test_peers_call_it_otherwise() -> None:
    theirs: dict[str, Any] = {
        "initial_gen_length": 8,
        "max_gen_length": 40,
        "low_conf_threshold": 0.2,
        "high_conf_threshold": 0.8,
    }
    found = dllm_fast.sample(counting, [[5]], preset="daedal", **theirs, **GIVEN).config
    assert (found.initial_length, found.max_new_tokens, found.low_confidence_threshold, found.threshold) == (8, 40, 0.2, 0.8)


def test_every_cache_but_none_is_refused() -> None:
    for name in caches.POLICIES:
        if name != "none":
            with pytest.raises(InvalidValueError, match=f"got cache='{name}' beside it; use 'auto' or 'none'"):
                dllm_fast.SamplerConfig(length="daedal", cache=name)
