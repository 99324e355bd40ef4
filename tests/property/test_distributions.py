"""What a model says of every mask: the softmax, in the order of its logits, for every way of running a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import native_models
import strategies
import toys
from dllm_fast.loading.model import LoadedModel
from driving import finite_tables as tables
from families import MASK as ID
from families import TWINS
from strategies import MASK, VOCABULARY


def of_softmax(logits: np.ndarray, suppressed: set[int], top: int) -> tuple[list[int], np.ndarray]:
    """The best ids and their probabilities, by sorting all of a row in float64."""
    row = logits.astype(np.float64)
    row[list(suppressed)] = -np.inf
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))[:top]
    p = np.exp(row - row.max())
    return order, (p / p.sum())[order]


@given(
    strategies.batches,
    tables,
    st.integers(1, VOCABULARY - 3),
    st.sampled_from([(), (0,), (1, 2)]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, np.float32, np.float16]),
)
def test_the_largest_of_the_softmax(canvases, model, top, suppressed, shift, dtype):  # noqa: PLR0917
    canvases = [canvas for canvas in canvases if canvas.size] or [np.array([MASK])]

    def cast(ids):
        logits = torch.as_tensor(model(ids))
        return logits.to(dtype) if isinstance(dtype, torch.dtype) else logits.numpy().astype(dtype)

    found = dllm_fast.distributions(cast, canvases, top=top, mask_id=MASK, suppress_tokens=suppressed, shift=shift)
    masks = [(row, int(p)) for row, canvas in enumerate(canvases) for p in np.flatnonzero(canvas == MASK)]
    assert [(one.row, one.position) for one in found] == masks
    for one in found:
        logits = torch.as_tensor(cast(torch.from_numpy(canvases[one.row])[None])).float()[0].numpy()
        line = max(one.position - 1, 0) if shift else one.position
        ids, probabilities = of_softmax(logits[line], {MASK, *suppressed}, top)
        assert one.ids.tolist() == ids
        np.testing.assert_allclose(one.probabilities, probabilities, rtol=1e-6)
        assert one.tokens is None


@given(strategies.batches, tables)
def test_the_first_is_what_infill_writes_to_the_bit(canvases, model):
    canvases = [canvas for canvas in canvases if canvas.size] or [np.array([MASK])]
    found = dllm_fast.distributions(model, canvases, top=1, mask_token_id=MASK)
    result = dllm_fast.infill(model, canvases, mask_token_id=MASK, steps_per_block=1)
    edits = {(row, e.position): (e.token, e.probability) for row, of in enumerate(result.trajectory) for e in of}
    assert {(d.row, d.position): (int(d.ids[0]), float(d.probabilities[0])) for d in found} == edits


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_every_family_is_asked_as_it_is_filled(twin, tmp_path):
    """Blocks, shift and caches are those of `infill`: one forward for each block, or one in all. A folder, a model, a call."""
    folder = twin.save(tmp_path)
    model = dllm_fast.load(folder)
    canvases = [[3, ID, 5, 6, ID, ID, 9, 10, ID, 12], [ID, 2, ID]]
    result = dllm_fast.infill(model, canvases, config=dllm_fast.SamplerConfig(steps_per_block=1))
    edits = {(row, e.position): (e.token, e.probability) for row, of in enumerate(result.trajectory) for e in of}
    for opened in (folder, model):
        found = dllm_fast.distributions(opened, canvases, top=3)
        assert {(d.row, d.position): (int(d.ids[0]), float(d.probabilities[0])) for d in found} == edits
        assert all((np.diff(d.probabilities) <= 0).all() for d in found)
    if twin.attention == "full":
        logits = LoadedModel.__call__(model, torch.tensor(canvases[:1]))[0].float().numpy()
        for one in found[:4]:
            ids, probabilities = of_softmax(logits[max(one.position - twin.shift, 0)], {ID}, 3)
            assert one.ids.tolist() == ids
            np.testing.assert_allclose(one.probabilities, probabilities, rtol=1e-4)


@pytest.mark.parametrize("name", ["Bert", "MPNet", "Qwen3"])
def test_a_model_in_memory_is_asked_as_it_is_filled(name):
    """By our attention, by its own, and as a whole."""
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    model, canvases = native_models.model_of(name), [[7, ID, 9, ID], [11, 12, ID]]
    found = dllm_fast.distributions(model, canvases, top=4)
    result = dllm_fast.infill(model, canvases, config=dllm_fast.SamplerConfig(steps_per_block=1))
    edits = {(row, e.position): (e.token, e.probability) for row, of in enumerate(result.trajectory) for e in of}
    assert {(d.row, d.position): (int(d.ids[0]), float(d.probabilities[0])) for d in found} == edits


def test_text_comes_with_the_tokens_as_text():
    model, tokenizer = dllm_fast.demo.load_text()
    (one,) = dllm_fast.distributions(model, "sort:cab=ab[MASK]", tokenizer=tokenizer, top=2)
    assert one.tokens is not None
    assert one.tokens[0] == "c"
    assert one.probabilities[0] > 0.9
    assert one.probabilities.sum() <= 1
    written = one.to_dict()
    assert written["tokens"] == one.tokens
    assert json.loads(json.dumps(written)) == written
    assert "Distribution(row=0, position=11, ids=[" in repr(one)


def test_a_canvas_without_masks_has_nothing_to_ask():
    assert dllm_fast.distributions(toys.HashTable(VOCABULARY), [1, 2], mask_token_id=MASK) == []


REFUSED = {
    "no token": ({"top": 0}, ValueError, "top must be at least 1, got 0"),
    "half a token": ({"top": 1.5}, TypeError, "top must be a whole number, got 1.5"),
    "more than there are": ({"top": VOCABULARY}, ValueError, rf"top must be at most .*, got {VOCABULARY} for {VOCABULARY - 1}"),
    "a rule": ({"threshold": 0.9}, ValueError, "before anything is chosen, got threshold; leave it out, or use infill"),
    "a name": ({"temprature": 1}, ValueError, "^temprature is not a setting, got 1; if 'temperature' is meant, leave it out"),
    "a near name": ({"mask_tokn_id": 1}, ValueError, "^mask_tokn_id is not a setting, got 1; did you mean 'mask_token_id'"),
    "an argument": ({"seed": 1}, ValueError, "^seed is an argument of sample and not a setting, got 1; leave it out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_about_the_model_is_refused(case):
    settings, kind, words = REFUSED[case]
    with pytest.raises(dllm_fast.DllmFastError, match=words) as caught:
        dllm_fast.distributions(toys.HashTable(VOCABULARY), [1, MASK], mask_token_id=MASK, **settings)
    assert isinstance(caught.value, kind)


def test_more_masks_than_are_copied_at_a_time() -> None:
    model = toys.HashTable(VOCABULARY, seed=5, grid=0.1)
    canvas = np.array([MASK if place % 5 else 1 for place in range(101)])
    found = dllm_fast.distributions(model, canvas, top=3, mask_token_id=MASK)
    assert [one.position for one in found] == np.flatnonzero(canvas == MASK).tolist()
    logits = torch.as_tensor(model(torch.from_numpy(canvas)[None]))[0].float().numpy()
    for one in found:
        ids, probabilities = of_softmax(logits[one.position], {MASK}, 3)
        assert one.ids.tolist() == ids
        np.testing.assert_allclose(one.probabilities, probabilities, rtol=1e-5)
