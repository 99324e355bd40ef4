"""The order `calibrated` (PC-Sampler): what a table of frequencies must be, and what it does to an order."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from dllm_fast import TokenFrequencies
from driving import assert_equals_reference, batches, drive, edits_of, same
from strategies import MASK, VOCABULARY

tables = st.builds(toys.HashTable, st.just(VOCABULARY), seed=st.integers(0, 2**32), grid=st.sampled_from([0.1, 1.0]))
BEYOND = tuple(schedule for schedule in strategies.SCHEDULES if schedule != "first-hitting")


@given(strategies.settings(orders=("calibrated",), annealed=False), batches(), tables)
def test_equals_the_reference(config, batch, model):
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


@given(strategies.placed(orders=("calibrated",)), batches(), tables)
def test_equals_the_reference_where_a_step_does_not_reach_all(config, batch, model):
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


@given(strategies.settings(orders=("sampled-confidence",), schedules=BEYOND, annealed=False), strategies.canvases(), tables)
def test_where_all_tokens_are_as_frequent_it_is_their_confidence(config, canvas, model):
    """Beside no decay and no cap: then every score is the same multiple of a probability."""
    config.pop("order_temperature", None)  # it is added to scores
    even = {"token_frequencies": TokenFrequencies([1] * VOCABULARY), "position_decay": 0.0, "information_cap": np.inf}
    plain, ours = (drive(config | more, [canvas], model, seed=5) for more in ({}, {"order": "calibrated", **even}))
    assert same(edits_of(plain.trajectory[0]), edits_of(ours.trajectory[0]))


@given(strategies.canvases(), tables, st.integers(1, 4))
def test_a_great_decay_is_left_to_right(canvas, model, count):
    far = {"token_frequencies": TokenFrequencies([1] * VOCABULARY), "position_decay": 1e6}
    base = {"mask_token_id": MASK, "min_commit": count}
    left = drive(base | {"order": "left-to-right"}, [canvas], model)
    ours = drive(base | {"order": "calibrated", **far}, [canvas], model)
    assert same(edits_of(left.trajectory[0]), edits_of(ours.trajectory[0]))


def test_frequent_tokens_wait():
    """Of two equally sure positions the one with the rarer token goes first."""
    logits = np.array([[3.0, 0.0, -9.0], [0.0, 3.0, -9.0]], dtype=np.float32)
    for counts, first in (([900, 1, 0], 1), ([1, 900, 0], 0)):
        config = {"mask_token_id": 2, "order": "calibrated", "token_frequencies": TokenFrequencies(counts)}
        sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config, position_decay=0.0), [[2, 2]])
        sampler.next()
        sampler.feed(logits)
        assert sampler.trajectory[0][0].position == first


def test_rows_of_several_tables_stand_beside_each_other():
    model = toys.HashTable(VOCABULARY, seed=3)
    rng = np.random.default_rng(0)
    configs = [
        dllm_fast.SamplerConfig(mask_token_id=MASK, order="calibrated", token_frequencies=TokenFrequencies(counts))
        for counts in rng.integers(1, 1000, (3, VOCABULARY))
    ] + [dllm_fast.SamplerConfig(mask_token_id=MASK)]
    together = dllm_fast.Sampler(configs[0], [[MASK] * 9])
    for config in configs[1:]:
        together.add([MASK] * 9, config)
    while (request := together.next()) is not None:
        lines = [model.alone(c)[p] for c, p in zip(request.canvases, request.positions, strict=True)]
        together.feed(np.concatenate(lines))
    for i, config in enumerate(configs):
        own = {"mask_token_id": MASK, "order": config.order, "token_frequencies": config.token_frequencies}
        alone = drive(own, [[MASK] * 9], model)
        assert same(edits_of(together.trajectory[i]), edits_of(alone.trajectory[0]))


@given(strategies.counts)
def test_a_table_is_its_counts(counts):
    table = TokenFrequencies(counts)
    assert (len(table), table.tokens, table.counts.tolist()) == (VOCABULARY, sum(counts), counts)
    there = {i: count for i, count in enumerate(counts) if count}
    for same_ in (
        TokenFrequencies(np.array(counts)),
        TokenFrequencies(there, VOCABULARY),
        pickle.loads(pickle.dumps(table)),
        TokenFrequencies.from_dict(json.loads(json.dumps(table.to_dict()))),
    ):
        assert same_ == table
        assert hash(same_) == hash(table)
    assert table != TokenFrequencies([*counts, 0])
    assert len(repr(table)) < 100
    config = dllm_fast.SamplerConfig(order="calibrated", token_frequencies=table)
    again = dllm_fast.SamplerConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert pickle.loads(pickle.dumps(config)) == config


def test_tokens_are_counted():
    assert TokenFrequencies.of([2, 0, 2], 4) == TokenFrequencies([1, 0, 2, 0])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: TokenFrequencies([0, 0]),
            "counts must have a token that occurs, got none among 2 ids; count those of a corpus",
        ),
        (lambda: TokenFrequencies([1, -2]), "counts must hold whole numbers from 0, got -2; check its signs"),
        (lambda: TokenFrequencies([1.0, 2.0]), "counts must hold integers, got .*; pass for each id how often it occurs"),
        (lambda: TokenFrequencies({0: 1}), "counts by id leave open how many ids there are, got no vocabulary"),
        (lambda: TokenFrequencies({5: 1}, 3), "ids that are counted must lie in the vocabulary, got 5 for 3 ids"),
        (lambda: TokenFrequencies.of([5], 3), "ids that are counted must lie in the vocabulary, got 5 for 3 ids"),
        (lambda: TokenFrequencies([1, 2], 3), "counts must have one for each id of the vocabulary, got 2 for 3"),
        (lambda: TokenFrequencies({0: 2**53}, 1), "counts must be fewer than 2^53 tokens together"),
        (lambda: TokenFrequencies.of([], 0), "vocabulary must be a whole number, at least 1"),
    ],
)
def test_counts_that_are_none(make, text):
    with pytest.raises(dllm_fast.DllmFastError, match="^" + text.replace("^", r"\^")):
        make()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"token_frequencies": TokenFrequencies([1])},
            "token_frequencies is read under order='calibrated' alone, got .* beside order='confidence'",
        ),
        ({"order": "calibrated", "token_frequencies": [1]}, "token_frequencies must be a TokenFrequencies, got"),
        ({"position_decay": -1.0}, "position_decay must be at least 0 and at most 1000000, got -1"),
        ({"position_decay": np.nan}, "position_decay must be at least 0"),
        ({"information_cap": 0.0}, "information_cap must be above 0"),
        ({"order": "calibrated", "schedule": "maskgit", "order_temperature": 1.0}, "order_temperature under the maskgit"),
    ],
)
def test_settings_that_are_refused(settings, text):
    with pytest.raises(dllm_fast.DllmFastError, match=text):
        dllm_fast.SamplerConfig(**settings)


def never(ids):
    raise AssertionError("a forward")


def test_without_a_table_there_is_no_forward():
    text = "order 'calibrated' .PC-Sampler. needs to know how frequent each token is anywhere, got no token_frequencies"
    with pytest.raises(dllm_fast.DllmFastError, match=text):
        dllm_fast.sample(never, [1], preset="pc-sampler", mask_token_id=MASK, max_new_tokens=2)


@pytest.mark.parametrize("size", [VOCABULARY - 1, VOCABULARY + 1])
def test_a_table_of_another_vocabulary_is_refused(size):
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, order="calibrated", token_frequencies=TokenFrequencies([1] * size))
    sampler = dllm_fast.Sampler(config, [[MASK, MASK]])
    sampler.next()
    with pytest.raises(dllm_fast.DllmFastError, match=f"each id of the vocabulary, got {size} for {VOCABULARY}"):
        sampler.feed(np.zeros((2, VOCABULARY), np.float32))


def test_that_is_known_before_the_first_forward():
    model, _ = dllm_fast.demo.load()
    table = TokenFrequencies([1] * (model.info.vocabulary + 1))
    with pytest.raises(dllm_fast.DllmFastError, match="token_frequencies must have a count for each of the 12 ids"):
        dllm_fast.sample(model, [1], preset="pc-sampler", token_frequencies=table, max_new_tokens=2)


def test_what_is_fed_must_be_counted_and_have_probabilities():
    config = dllm_fast.SamplerConfig(mask_token_id=2, order="calibrated", token_frequencies=TokenFrequencies([1, 1, 1]))
    sampler = dllm_fast.Sampler(config, [[2]])
    sampler.next()
    one = np.ones(1)
    prediction = dllm_fast.Prediction(token=[3], probability=one, top1=one, top2=one, entropy=one)
    with pytest.raises(dllm_fast.DllmFastError, match="got 3 for a proposed token 3 of row 0, position 0"):
        sampler.feed(prediction=prediction)
    with pytest.raises(dllm_fast.DllmFastError, match="order 'calibrated' needs probabilities, got scores"):
        sampler.feed(tokens=[1], scores=[1.0])
