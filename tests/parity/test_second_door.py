"""Models already in memory, on the fastest way that is correct, against a plain loop of full forwards at temperature 0."""

from __future__ import annotations

import copy
import functools
import gc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers as hf

import dllm_fast
import remote_like
from dllm_fast import DllmFastError
from dllm_fast.transformers import native
from dllm_fast.transformers.probe import study
from families import TWINS
from native_models import BLOCKS, GQA, MASK, MODERN, NATIVE, NEW, PROMPTS, WITHOUT, drawn, model_of


def loop(forward, prompt, *, block, origin, new=NEW):
    """One token a forward, the most probable first, block after block. `forward` gives logits `[L, V]` of a canvas."""
    canvas = torch.tensor([*prompt, *[MASK] * new])
    starts = range(origin, len(canvas), block)
    for start in starts:
        inside = torch.zeros(len(canvas), dtype=torch.bool)
        inside[start : start + block] = True
        while bool((left := inside & (canvas == MASK)).any()):
            with torch.no_grad():
                logits = forward(canvas[None])[0].double()
            logits[:, MASK] = -torch.inf
            sure, token = logits.softmax(-1).max(-1)
            place = int(sure.masked_fill(~left, -1).argmax())
            canvas[place] = token[place]
    return canvas.numpy()


def full(model):
    if MODERN or not model.config.model_type.startswith(("llama", "qwen", "glm", "Dream")):
        return lambda ids: model(input_ids=ids).logits
    return by_blocks(model, 10**6)


def by_blocks(model, block):
    """The class itself with a mask for its blocks."""

    def forward(ids):
        blocks = torch.arange(ids.shape[1]) // block
        seen = (blocks[:, None] >= blocks)[None, None]
        return model(input_ids=ids, attention_mask=torch.zeros(()).where(seen, torch.finfo(torch.float32).min)).logits

    return forward


def agree(found, expected):
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), (found, expected)
    # Answers that are all one token would agree whatever the attention did.
    assert len({tuple(row[-NEW:]) for row in expected}) == len(expected)
    assert len(np.unique(np.concatenate([row[-NEW:] for row in expected]))) > 5


@pytest.mark.parametrize("name", NATIVE)
def test_native_classes_run_on_our_attention_and_say_what_their_own_loop_says(name):
    model = model_of(name)
    assert study(model).tier == "T3 native attention"
    expected = [loop(full(model), prompt, block=8, origin=len(prompt)) for prompt in PROMPTS]
    settings = {"max_new_tokens": NEW, "block_length": 8, "stop_at_eos": False}

    agree(dllm_fast.sample(model, PROMPTS, **settings).sequences, expected)
    agree(dllm_fast.sample(model, PROMPTS, cache="prefix", refresh_every=1, **settings).sequences, expected)
    agree(dllm_fast.sample(model, PROMPTS, cache="dual", refresh_every=1, **settings).sequences, expected)
    agree(dllm_fast.sample(model, PROMPTS, max_batch_rows=2, **settings).sequences, expected)
    alone = [dllm_fast.sample(model, prompt, **settings).sequences[0] for prompt in PROMPTS]
    agree(alone, expected)


@pytest.mark.parametrize("name", BLOCKS)
def test_block_causal_models_run_with_the_exact_cache(name):
    model = of_family("sdar", model_of(name, block_length=4))
    expected = [loop(by_blocks(model, 4), prompt, block=4, origin=0) for prompt in PROMPTS]
    for cache in ("auto", "none"):
        result = dllm_fast.sample(model, PROMPTS, preset="llada", max_new_tokens=NEW, stop_at_eos=False, cache=cache)
        agree(result.sequences, expected)
    assert dllm_fast.explain(model).cache == "exact_block"
    assert result.config.block_length == 4


def of_family(name, model):
    """Under the name of a family, whose rule is believed."""
    model.config.model_type = name
    return model


@pytest.mark.parametrize("name", WITHOUT)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # DeBERTa in transformers 4
def test_classes_without_the_registry_compute_the_head_on_scored_rows(name):
    model = model_of(name)
    # BERT and RoBERTa of transformers 4 call torch's attention themselves.
    assert study(model).tier == ("T2 torch attention" if name in ("Bert", "Roberta") else "T1 head rows")
    expected = [loop(full(model), prompt, block=8, origin=len(prompt)) for prompt in PROMPTS]
    rows = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, out: rows.append(out.numel() // out.shape[-1]))
    agree(dllm_fast.sample(model, PROMPTS, max_new_tokens=NEW, block_length=8, stop_at_eos=False).sequences, expected)
    hook.remove()
    assert max(rows) <= (8 * len(PROMPTS) if study(model).plan else 8)


@pytest.mark.parametrize("name", ["Llama", "Bert", "remote", "no head", "function"])
def test_every_way_of_running_is_guided_alike(name):
    """A row without its prompt beside each, of equal lengths and of others."""
    model = remote() if name == "remote" else remote(remote_like.NoHeadLike) if name == "no head" else model_of("Llama")
    model = model_of(name) if name == "Bert" else model
    called = full(model) if name == "function" else model
    given = {"mask_token_id": MASK, "stop_at_eos": False, "max_new_tokens": NEW, "block_length": 8, "guidance": 1.5}
    for negative in (None, [9, 8, 7, 6]):

        def guided(ids, prompt, negative=negative):
            shown = negative or [MASK] * len(prompt)
            other = torch.tensor([[*shown, *ids[0, len(prompt) :]]])
            c, u = full(model)(ids)[0], full(model)(other)[0]
            c[len(prompt) :] = u[len(shown) :] + 2.5 * (c[len(prompt) :] - u[len(shown) :])
            return c[None]

        expected = [loop(functools.partial(guided, prompt=prompt), prompt, block=8, origin=len(prompt)) for prompt in PROMPTS]
        result = dllm_fast.sample(called, PROMPTS, negative_prompt=negative, **given)
        agree(result.sequences, expected)
        assert result.stats.nfe_per_row == [2 * NEW] * len(PROMPTS)


def remote(cls=remote_like.RemoteLike, **more):
    return drawn(cls(remote_like.RemoteConfig(mask_token_id=MASK, **more)))


@pytest.mark.parametrize(
    ("cls", "tier"), [(remote_like.RemoteLike, "T1 head rows"), (remote_like.NoHeadLike, "T0 plain forward")]
)
def test_remote_code_is_called_as_it_is(cls, tier):
    model = remote(cls)
    found = study(model)
    assert (found.tier, found.info.context) == (tier, 256)
    assert found.probed["position ids"] == "not taken"
    expected = [loop(full(model), prompt, block=8, origin=len(prompt)) for prompt in PROMPTS]
    agree(dllm_fast.sample(model, PROMPTS, max_new_tokens=NEW, block_length=8).sequences, expected)


def test_remote_code_that_takes_positions_runs_on_our_attention():
    model = remote(remote_like.DreamLike)
    assert study(model).tier == "T2 torch attention"
    expected = [loop(full(model), prompt, block=8, origin=len(prompt)) for prompt in PROMPTS]
    settings = {"max_new_tokens": NEW, "block_length": 8}
    result = dllm_fast.sample(model, PROMPTS, **settings)
    agree(result.sequences, expected)
    assert result.stats.nfe == NEW  # rows of different length share every forward
    for cache in ("prefix", "dual"):
        agree(dllm_fast.sample(model, PROMPTS, cache=cache, refresh_every=1, **settings).sequences, expected)

    model = of_family("sdar", remote(remote_like.DreamLike, block_length=4))
    expected = [loop(by_blocks(model, 4), prompt, block=4, origin=0) for prompt in PROMPTS]
    result = dllm_fast.sample(model, PROMPTS, preset="llada", max_new_tokens=NEW)
    assert result.config.cache == "exact_block"
    agree(result.sequences, expected)


def test_a_block_causal_class_that_needs_its_mask_gets_it():
    model = remote(remote_like.LLaDA2MoeModelLM, needs_mask=True, block_length=4)
    model.config.model_type = "llada2_moe"
    found = study(model)
    assert (found.mask, found.info.block_length, found.info.family) == ("additive", 4, "llada2")
    expected = [loop(by_blocks(model, 4), prompt, block=4, origin=0) for prompt in PROMPTS]
    agree(dllm_fast.sample(model, PROMPTS, preset="llada", max_new_tokens=NEW, block_length=4).sequences, expected)


def test_a_block_causal_class_that_heeds_no_mask_is_refused():
    model = remote(remote_like.LLaDA2MoeModelLM, block_length=4)
    model.config.model_type = "llada2_moe"
    plain = type(model).forward
    model.forward = lambda input_ids, attention_mask=None: plain(model, input_ids)
    with pytest.raises(DllmFastError, match="must keep to blocks of 4, got LLaDA2MoeModelLM"):
        study(model)


def test_the_shift_of_a_family_is_applied():
    """Qwen2 under Dream's name: row i - 1 predicts position i."""
    model = model_of("Qwen2")
    model.config.model_type, model.config.architectures = "Dream", ["DreamModel"]
    assert study(model).info.shift == 1

    def shifted(ids):
        logits = full(model)(ids)
        return torch.cat((logits[:, :1], logits[:, :-1]), dim=1)

    expected = [loop(shifted, prompt, block=8, origin=len(prompt)) for prompt in PROMPTS]
    found = dllm_fast.sample(model, PROMPTS, preset="llada", max_new_tokens=NEW, block_length=8)
    agree(found.sequences, expected)


@pytest.mark.skipif(not MODERN, reason="the fixtures write rotary settings as transformers 5 reads them")
@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_both_doors_lead_to_the_same_tokens(twin, tmp_path):
    """The stock class under the name of each family, and the family's folder."""
    model = twin.model()
    for name in ("model_type", "architectures", "mask_token_id", "block_length", "block_size", "bd_size"):
        if name in twin.written:
            setattr(model.config, name, twin.written[name])
    loaded = dllm_fast.load(twin.save(tmp_path / "folder"))
    found = study(model).info
    for name in ("family", "attention", "block_length", "shift"):
        assert getattr(found, name) == getattr(loaded.info, name)
    for cache in ("auto", "none"):
        settings = {"max_new_tokens": NEW, "mask_token_id": MASK, "cache": cache, "stop_at_eos": False}
        expected = dllm_fast.sample(loaded, PROMPTS, **settings)
        result = dllm_fast.sample(model, PROMPTS, **settings)
        assert result.config.cache == expected.config.cache
        assert all(np.array_equal(a, b) for a, b in zip(result.sequences, expected.sequences, strict=True))


def state(model):
    """All that we might change."""
    return (
        copy.deepcopy(vars(model.config)),
        [module.training for module in model.modules()],
        [(dict(m._forward_pre_hooks), dict(m._forward_hooks), "forward" in vars(m)) for m in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [torch.nn.functional.scaled_dot_product_attention],
        {name: buffer.clone() for name, buffer in model.named_buffers()},
    )


def assert_same(before, after):
    assert before[:5] == after[:5]
    assert all(torch.equal(before[5][name], after[5][name]) for name in before[5] | after[5])


@pytest.mark.parametrize("name", ["Qwen3", "ModernBert", "MPNet", "RemoteLike", "DreamLike"])
def test_everything_is_restored(name):
    model = remote(getattr(remote_like, name)) if name.endswith("Like") else model_of(name)
    model.train()
    list(model.children())[-1].eval()
    model(torch.tensor([[3, 4, 5]]))  # ModernBERT of transformers 4 changes its own config the first time
    before = state(model)
    plain = torch.nn.functional.scaled_dot_product_attention
    dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4)
    assert_same(before, state(model))

    def stop(event):
        if name in NATIVE:
            assert model.config._attn_implementation == native.NAME
        assert (torch.nn.functional.scaled_dot_product_attention is plain) == (name != "DreamLike")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4, on_step=stop)
    assert_same(before, state(model))
    with pytest.raises(RuntimeError, match="broken"):
        broken(model)
    assert_same(before, state(model))


def broken(model):
    """An exception inside a forward."""
    layer = next(m for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear))
    study(model)

    def fail(module, args):
        raise RuntimeError("broken")

    handle = layer.register_forward_pre_hook(fail)
    try:
        dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4)
    finally:
        handle.remove()


@pytest.mark.parametrize("make", [lambda: model_of("Qwen3"), lambda: remote(remote_like.DreamLike)])
def test_other_forwards_of_the_model_are_undisturbed_meanwhile(make):
    model = make()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = model(ids).logits
    seen = []

    def look(event):
        with torch.no_grad():
            seen.append(model(ids).logits)

    dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4, on_step=look)
    assert len(seen) == 4
    for logits in seen:
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: model_of("Qwen3"), lambda: remote(remote_like.DreamLike), remote])
def test_several_threads_share_a_model(make):
    model = make()
    expected = [dllm_fast.sample(model, prompt, max_new_tokens=NEW).sequences[0] for prompt in PROMPTS]
    before = state(model)
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        for _ in range(3):
            found = list(pool.map(lambda prompt: dllm_fast.sample(model, prompt, max_new_tokens=NEW).sequences[0], PROMPTS))
            agree(found, expected)
    assert_same(before, state(model))


@pytest.mark.skipif(torch.__version__ < (2, 6), reason="transformers needs torch 2.6 for the masks of Gemma 3")
@pytest.mark.parametrize("settings", [{"final_logit_softcapping": 2.0}, {"final_logit_softcapping": 200.0}])
def test_what_follows_the_head_is_done(settings):
    config = hf.Gemma3TextConfig(**GQA | {"use_bidirectional_attention": True, "sliding_window": 8} | settings)
    model = drawn(hf.Gemma3ForCausalLM(config))
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(0.02)  # or a token says nothing but itself
    found = study(model)
    assert (found.tier, found.plan.after.kind) == ("T3 native attention", "softcap")
    expected = [loop(full(model), prompt, block=8, origin=len(prompt)) for prompt in PROMPTS]
    agree(dllm_fast.sample(model, PROMPTS, max_new_tokens=NEW, block_length=8).sequences, expected)


def test_the_end_token_0_is_one():
    model = model_of("Qwen3", eos_token_id=0)
    model.generation_config.eos_token_id = 0
    assert dllm_fast.explain(model).eos_token_ids == (0,)
    config = dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4).config
    assert (config.eos_token_ids, config.stop_at_eos) == ((0,), True)
    model.generation_config.eos_token_id = []
    assert study(model).info.sources["eos_token_ids"] == "config: eos_token_id"


def test_encoders_with_a_decoder_are_refused():
    config = hf.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    model = hf.T5ForConditionalGeneration(config)
    with pytest.raises(
        DllmFastError, match="got T5ForConditionalGeneration, an encoder with a decoder; use a masked language model"
    ):
        dllm_fast.sample(model, [1, 2], mask_token_id=8, max_new_tokens=2)


def test_what_a_model_raises_while_it_is_probed_says_so():
    model = model_of("Qwen3", is_causal=False)
    model.lm_head = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError) as raised:
        dllm_fast.sample(model, [1, 2], mask_token_id=8, max_new_tokens=2)
    assert raised.value.__notes__[0].startswith("dllm_fast: raised by a trial forward of Qwen3ForCausalLM")


def test_causal_models_are_refused_with_the_fix():
    model = model_of("Qwen3", is_causal=True)
    with pytest.raises(DllmFastError, match=r"got Qwen3ForCausalLM, which is causal.*is_causal = False"):
        dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4)
    model.config.is_causal = False
    dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4)
    with pytest.raises(DllmFastError, match="got RemoteLike, which is causal"):
        dllm_fast.sample(remote(sees_ahead=False), [3, 4, 5], max_new_tokens=4)


def test_a_class_that_should_reorder_and_does_not_is_refused():
    model = remote()
    model.config.model_type = "wedlm"
    with pytest.raises(DllmFastError, match="RemoteLike should be causal and reorder its tokens"):
        study(model)


def test_models_without_masks_are_refused():
    model = remote()
    model.config.model_type = "udlm"
    with pytest.raises(DllmFastError, match="must fill mask tokens, got RemoteLike"):
        dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4)


def test_buffers_that_were_never_written_are_repaired_with_a_warning():
    model = remote()
    expected = dllm_fast.sample(model, PROMPTS[0], max_new_tokens=NEW).sequences
    model.blocks[1].turn.inv_freq.fill_(torch.nan)
    gone = copy.deepcopy(model)
    with pytest.warns(RuntimeWarning, match=r"blocks\.1\.turn\.inv_freq of RemoteLike"):
        found = dllm_fast.sample(gone, PROMPTS[0], max_new_tokens=NEW).sequences
    np.testing.assert_array_equal(found[0], expected[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dllm_fast.sample(gone, PROMPTS[0], max_new_tokens=NEW)


def test_weights_that_are_no_numbers_are_refused():
    model = remote()
    with torch.no_grad():
        model.norm.weight[3] = torch.nan
    with pytest.raises(DllmFastError, match="logits must be numbers, got nan from RemoteLike"):
        dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4)


def test_a_study_is_made_once_and_does_not_keep_the_model():
    model = remote()
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    study(model)
    first = len(calls)
    assert 3 <= first <= 8
    study(model)
    assert len(calls) == first
    handle.remove()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_plain_module_is_called_as_it_is():
    model = torch.nn.Sequential(torch.nn.Embedding(512, 16), torch.nn.Linear(16, 512))
    result = dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4, mask_token_id=MASK)
    assert result.stats.nfe == 4
    assert dllm_fast.explain(model).tier == "T0 plain forward"
