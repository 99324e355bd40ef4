"""Published loops on the stock transformers classes, against `sample` on the same weights opened by `load`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from families import MASK, TWINS, visible
from parity.loops import block_diffusion, dream, fast_dllm, llada, token_editing

BY_NAME = {twin.name: twin for twin in TWINS}
lengths = st.integers(1, 20)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A family's checkpoint as we open it, and its stock class as a function from a canvas `[L]` to logits `[L, V]`."""
    made = {}

    def get(name: str, family: str | None = None):
        if (name, family) not in made:
            twin = BY_NAME[name]
            stock = twin.model()

            def alone(canvas):
                with torch.inference_mode():
                    ids = torch.as_tensor(canvas)[None]
                    return stock(ids, attention_mask=visible(twin, ids.shape[1]), use_cache=False).logits[0]

            made[name, family] = (dllm_fast.load(twin.save(tmp_path_factory.mktemp(name)), family=family), alone)
        return made[name, family]

    return get


def draw_prompt(seed: int, length: int) -> list[int]:
    return torch.randint(0, MASK, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def assert_same(result, canvas):
    assert [(edit.step, edit.position, edit.token) for edit in result.trajectory[0]] == canvas.edits
    assert result.sequences[0].tolist() == canvas.tokens.tolist()
    assert result.stats.nfe == canvas.forwards


@given(
    seeds,
    lengths,
    st.sampled_from([(16, 16, 16), (16, 8, 4), (24, 8, 12)]),
    st.sampled_from(["llada", "llada-moe", "illada", "llada-as-llama"]),
)
def test_llada(opened, seed, length, sizes, name):
    model, alone = opened(name)
    new, block, steps = sizes
    prompt = draw_prompt(seed, length)
    canvas = llada.generate(alone, prompt, mask=MASK, gen_length=new, steps=steps, block_length=block)
    result = dllm_fast.sample(model, prompt, preset="llada", gen_length=new, steps=steps, block_length=block, stop_at_eos=False)
    assert_same(result, canvas)


@given(
    seed=seeds,
    length=lengths,
    name=st.sampled_from(["llada", "llada-moe"]),
    scale=st.sampled_from([0.5, 1.0, 3.0]),
    cache=st.sampled_from([{}, {"cache": "dual", "refresh_every": 1}]),
)
def test_llada_with_guidance(*, opened, seed, length, name, scale, cache):
    model, alone = opened(name)
    prompt = draw_prompt(seed, length)
    sizes = {"gen_length": 16, "block_length": 8, "steps": 8}
    canvas = llada.generate(alone, prompt, mask=MASK, cfg_scale=scale, **sizes)
    result = dllm_fast.sample(model, prompt, preset="llada", cfg_scale=scale, stop_at_eos=False, **sizes, **cache)
    assert [(edit.step, edit.position, edit.token) for edit in result.trajectory[0]] == canvas.edits
    assert result.stats.nfe == 2 * canvas.forwards


@given(
    seed=seeds,
    length=lengths,
    steps=st.sampled_from([8, 16]),
    alg=st.sampled_from(["entropy", "topk_margin", "maskgit_plus"]),
    name=st.sampled_from(["dream", "dream-without-biases"]),
)
def test_dream(*, opened, seed, length, steps, alg, name):
    model, alone = opened(name)
    prompt = draw_prompt(seed, length)
    canvas = dream.sample(alone, [*prompt, *[MASK] * 16], mask=MASK, steps=steps, alg=alg)
    result = dllm_fast.sample(
        model, prompt, alg=alg, schedule="dream", steps=steps, max_new_tokens=16, temperature=0.0, stop_at_eos=False
    )
    assert_same(result, canvas)


@given(
    seed=seeds,
    length=lengths,
    tau=st.sampled_from([0.02, 0.05, 0.9]),
    cache=st.sampled_from(["exact_block", "none"]),
    name=st.sampled_from(["sdar", "sdar-moe", "dream-reasoner"]),
)
def test_sdar(*, opened, seed, length, tau, cache, name):
    model, alone = opened(name)
    prompt = draw_prompt(seed, length)
    block = BY_NAME[name].block
    canvas = block_diffusion.generate(
        alone, prompt, mask=MASK, gen_length=17, block_length=block, choose=fast_dllm.threshold(tau)
    )
    result = dllm_fast.sample(model, prompt, threshold=tau, max_new_tokens=17, cache=cache, stop_at_eos=False)
    assert_same(result, canvas)


@given(
    seed=seeds,
    length=lengths,
    tau=st.sampled_from([0.02, 0.05, 0.9]),
    cache=st.sampled_from(["exact_block", "none"]),
    part=st.sampled_from([4, 8]),
)
def test_fast_dllm_v2(*, opened, seed, length, tau, cache, part):
    model, alone = opened("fast-dllm-v2")
    prompt = draw_prompt(seed, length)
    canvas = block_diffusion.generate(
        alone, prompt, mask=MASK, gen_length=19, block_length=8, part=part, choose=fast_dllm.threshold(tau), shift=True
    )
    result = dllm_fast.sample(
        model, prompt, threshold=tau, max_new_tokens=19, block_length=part, cache=cache, stop_at_eos=False
    )
    assert_same(result, canvas)


@given(seeds, lengths, st.sampled_from([0.02, 0.05, 0.9]), st.sampled_from(["exact_block", "none"]))
def test_nemotron(opened, seed, length, tau, cache):
    """The context is causal, the block that is being filled sees all of itself, and blocks begin behind the prompt."""
    model, _ = opened("nemotron-labs-diffusion")
    stock = BY_NAME["nemotron-labs-diffusion"].model()
    prompt = draw_prompt(seed, length)

    def alone(canvas):
        start = length + (int((canvas == MASK).argmax()) - length) // 8 * 8
        q, k = torch.arange(len(canvas))[:, None], torch.arange(len(canvas))[None]
        seen = (k <= q) | ((q >= start) & (k < start + 8))
        with torch.inference_mode():
            return stock(torch.as_tensor(canvas)[None], attention_mask=seen[None, None], use_cache=False).logits[0]

    canvas = fast_dllm.generate(alone, prompt, mask=MASK, gen_length=24, block_length=8, choose=fast_dllm.threshold(tau))
    result = dllm_fast.sample(model, prompt, threshold=tau, max_new_tokens=24, block_length=8, cache=cache, stop_at_eos=False)
    assert_same(result, canvas)


@given(seeds, st.integers(1, 20), st.sampled_from([0.02, 0.05, 0.9]), st.integers(1, 3))
def test_llada2_through_the_pipeline_of_diffusers(opened, seed, length, tau, rows):
    """The pipeline itself, on the stock class. It rounds the canvas up to whole blocks and, where a block ends before its
    steps do, asks once more for nothing."""
    model, alone = opened("llada2")
    forwards = 0

    def asked(ids, **_):
        nonlocal forwards
        forwards += 1
        logits = torch.stack([alone(row) for row in ids])
        logits[..., MASK] = -torch.inf  # it would write masks
        return SimpleNamespace(logits=logits)

    prompts = [draw_prompt(seed + row, length) for row in range(rows)]
    diffusers = pytest.importorskip("diffusers")
    published = diffusers.LLaDA2Pipeline(model=asked, scheduler=diffusers.BlockRefinementScheduler())
    published.set_progress_bar_config(disable=True)
    theirs = published(
        input_ids=torch.tensor(prompts),
        use_chat_template=False,
        output_type="seq",
        temperature=0.0,
        editing_threshold=None,
        mask_token_id=MASK,
        eos_token_id=None,
        eos_early_stop=False,
        gen_length=-length % 8 + 16,
        block_length=8,
        num_inference_steps=8,
        threshold=tau,
    ).sequences.tolist()
    ours = dllm_fast.sample(model, prompts, threshold=tau, max_new_tokens=-length % 8 + 16, stop_at_eos=False)
    assert [tokens.tolist() for tokens in ours.new_tokens] == theirs
    assert ours.config.cache == "exact_block"
    assert ours.stats.nfe <= forwards


@given(
    seed=seeds,
    length=lengths,
    thresholds=st.sampled_from([(0.05, 0.0), (0.05, 0.02), (0.02, 0.05), (0.7, 0.5)]),
    most=st.sampled_from([16, 16, 1, 0]),
    cache=st.sampled_from(["exact_block", "none"]),
)
def test_llada2_1(*, opened, seed, length, thresholds, most, cache):
    """The loop beside its weights, on the stock class: edited tokens go into the cache as they are in the end."""
    model, alone = opened("llada2", family="llada2.1")
    assert (model.info.family, model.info.preset) == ("llada2.1", "llada2.1-quality")

    def unmasked(canvas):
        logits = alone(canvas).clone()
        logits[:, MASK] = -torch.inf  # it would write masks
        return logits

    prompt, tau, edit = draw_prompt(seed, length), *thresholds
    settings = {"threshold": tau, "max_post_steps": most, "gen_length": -length % 8 + 16}
    canvas = token_editing.generate(unmasked, prompt, mask=MASK, block_length=8, editing_threshold=edit, **settings)
    result = dllm_fast.sample(model, prompt, edit_threshold=edit, block_length=8, cache=cache, stop_at_eos=False, **settings)
    assert_same(result, canvas)
    assert result.config.cache == cache
