"""PC-Sampler (2508.13021) against its published loop."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same
from parity.loops import pc_sampler
from parity.models import cases
from parity.test_fast_dllm import lengths


@given(st.data(), lengths(), st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([0.3, 1.0, 10.0]), st.integers(1, 8))
def test_pc_sampler(data, lengths, decay, cap, steps):
    case = data.draw(cases(lengths["gen_length"]))
    steps, vocabulary = min(steps, lengths["block_length"]), case.model.vocabulary
    ids = st.integers(0, vocabulary - 1)
    counts = data.draw(st.dictionaries(ids, st.sampled_from([1, 2, 7, 1000, 10**9]), min_size=1, max_size=12))
    loops = []

    def loop(prompt, seed):
        rule = {"table": pc_sampler.frequencies(counts, vocabulary), "decay": decay, "cap": cap, "steps": steps}
        loops.append(pc_sampler.generate(case.model.alone, prompt, mask=case.mask, **rule, **lengths))
        assume(loops[-1].is_clear)
        return loops[-1]

    table = dllm_fast.TokenFrequencies(counts, vocabulary)
    ours = {"token_frequencies": table, "position_decay": decay, "information_cap": cap, "steps_per_block": steps}
    assert_same(case, loop, preset="pc-sampler", **ours, **lengths)


def test_float32_has_no_order_far_from_the_start():
    """Beside a decay of 1 the published scores are all 0 from the 104th position on, and nobody says whose `topk` is: ours are
    float64, and where those are 0, too, the lowest position is the next."""
    length = 900
    table = pc_sampler.frequencies({0: 1, 1: 1}, 3, np.float32)
    theirs = pc_sampler.scores(np.full(length, 0.5), np.zeros(length, int), table, decay=1.0, cap=10.0, dtype=np.float32)
    assert np.flatnonzero(theirs).max() < 104
    counts = dllm_fast.TokenFrequencies([1, 1, 0])
    config = dllm_fast.SamplerConfig(
        order="calibrated", token_frequencies=counts, position_decay=1.0, mask_token_id=2, steps_per_block=3
    )
    sampler = dllm_fast.Sampler(config, [[2] * length])
    sampler.next()
    sampler.feed(np.zeros((length, 3), dtype=np.float32))
    assert [edit.position for edit in sampler.trajectory[0]] == list(range(300))


def test_as_published_has_the_softmax_of_the_dtype():
    """Two sure positions tie in bfloat16, and the lower one goes first; by the rule the surer one does."""
    logits = torch.tensor([[8.0, 0.0, 0.0], [8.5, 0.0, 0.0]], dtype=torch.bfloat16)
    counts = dllm_fast.TokenFrequencies([1, 1, 0])
    first = {}
    for as_published in (False, True):
        settings = {"order": "calibrated", "token_frequencies": counts, "position_decay": 0.0, "mask_token_id": 2}
        sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**settings, as_published=as_published), [[2, 2]])
        sampler.next()
        sampler.feed(logits)
        first[as_published] = sampler.trajectory[0][0].position
    assert first == {False: 1, True: 0}
