"""What `sample` and `infill` return, on tables small enough to check by eye."""

import dataclasses
import math
import multiprocessing
import os
import re
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast.errors import EqualSamplesWarning, InvalidValueError
from dllm_fast.events import StepEvent
from toys import presets_of_any_model

MASK, EOS, VOCABULARY = 9, 8, 10


def successor(ids: torch.Tensor) -> torch.Tensor:
    """Predicts the position's index plus one, modulo 7, surer to the left."""
    places = torch.arange(ids.shape[1])
    logits = torch.zeros(*ids.shape, VOCABULARY)
    logits[:, places, (places + 1) % 7] = 8.0 - 0.1 * places
    return logits


def ends_at_five(ids: torch.Tensor) -> torch.Tensor:
    logits = successor(ids)
    logits[:, 5, EOS] = 20.0
    return logits


def test_sample_appends_and_infill_fills_in_place() -> None:
    sampled = dllm_fast.sample(successor, [4, 4], mask_token_id=MASK, max_new_tokens=3)
    assert [s.tolist() for s in sampled.sequences] == [[4, 4, 3, 4, 5]]
    assert [t.tolist() for t in sampled.new_tokens] == [[3, 4, 5]]
    filled = dllm_fast.infill(successor, [4, MASK, 4, MASK], mask_token_id=MASK)
    assert [s.tolist() for s in filled.sequences] == [[4, 2, 4, 4]]
    assert [t.tolist() for t in filled.new_tokens] == [[2, 4]]
    assert all(s.dtype == np.int64 for r in (sampled, filled) for s in r.sequences + r.new_tokens)


def test_a_canvas_without_masks_costs_no_forward() -> None:
    result = dllm_fast.infill(successor, [[1, 2], [3]], mask_token_id=MASK)
    assert [s.tolist() for s in result.sequences] == [[1, 2], [3]]
    assert (result.stats.nfe, result.stats.tokens_per_forward) == (0, 0.0)


def test_rows_of_equal_length_share_a_forward() -> None:
    shapes = []

    def watch(ids: torch.Tensor) -> torch.Tensor:
        assert ids.dtype == torch.int64
        shapes.append(tuple(ids.shape))
        return successor(ids)

    result = dllm_fast.sample(watch, [[1], [2, 3], [4]], mask_token_id=MASK, max_new_tokens=2)
    assert shapes == [(2, 3), (1, 4)] * 2
    assert (result.stats.nfe, result.stats.nfe_per_row) == (4, [2, 2, 2])
    assert result.stats.tokens_per_forward == 6 / 4


def test_the_trajectory_tells_what_was_written_and_when() -> None:
    result = dllm_fast.sample(successor, [4, 4], mask_token_id=MASK, max_new_tokens=3)
    (edits,) = result.trajectory
    assert [(e.step, e.position, e.token, e.kind) for e in edits] == [
        (0, 2, 3, "commit"),
        (1, 3, 4, "commit"),
        (2, 4, 5, "commit"),
    ]
    expected = successor(torch.zeros(1, 5, dtype=torch.int64))[0]
    expected[:, MASK] = -torch.inf
    probabilities = expected.double().softmax(-1).max(-1).values
    assert [e.probability for e in edits] == pytest.approx(probabilities[2:].tolist(), rel=1e-6)


def test_an_answer_is_cut_after_its_end_and_padded_with_it() -> None:
    given: dict[str, Any] = {"mask_token_id": MASK, "eos_token_id": EOS, "max_new_tokens": 7, "order": "left-to-right"}
    stopped = dllm_fast.sample(ends_at_five, [1, 1], **given)
    assert stopped.new_tokens[0].tolist() == [3, 4, 5, EOS]
    assert stopped.sequences[0].tolist() == [1, 1, 3, 4, 5, EOS, EOS, EOS, EOS]
    assert stopped.stats.nfe == 4
    assert [e.kind for e in stopped.trajectory[0]] == ["commit"] * 4 + ["pad"] * 3
    on = dllm_fast.sample(ends_at_five, [1, 1], **given, stop_at_eos=False)
    assert on.new_tokens[0].tolist() == [3, 4, 5, EOS, 0, 1, 2]


def test_shift_reads_the_line_before() -> None:
    result = dllm_fast.infill(successor, [MASK, MASK, MASK], mask_token_id=MASK, shift=True)
    assert result.sequences[0].tolist() == [1, 1, 2], "line 0 predicts positions 0 and 1"


def test_every_setting_is_resolved_in_the_result() -> None:
    result = dllm_fast.sample(successor, [1], mask_id=MASK, gen_length=4)
    assert (result.config.mask_token_id, result.config.max_new_tokens, result.config.steps) == (MASK, 4, 4)
    assert result.config.stop_at_eos is False
    assert result.aliases == {"mask_id": "mask_token_id", "gen_length": "max_new_tokens"}
    assert result.seed == 0


def test_a_presets_own_block_is_clipped_and_a_given_one_must_divide() -> None:
    result = dllm_fast.sample(successor, [1], mask_token_id=MASK, preset="llada-semi-ar", max_new_tokens=8)
    assert result.config.block_length == 8
    with pytest.raises(
        ValueError, match="block_length must divide max_new_tokens, got 3 and 8; use block_length=2, or max_new"
    ):
        dllm_fast.sample(successor, [1], mask_token_id=MASK, block_length=3, max_new_tokens=8)


def test_samples_are_prompt_major_and_differ() -> None:
    flat = lambda ids: torch.zeros(*ids.shape, 50)  # noqa: E731
    result = dllm_fast.sample(flat, [[1], [2, 2]], mask_token_id=49, max_new_tokens=8, temperature=1.0, num_samples=3)
    assert [len(s) for s in result.sequences] == [9] * 3 + [10] * 3
    assert len({s.tobytes() for s in result.sequences}) == 6
    one = dllm_fast.sample(flat, [2, 2], mask_token_id=49, max_new_tokens=8, temperature=1.0)
    assert result.sequences[3].tolist() == one.sequences[0].tolist()


def test_a_seed_that_nobody_gives_is_drawn_and_told() -> None:
    def run(seed: int | None) -> dllm_fast.Result:
        flat = lambda ids: torch.zeros(*ids.shape, 50)  # noqa: E731
        return dllm_fast.sample(
            flat, [[1], [2]], mask_token_id=49, max_new_tokens=16, temperature=1.0, seed=seed, num_samples=2
        )

    first, second = run(None), run(None)
    assert isinstance(first.seed, int)
    assert 0 <= first.seed < 2**64
    assert first.seed != second.seed, "one of 2^64"
    assert [s.tolist() for s in first.sequences] != [s.tolist() for s in second.sequences]
    again = run(first.seed)
    assert again.trajectory == first.trajectory
    for bad in ([1, None], True, "1"):
        with pytest.raises(
            dllm_fast.DllmFastError, match=rf"seed must be .*, got {re.escape(repr(bad))}; pass an int, or None"
        ):
            dllm_fast.sample(successor, [[1], [2]], mask_token_id=MASK, seed=bad)  # type: ignore[arg-type]


def ranks_by_nothing_else(preset: dllm_fast.SamplerConfig) -> bool:
    """True where noise on the ranking would break the rule, or change nothing, and is refused."""
    is_drawn = preset.order in ("ancestral", "random")
    return is_drawn or preset.schedule == "dilated" or preset.remask in ("planner", "confidence-drop")


@pytest.mark.parametrize(
    "preset", [name for name, preset in presets_of_any_model().items() if ranks_by_nothing_else(preset)], ids=str
)
def test_noise_on_a_ranking_that_has_none_is_refused(preset: str) -> None:
    with pytest.raises(InvalidValueError, match="order_temperature"):
        dataclasses.replace(dllm_fast.presets()[preset], order_temperature=0.5)


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        (name, settings)
        for name, preset in presets_of_any_model().items()
        for settings in ({}, {"temperature": 0.0}, {"temperature": 1.0}, {"order_temperature": 0.5})
        if not ("order_temperature" in settings and ranks_by_nothing_else(preset))
        if preset.noise
        == "mask"  # over noise a flat model shows nothing of what is drawn: the most probable tokens are written
    ],
    ids=str,
)
def test_equal_samples_are_warned_about_and_others_are_not(preset: str, settings: dict[str, float]) -> None:
    """Over a flat model, where everything that is drawn shows."""
    flat = lambda ids: torch.zeros(*ids.shape, 50)  # noqa: E731
    given: dict[str, Any] = {
        "mask_token_id": 49,
        "max_new_tokens": 12,
        "preset": preset,
        "num_samples": 3,
    } | settings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = dllm_fast.sample(flat, [1], **given)
    differ = len({tuple((e.position, e.token) for e in edits) for edits in result.trajectory}) > 1
    assert differ == (not caught)
    if caught:
        assert "all 3 samples of a prompt will be equal, because this rule draws nothing; pass temperature" in str(
            caught[0].message
        )
        assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"temperature": 1.0, "top_k": 1}, "a draw from one token draws nothing; leave top_k=1 out, or num_samples=1"),
        ({"temperature": 1.0, "top_k": 1, "order": "random"}, None),
        ({"temperature": 1.0, "top_k": 2}, None),
        ({"order": "random"}, None),
        ({"order": "random", "steps": 2}, None),
        *(
            (
                {"order": order, **at_once},
                "every block is filled in one step, where the order decides nothing; pass temperature",
            )
            for order in ("random", "ancestral")
            for at_once in ({"steps": 1}, {"steps_per_block": 1, "block_length": 4}, {"threshold": 0}, {"factor": math.inf})
            if order == "random" or "steps" in at_once
        ),
        ({"order": "random", "block_length": 1}, "every block is filled in one step"),
        ({"order": "random", "threshold": 0, "temperature": 1.0}, None),
        ({"order_temperature": 1.0, "steps": 1}, "every block is filled in one step"),
    ],
    ids=str,
)
def test_equal_samples_are_warned_about_where_they_are_certain(settings: dict[str, Any], why: str | None) -> None:
    flat = lambda ids: torch.zeros(*ids.shape, 50)  # noqa: E731
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = dllm_fast.sample(flat, [1], mask_token_id=49, max_new_tokens=12, num_samples=3, **settings)
    differ = len({frozenset((e.step, e.position, e.token) for e in edits) for edits in result.trajectory}) > 1
    assert differ == (why is None) == (not caught)
    if why is not None:
        assert f"all 3 samples of a prompt will be equal, because {why}" in str(caught[0].message)
        assert caught[0].category is EqualSamplesWarning


def test_on_step_is_told_what_was_written_and_what_is_guessed() -> None:
    events: list[StepEvent] = []
    given: dict[str, Any] = {"mask_token_id": MASK, "max_new_tokens": 3, "steps": 3}
    result = dllm_fast.sample(successor, [[1], [2, 2]], **given, on_step=events.append, guesses=True)
    assert [event.step for event in events] == [0, 1, 2]
    assert [event.rows.tolist() for event in events] == [[0, 1]] * 3
    assert [p.tolist() for p in events[0].positions] == [[1], [2]]
    assert [t.tolist() for t in events[0].tokens] == [[2], [3]]
    assert events[0].guess_positions is not None
    assert events[0].guess_tokens is not None
    assert [p.tolist() for p in events[0].guess_positions] == [[2, 3], [3, 4]]
    assert [t.tolist() for t in events[0].guess_tokens] == [[3, 4], [4, 5]]
    assert [c.tolist() for c in events[-1].canvases] == [s.tolist() for s in result.sequences]


@pytest.mark.parametrize("preset", list(presets_of_any_model()))
def test_watching_changes_nothing(preset: str) -> None:
    def run(**more: Any) -> list[list[int]]:
        result = dllm_fast.sample(successor, [[1], [2, 2]], mask_token_id=MASK, max_new_tokens=6, preset=preset, **more)
        return [s.tolist() for s in result.sequences]

    assert run() == run(on_step=lambda event: None)


class Answer:
    def __init__(self, logits: object) -> None:
        self.logits = logits


@pytest.mark.parametrize("wrap", [torch.Tensor.numpy, Answer, torch.Tensor.bfloat16, torch.Tensor.half])
def test_logits_come_as_tensors_arrays_or_attributes(wrap: Any) -> None:
    result = dllm_fast.sample(lambda ids: wrap(successor(ids)), [4, 4], mask_token_id=MASK, max_new_tokens=3)
    assert result.sequences[0].tolist() == [4, 4, 3, 4, 5]


def test_dropout_is_off_inside_and_as_before_afterwards() -> None:
    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            return self.dropout(successor(ids))

    model = Noisy()
    result = dllm_fast.sample(model, [4, 4], mask_token_id=MASK, max_new_tokens=3)
    assert result.sequences[0].tolist() == [4, 4, 3, 4, 5]
    assert model.training
    assert model.dropout.training


def test_text_in_and_text_out() -> None:
    model, tokenizer = dllm_fast.demo.load_text()
    result = dllm_fast.sample(model, ["sort:cab=", "reverse:cab="], tokenizer=tokenizer, max_new_tokens=16)
    assert result.texts == ["abc", "bac"]
    with pytest.raises(dllm_fast.DllmFastError, match="text is for a single row, got 2 rows; use texts"):
        _ = result.text
    with pytest.raises(dllm_fast.DllmFastError, match="text needs a tokenizer"):
        _ = dllm_fast.sample(successor, [1], mask_token_id=MASK, max_new_tokens=1).text


def test_the_embedded_model_is_the_default() -> None:
    puzzle = dllm_fast.demo.problems(1, seed=2)[0]
    assert dllm_fast.demo.check(dllm_fast.infill(None, puzzle).sequences[0])


def draws(seed: int) -> list[int]:
    """Large enough to be worth the threads."""
    logits = np.random.default_rng(0).normal(size=(64, 9000)).astype(np.float32)
    return dllm_fast.mask_predict(logits, temperature=1.0, seed=seed).token.tolist()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons warn where this one must work
def test_threads_survive_a_fork_and_change_nothing() -> None:
    before = draws(1)
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        assert pool.map_async(draws, [1, 1, 2]).get(120) == [before, before, draws(2)]
    for threads in (1, 2, 7, None):
        dllm_fast._core.set_threads(threads)
        assert draws(1) == before


_THREADS = """
import pathlib, sys, time
{first}
import numpy as np
import dllm_fast
logits = np.random.default_rng(0).normal(size=(12, 9000)).astype(np.float32)
token = dllm_fast.mask_predict(logits, temperature=1.0, seed=1).token.tolist()
time.sleep(0.3)  # a thread names itself, when it gets a core
names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
print(any(name.startswith("dllm-fast") for name in names), "torch" in sys.modules, sum(token))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.cpu_count() == 1, reason="threads are borrowed on Linux, and by several cores"
)
def test_torchs_threads_are_borrowed_where_there_are_any() -> None:
    """Threads of our own would have to wait for a core while torch's spin. Without torch there are helpers."""

    def run(first: str, **environment: str) -> list[str]:
        program = [sys.executable, "-c", _THREADS.format(first=first)]
        around = {name: value for name, value in os.environ.items() if name != "RAYON_NUM_THREADS"} | environment
        return subprocess.run(program, capture_output=True, text=True, check=True, env=around).stdout.split()

    total = run("", RAYON_NUM_THREADS="1")[2]
    assert run("", RAYON_NUM_THREADS="3") == ["True", "False", total]
    # Where somebody else keeps the cores busy they are given up after a while.
    assert any(run("import torch; torch.ones(1)") == ["False", "True", total] for _ in range(5))
    assert run("import torch; torch.ones(1)", RAYON_NUM_THREADS="3") == ["True", "True", total], "unless a number is given"


def test_a_prediction_as_a_softmax_in_the_dtype_of_the_logits_has_it() -> None:
    logits = torch.tensor([[8.0, 1.0, 0.0], [9.0, 0.0, 0.0]]).bfloat16()
    exact = dllm_fast.mask_predict(logits)
    rounded = exact.rounded("bfloat16")
    assert rounded.top1.tolist() == torch.softmax(logits, -1).amax(-1).tolist() == [1.0, 1.0]
    assert exact.top1[0] != exact.top1[1]
    assert (rounded.token == exact.token).all()
    assert (rounded.entropy == exact.entropy).all()
    with pytest.raises(dllm_fast.DllmFastError, match='dtype must be float32, bfloat16 or float16, got "int8"'):
        exact.rounded("int8")
