"""SDAR's own call, name by name, does here what it does there."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.loops import sdar
from parity.models import Table


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["low_confidence_static", "low_confidence_dynamic", "sequential"]),
    st.integers(1, 6),
    st.data(),
)
def test_every_strategy_under_sdar_s_own_names(seed, strategy, block, data):
    """Also the arguments that the strategy does not read, which its own call names all the same."""
    blocks = data.draw(st.integers(1, 3))
    model = Table(np.random.default_rng(seed), 16, block, block=block, mask_logit=-np.inf)
    prompt = data.draw(st.lists(st.integers(0, model.mask - 1), min_size=block, max_size=block))
    c = [1.2, *model.confidences().tolist(), 0.0]  # the highest first; a threshold lies between two of them
    i = data.draw(st.integers(0, len(c) - 2))
    settings = {
        "gen_length": blocks * block,
        "block_length": block,
        "temperature": 0.0,  # of which SDAR's own has none: tokens are drawn
        "top_k": 0,
        "top_p": 1.0,
        "denoising_steps": data.draw(st.integers(1, block)),
        "remasking_strategy": strategy,
        "confidence_threshold": (c[i] + c[i + 1]) / 2,
        "eb_threshold": 0.35,
        "stopping_criteria_idx": None,
    }
    canvas = sdar.generate(model.alone, prompt, model.mask, **settings)
    result = dllm_fast.sample(model, prompt, mask_id=model.mask, **settings)
    edits = [(edit.step, edit.position, edit.token) for edit in result.trajectory[0]]
    assert edits == canvas.edits
    assert result.stats.nfe == canvas.forwards
    assert result.aliases["eb_threshold"] == "(changes nothing)"
