"""`sample`, `infill` and `stream` with a model that was trained on uniform noise: it has no mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast import demo
from dllm_fast.errors import InvalidTypeError, InvalidValueError

VOCABULARY = 12


class Denoiser(torch.nn.Module):
    """Position p is token p + 1, as sure as the share of the canvas that already is so."""

    def forward(self, ids):
        target = (torch.arange(ids.shape[1]) + 1) % VOCABULARY
        right = (ids == target).float().mean(dim=1)
        return (2.0 + 12.0 * right)[:, None, None] * torch.nn.functional.one_hot(target, VOCABULARY).float()[None]


NOISE = {"preset": "diffusion-gemma", "vocabulary": VOCABULARY}


def test_a_model_without_a_mask_samples():
    events = []
    result = dllm_fast.sample(Denoiser(), [[1, 2], [1]], **NOISE, max_new_tokens=8, seed=3, on_step=events.append, guesses=True)
    assert [row.tolist() for row in result.sequences] == [list(range(1, 11)), list(range(1, 10))]
    assert result.finish_reasons == ["length", "length"]
    assert all(1 < count < 48 for count in result.stats.nfe_per_row), "it was stable and sure before its steps were over"
    # One edit a position: what was shown meanwhile is none.
    assert [[edit.kind for edit in row] for row in result.trajectory] == [["commit"] * 8] * 2
    first, last = events[0], events[-1]
    assert first.open_positions[0].tolist() == list(range(2, 10))
    assert first.stable_prefix == [0, 0]
    assert not first.edits[0]
    assert first.guess_positions[0].tolist() == list(range(2, 10))
    assert first.guess_tokens[0].tolist() == list(range(3, 11)), "what it finds most probable, whatever was drawn"
    # What a watcher sees at open positions is what the model sees next: noise, and drafts among it.
    assert (first.canvases[0][2:] < VOCABULARY).all()
    assert last.canvases[0].tolist() in [row.tolist() for row in result.sequences]
    assert "length" in last.finish_reasons
    assert dllm_fast.StepEvent.from_dict(first.to_dict()) == first


def test_rows_depend_on_nothing_but_themselves():
    both = dllm_fast.sample(Denoiser(), [[1, 2], [1]], **NOISE, max_new_tokens=6, seed=5, entropy_bound=2.0)
    for i, prompt in enumerate([[1, 2], [1]]):
        alone = dllm_fast.sample(Denoiser(), prompt, **NOISE, max_new_tokens=6, seed=5, entropy_bound=2.0)
        assert repr(alone.trajectory[0]) == repr(both.trajectory[i])


def test_an_end_token_ends_a_row_when_its_block_is_finished():
    result = dllm_fast.sample(Denoiser(), [1, 2], **NOISE, max_new_tokens=8, block_length=4, eos_token_id=5)
    assert result.new_tokens[0].tolist() == [3, 4, 5]
    assert result.finish_reasons == ["stop"]
    assert result.sequences[0].tolist() == [1, 2, 3, 4, *[5] * 6]


def test_a_row_that_is_cancelled_has_nothing_of_the_noise():
    with dllm_fast.stream(Denoiser(), [1, 2], **NOISE, max_new_tokens=4) as run:
        next(run)
        run.cancel()
    result = run.result()
    assert result.finish_reasons == ["cancelled"]
    assert result.new_tokens[0].size == 0


def test_infill_is_told_what_is_written():
    canvas = [1, 9, 3, 9, 5]
    flags = np.array([False, True, False, True, False])
    result = dllm_fast.infill(Denoiser(), canvas, **NOISE, open=flags)
    assert result.sequences[0].tolist() == [1, 2, 3, 4, 5]
    assert result.new_tokens[0].tolist() == [2, 4]
    same = dllm_fast.infill(Denoiser(), [canvas, canvas], **NOISE, open=[flags.tolist(), flags])
    assert [row.tolist() for row in same.sequences] == [[1, 2, 3, 4, 5]] * 2


def test_other_rules_keep_what_they_commit():
    result = dllm_fast.sample(Denoiser(), [1, 2], noise="uniform", vocabulary=VOCABULARY, max_new_tokens=6, threshold=0.9)
    assert result.sequences[0].tolist() == list(range(1, 9))


def test_masks_and_noise_do_not_mix():
    model, _ = demo.load()
    puzzle = demo.problems(1, seed=1)[0]
    with pytest.raises(
        InvalidValueError, match=r"noise='uniform' is for models that never saw a mask, got one with the mask 10"
    ):
        dllm_fast.infill(model, puzzle, preset="diffusion-gemma")
    with pytest.raises(InvalidValueError, match=r"a mask token is needed, got none .* or noise='uniform'"):
        dllm_fast.sample(Denoiser(), [1], preset="llada")
    with pytest.raises(InvalidValueError, match="noise is drawn from the vocabulary, got a model that does not say"):
        dllm_fast.sample(Denoiser(), [1], preset="diffusion-gemma")
    with pytest.raises(InvalidValueError, match="infill must know what is written, got a canvas without masks; pass open="):
        dllm_fast.infill(Denoiser(), [1, 2], **NOISE)
    with pytest.raises(InvalidValueError, match="the mask says what is written, got open= beside mask_token_id=10"):
        dllm_fast.infill(model, puzzle, open=[True] * 81)
    with pytest.raises(InvalidValueError, match=r"open says which positions of a canvas are written, got .* beside a prompt"):
        dllm_fast.stream(Denoiser(), [1, 2], open=[True, False])
    with pytest.raises(InvalidValueError, match="a flag for each of the 2 positions of row 0, got 1"):
        dllm_fast.infill(Denoiser(), [1, 2], **NOISE, open=[True])
    with pytest.raises(InvalidValueError, match="open must be one array for each of 2 canvases, got 1"):
        dllm_fast.infill(Denoiser(), [[1, 2], [1, 2]], **NOISE, open=[True, False])
    with pytest.raises(InvalidTypeError, match="open must hold True and False"):
        dllm_fast.infill(Denoiser(), [1, 2], **NOISE, open=[[1, 0]])
    with pytest.raises(
        InvalidValueError, match=r"ids must lie within the logits of the model, got .*; .* for noise its vocabulary="
    ):
        dllm_fast.sample(Denoiser(), [1], **(NOISE | {"vocabulary": 100 * VOCABULARY}), max_new_tokens=16)
    for one in (True, 1.5, {True}, "yes"):
        with pytest.raises(InvalidTypeError, match="open must have a flag for each position of a canvas, got "):
            dllm_fast.infill(Denoiser(), [1, 2], **NOISE, open=one)


def test_reverse_processes_over_noise():
    class Knowing(Denoiser):
        def forward(self, ids):
            return 40.0 * torch.nn.functional.one_hot((torch.arange(ids.shape[1]) + 1) % VOCABULARY, VOCABULARY).float()[None]

    given = {"vocabulary": VOCABULARY, "max_new_tokens": 6, "steps": 5}
    result = dllm_fast.sample(Knowing(), [1, 2], preset="udlm", **given)
    assert result.sequences[0].tolist() == list(range(1, 9))
    assert result.stats.nfe == 5
    hybrid = dllm_fast.sample(Knowing(), [1, 2], preset="gidd", mask_token_id=11, **given)
    assert hybrid.sequences[0].tolist() == list(range(1, 9))
    filled = dllm_fast.infill(Knowing(), [1, 11, 3, 11], preset="gidd", mask_token_id=11, vocabulary=VOCABULARY)
    assert filled.sequences[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(InvalidValueError, match="noise='hybrid' shows masks among other tokens, got none"):
        dllm_fast.sample(Knowing(), [1, 2], preset="gidd", **given)
