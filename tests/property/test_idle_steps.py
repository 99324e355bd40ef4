"""Steps that commit nothing are passed over in one jump, and nobody can tell: the reference goes through them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import limited
import toys
from dllm_fast import Prediction, Sampler, SamplerConfig
from dllm_fast.errors import InvalidValueError
from reference import sampler as reference
from reference import select
from strategies import MASK, VOCABULARY

SCHEDULES = ("even", "linear", "cosine", "maskgit", "dream")
MODEL = toys.HashTable(VOCABULARY, seed=5, grid=1.0)


@st.composite
def idle_rules(draw):
    """Settings with many more steps than masks; their draws depend on how many have passed."""
    order = draw(st.sampled_from(["confidence", "random", "left-to-right", "ancestral"]))
    schedule = draw(st.sampled_from([name for name in SCHEDULES if (order, name) != ("ancestral", "maskgit")]))
    most = 40 if schedule == "dream" else 1500  # its idle steps are forwards
    config = {
        "mask_token_id": MASK,
        "order": order,
        "schedule": schedule,
        "block_length": draw(st.sampled_from([None, 1, 2, 5])),
        draw(st.sampled_from(["steps", "steps_per_block"])): draw(st.integers(12, most)),
        "as_published": draw(st.booleans()) if order in ("random", "left-to-right", "ancestral") else False,
    }
    return config if schedule != "dream" else config | {"as_published": False}


@settings(max_examples=max(40, settings().max_examples // 2))
@given(idle_rules(), st.integers(1, 12), st.integers(0, 2**64 - 1), st.integers(0, 9))
def test_equals_going_through_them_one_by_one(config, length, seed, request_index):
    canvas = np.full(length, MASK)
    sampler = Sampler(SamplerConfig(**config), [canvas], seed=seed, request=request_index)
    while (request := sampler.next()) is not None:
        sampler.feed(MODEL.alone(request.canvases[0])[request.positions[0]])
    expected = reference.run(MODEL.alone, canvas, config, seed=seed, request=request_index)
    assert [(e.step, e.position, e.token) for e in sampler.trajectory[0]] == [
        (e.step, e.position, e.token) for e in expected.trajectory
    ]
    assert sampler.nfe_per_row == [expected.nfe]


def test_a_million_idle_steps_a_mask_cost_nothing():
    """Four thousand blocks of 2^20 steps each: going through them took 0.2 s a block, 13 minutes in all."""
    ended = limited.run(
        """
        import numpy as np
        from dllm_fast import Sampler, SamplerConfig

        for schedule in ("linear", "cosine", "maskgit"):
            for as_published in (False, True):
                rule = SamplerConfig(
                    mask_token_id=9, block_length=1, steps_per_block=2**20, schedule=schedule, as_published=as_published
                )
                sampler = Sampler(rule, [np.full(4095, 9)])
                while (request := sampler.next()) is not None:
                    sampler.feed(tokens=[1], scores=[0.5])
                print(sampler.nfe_per_row)
        """,
        seconds=30,
    )
    assert ended.output.split() == ["[4095]"] * 6, ended


def test_steps_that_no_counter_holds_are_refused():
    rule = SamplerConfig(mask_token_id=9, block_length=1, steps_per_block=2**20, schedule="linear")
    with pytest.raises(
        InvalidValueError, match=r"steps of a row must be fewer than 2\^32 in all, got 1048576 steps for each of"
    ):
        Sampler(rule, [[1], np.full(4096, 9)])


def test_the_logarithm_of_a_score_is_floored():
    """`ln(max(score, smallest normal number))`: margins of 0 differ by their noise alone, not by their place."""
    n, seed, temperature = 9, 3, 4.0
    rule = SamplerConfig(mask_token_id=MASK, order="margin", schedule="maskgit", steps=3, order_temperature=temperature)
    sampler = Sampler(rule, [np.full(n, MASK)], seed=seed)
    halves = np.full(n, 0.5)
    sampler.next()
    sampler.feed(prediction=Prediction(token=[0] * n, probability=halves, top1=halves, top2=halves, entropy=halves))
    keys = {p: select.annealed(0.0, temperature, 1 / 3, (seed, 0, p, 0)) for p in range(n)}
    assert all(np.isfinite(key) for key in keys.values())
    committed = [edit.position for edit in sampler.trajectory[0]]
    assert committed == select.ranked(keys)[: len(committed)] != list(range(len(committed)))
    assert len(committed) == dllm_fast.schedule("maskgit", n, 3)[0]
