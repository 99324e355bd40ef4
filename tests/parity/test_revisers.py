"""Published loops that take tokens back, restated plainly for a batch of one at temperature 0, beside ours.

As published they differ from the rule in what is named here; ours is the rule. ReMDM draws with torch's generator, so its law
is compared, in `tests/law/test_remasks.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

import dllm_fast
import toys
from dllm_fast.errors import InvalidValueError
from driving import drive
from parity.loops import remedi, saber
from strategies import MASK, VOCABULARY

MODELS = [toys.HashTable(VOCABULARY, seed=seed, grid=0.1) for seed in range(12)]


def softmaxes(model, canvas):
    """Probabilities at every position, the mask left out."""
    logits = np.array(model.alone(canvas), dtype=np.float64)
    logits[:, MASK] = -np.inf
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def p2(model, length, steps, eta, *, is_published=False):
    """P2 (2502.03540): all are ranked by log-probability, that of what stands times eta; the lowest are masks again.

    As published those are masks that lie below the lowest score that stands: fewer where it ties.
    """
    canvas = np.full(length, MASK)
    for step in range(steps):
        p = softmaxes(model, canvas)
        is_masked = canvas == MASK
        tokens = np.where(is_masked, p.argmax(axis=1), canvas)
        scores = np.log(p[np.arange(length), tokens])
        scores[~is_masked] *= eta
        masks = length * (steps - step - 1) // steps
        lowest = np.argsort(scores, kind="stable")[:masks]
        if is_published:
            lowest = scores < np.sort(scores)[masks]
        canvas = tokens.copy()
        canvas[lowest] = MASK
        if MASK not in canvas:
            break
    return canvas, step + 1


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("length", "steps"), [(9, 9), (9, 4), (5, 13)])
def test_p2(length, steps, eta):
    for model in MODELS:
        config = {"mask_token_id": MASK, "schedule": "linear", "steps_per_block": steps, "remask": "planner", "remask_eta": eta}
        ours = drive(config, [np.full(length, MASK)], model)
        expected, _ = p2(model, length, steps, eta)
        assert ours.canvases[0].tolist() == expected.tolist()
        assert expected.tolist() == p2(model, length, steps, eta, is_published=True)[0].tolist(), "nothing ties"


def test_p2_as_published_masks_too_few_where_scores_tie():
    """All positions alike: the published loop is over after a step, ours takes what was asked for and counts exactly."""
    alike = toys.Constant(np.arange(VOCABULARY))
    assert p2(alike, 8, 4, 1.0, is_published=True)[1] == 1
    rule = dllm_fast.presets()["p2"].to_dict() | {"mask_token_id": MASK, "temperature": 0.0, "steps_per_block": 4}
    sampler = drive(rule, [np.full(8, MASK)], alike)
    assert sampler.nfe_per_row == [4] == [p2(alike, 8, 4, 1.0)[1]]
    gained = [{"commit": 1, "remask": -1}[edit.kind] for edit in sampler.trajectory[0]]
    assert np.bincount([edit.step for edit in sampler.trajectory[0]], gained).tolist() == [2, 2, 2, 2]


# --- RemeDi


def ours_of_remedi(model, blocks, block_length, steps):
    """Our preset, with sizes that suit a toy."""
    rule = dllm_fast.presets()["remedi"].to_dict() | {"mask_token_id": MASK, "block_length": block_length}
    return drive(rule | {"steps_per_block": steps}, [np.full(blocks * block_length, MASK)], model).canvases[0].tolist()


def without_mask(model):
    """Logits of the model, whose mask is never likely."""

    def logits(canvas):
        found = np.array(model.alone(canvas), dtype=np.float64)
        found[:, MASK] = -np.inf
        return found

    return logits


@pytest.mark.parametrize(("blocks", "block_length", "steps"), [(1, 8, 8), (3, 8, 4), (2, 7, 3), (1, 1, 1), (2, 5, 13)])
def test_remedi(blocks, block_length, steps):
    for model in MODELS:
        meant = remedi.intended(model.alone, blocks, block_length, steps, MASK)
        assert ours_of_remedi(model, blocks, block_length, steps) == meant.tolist()


def test_remedi_as_published_ranks_by_raw_logits():
    """Logits of a position raised by one number are the same distribution: the published loop ranks them otherwise."""
    differ = 0
    for model in MODELS:
        plain = without_mask(model)

        def raised(canvas, plain=plain):
            return plain(canvas) + 20.0 * (np.arange(len(canvas)) % 3)[:, None]

        assert (remedi.intended(raised, 1, 8, 8, MASK) == remedi.intended(plain, 1, 8, 8, MASK)).all()
        differ += (remedi.published(raised, 1, 8, 8, MASK) != remedi.published(plain, 1, 8, 8, MASK)).any()
    assert differ == len(MODELS)
    # With logits whose log-sum-exp is 0 both rank alike, and nothing else is left to differ where the steps divide the block.
    for model in MODELS:
        plain = without_mask(model)

        def normal(canvas, plain=plain):
            logits = plain(canvas)
            return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

        assert (remedi.published(normal, 2, 8, 4, MASK) == remedi.intended(normal, 2, 8, 4, MASK)).all()


def test_remedi_as_published_leaves_masks_where_the_mask_is_likeliest():
    left = [int((remedi.published(model.alone, 2, 8, 2, MASK) == MASK).sum()) for model in MODELS]
    assert max(left) > 0
    assert all(MASK not in ours_of_remedi(model, 2, 8, 2) for model in MODELS)


def test_remedi_as_published_gives_what_is_left_over_to_the_last_steps():
    assert remedi.counts(8, 3, is_published=True) == [2, 5, 8]
    assert remedi.counts(8, 3, is_published=False) == np.cumsum(dllm_fast.schedule("even", 8, 3)).tolist() == [3, 6, 8]


# --- Saber


def ours_of_saber(model, prompt, blocks, block_length, n=2):
    """Our preset, with sizes that suit a toy."""
    rule = dllm_fast.presets()["saber"].to_dict() | {"mask_token_id": MASK, "block_length": block_length, "min_commit": n}
    canvas = np.array([*prompt, *[MASK] * (blocks * block_length)])
    sampler = drive(rule, [canvas], model, block_start=len(prompt))
    return sampler.canvases[0].tolist(), int(sampler.nfe_per_row[0])


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("blocks", "block_length"), [(1, 1), (1, 2), (1, 7), (1, 16), (3, 5), (2, 8)])
def test_saber(blocks, block_length, n):
    for model in MODELS:
        meant, forwards = saber.intended(
            lambda canvas, model=model: softmaxes(model, canvas), [1, 0], blocks, block_length, MASK, n=n
        )
        assert ours_of_saber(model, [1, 0], blocks, block_length, n) == (meant.tolist(), forwards)


def test_saber_asks_more_than_the_mean():
    """Where all are as sure as what stands nobody is surer: two are written in each forward, and one goes back."""
    half = toys.Constant([0.0, 0.0, *[-np.inf] * (VOCABULARY - 2)])
    rule = dllm_fast.presets()["saber"].to_dict() | {"mask_token_id": MASK}
    sampler = drive(rule, [np.full(6, MASK)], half)
    steps = [[edit.kind for edit in sampler.trajectory[0] if edit.step == step] for step in range(5)]
    assert steps == [["commit"] * 2, *[["commit", "commit", "remask"]] * 2, ["commit"] * 2, []]
    assert saber.intended(lambda canvas: softmaxes(half, canvas), [], 1, 6, MASK)[1] == 4 == sampler.nfe_per_row[0]


def test_saber_as_published_tops_up_beyond_the_block():
    """One mask is left and two are taken: the other one is written in a block whose turn has not come."""

    def softmax_of(canvas):
        """The same at every position, mostly token 0."""
        weights = np.ones(VOCABULARY)
        weights[0], weights[MASK] = 9.0, 0.0
        return np.tile(weights / weights.sum(), (len(canvas), 1))

    loop = saber.published(softmax_of, [1, 0], 2, 1, MASK, is_last=True)
    rule = saber.intended(softmax_of, [1, 0], 2, 1, MASK)
    assert loop[0].tolist() == rule[0].tolist() == [1, 0, 0, 0]
    # Two blocks of one mask each: the first forward wrote both.
    assert (loop[1], rule[1]) == (1, 2)


@pytest.mark.parametrize("is_last", [False, True])
def test_what_is_published_of_saber_is_another_rule(is_last):
    """Whichever way the top-up falls, tokens differ; a block of odd length beside another needs it."""
    for blocks, block_length in ((1, 16), (2, 5)):
        differ = 0
        for model in MODELS:

            def softmax_of(canvas, model=model):
                return softmaxes(model, canvas)

            theirs, _ = saber.published(softmax_of, [1, 0], blocks, block_length, MASK, is_last=is_last)
            differ += theirs.tolist() != ours_of_saber(model, [1, 0], blocks, block_length)[0]
        assert differ > 0


@pytest.mark.parametrize("name", ["remedi", "saber"])
def test_as_published_is_refused(name):
    rule = dllm_fast.presets()[name].to_dict() | {"mask_token_id": MASK, "as_published": True}
    with pytest.raises(InvalidValueError, match=r"is the rule as it is meant, got as_published beside it"):
        dllm_fast.Sampler(dllm_fast.SamplerConfig(**rule), [np.full(4, MASK)])
