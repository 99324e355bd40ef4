"""Gaps of unknown length: which is chosen, that nothing else changes, what it costs, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import toys
from bench import gaps as bench
from dllm_fast import cli, demo
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from reference import gaps as reference

MODEL, TOKENIZER = demo.load_text()
MASK, END = 1, 2
CLOSED = "[EOS]" * 8


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


@st.composite
def canvases(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Given tokens, perhaps masks, and gaps among them."""
    canvas = draw(st.lists(st.integers(2, 9), min_size=1, max_size=12))
    for place in draw(st.sets(st.integers(0, len(canvas) - 1), max_size=2)):
        canvas[place] = MASK
    places = sorted(draw(st.sets(st.integers(0, len(canvas)), min_size=1, max_size=2)))
    gaps = [(place, least := draw(st.integers(1, 3)), least + draw(st.integers(0, 3))) for place in places]
    return canvas, gaps


@given(st.lists(canvases(), min_size=1, max_size=3), st.integers(0, 2**32), st.sampled_from([0.5, 2.0]), st.booleans())
def test_the_lengths_are_those_of_the_reference(cases: Any, seed: int, grid: float, ends: bool) -> None:
    model = toys.HashTable(10, seed=seed, grid=grid)
    result = dllm_fast.infill(
        model,
        [canvas for canvas, _ in cases],
        gaps=[gaps for _, gaps in cases],
        mask_token_id=MASK,
        eos_token_id=END if ends else None,
        suppress_tokens=[3],
    )
    assert result.gap_lengths is not None
    for (canvas, gaps), lengths, sequence in zip(cases, result.gap_lengths, result.sequences, strict=True):
        scores = reference.scores(model.alone, np.array(canvas), gaps, mask=MASK, ends=[END] if ends else [], suppressed=[3])
        highest = max(scores.values())
        near = [tried for tried, score in scores.items() if score > highest - 1e-6]
        assert tuple(lengths) in near
        assert len(near) > 1 or tuple(lengths) == near[0]
        shown, _ = reference.filled(canvas, gaps, lengths, MASK)
        assert len(sequence) == len(shown)
        np.testing.assert_array_equal(sequence[shown != MASK], shown[shown != MASK])
        assert not (sequence == MASK).any()
        alone = dllm_fast.infill(model, shown, mask_token_id=MASK, eos_token_id=END if ends else None, suppress_tokens=[3])
        np.testing.assert_array_equal(sequence, alone.sequences[0])


def test_ties_go_to_the_shorter() -> None:
    def even(ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, 10)

    result = dllm_fast.infill(even, [4, 5, 6], gaps=[(1, 2, 5), (2, 1, 3)], mask_token_id=MASK)
    assert result.gap_lengths == [[2, 1]]


@pytest.mark.parametrize(
    ("text", "lengths", "answer"),
    [
        ("sort:hagbd=a[MASK:1-6]gh", [[2]], "abdgh"),
        ("sort:hagbd=a[MASK:1-4]g[MASK:1-3]", [[2, 1]], "abdgh"),
        ("sort:hagbd=[MASK:2-7]", [[5]], "abdgh"),
        ("sort:hagbd=a[MASK]d[MASK:1-5]", [[2]], "abdgh"),
    ],
)
def test_text(text: str, lengths: list[list[int]], answer: str) -> None:
    result = dllm_fast.infill(MODEL, text + CLOSED, tokenizer=TOKENIZER)
    assert (result.gap_lengths, result.text) == (lengths, f"sort:hagbd={answer}")
    assert result.sequences[0].tolist() == [*ids(f"sort:hagbd={answer}"), *[END] * 8]
    assert dllm_fast.Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_the_length_is_right_where_the_model_is_sure() -> None:
    """Pieces of 1 to 6 letters, cut out of answers; lengths from 1 to 8 are tried. `python -m bench.gaps` asks for more."""
    found = bench.measured(bench.cases(30, seed=7))
    sure = [is_right for score, is_right, _ in found if score > math.log(0.9)]
    assert len(sure) >= 20
    assert sum(sure) >= 0.9 * len(sure)


def test_rows_of_their_own_lengths_and_samples_share_the_tries() -> None:
    text = "sort:hagbd=a[MASK:1-6]gh" + CLOSED
    one = dllm_fast.infill(MODEL, text, tokenizer=TOKENIZER)
    canvas = [*ids("sort:hagbd=agh"), *[END] * 8]
    both = dllm_fast.infill(MODEL, [canvas, canvas], gaps=[[(12, 1, 6)], []], num_samples=2, temperature=0.5, seed=3)
    assert both.gap_lengths == [[2], [2], [], []]
    assert [len(sequence) for sequence in both.sequences] == [len(canvas) + 2] * 2 + [len(canvas)] * 2
    assert one.stats.nfe_per_row == [6 + 2], "each try is a forward of the row"
    assert both.stats.nfe_per_row == [8, 8, 0, 0]
    plain = dllm_fast.infill(MODEL, "sort:hagbd=a[MASK][MASK]gh" + CLOSED, tokenizer=TOKENIZER)
    assert one.stats.nfe == 1 + plain.stats.nfe, "all lengths are tried in one forward, which is counted"
    assert plain.gap_lengths is None


def test_a_stream_of_a_canvas_with_gaps() -> None:
    run = dllm_fast.stream(MODEL, canvas="sort:hagbd=a[MASK:1-6]gh" + CLOSED, tokenizer=TOKENIZER)
    events = list(run)
    assert len(events) == 2
    assert run.result().gap_lengths == [[2]]


CANVAS = [5, 6, 7]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"gaps": [(1, 3, 2)]}, InvalidValueError, "1 <= least <= most, got 3 and 2 in row 0"),
        ({"gaps": [(1, 0, 2)]}, InvalidValueError, "1 <= least <= most, got 0 and 2"),
        ({"gaps": [(4, 1, 2)]}, InvalidValueError, "rising positions from 0 to 3"),
        ({"gaps": [(2, 1, 2), (1, 1, 2)]}, InvalidValueError, "rising positions from 0 to 3"),
        ({"gaps": [(1, 1, 257)]}, InvalidValueError, "at most 256 ways, each of which is tried, got 257"),
        ({"gaps": [(0, 1, 17), (1, 1, 16)]}, InvalidValueError, "at most 256 ways, each of which is tried, got 272"),
        ({"gaps": [(1, 1, 10**30)]}, InvalidValueError, "at most 256 ways, each of which is tried, got 10000"),
        ({"gaps": [(1, 10**9, 10**9)]}, InvalidValueError, r"at most 2\^20 masks in all, got 1000000000 up to row 0"),
        ({"gaps": [(1, 10**30, 10**30)]}, InvalidValueError, r"at most 2\^20 masks in all, got 10000"),
        ({"gaps": [(1, 5000, 5255)]}, InvalidValueError, r"at most 2\^20 masks in all, got 1345280"),
        ({"eligible_after": {1: [0.5]}}, InvalidTypeError, "eligible_after must hold integers, got .*; pass positions"),
        ({"gaps": 3}, InvalidTypeError, r"gaps must be \(position, least, most\)"),
        ({"gaps": [(1, 2)]}, InvalidTypeError, r"gaps must be \(position, least, most\)"),
        ({"gaps": [(1, True, 2)]}, InvalidTypeError, r"gaps must be \(position, least, most\)"),
        ({"gaps": [[(1, 1, 2)], [(1, 1, 2)]]}, InvalidTypeError, "for each of 1 rows"),
        ({"gaps": [(1, 60, 70)]}, InvalidValueError, "must fit the model's context of 64 tokens, got 73"),
        ({"gaps": [(1, 1, 2)], "order": [1, 2, 3]}, InvalidValueError, "order= and eligible_after= count positions"),
        ({"gaps": [(1, 1, 2)], "seed": -1}, InvalidValueError, "seed must lie in"),
    ],
)
def test_what_is_refused_before_any_forward(given: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        dllm_fast.infill(MODEL, CANVAS, **given)


def test_a_model_that_does_not_see_what_is_right_of_a_gap() -> None:
    model = dllm_fast.load(demo.FOLDER / "text", attention="block_causal", block_length=8)
    with pytest.raises(InvalidValueError, match=r"needs a model that sees what is right of it, got a block-causal one"):
        dllm_fast.infill(model, CANVAS, gaps=[(1, 1, 2)])
    for cache in ("exact_block", "dual"):
        with pytest.raises(InvalidValueError, match="needs a model that sees what is right of it"):
            dllm_fast.infill(model, CANVAS, gaps=[(1, 1, 2)], cache=cache)


def test_a_model_without_a_mask_has_nothing_to_try() -> None:
    def never(ids: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a forward")

    with pytest.raises(InvalidValueError, match="gaps are tried as masks, got a model without one; give their lengths"):
        dllm_fast.infill(never, CANVAS, gaps=[(1, 1, 2)], open=[True] * 3, preset="udlm", vocabulary=9)


@pytest.mark.parametrize(
    "gap", ["[MASK:3]", "[MASK:]", "[MASK:3-]", "[MASK:-3]", "[MASK:1-2-3]", "[MASK:a-b]", "[MASK:1\u20134]"]
)
def test_a_gap_is_written_with_two_numbers(gap: str) -> None:
    with pytest.raises(InvalidValueError, match=r"with its least and its most number of tokens, got .*; write \[MASK:3-10\]"):
        dllm_fast.infill(MODEL, f"sort:{gap}", tokenizer=TOKENIZER)
    with pytest.raises(InvalidValueError, match="gaps are written in the text or given, got both for row 0"):
        dllm_fast.infill(MODEL, "sort:[MASK:1-2]", tokenizer=TOKENIZER, gaps=[(1, 1, 2)])
    with pytest.raises(InvalidValueError, match=r"gaps are those of a canvas, got .* beside a prompt"):
        dllm_fast.stream(MODEL, "sort:", canvas=None, tokenizer=TOKENIZER, gaps=[(1, 1, 2)])


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["infill", str(demo.FOLDER / "text"), "--text", "sort:hagbd=a[MASK:1-6]gh" + CLOSED]) == 0
    assert capsys.readouterr().out == "sort:hagbd=abdgh\n"
