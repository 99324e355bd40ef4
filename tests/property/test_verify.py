"""Verified drafts are the autoregressive answer of the same model: by the core, and by networks under every exact cache."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast import DllmFastError, SamplerConfig
from engines import Recorder, with_engine
from families import MASK as TWIN_MASK
from families import TWINS
from reference import verify
from strategies import END, MASK, VOCABULARY
from toys import HashTable


class Causal(HashTable):
    """Logits of a position depend on what is before it and on itself."""

    def row(self, canvas):
        canvas = np.asarray(canvas)
        rows = [super(Causal, self).row(np.concatenate([[0], canvas[: p + 1]]))[-1] for p in range(len(canvas))]
        return np.array(rows).reshape(-1, VOCABULARY)


def agreeing(seed: int, share: float):
    """A causal model, and one that sees both ways and drafts what the causal one would write at a share of the positions."""
    causal = Causal(VOCABULARY, seed)

    def drafts(canvas):
        rng = np.random.default_rng([seed, len(canvas), *canvas.tolist()])
        answer = verify.greedy(causal.alone, canvas, MASK, banned=[5])
        logits = rng.normal(0, 1, (len(canvas), VOCABULARY)).astype(np.float32)
        sure = rng.random(len(canvas)) < share
        logits[np.flatnonzero(sure), answer[sure]] = 9
        return logits

    return causal.alone, drafts


@st.composite
def drawn(draw):
    prompt = draw(st.lists(strategies.tokens, min_size=1, max_size=5))
    rest = draw(st.lists(st.one_of(st.just(MASK), st.just(MASK), strategies.tokens), min_size=1, max_size=12))
    return np.array([*prompt, *rest]), len(prompt)


def driven(config, canvas, start, model, causal, *, parts=False):
    """A sampler driven by hand, and the forwards that it asked for."""
    sampler = dllm_fast.Sampler(config, [canvas], block_start=[start])
    while (request := sampler.next()) is not None:
        shown, positions = request.canvases[0], request.positions[0]
        if request.causal[0]:
            if len(request.proposed[0]):
                shown[positions] = request.proposed[0]
            # What a network would be given.
            ids, lines = request.batch([0], [len(shown)])
            assert ids[0].tolist() == shown.tolist()
            assert lines.tolist() == (positions - 1).tolist()
            logits = causal(shown)[positions - 1]
        else:
            assert not len(request.proposed[0])
            logits = model(shown)[positions]
        if parts:
            prediction = sampler.predict(logits)
            sampler.feed(tokens=prediction.token, scores=prediction.probability)
        else:
            sampler.feed(logits)
    return sampler


@given(
    canvas=drawn(),
    block=st.sampled_from([None, 1, 2, 3, 5, 20]),
    share=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    scored=st.booleans(),
)
def test_the_core_equals_the_reference_and_both_the_autoregressive_answer(canvas, block, share, seed, scored):
    canvas, start = canvas
    causal, model = agreeing(seed, share)
    config = SamplerConfig(order="left-to-right", verify=True, block_length=block, mask_token_id=MASK, suppress_tokens=(5,))
    sampler = driven(config, canvas, start, model, causal, parts=scored)
    expected, edits, forwards = verify.run(model, causal, canvas, MASK, block_length=block, start=start, banned=[5])
    assert [(edit.step, edit.position, edit.token) for edit in sampler.trajectory[0]] == edits
    assert sampler.nfe_per_row[0] == forwards
    assert sampler.canvases[0].tolist() == expected.tolist()
    assert expected.tolist() == verify.greedy(causal, canvas, MASK, banned=[5]).tolist()
    masks = int((canvas == MASK).sum())
    blocks = min(masks, 1) if block is None else len({(p - start) // block for p in np.flatnonzero(canvas == MASK).tolist()})
    assert forwards <= dllm_fast._core.most_forwards(config, masks, blocks)
    if share == 1.0:
        assert forwards <= 2 * max(blocks, 1)  # a draft and a look for each block


def test_an_end_stops_a_row_as_soon_as_it_is_verified():
    causal, model = agreeing(3, 1.0)
    canvas = np.array([1, *[MASK] * 30])
    answer = verify.greedy(causal, canvas, MASK, banned=[5])
    assert END in answer[1:]
    config = SamplerConfig(
        order="left-to-right",
        verify=True,
        block_length=5,
        mask_token_id=MASK,
        eos_token_id=END,
        stop_at_eos=True,
        suppress_tokens=(5,),
    )
    sampler = driven(config, canvas, 1, model, causal)
    first = 1 + int(np.flatnonzero(answer[1:] == END)[0])
    assert sampler.canvases[0].tolist() == [*answer[: first + 1], *[END] * (30 - first)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"order": "confidence"}, "got another order or order_temperature beside it; use order='left-to-right'"),
        ({"temperature": 0.5}, "got a temperature beside it; set temperature to 0"),
        ({"steps": 4}, "got steps, a schedule or min_commit beside it; leave those out"),
        ({"schedule": "cosine"}, "got steps, a schedule or min_commit beside it"),
        ({"min_commit": 2}, "got steps, a schedule or min_commit beside it"),
        ({"edit_threshold": 0.5}, "got a rule that revises, gap_stop or credit beside it"),
        ({"credit": 0.7}, "got a rule that revises, gap_stop or credit beside it"),
        ({"gap_stop": 2.0}, "got a rule that revises, gap_stop or credit beside it"),
        ({"eos_policy": "delay", "eos_token_id": 1}, "got an eos_policy of 'suffix' or 'delay' beside it"),
        ({"threshold": 0.5}, r"at most one of threshold, factor, .* or verify"),
        ({"guidance": 1.0}, r"got guidance=1\.0 beside it; leave one out"),
        ({"verify": 1}, "verify must be True or False, got 1"),
    ],
)
def test_what_means_nothing_beside_it_is_refused(settings, says):
    with pytest.raises(DllmFastError, match=says):
        SamplerConfig(**{"order": "left-to-right", "verify": True, "mask_token_id": MASK, **settings})


def never(ids):
    raise AssertionError("a forward")


def test_a_model_that_cannot_be_run_causally_is_refused_before_any_forward(opened):
    asked = {"preset": "linear-spec", "mask_token_id": TWIN_MASK, "max_new_tokens": 8, "block_length": 8, "stop_at_eos": False}
    with pytest.raises(DllmFastError, match=r"verify asks the model a second time, .* got never, which is only called"):
        dllm_fast.sample(never, [1], **asked)
    with pytest.raises(DllmFastError, match="reads what lies before a block causally, got attention 'full'"):
        dllm_fast.sample(opened("llada"), [1], **asked)
    with pytest.raises(DllmFastError, match="verify needs keys that are exact, got cache='dual'"):
        dllm_fast.sample(opened(NAMES[0]), [1], cache="dual", **asked)
    with pytest.raises(DllmFastError, match="got a canvas whose first token is open"):
        dllm_fast.infill(opened(NAMES[0]), [TWIN_MASK, 1], preset="linear-spec", mask_token_id=TWIN_MASK)
    with pytest.raises(DllmFastError, match="verify commits from left to right, got eligible_after beside it"):
        dllm_fast.sample(opened(NAMES[0]), [1], eligible_after={2: [3]}, **asked)


NAMES = [twin.name for twin in TWINS if twin.attention == "causal_context" and not twin.shift]


@functools.cache
def stock(name: str):
    """The family's own class, read causally: what it says of the next token."""
    model = next(twin for twin in TWINS if twin.name == name).model()

    def logits(canvas):
        length = len(canvas)
        seen = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        with torch.inference_mode():
            return model(torch.as_tensor(canvas)[None], attention_mask=seen, use_cache=False).logits[0].float().numpy()

    return logits


@given(
    name=st.sampled_from(NAMES),
    prompts=st.lists(st.lists(st.integers(0, TWIN_MASK - 1), min_size=1, max_size=20), min_size=1, max_size=3),
    block=st.sampled_from([1, 4, 8]),
    blocks=st.integers(1, 3),
    cache=st.sampled_from(["none", "exact_block"]),
    rows=st.sampled_from([None, 1, 2]),
)
def test_a_network_writes_its_autoregressive_answer(*, opened, name, prompts, block, blocks, cache, rows):
    """That of the stock class, which knows nothing of blocks or drafts, with a causal mask."""
    result = dllm_fast.sample(
        opened(name),
        prompts,
        preset="linear-spec",
        block_length=block,
        max_new_tokens=block * blocks,
        cache=cache,
        max_batch_rows=rows,
        stop_at_eos=False,
    )
    banned = [token for token in result.config.suppress_tokens if isinstance(token, int)]
    for prompt, sequence in zip(prompts, result.sequences, strict=True):
        canvas = [*prompt, *[TWIN_MASK] * (block * blocks)]
        assert sequence.tolist() == verify.greedy(stock(name), canvas, TWIN_MASK, banned=banned).tolist()
    assert max(result.stats.nfe_per_row) <= 2 * block * blocks


@pytest.mark.parametrize("name", NAMES)
def test_replayed_forwards_write_the_same(opened, name, monkeypatch):
    model = opened(name)
    asked = {"preset": "linear-spec", "block_length": 4, "max_new_tokens": 12, "stop_at_eos": False}
    prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    eager = dllm_fast.sample(model, prompts, **asked)
    recorder = Recorder()
    monkeypatch.setattr(model, "engine", None)
    with_engine(model, recorder)
    for _ in range(2):
        found = dllm_fast.sample(model, prompts, **asked)
        assert [row.tolist() for row in found.sequences] == [row.tolist() for row in eager.sequences]
    assert recorder.replayed
