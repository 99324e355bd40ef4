"""Rows of DiffusionGemma beside each other: samples of one prompt, rows that join, rows that are guided."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import dllm_fast
import gemma
from dllm_fast import prepare
from dllm_fast.modules.keep import stepping
from dllm_fast.open import open_runner
from dllm_fast.runners.predictor import Predictor
from dllm_fast.runners.runner import Task
from dllm_fast.settings.resolve import resolve
from dllm_fast.text import prompts as text

SETTINGS = {"preset": "diffusion-gemma", "steps_per_block": 6, "stop_at_eos": False}
PROMPTS = [[5, 6, 7, 8, 9], [3] * 17, [4, 2], [90, 11, 60]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    stock = gemma.stock(final_logit_softcapping=30.0)
    stock.model.decoder.norm.weight.data.mul_(12)
    return dllm_fast.load(gemma.save(stock, tmp_path_factory.mktemp("rows")))


def tokens(result) -> list[list[int]]:
    return [np.asarray(new).tolist() for new in result.new_tokens]


@pytest.mark.parametrize("cache", ["none", "exact_block"])
def test_samples_of_one_prompt(model, cache):
    """They compute it once, and write what each writes alone: other seeds, other noise."""
    given = {**SETTINGS, "max_new_tokens": 16, "cache": cache}
    together = tokens(dllm_fast.sample(model, PROMPTS[:2], **given, num_samples=3, seed=4))
    alone = [tokens(dllm_fast.sample(model, [prompt], **given, num_samples=3, seed=4)) for prompt in PROMPTS[:2]]
    assert together == [row for rows in alone for row in rows]
    assert len({tuple(row) for row in together}) == len(together)


@pytest.mark.parametrize("max_rows", [None, 2])
def test_rows_that_join(model, max_rows):
    """A row that comes while others denoise, into a cache that has to grow, writes what it writes alone."""
    runner, _ = open_runner(model)
    plans = []
    for row, prompt in enumerate(PROMPTS):
        read = functools.partial(text.prompts, prompt, name="prompt", attention_mask=None, chat=None)
        asked = {name: value for name, value in SETTINGS.items() if name != "preset"}
        given = resolve(SETTINGS["preset"], None, {**asked, "max_new_tokens": 8 * (row + 1)}, runner.info)
        plans.append(prepare.plan(runner, None, given, read, seed=row, num_samples=1, is_infilling=False))
    first = plans[0]
    sampler = dllm_fast.Sampler(
        first.rule, first.canvases, seed=first.seeds, block_start=first.block_starts, open=first.open, max_rows=max_rows
    )
    predictor = Predictor(sampler, first.rule, first.special)
    session = runner.begin(
        Task(lengths=[len(first.canvases[0])], starts=first.starts, prompts=[0], mask_token_id=None, max_rows=max_rows)
    )
    step, waiting = 0, plans[1:]
    with stepping(session.hold):
        while True:
            if waiting and step % 4 == 3:
                plan = waiting.pop(0)
                sampler.add(
                    plan.canvases[0], plan.rule, seed=plan.seeds[0], block_start=plan.block_starts[0], open=plan.open[0]
                )
                session.add(length=len(plan.canvases[0]), start=plan.starts[0])
            request = sampler.next()
            if request is None:
                break
            for rows, forward in session.parts(request):
                logits, lines = forward()
                sampler.feed(prediction=predictor(logits, rows, lines), rows=rows)
            step += 1
    assert not waiting
    for row, (prompt, canvas) in enumerate(zip(PROMPTS, sampler.canvases, strict=True)):
        alone = dllm_fast.sample(model, [prompt], **SETTINGS, max_new_tokens=8 * (row + 1), seed=row)
        assert canvas[len(prompt) :].tolist() == tokens(alone)[0], row


def test_a_row_and_its_twin_are_shown_their_own_predictions(model):
    """Guidance of weight 0 is none; otherwise a row is what it is alone, whatever stands beside it."""
    given = {**SETTINGS, "max_new_tokens": 16, "seed": 2}
    plain = tokens(dllm_fast.sample(model, PROMPTS, **given))
    assert tokens(dllm_fast.sample(model, PROMPTS, **given, guidance=0.0)) == plain
    guided = {**given, "guidance": 1.5, "negative_prompt": [1, 2, 3]}
    together = tokens(dllm_fast.sample(model, PROMPTS, **guided))
    assert together == [tokens(dllm_fast.sample(model, [prompt], **guided))[0] for prompt in PROMPTS]
    assert together != plain


@pytest.mark.parametrize(
    "rule",
    [
        {"threshold": 0.02, "kl_threshold": 9.0, "kl_steps": 1},
        {"threshold": 0.05, "credit": 3.0},
        {"threshold": 0.1, "neighbour_threshold": 0.03},
        {"threshold": 0.1, "run_threshold": 0.03},
        {"gap_stop": 0.3},
    ],
    ids=["klass", "credit", "local-leap", "hierarchy", "prophet"],
)
def test_rules_that_remember_on_its_noise(model, rule):
    """Written one by one, as masks are: the exact cache gives the tokens of none, a row is the row alone."""
    given = {"drafts": False, "entropy_bound": None, "steps_per_block": None, "temperature_end": None}
    given |= {"order": "sampled-confidence", "temperature": 0.7, "max_new_tokens": 16, "stop_at_eos": False, "seed": 3, **rule}
    plain = dllm_fast.sample(model, PROMPTS, **given, cache="none")
    exact = dllm_fast.sample(model, PROMPTS, **given, cache="exact_block", max_batch_rows=2)
    assert tokens(plain) == tokens(exact)
    assert plain.stats.nfe_per_row == exact.stats.nfe_per_row
    assert tokens(exact) == [tokens(dllm_fast.sample(model, [prompt], **given))[0] for prompt in PROMPTS]
    assert min(plain.stats.nfe_per_row) < 16, "the bars are passed"
    most = dllm_fast._core.most_forwards(exact.config, 16, 2)
    assert max(exact.stats.nfe_per_row) <= most
