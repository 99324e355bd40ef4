"""The embedded models: what the package promises about puzzles, grids, files and solve rates."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dllm_fast import _core, demo
from dllm_fast.demo import word_tasks
from dllm_fast.errors import InvalidValueError

FOLDERS = {"sudoku": demo.FOLDER / "sudoku", "text": demo.FOLDER / "text"}


def grid() -> list[int]:
    """Row r is 1..9 turned by 3r + r // 3: valid by construction."""
    return [(row * 3 + row // 3 + column) % 9 + 1 for row in range(9) for column in range(9)]


def swapped(first: int, second: int) -> list[int]:
    cells = grid()
    cells[first], cells[second] = cells[second], cells[first]
    return cells


def test_check_accepts_arrays_lists_and_tensors() -> None:
    assert demo.check(grid())
    assert demo.check(np.array(grid(), dtype=np.int64))
    assert demo.check(torch.tensor(grid()))
    assert isinstance(demo.check(np.array(grid())), bool)


@pytest.mark.parametrize(
    "cells",
    [
        [],
        grid()[:80],
        [*grid(), 1],
        [grid()],
        [demo.MASK_ID, *grid()[1:]],
        [0, *grid()[1:]],
        [1.0] * 81,
        # Columns and boxes break, rows hold.
        swapped(0, 1),
        # Rows and boxes break, columns hold.
        swapped(0, 9),
        # Boxes alone break: the rows of a Latin square.
        [(row + column) % 9 + 1 for row in range(9) for column in range(9)],
    ],
)
def test_check_refuses_the_rest(cells: list[int]) -> None:
    assert demo.check(cells) is False


def test_problems_are_fresh_unique_and_repeatable() -> None:
    canvases = demo.problems(50, seed=4)
    puzzles, solutions = _core.sudoku_puzzles(50, 4, 26, 50, held_out=True)
    again = demo.problems(60, seed=4)
    training, _ = _core.sudoku_puzzles(50, 4, 26, 50, held_out=False)
    for index, canvas in enumerate(canvases):
        assert canvas.dtype == np.int64
        assert canvas.shape == (81,)
        given = canvas != demo.MASK_ID
        assert 26 <= given.sum() <= 50
        assert (canvas[given] == solutions[index][given]).all()
        assert not demo.check(canvas)
        assert demo.check(solutions[index].astype(np.int64))
        assert (again[index] == canvas).all()
        assert not (training[index] == puzzles[index]).all()
    assert any((canvas != other).any() for canvas, other in zip(canvases, demo.problems(50, seed=5), strict=True))


def test_givens_can_be_chosen() -> None:
    assert [int((canvas != demo.MASK_ID).sum()) for canvas in demo.problems(3, givens=(33, 33))] == [33, 33, 33]
    assert demo.problems(0) == []


@pytest.mark.parametrize("givens", [(21, 30), (40, 30), (30, 82)])
def test_impossible_givens_are_refused(givens: tuple[int, int]) -> None:
    with pytest.raises(InvalidValueError, match="22 <= low <= high <= 81"):
        demo.problems(1, givens=givens)
    with pytest.raises(ValueError, match=r"givens must (satisfy|be a whole number, at least) 22"):
        _core.sudoku_puzzles(1, 0, *givens)


def test_impossible_counts_and_seeds_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="n must be at least 0, got -1"):
        demo.problems(-1)
    for seed in (-1, 2**64):
        with pytest.raises(InvalidValueError, match=r"seed must be at (least 0|most 2\^64 - 1)"):
            demo.problems(1, seed=seed)
    with pytest.raises(InvalidValueError, match="n must be at least 0"):
        demo.text_problems(-1)


@pytest.mark.parametrize(("name", "limit"), [("sudoku", 2_200_000), ("text", 1_000_000)])
def test_folders_are_small_and_complete(name: str, limit: int) -> None:
    files = {path.name: path.stat().st_size for path in FOLDERS[name].iterdir()}
    assert files.keys() == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    assert sum(files.values()) < limit


@pytest.mark.parametrize("name", FOLDERS)
def test_transformers_opens_the_folder(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = demo.load() if name == "sudoku" else demo.load_text()
    stock, report = transformers.AutoModelForMaskedLM.from_pretrained(
        FOLDERS[name], dtype=torch.float32, output_loading_info=True
    )
    assert isinstance(stock, transformers.BertForMaskedLM)
    assert not any(report.values()), report
    ids = torch.randint(0, model.info.vocabulary, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), stock.eval()(input_ids=ids).logits, rtol=0, atol=1e-5)
    stock_tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDERS[name])
    assert stock_tokenizer.mask_token_id == model.mask_token_id == tokenizer.token_to_id("[MASK]")
    assert stock_tokenizer.eos_token_id == model.eos_token_ids[0] == tokenizer.token_to_id("[EOS]")


def test_one_token_a_cell() -> None:
    model, tokenizer = demo.load()
    assert model.mask_token_id == demo.MASK_ID
    text = "53[MASK][MASK]7" + "[MASK]" * 76
    ids = tokenizer.encode(text).ids
    assert ids == [5, 3, 10, 10, 7] + [10] * 76
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.decode(grid()) == "".join(map(str, grid()))
    assert tokenizer.encode("12\n 3").ids == [1, 2, 3]


def test_the_record_claims_what_the_issue_asks_for() -> None:
    record = json.loads((FOLDERS["sudoku"] / "training.json").read_text())
    assert record["measured"]["problems"] >= 500
    assert record["measured"]["confidence, one a forward"]["solved"] >= 0.95


def most_confident_first(canvases: torch.Tensor) -> torch.Tensor:
    """One cell a forward. The loop is this short on purpose: it judges the weights without the sampler."""
    model, _ = demo.load()
    canvases = canvases.clone()
    rows = torch.arange(len(canvases))
    for _ in range(int((canvases == model.mask_token_id).sum(1).max())):
        confidence, digit = model(canvases)[..., 1:10].softmax(-1).max(-1)
        masked = canvases == model.mask_token_id
        best = confidence.masked_fill(~masked, -math.inf).argmax(1)
        canvases[rows, best] = torch.where(masked.any(1), digit[rows, best] + 1, canvases[rows, best])
    return canvases


def test_fresh_puzzles_are_solved() -> None:
    canvases = torch.from_numpy(np.stack(demo.problems(40, seed=2)))
    filled = most_confident_first(canvases)
    given = canvases != demo.MASK_ID
    assert (filled[given] == canvases[given]).all()
    assert sum(demo.check(row) for row in filled) >= 36


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("sort:cabb=", "abbc"), ("reverse:cabb=", "bbac"), ("pack:cabb=", "c1a1b2"), ("pack:aaaa=", "a4")],
)
def test_answers(prompt: str, answer: str) -> None:
    assert word_tasks.answer(prompt) == answer


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="sort, reverse, pack"):
        word_tasks.answer("shuffle:abc=")


def test_text_problems_are_fresh_and_repeatable() -> None:
    problems = demo.text_problems(40, seed=1)
    assert problems == demo.text_problems(50, seed=1)[:40]
    assert problems != demo.text_problems(40, seed=2)
    assert all(word_tasks.is_held_out(prompt) for prompt, _ in problems)
    assert len({len(answer) for _, answer in problems}) > 5


def test_text_answers_end_in_eos() -> None:
    model, tokenizer = demo.load_text()
    solved = 0
    for prompt, answer in demo.text_problems(40, seed=2):
        ids = tokenizer.encode(prompt).ids
        canvas = torch.tensor([ids + [model.mask_token_id] * 26])
        filled = model(canvas).argmax(-1)[0, len(ids) :].tolist()
        expected = tokenizer.encode(answer).ids
        solved += filled == expected + [model.eos_token_ids[0]] * (26 - len(expected))
    assert solved >= 34


def test_import_is_lazy() -> None:
    """Importing the demo must not import torch; a fresh interpreter shows it."""
    code = "import sys, dllm_fast.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parent).returncode == 0
