"""`dllm_fast.load`: every choice with its source, overrides, family defaults, and what is refused."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import dllm_fast
from dllm_fast.checkpoint import regular
from dllm_fast.errors import CheckpointError, DllmFastError, InvalidTypeError, InvalidValueError
from families import MASK, TWINS, VOCABULARY

BY_NAME = {twin.name: twin for twin in TWINS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def get(name: str):
        if name not in made:
            made[name] = BY_NAME[name].save(tmp_path_factory.mktemp(name))
        return made[name]

    return get


def changed(folder, tmp_path, **settings):
    """A copy of a checkpoint with other settings in its config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | settings
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    if not (tmp_path / "model.safetensors").exists():
        (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_what_is_known_of_each_family(folders, twin):
    model = dllm_fast.load(folders(twin.name))
    info = model.info
    assert (info.family, info.attention, info.block_length) == (twin.family, twin.attention, twin.block)
    assert (model.mask_token_id, info.shift, info.vocabulary, info.context) == (MASK, twin.shift, VOCABULARY, 512)
    assert info.sources["mask_token_id"] == "config.json: mask_token_id"
    assert set(info.sources) >= {"family", "mask_token_id", "eos_token_ids", "shift", "attention"}
    assert model.tokenizer is None
    assert twin.family in repr(model)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_sample_takes_the_folder(folders, twin):
    result = dllm_fast.sample(str(folders(twin.name)), [1, 2, 3], max_new_tokens=6)
    assert len(result.sequences[0]) == 9
    assert MASK not in result.sequences[0]
    assert result.config.mask_token_id == MASK
    assert result.config.shift == bool(twin.shift)
    assert result.config.sources["max_new_tokens"] == "caller"
    assert result.config.sources["mask_token_id"] == "config.json: mask_token_id"


def test_overrides_come_first(folders):
    overrides = {"mask_token_id": 7, "shift": 1, "block_length": 16, "attention": "block_causal", "eos_token_ids": [3, 4]}
    info = dllm_fast.load(folders("llada"), **overrides).info
    assert (info.mask_token_id, info.shift, info.block_length, info.attention, info.eos_token_ids) == (
        7,
        1,
        16,
        "block_causal",
        (3, 4),
    )
    assert {info.sources[name] for name in overrides} == {"caller"}


def test_family_then_preset_then_caller(folders):
    folder = folders("dream")
    config = dllm_fast.sample(folder, [1, 2], max_new_tokens=4).config
    assert (config.order, config.schedule, config.temperature, config.top_p) == ("entropy", "dream", 0.2, 0.95)
    assert {config.sources[name] for name in ("order", "schedule", "temperature", "top_p")} == {"family dream"}
    config = dllm_fast.sample(folder, [1, 2], max_new_tokens=4, temperature=0.0).config
    assert (config.temperature, config.sources["temperature"], config.top_p) == (0.0, "caller", 0.95)
    # A preset is a whole rule: what it leaves alone is at its default, and only the shift is still the family's.
    config = dllm_fast.sample(folder, [1, 2], max_new_tokens=4, preset="llada").config
    assert (config.order, config.temperature, config.top_p, config.shift) == ("sampled-confidence", 0.0, None, True)
    assert (config.sources["order"], config.sources["temperature"]) == ("preset llada", "default")


@pytest.mark.parametrize("overrides", [{}, {"attention": "full"}])
def test_a_block_length_of_attention_without_blocks(folders, overrides):
    """It would decide nothing: blocks that are filled one after the other are a setting of `sample`."""
    with pytest.raises(InvalidValueError, match=r"block_length of load is that of attention by blocks, got 4 for .*'full'"):
        dllm_fast.load(folders("llada"), block_length=4, **overrides)
    by_blocks = dllm_fast.load(folders("llada"), block_length=4, attention="block_causal").info
    assert (by_blocks.attention, by_blocks.block_length) == ("block_causal", 4)


def test_blocks_of_a_block_causal_model(folders):
    folder = folders("fast-dllm-v2")
    settings = {"max_new_tokens": 21, "threshold": 0.9}
    assert dllm_fast.sample(folder, [1, 2, 3], **settings).config.block_length == 8
    assert dllm_fast.sample(folder, [1, 2, 3], block_length=4, **settings).config.block_length == 4
    assert dllm_fast.sample(folder, [1, 2, 3], preset="fast-dllm", max_new_tokens=21).config.block_length == 8
    assert dllm_fast.sample(folder, [1, 2, 3], preset="llada", max_new_tokens=21).config.block_length == 8
    with pytest.raises(InvalidValueError, match="block_length must divide the block of this block-causal model, got 16 and 8"):
        dllm_fast.sample(folder, [1, 2, 3], block_length=16, **settings)


def test_the_mask_that_llada_fills_in(folders, tmp_path):
    """50256 is GPT-2's end of text, which LLaDA's class puts where config.json names no mask: outside of this vocabulary."""
    folder = changed(folders("llada"), tmp_path, mask_token_id=50256)
    with pytest.raises(CheckpointError, match="mask_token_id must lie in"):
        dllm_fast.load(folder)
    assert dllm_fast.load(folder, mask_token_id=3).mask_token_id == 3


def test_no_mask_is_an_error_before_any_forward(folders, tmp_path):
    model = dllm_fast.load(changed(folders("llada"), tmp_path, mask_token_id=None))
    assert (model.mask_token_id, model.info.sources["mask_token_id"]) == (None, "unknown")
    with pytest.raises(InvalidValueError, match="a mask token is needed"):
        dllm_fast.sample(model, [1, 2])
    assert dllm_fast.sample(model, [1, 2], max_new_tokens=2, mask_token_id=MASK).config.sources["mask_token_id"] == "caller"


def test_end_tokens_of_several_files(folders, tmp_path):
    folder = changed(folders("llada"), tmp_path, eos_token_id=5)
    assert dllm_fast.load(folder).eos_token_ids == (5,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    model = dllm_fast.load(folder)
    assert (model.eos_token_ids, model.info.sources["eos_token_ids"]) == ((6, 7), "generation_config.json: eos_token_id")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "caller"])
def test_the_end_token_0_is_one(folders, tmp_path, file):
    folder = changed(folders("llada"), tmp_path, eos_token_id=0 if file == "config.json" else 5)
    if file == "generation_config.json":
        (folder / file).write_text('{"eos_token_id": 0}')
    model = dllm_fast.load(folder, **({"eos_token_ids": 0} if file == "caller" else {}))
    assert (model.eos_token_ids, model.info.sources["eos_token_ids"].split(":")[0]) == ((0,), file)
    config = dllm_fast.sample(model, [1, 2], max_new_tokens=4).config
    assert (config.eos_token_ids, config.stop_at_eos) == ((0,), True)
    assert dllm_fast.explain(model).eos_token_ids == (0,)


def test_no_end_token_can_be_said(folders, tmp_path):
    """The caller's empty list is an answer, which neither files nor a tokenizer replace; that of a file says nothing."""
    tokenizer = dllm_fast.demo.load()[1]
    folder = changed(folders("llada"), tmp_path, eos_token_id=5)
    model = dllm_fast.load(folder, eos_token_ids=[])
    assert (model.eos_token_ids, model.info.sources["eos_token_ids"]) == ((), "caller")
    config = dllm_fast.sample(model, [1, 2], tokenizer=tokenizer, max_new_tokens=4).config
    assert (config.eos_token_ids, config.stop_at_eos, config.sources["eos_token_id"]) == ((), False, "caller")
    (folder / "generation_config.json").write_text('{"eos_token_id": []}')
    assert dllm_fast.load(folder).eos_token_ids == (5,)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral"])
def test_causal_models_are_refused_with_the_fix(folders, tmp_path, model_type):
    folder = changed(folders("a2d-llama"), tmp_path, model_type=model_type, architectures=["SomeForCausalLM"])
    with pytest.raises(CheckpointError, match=r"causal.*attention='full'"):
        dllm_fast.load(folder)


def test_a_plain_model_that_the_caller_vouches_for(folders, tmp_path):
    folder = changed(folders("a2d-llama"), tmp_path, model_type="llama", architectures=["LlamaForCausalLM"])
    ids = torch.arange(20)[None]
    model = dllm_fast.load(folder, attention="full")
    assert torch.equal(model(ids), dllm_fast.load(folders("a2d-llama"))(ids))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "gpt_oss"}, "model_type in config.json must be one of .*got 'gpt_oss'"),
        ({"n_layers": 0}, "n_layers in config.json must be a whole number above 0, got 0"),
        ({"d_model": "64"}, "d_model in config.json must be a whole number"),
        ({"block_type": "sequential"}, "block_type in config.json must be 'llama'"),
        ({"alibi": True}, "alibi in config.json must be False"),
        ({"activation_type": "swiglu"}, "activation_type in config.json must be 'silu' or 'gelu' or 'relu'"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling in config.json must be None"),
        ({"rope_theta": "big"}, "rope_theta in config.json must be a number above 0, got 'big'"),
        ({"rope_theta": 0}, "rope_theta in config.json must be a number above 0, got 0"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps in config.json must be a number above 0, got -1.0"),
        ({"max_sequence_length": "x"}, "max_sequence_length in config.json must be a whole number"),
        ({"weight_tying": "yes"}, "weight_tying in config.json must be true or false, got 'yes'"),
        ({"n_layers": 10**9}, "n_layers in config.json must be at most 21 for the 21 tensors in .* got 1000000000"),
        ({"n_layers": 3}, "must hold a tensor for every part of the model, got none for model.transformer.blocks.2"),
        ({"n_layers": 1}, "which the model of this config.json does not have"),
        ({"mlp_hidden_size": 96}, r"must make up \[192, 64\] by config.json, got \[128, 64\]"),
        ({"embedding_size": 600}, r"model.transformer.wte.weight must make up \[600, 64\]"),
    ],
)
def test_configs_that_do_not_fit(folders, tmp_path, settings, message):
    folder = changed(folders("llada"), tmp_path, **settings)
    with pytest.raises(CheckpointError, match=message):
        dllm_fast.load(folder)


# Settings that are read where they are there.
OPTIONAL = (
    *(
        "attention_bias",
        "architectures",
        "block_size",
        "clip_qkv",
        "first_k_dense_replace",
        "head_dim",
        "hidden_act",
        "is_causal",
    ),
    *("layer_norm_eps", "layer_types", "mlp_bias", "model_type", "moe_router_enable_expert_bias", "n_kv_heads", "num_experts"),
    *("partial_rotary_factor", "qk_norm", "rope_parameters", "rope_scaling", "scale_logits", "score_function"),
    *("sliding_window", "tie_word_embeddings", "use_qk_norm", "use_sliding_window", "vocab_size", "weight_tying"),
)


@given(
    st.sampled_from(TWINS),
    st.integers(0, 90),
    st.sampled_from(["x", "", -1, 0, 0.5, 1e300, 10**30, [], [1], ["x"], {}, {"a": 1}, {"rope_type": "yarn"}, True, False]),
)
def test_any_setting_may_be_anything(folders, tmp_path_factory, twin, place, junk):
    """A folder opens and runs, or is refused in our words, whatever one setting of its config.json is."""
    config = json.loads((folders(twin.name) / "config.json").read_text())
    names = list(dict.fromkeys([*config, *OPTIONAL]))
    folder = changed(folders(twin.name), tmp_path_factory.mktemp("junk"), **{names[place % len(names)]: junk})
    with contextlib.suppress(DllmFastError):
        dllm_fast.sample(dllm_fast.load(folder), [1, 2], mask_token_id=MASK, max_new_tokens=2, stop_at_eos=False)


def test_harmless_and_unknown_keys(folders, tmp_path):
    state = load_file(folders("sdar") / "model.safetensors")
    key, frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq", 1e6 ** -(torch.arange(0, 32, 2) / 32)
    for right in (frequencies, frequencies.bfloat16()):
        save_file(state | {key: right}, tmp_path / "model.safetensors")
        dllm_fast.load(changed(folders("sdar"), tmp_path))
    for wrong in (frequencies * 1.01, frequencies[:8]):
        save_file(state | {key: wrong}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"inv_freq in .* must be the frequencies of the rotary settings"):
            dllm_fast.load(tmp_path)
    dllm_fast.load(tmp_path, ignore_keys=[key])
    save_file(state | {"model.position_ids": torch.arange(9)[None]}, tmp_path / "model.safetensors")
    dllm_fast.load(tmp_path)
    save_file(state | {"model.position_ids": torch.arange(9)[None] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.position_ids in .* must be positions counted from 0, got 1, 2, 3, ..."):
        dllm_fast.load(tmp_path)
    save_file(state | {"model.layers.0.extra": torch.ones(8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors .* holds model.layers.0.extra.*of these weights\?$"):
        dllm_fast.load(tmp_path)  # part of a layer is no further head
    save_file(state | {"value_head.out.weight": torch.ones(8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds value_head.out.weight.*pass ignore_keys=\['value_head.out.\*'\]"):
        dllm_fast.load(tmp_path)


def test_keys_that_the_caller_leaves_out(folders, tmp_path):
    state = load_file(folders("sdar") / "model.safetensors")
    save_file(state | {"other.head.weight": torch.ones(8), "other.head.bias": torch.ones(8)}, tmp_path / "model.safetensors")
    folder = changed(folders("sdar"), tmp_path)
    model = dllm_fast.load(folder, ignore_keys=("other.*",))
    assert torch.equal(model(torch.arange(9)[None]), dllm_fast.load(folders("sdar"))(torch.arange(9)[None]))
    assert model.info.notes == ("left out by ignore_keys: other.head.bias, other.head.weight",)
    assert "left out by ignore_keys" in str(dllm_fast.explain(model))
    with pytest.raises(
        InvalidValueError, match=r"must fit a key of the weights, got 'othr.*', which fits none; nearest outside"
    ):
        dllm_fast.load(folder, ignore_keys=["other.*", "othr.*"])
    with pytest.raises(InvalidTypeError, match=r"ignore_keys must be a list of patterns, got 'other.*'"):
        dllm_fast.load(folder, ignore_keys="other.*")
    with pytest.raises(CheckpointError, match=r"ignore_keys must leave out only what the model .* got model.norm.weight"):
        dllm_fast.load(folder, ignore_keys=["other.*", "model.norm.weight"])
    with pytest.raises(CheckpointError, match=r"ignore_keys must leave lm_head.weight in"):
        dllm_fast.load(folder, ignore_keys=["other.*", "lm_head.*"])


TIED = ("a2d-qwen3", "a2d-llama", "llada", "nemotron-labs-diffusion")


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("says", [True, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_head_of_the_files_counts(folders, tmp_path, name, says, dtype):
    """Whether the config ties it or not, a head that differs from the token table by one number is used."""
    setting = "weight_tying" if name == "llada" else "tie_word_embeddings"
    table = next(
        key for key in ("wte", "embed_tokens") if any(key in k for k in load_file(folders(name) / "model.safetensors"))
    )
    state = load_file(folders(name) / "model.safetensors")
    table = next(key for key in state if f"{table}.weight" in key)
    head = {"llada": "model.transformer.ff_out.weight", "nemotron-labs-diffusion": "diffusion_head.weight"}.get(
        name, "lm_head.weight"
    )
    for own, changed_at in ((state[table], None), (state[table].clone(), -1)):
        if changed_at is not None:
            own[changed_at, changed_at] += 0.5
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        save_file(state | {head: own.to(dtype).clone()}, tmp_path / "model.safetensors")
        model = dllm_fast.load(changed(folders(name), tmp_path, **{setting: says}))
        reference = dllm_fast.load(changed(folders(name), tmp_path, **{setting: False}))
        ids = torch.arange(12)[None]
        assert torch.equal(model(ids), reference(ids))
        noted = changed_at is not None and (says is True or (says is None and name == "llada"))
        assert model.info.notes == (
            (f"{head} differs from {table} and is used, although {setting} in config.json is true or left out",)
            if noted
            else ()
        )
        assert noted == ("\nnote " in str(dllm_fast.explain(model)))
        assert dllm_fast.explain(model).to_dict()["notes"] == list(model.info.notes)


def test_heads_that_cannot_be(folders, tmp_path):
    state = load_file(folders("a2d-qwen3") / "model.safetensors")
    folder = changed(folders("a2d-qwen3"), tmp_path)
    table = "model.embed_tokens.weight"

    def saved(**tensors):
        (folder / "model.safetensors").unlink()
        save_file(
            {key: tensor for key, tensor in (state | tensors).items() if tensor is not None}, folder / "model.safetensors"
        )

    saved(**{"lm_head.weight": torch.ones(4, 64)})
    with pytest.raises(
        CheckpointError, match=r"lm_head.weight and model.embed_tokens.weight in .* must be one matrix.*got \[4, 64\] and"
    ):
        dllm_fast.load(folder)
    # Tied weights are written once, under either name.
    saved(**{"lm_head.weight": state[table], table: None})
    ids = torch.arange(12)[None]
    assert torch.equal(dllm_fast.load(folder)(ids), dllm_fast.load(folders("a2d-qwen3"))(ids))
    saved()
    changed(folder, tmp_path, tie_word_embeddings=None)
    with pytest.raises(
        CheckpointError, match=r"must hold lm_head.weight, because tie_word_embeddings .* write \"tie_word_embeddings\": true"
    ):
        dllm_fast.load(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cuda"}, "device 'cuda' needs CUDA"),
        ({"device": "toaster"}, "device must be a torch device"),
        ({"dtype": "int8"}, "dtype must be one of"),
        (
            {"attention": "causal"},
            "attention must be one of full, block_causal, causal_context, causal_reordered, got 'causal'",
        ),
        ({"shift": 2}, "shift must be 0 or 1, got 2"),
        ({"block_length": 0}, "block_length must be a whole number above 0, got 0"),
        ({"mask_id": 3}, "mask_id is no setting of load"),
        ({"revision": "main"}, "revision"),
    ],
)
def test_bad_arguments(folders, arguments, message):
    if arguments.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(InvalidValueError, match=message):
        dllm_fast.load(folders("llada"), **arguments)


def test_bad_ids(folders):
    model = dllm_fast.load(folders("llada"))
    for ids, message in [
        ([[1, 2]], "ids must be an int64 tensor"),
        (torch.zeros(3, dtype=torch.int64), r"ids must be an int64 tensor of shape \[B, L\]"),
        (torch.zeros(1, 3), "got torch.float32"),
    ]:
        with pytest.raises(InvalidTypeError, match=message):
            model(ids)
    with pytest.raises(InvalidValueError, match=re.escape("ids must lie in [0, 512), got 1 to 512")):
        model(torch.tensor([[1, 512]]))
    with pytest.raises(InvalidValueError, match="context of 512 tokens, got 513"):
        model(torch.zeros(1, 513, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "wedlm",
            {"cache": "exact_block"},
            r"cache='exact_block' needs tokens that keep their places: .* \(attention 'causal_reordered'\); use cache='none'$",
        ),
        (
            "llada",
            {"cache": "exact_block"},
            r"cache='exact_block' needs a block-causal model: .* \(attention 'full'\); use cache='none' or 'prefix' or 'dual'",
        ),
        ("llada", {"refresh_every": 2}, "refresh_every is read under cache='prefix' or 'dual' alone, got 2 beside"),
        ("sdar", {"refresh_every": 2}, "refresh_every is read under cache='prefix' or 'dual' alone, got 2 beside"),
        ("wedlm", {"cache": "dual"}, "cache='dual' needs tokens that keep their places"),
        ("llada", {"cache": "fast"}, "cache must be one of auto, none, prefix, dual, exact_block, got 'fast'"),
        ("llada", {"max_batch_rows": 0}, "max_batch_rows must be at least 1, got 0"),
    ],
)
def test_caches_that_cannot_be(folders, name, settings, message):
    with pytest.raises(InvalidValueError, match=message):
        dllm_fast.sample(folders(name), [1, 2, 3], max_new_tokens=4, **settings)


def test_a_cache_needs_a_model_of_ours():
    with pytest.raises(InvalidValueError, match="a cache needs a model that dllm_fast has opened"):
        dllm_fast.sample(lambda ids: torch.zeros(*ids.shape, 8), [1], mask_token_id=7, max_new_tokens=2, cache="prefix")


def test_a_file_is_opened_once_for_its_header_and_once_for_its_numbers(folders, monkeypatch):
    """It was opened anew for each tensor: a large mixture of experts has 140,000."""
    folder, found = folders("llada"), []
    opened = regular.opened
    monkeypatch.setattr(regular, "opened", lambda path, *more: (found.append(path.name), opened(path, *more))[1])
    dllm_fast.load(folder)
    assert found.count("model.safetensors") == 2
