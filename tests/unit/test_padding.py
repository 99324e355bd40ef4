"""Rows without their padding, and what says that there is some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.text.padding import check_pads, opened, unpadded

IDS = [[0, 0, 5, 6], [7, 8, 9, 0]]
MASK = [[0, 0, 1, 1], [1, 1, 1, 0]]
ROWS = [[5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    "mask", [MASK, np.array(MASK), torch.tensor(MASK), torch.tensor(MASK).bool(), torch.tensor(MASK) / 1.0]
)
@pytest.mark.parametrize("ids", [IDS, np.array(IDS), torch.tensor(IDS), list(torch.tensor(IDS))], ids=range(4))
def test_the_padding_is_left_out_at_either_end(ids: Any, mask: Any) -> None:
    assert [row.tolist() for row in unpadded(ids, mask)] == ROWS


def test_one_row_and_rows_of_any_lengths() -> None:
    assert [row.tolist() for row in unpadded([0, 3, 4], [0, 1, 1])] == [[3, 4]]
    assert [row.tolist() for row in unpadded(torch.tensor([0, 3, 4]), torch.tensor([0, 1, 1]))] == [[3, 4]]
    assert [row.tolist() for row in unpadded([[0, 3], [4, 5, 6]], [[0, 1], [1, 1, 1]])] == [[3], [4, 5, 6]]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 3)), min_size=1)
)
def test_any_padding_comes_off(parts: list[tuple[int, list[int], int]]) -> None:
    ids = [[0] * left + row + [0] * right for left, row, right in parts]
    mask = [[0] * left + [1] * len(row) + [0] * right for left, row, right in parts]
    assert [row.tolist() for row in unpadded(ids, mask)] == [row for _, row, _ in parts]


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([[1, 1, 1, 1]], r"attention_mask must have the shape \[2, 4\] of input_ids, got \[1, 4\]; 1 marks a token"),
        ([[1], [1]], r"must have the shape \[2, 4\] of input_ids, got \[2, 1\]"),
        ([[1, 1, 1, 1], [1, 1, 1]], r"must have the shape \[2, 4\] of input_ids, got \[2, \[4, 3\]\]"),
        ([[1, 1, 1, 1], [1, 1, 2, 1]], "must hold 0 and 1, got 2 in row 1"),
        ([[1, 1, 1, 1], [0, 0, 0, 0]], "must leave a token in each row, got none in row 1; leave the row out"),
        ([[1, 1, 1, 1], [0, 1, 0, 1]], "padding at the ends of a row, got a 0 between tokens at position 2 of row 1"),
        (torch.zeros(2, 1, 4, 4), "must be flat"),
        (torch.full((2, 4), -1e9), "must hold 0 and 1, got -1000000000 in row 0"),
        (torch.full((2, 4), 0.5), "must hold integers"),
        (None, "must hold integers"),
        ("11", "must hold integers"),
    ],
)
def test_masks_that_say_something_else(mask: Any, error: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=error):
        unpadded(IDS, mask)


def test_what_stands_beside_the_ids() -> None:
    assert opened({"input_ids": IDS, "attention_mask": MASK, "token_type_ids": [[0] * 4] * 2, "length": 4}, "prompt") == (
        IDS,
        MASK,
    )
    assert opened({"input_ids": [1]}, "prompt") == ([1], None)
    with pytest.raises(InvalidValueError, match="got token_type_ids: segments other than 0 are not passed on; leave it out"):
        opened({"input_ids": IDS, "token_type_ids": torch.tensor([[0, 0, 0, 1]])}, "prompt")
    with pytest.raises(
        InvalidValueError, match="must hold input_ids and attention_mask, got position_ids: it would be ignored"
    ):
        opened({"input_ids": IDS, "position_ids": IDS}, "prompt")


PADDED = [IDS, [[5, 6, 0]] * 2, [[5, 6, 0]], [5, 6, 0, 0], [[5, 6, 0], [5, 0]], [[0, 5], [6]]]


@pytest.mark.parametrize("ids", [*PADDED, np.array([[0, 5, 6]]), torch.tensor([[5, 6, 0]]), torch.tensor([5, 0])], ids=str)
def test_rows_that_seem_padded_are_refused(ids: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"must not be padded, got \d of the padding token 0 .*pass attention_mask="):
        check_pads(ids, 0, shared=False, name="prompt")
    check_pads(ids, None, shared=False, name="prompt")
    check_pads(ids, 3, shared=False, name="prompt")


def test_rows_that_may_mean_it() -> None:
    check_pads([5, 0, 6], 0, shared=False, name="prompt")
    check_pads(np.array([[5, 0, 6]]), 0, shared=False, name="prompt")
    check_pads(np.array([[5, 6, 0], [7, 8, 0]]), 0, shared=True, name="prompt")  # the end token of every row
    for one in ([5, 6, 0, 0], [[5, 6, 0, 0]], [[5, 6, 0], [5, 0]], [[0, 5], [6]]):
        check_pads(one, 0, shared=True, name="prompt")
    for padded in ([[5, 6, 0], [7, 8, 9]], [[5, 0, 0], [6, 0, 0]]):
        with pytest.raises(InvalidValueError, match="must not be padded"):
            check_pads(np.array(padded), 0, shared=True, name="prompt")
