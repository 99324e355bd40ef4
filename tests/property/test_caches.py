"""Caches and batches change nothing: the exact policies give the tokens of no cache, a row those of the row alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
from dllm_fast.networks.batch import Batch
from encoders import TWINS as ENCODERS
from families import MASK, TWINS

# Samples of rules that draw nothing are compared on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")

BLOCKS = [twin for twin in TWINS if twin.attention in ("block_causal", "causal_context")]
FULL = [*(twin for twin in TWINS if twin.attention == "full"), *ENCODERS]
PRESETS = ("llada", "fast-dllm", "fast-dllm-factor", "entropy-bound", "left-to-right", "llada-random", "mdlm")
prompts = st.lists(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=20), min_size=1, max_size=4)


@st.composite
def rules(draw) -> dict:
    """A preset with settings that commit several tokens a forward in a model that is never sure."""
    preset = draw(st.sampled_from(PRESETS))
    more = {"threshold": 0.02} if preset == "fast-dllm" else {"entropy_bound": 20.0} if preset == "entropy-bound" else {}
    if preset != "mdlm" and draw(st.booleans()):
        more |= {"edit_threshold": draw(st.sampled_from([0.0, 0.0, 0.02, 1.0])), "max_post_steps": draw(st.integers(0, 3))}
    return {
        "preset": preset,
        **more,
        "temperature": draw(st.sampled_from([0.0, 0.8])) if preset != "mdlm" else 1.0,
        "max_new_tokens": draw(st.integers(1, 20)),
        "seed": draw(st.integers(0, 1000)),
        "num_samples": draw(st.sampled_from([1, 1, 3])),
        "stop_at_eos": False,
    }


def tokens(result) -> list[list[int]]:
    return [row.tolist() for row in result.sequences]


@given(st.sampled_from(BLOCKS), prompts, rules(), st.sampled_from([None, 1, 2]))
def test_exact_block_gives_the_tokens_of_no_cache(opened, twin, prompts, rule, rows):
    model = opened(twin)
    plain = dllm_fast.sample(model, prompts, cache="none", **rule)
    exact = dllm_fast.sample(model, prompts, max_batch_rows=rows, **rule)
    assert (plain.config.cache, exact.config.cache) == ("none", "exact_block")
    assert tokens(plain) == tokens(exact)
    assert plain.stats.nfe_per_row == exact.stats.nfe_per_row


@given(
    twin=st.sampled_from(FULL + BLOCKS),
    prompts=prompts,
    rule=rules(),
    policy=st.sampled_from(["prefix", "dual"]),
    rows=st.sampled_from([None, 2]),
)
def test_a_refresh_every_step_gives_the_tokens_of_no_cache(*, opened, twin, prompts, rule, policy, rows):
    model = opened(twin)
    plain = dllm_fast.sample(model, prompts, cache="none", **rule)
    cached = dllm_fast.sample(model, prompts, cache=policy, refresh_every=1, max_batch_rows=rows, **rule)
    assert tokens(plain) == tokens(cached)


@pytest.mark.parametrize("policy", ["prefix", "dual"])
@pytest.mark.parametrize("twin", ENCODERS, ids=lambda twin: twin.name)
def test_every_encoder_with_a_refresh_every_step_and_a_row_alone(opened, twin, policy):
    """Ragged rows, two of which begin with what some families count as padding."""
    model = opened(twin)
    canvases = [[0, 9, *[MASK] * 7, 11], [1, 1, 8, *[MASK] * 12], [MASK, 5, MASK]]
    rule = {"preset": "fast-dllm", "threshold": 0.02, "block_length": 5}
    plain = tokens(dllm_fast.infill(model, canvases, cache="none", **rule))
    assert plain == tokens(dllm_fast.infill(model, canvases, cache=policy, refresh_every=1, **rule))
    assert plain == [row for canvas in canvases for row in tokens(dllm_fast.infill(model, [canvas], cache="none", **rule))]


@given(st.sampled_from([*TWINS, *ENCODERS]), prompts, rules())
def test_a_row_is_the_row_alone(opened, twin, prompts, rule):
    model = opened(twin)
    together = tokens(dllm_fast.sample(model, prompts, **rule))
    alone = [row for prompt in prompts for row in tokens(dllm_fast.sample(model, prompt, **rule))]
    assert together == alone


@given(st.sampled_from(BLOCKS), prompts, rules(), st.integers(0, 30))
def test_a_total_of_steps_is_dealt_to_the_blocks_of_each_row(opened, twin, prompts, rule, more):
    """Blocks lie at absolute places, so prompts of different lengths have different numbers of them: any total that is enough
    for the row with the most is enough, and no row knows of the others."""
    model = opened(twin)
    # Post-steps are no steps of the schedule.
    rule = {name: value for name, value in rule.items() if name not in ("edit_threshold", "max_post_steps")}
    new, block = rule["max_new_tokens"], model.info.block_length
    steps = more + max((len(prompt) + new - 1) // block - len(prompt) // block + 1 for prompt in prompts)
    together = dllm_fast.sample(model, prompts, steps=steps, **rule)
    alone = [row for prompt in prompts for row in tokens(dllm_fast.sample(model, prompt, steps=steps, **rule))]
    assert tokens(together) == alone
    assert max(together.stats.nfe_per_row) <= steps


@pytest.mark.parametrize("steps", [4, 7, 8, 9, 10])
def test_a_total_of_steps_for_prompts_of_12_and_13_tokens(opened, steps):
    """Twelve new tokens in blocks of 4: three blocks behind the prompt of 12, four behind that of 13 (3, 4, 4 and 1 masks)."""
    model = opened(next(t for t in TWINS if t.name == "sdar"))
    prompts = [list(range(12)), list(range(13))]
    result = dllm_fast.sample(model, prompts, max_new_tokens=12, steps=steps, preset="llada", stop_at_eos=False)
    masks = [[4, 4, 4], [3, 4, 4, 1]]
    dealt = [[steps // len(of) + (i < steps % len(of)) for i in range(len(of))] for of in masks]
    expected = [sum(min(pair) for pair in zip(of, given, strict=True)) for of, given in zip(masks, dealt, strict=True)]
    assert result.stats.nfe_per_row == expected
    with pytest.raises(dllm_fast.DllmFastError, match=r"3 steps for the 4 blocks of row 1; use steps=4 or more"):
        dllm_fast.sample(model, prompts, max_new_tokens=12, steps=3, preset="llada")


@given(st.sampled_from(BLOCKS + FULL[:2]), st.data())
def test_infill_with_masks_anywhere(opened, twin, data):
    """Blocks of which some hold no mask, rows that end inside a block, rows without any mask."""
    model = opened(twin)
    ids = st.one_of(st.just(MASK), st.integers(0, MASK - 1))
    canvases = data.draw(st.lists(st.lists(ids, min_size=1, max_size=30), min_size=1, max_size=3))
    plain = dllm_fast.infill(model, canvases, cache="none", threshold=0.02)
    cached = dllm_fast.infill(model, canvases, threshold=0.02)
    assert tokens(plain) == tokens(cached)
    for canvas, filled in zip(canvases, tokens(plain), strict=True):
        assert [f for c, f in zip(canvas, filled, strict=True) if c != MASK] == [c for c in canvas if c != MASK]
        assert MASK not in filled


def counted(network):
    """The network, and a list that notes for each forward how many tokens of how many rows went through it."""
    seen = []

    class Counting:
        def __getattr__(self, name):
            return getattr(network, name)

        def hidden(self, batch: Batch):
            seen.append(tuple(batch.ids.shape))
            return network.hidden(batch)

        def logits(self, hidden):
            seen.append(len(hidden))
            return network.logits(hidden)

    return Counting(), seen


def run(model, *args, **settings):
    network, seen = counted(model.network)
    copy = dllm_fast.loading.model.LoadedModel(network, model.tokenizer, model.info, model.config)
    dllm_fast.sample(copy, *args, stop_at_eos=False, **settings)
    return seen


def test_an_exact_policy_computes_the_prefix_once(opened):
    """Prompt of 20, blocks of 4: the first forward sees 24 tokens, the first of each later block 8, all others 4; and the head
    is run on the masks that are left."""
    model = opened(next(t for t in TWINS if t.name == "sdar"))
    seen = run(model, list(range(20)), max_new_tokens=12, threshold=2.0)
    widths = [shape[1] for shape in seen[::2]]
    assert widths == [24, 4, 4, 4, 8, 4, 4, 4, 8, 4, 4, 4]
    assert seen[1::2] == [4, 3, 2, 1] * 3


def test_samples_of_one_prompt_share_its_prefill(opened):
    """Three samples of a prompt of 20: one row of 20 tokens first, then three rows of one block."""
    model = opened(next(t for t in TWINS if t.name == "sdar"))
    shapes = [
        shape
        for shape in run(model, list(range(20)), num_samples=3, max_new_tokens=4, threshold=2.0)
        if isinstance(shape, tuple)
    ]
    assert shapes == [(1, 20), (3, 4), (3, 4), (3, 4), (3, 4)]


@pytest.mark.parametrize(("policy", "between"), [("prefix", 16), ("dual", 8)])
def test_approximate_policies_compute_less_and_may_differ(opened, policy, between):
    model = opened(next(t for t in TWINS if t.name == "llada"))
    rule = {"max_new_tokens": 16, "block_length": 8, "threshold": 2.0, "preset": "llada"}
    widths = [shape[1] for shape in run(model, list(range(20)), cache=policy, **rule)[::2]]
    second = 8
    assert widths == [36, *[between] * 7, 36, *[second] * 7]
    refreshed = [shape[1] for shape in run(model, list(range(20)), cache=policy, refresh_every=4, **rule)[::2]]
    assert [i for i, width in enumerate(refreshed) if width == 36] == [0, 4, 8, 12]
    results = [
        tokens(dllm_fast.sample(model, np.arange(seed, seed + 20), cache=cache, stop_at_eos=False, **rule))
        for cache in ("none", policy)
        for seed in range(10)
    ]
    assert results[:10] != results[10:]


def test_finished_rows_make_room(opened):
    """With two rows at a time, a third enters when one has ended, and the batch is never larger."""
    model = opened(next(t for t in TWINS if t.name == "sdar"))
    canvases = [[1, 2, MASK], [1, MASK, MASK, MASK], [MASK, 5]]
    network, seen = counted(model.network)
    copy = dllm_fast.loading.model.LoadedModel(network, None, model.info, model.config)
    result = dllm_fast.infill(copy, canvases, max_batch_rows=2, threshold=2.0)
    assert [shape[0] for shape in seen[::2]] == [2, 2, 1]
    assert result.stats.nfe_per_row == [1, 3, 1]


def test_logits_of_a_call_are_those_of_the_sampler(opened):
    """`model(ids)` and the first forward of a run see the same logits."""
    model = opened(TWINS[0])
    canvas = torch.tensor([[3, 4, MASK, MASK]])
    best = model(canvas)[0, 2:].clone()
    best[:, MASK] = -torch.inf
    result = dllm_fast.infill(model, canvas, threshold=0.0)
    assert result.sequences[0][2:].tolist() == best.argmax(-1).tolist()


@st.composite
def placed(draw) -> dict:
    """Rules that say where a step writes, with several short blocks."""
    rule = draw(
        st.sampled_from(
            [
                {"preset": "dus"},
                {"preset": "wedlm", "window_length": 5, "entropy_threshold": 4.0},
                {"preset": "fast-dllm-v2", "threshold": 0.02, "sub_block_length": 2},
                {"preset": "d2f", "threshold": 0.03, "activate_block_at": 0.5},
            ]
        )
    )
    return rule | {"max_new_tokens": 4 * draw(st.integers(1, 5)), "seed": draw(st.integers(0, 9)), "stop_at_eos": False}


# Rules that remember a step, or what is around a position, and those that take back; bars that a random model passes.
KEPT = (
    {"preset": "klass", "threshold": 0.02, "kl_threshold": 0.05},
    {"preset": "klass", "threshold": 0.0, "kl_threshold": 1.0, "kl_steps": 1},
    {"preset": "credit", "threshold": 0.03, "credit": 3.0},
    {"preset": "credit", "threshold": 0.03, "kl_threshold": 0.5, "credit_decay": 1.0},
    {"preset": "local-leap", "threshold": 0.05, "neighbour_threshold": 0.02, "neighbour_distance": 2},
    {"preset": "hierarchy", "threshold": 0.05, "run_threshold": 0.02},
    {"preset": "prophet", "gap_stop": 0.2},
    {"preset": "certainty-prior", "threshold": 0.02},
    {"preset": "remdm-cap", "remask_eta": 0.3, "steps_per_block": 6},
    {"preset": "p2", "steps_per_block": 5},
    {"preset": "saber"},
    {"preset": "revise-low-confidence", "threshold": 0.02, "remask_budget": 3},
)


@st.composite
def remembering(draw) -> dict:
    """Rules that keep something between the steps of a block, or take something back."""
    more = {"max_new_tokens": draw(st.integers(1, 20)), "seed": draw(st.integers(0, 9)), "stop_at_eos": False}
    return draw(st.sampled_from(KEPT)) | more | {"temperature": draw(st.sampled_from([0.0, 1.0]))}


kept = st.one_of(placed(), remembering())


def most_forwards(result, prompts) -> list[int]:
    """Of each row, the bound that its rule states."""
    rule = result.config

    def bound(prompt) -> int:
        masks = range(len(prompt), len(prompt) + rule.max_new_tokens)
        blocks = {(p - rule.block_length * (len(prompt) // rule.block_length)) // rule.block_length for p in masks}
        return dllm_fast._core.most_forwards(rule, len(masks), len(blocks))

    return [bound(prompt) for prompt in prompts]


@settings(max_examples=max(settings().max_examples // 3, 10))
@given(st.sampled_from(BLOCKS), prompts, kept, st.sampled_from([None, 2]))
def test_exact_block_holds_wherever_a_step_writes_and_whatever_it_remembers(opened, twin, prompts, rule, rows):
    model = opened(twin)
    plain = dllm_fast.sample(model, prompts, cache="none", **rule)
    exact = dllm_fast.sample(model, prompts, max_batch_rows=rows, **rule)
    assert exact.config.cache == "exact_block"
    assert tokens(plain) == tokens(exact)
    assert plain.stats.nfe_per_row == exact.stats.nfe_per_row
    most = most_forwards(exact, prompts)
    assert all(nfe <= bound for nfe, bound in zip(exact.stats.nfe_per_row, most, strict=True))


@settings(max_examples=max(settings().max_examples // 3, 10))
@given(st.sampled_from(FULL), prompts, kept, st.sampled_from(["prefix", "dual"]))
def test_a_refresh_every_step_holds_wherever_a_step_writes_and_whatever_it_remembers(opened, twin, prompts, rule, policy):
    model = opened(twin)
    blocks = {"block_length": 4, "max_new_tokens": 4 * -(-rule["max_new_tokens"] // 4)}  # whole ones
    rule = rule | ({} if rule["preset"] == "wedlm" else blocks)
    plain = dllm_fast.sample(model, prompts, cache="none", **rule)
    cached = dllm_fast.sample(model, prompts, cache=policy, refresh_every=1, **rule)
    assert tokens(plain) == tokens(cached)
    # Without a refresh tokens may be others, but every mask is filled in time, and a row is the row alone.
    between = dllm_fast.sample(model, prompts, cache=policy, **rule)
    assert all((row != MASK).all() for row in between.sequences)
    if rule["preset"] != "wedlm":  # its blocks are the canvas
        most = most_forwards(between, prompts)
        assert all(nfe <= bound for nfe, bound in zip(between.stats.nfe_per_row, most, strict=True))
    alone = [row for prompt in prompts for row in tokens(dllm_fast.sample(model, prompt, cache=policy, **rule))]
    assert tokens(between) == alone


@settings(max_examples=max(settings().max_examples // 3, 10))
@given(st.sampled_from([*TWINS, *ENCODERS]), prompts, remembering())
def test_a_row_that_remembers_is_the_row_alone(opened, twin, prompts, rule):
    model = opened(twin)
    together = tokens(dllm_fast.sample(model, prompts, **rule))
    assert together == [row for prompt in prompts for row in tokens(dllm_fast.sample(model, prompt, **rule))]
