"""Our sampler beside a published loop: the same tokens, in the same order, after the same number of forwards."""

from __future__ import annotations

import functools

import dllm_fast
from parity.models import Case
from reference import philox


def draws(seed: int, purpose: int):
    """The uniforms of a row: a function of position and step."""
    return lambda position, step: philox.uniform(seed, 0, int(position), step, purpose)


def gumbels(seed: int):
    """The Gumbel noise on the order of a row."""
    import math

    return lambda position, step: -math.log(-math.log(philox.open_uniform(seed, 0, int(position), step, philox.ORDER)))


order_draws = functools.partial(draws, purpose=philox.ORDER)
commit_draws = functools.partial(draws, purpose=philox.COMMIT)


def time_draws(seed: int):
    """The uniforms of the times of first hitting: a function of the forward."""
    uniform = draws(seed, philox.TIME)
    return lambda step: uniform(0, step)


def assert_same(case: Case, loop, *, call=dllm_fast.sample, **settings) -> dllm_fast.sample:
    """Runs all prompts in one call of `sample` (or `infill`), and the loop on each prompt alone.

    Args:
        loop: from a prompt and its seed to a `Canvas`.
        settings: of our sampler; end tokens are off unless given.
    """
    settings = {"mask_token_id": case.mask, "stop_at_eos": False} | settings
    result = call(case.model, case.prompts, seed=case.seeds, **settings)
    for row, (prompt, seed) in enumerate(zip(case.prompts, case.seeds, strict=True)):
        canvas = loop(prompt, seed)
        ours = [(edit.step, edit.position, edit.token) for edit in result.trajectory[row]]
        assert ours == canvas.edits, f"row {row}"
        assert result.sequences[row].tolist() == canvas.tokens.tolist()
        assert result.stats.nfe_per_row[row] == canvas.forwards
    return result
