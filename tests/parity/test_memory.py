"""KLASS (2511.05664) and CreditDecoding (2510.06133) against the presets `klass` and `credit`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same
from parity.loops import credit, klass
from parity.models import Case, Model
from parity.test_fast_dllm import lengths


class Settling(Model):
    """Logits that depend on the position, and a little on the canvas: what is far from any threshold by luck alone."""

    def __init__(self, seed: int, vocabulary: int, share: float, sharpness: float):
        self.vocabulary, self.mask, self.seed = vocabulary, vocabulary - 1, seed
        self.share, self.sharpness = share, sharpness

    def alone(self, tokens) -> torch.Tensor:
        tokens = np.asarray(tokens)
        still = np.random.default_rng([self.seed, len(tokens)]).normal(0, self.sharpness, (len(tokens), self.vocabulary))
        moved = np.random.default_rng([self.seed, *tokens.tolist()]).normal(0, self.share, still.shape)
        return torch.from_numpy((still + moved).astype(np.float32))


@st.composite
def settling(draw, gen_length: int) -> Case:
    seed, vocabulary = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([5, 17, 64]))
    model = Settling(seed, vocabulary, draw(st.sampled_from([0.01, 0.1, 0.5])), draw(st.sampled_from([1.0, 3.0, 6.0])))
    prompts = draw(st.lists(st.lists(st.integers(0, vocabulary - 2), min_size=1, max_size=5), min_size=1, max_size=3))
    return Case(model, prompts, [draw(st.integers(0, 2**64 - 1)) for _ in prompts])


@given(st.data(), lengths(), st.sampled_from([0.003, 0.0101, 0.1]), st.sampled_from([0.3, 0.6, 0.9]), st.integers(1, 3))
def test_klass(data, lengths, kl_threshold, conf_threshold, history):
    """With one commit a forward where none is ready. Vocabularies of at most 64, so that a head is the whole distribution."""
    case = data.draw(settling(lengths["gen_length"]))
    rule = {"conf_threshold": conf_threshold, "kl_threshold": kl_threshold, "history": history}
    blocks = lengths["gen_length"] // lengths["block_length"]

    def loop(prompt, seed):
        steps = lengths["block_length"]
        found = klass.generate(case.model.alone, prompt, mask=case.mask, steps=steps, **rule, **lengths)
        if blocks == 1:
            published = klass.generate(case.model.alone, prompt, mask=case.mask, steps=steps, forgets=False, **rule, **lengths)
            assert found.edits == published.edits
        return found

    ours = {"threshold": conf_threshold, "kl_threshold": kl_threshold, "kl_steps": history}
    for as_published in (False, True):
        assert_same(case, loop, preset="klass", as_published=as_published, **ours, **lengths)


def still(tokens):
    logits = torch.zeros(len(tokens), 4)
    logits[:, 1] = 9.0
    return logits


def test_klass_as_published_looks_into_the_block_before():
    """A distribution that never changes: the published loop fills its second block in two forwards, the rule in three."""
    rule = {"gen_length": 8, "block_length": 4, "steps": 4, "conf_threshold": 0.9, "kl_threshold": 0.01, "history": 2}
    assert klass.generate(still, [0], mask=3, forgets=True, **rule).forwards == 6
    assert klass.generate(still, [0], mask=3, forgets=False, **rule).forwards == 5
    for as_published in (False, True):
        result = dllm_fast.sample(
            lambda ids: torch.stack([still(row) for row in ids]),
            [[0]],
            preset="klass",
            mask_token_id=3,
            max_new_tokens=8,
            block_length=4,
            as_published=as_published,
        )
        assert result.stats.nfe_per_row == [6]


def test_klass_as_published_leaves_masks_where_few_were_ready():
    """Two a step are due; in the second, one is ready and commits alone: the published loop ends with a mask."""

    def model(tokens):
        logits = torch.zeros(len(tokens), 4)
        masks = int((np.asarray(tokens) == 3).sum())
        logits[:, masks // 2 % 2] = 8.0  # surer, but always something else
        logits[1] = torch.tensor([0.0, 5.0, 0.0, 0.0])
        return logits

    rule = {"gen_length": 8, "block_length": 8, "steps": 4, "conf_threshold": 0.9, "kl_threshold": 1e-4, "history": 1}
    canvas = klass.generate(model, [0], mask=3, **rule)
    assert [step for step, *_ in canvas.edits] == [0, 0, 1, 2, 2, 3, 3]
    assert (canvas.tokens == 3).sum() == 1
    result = dllm_fast.sample(
        lambda ids: torch.stack([model(row.numpy()) for row in ids]),
        [[0]],
        preset="klass",
        kl_threshold=1e-4,
        kl_steps=1,
        mask_token_id=3,
        max_new_tokens=8,
        block_length=8,
        steps=4,
    )
    assert not (result.sequences[0] == 3).any()
    assert result.stats.nfe_per_row == [4]


@given(
    st.data(),
    lengths(),
    st.sampled_from([0.5, 0.8, 0.95]),
    st.tuples(st.sampled_from([0.0, 0.7, 2.0]), st.sampled_from([0.2, 1.0]), st.sampled_from([0.0, 0.8, 1.0])),
)
def test_credit(data, lengths, threshold, parameters):
    alpha, gamma, beta = parameters
    case = data.draw(settling(lengths["gen_length"]))

    def loop(prompt, seed):
        rule = {"threshold": threshold, "alpha": alpha, "gamma": gamma, "beta": beta}
        return credit.generate(case.model.alone, prompt, mask=case.mask, **rule, **lengths)

    ours = {"threshold": threshold, "credit": alpha, "credit_power": gamma, "credit_decay": beta}
    for as_published in (False, True):
        assert_same(case, loop, preset="credit", as_published=as_published, **ours, **lengths)


@pytest.mark.parametrize("preset", ["klass", "credit"])
def test_fewer_forwards_than_one_a_token_where_nothing_changes(preset):
    result = dllm_fast.sample(
        lambda ids: torch.stack([still(row) for row in ids]), [[0]], preset=preset, mask_token_id=3, max_new_tokens=32
    )
    assert result.stats.nfe_per_row[0] <= 3
