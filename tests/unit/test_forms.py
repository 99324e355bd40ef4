"""Files and config.json are compared: which parts a decoder has, how it attends, and which family it is of."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import checkpoints
import dllm_fast
from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError
from dllm_fast.families.config_keys import BLOCK_KEYS
from dllm_fast.transformers.describe import describe
from families import MASK, TWINS

BY_NAME = {twin.name: twin for twin in TWINS}
IDS = torch.arange(20)[None]


def saved(name: str, folder, *, config=(), without: str | None = None, **tensors):
    """A twin's folder with other settings (`...` removes one), without some keys, with some more."""
    BY_NAME[name].save(folder)
    checkpoints.change_config(folder, **dict(config))

    def change(state):
        return {key: tensor for key, tensor in (state | tensors).items() if not (without and re.search(without, key))}

    checkpoints.change_weights(folder, change)
    return folder


def biases(layers=2, *, out=False) -> dict[str, torch.Tensor]:
    sizes = {"q_proj": 64, "k_proj": 32, "v_proj": 32} | ({"o_proj": 64} if out else {})
    noise = torch.Generator().manual_seed(1)
    return {
        f"model.layers.{i}.self_attn.{name}.bias": torch.randn(size, generator=noise)
        for i in range(layers)
        for name, size in sizes.items()
    }


def norms(size=16) -> dict[str, torch.Tensor]:
    return {f"model.layers.{i}.self_attn.{x}_norm.weight": torch.full((size,), 1.5) for i in range(2) for x in "qk"}


@pytest.mark.parametrize(
    ("name", "setting", "says", "without", "tensors", "told"),
    [
        # Said to be there, and not there.
        ("dream", "attention_bias", True, "bias", {}, "no model.layers.*.self_attn.q_proj.bias"),
        ("wedlm", "attention_bias", True, None, {}, "no model.layers.*.self_attn.q_proj.bias"),
        ("a2d-llama", "attention_bias", True, None, biases(), "no model.layers.*.self_attn.o_proj.bias"),
        ("llada", "include_qkv_bias", True, None, {}, "no model.transformer.blocks.*.q_proj.bias"),
        ("llada2", "use_qkv_bias", True, None, {}, "no model.layers.*.attention.query_key_value.bias"),
        ("llada2", "use_qk_norm", True, "layernorm", {}, "no model.layers.*.attention.query_layernorm.weight"),
        ("llada-moe", "moe_router_enable_expert_bias", True, None, {}, "no model.layers.*.mlp.expert_bias"),
        # Said not to be there, and there.
        ("dream", "attention_bias", False, None, {}, "model.layers.0.self_attn.q_proj.bias"),
        ("sdar", "qk_norm", False, None, {}, "model.layers.0.self_attn.q_norm.weight"),
        ("wedlm", "qk_norm", False, None, {}, "model.layers.0.self_attn.q_norm.weight"),
        ("llada-moe", "qk_layernorm", False, None, {}, "model.layers.0.self_attn.q_norm.weight"),
        ("llada2", "use_qk_norm", False, None, {}, "model.layers.0.attention.query_layernorm.weight"),
        ("illada", "attention_bias", False, None, biases(), "model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_contradictions_name_both(*, tmp_path, name, setting, says, without, tensors, told):
    # The norms of a layer are called layernorms, too; keep those that are none of query or key.
    without = r"(query|key)_layernorm" if without == "layernorm" else without
    folder = saved(name, tmp_path, config={setting: says}, without=without, **tensors)
    with pytest.raises(CheckpointError, match=re.escape(f"{setting} in config.json is {str(says).lower()}, but")) as error:
        dllm_fast.load(folder)
    assert f"holds {told}; " in str(error.value)
    assert f"Leave {setting} out of it to go by the weights" in str(error.value)


def test_where_the_config_is_silent_the_files_decide(tmp_path):
    stock = transformers.Qwen3Config(**{**BY_NAME["sdar"].stock().to_dict(), "head_dim": 16, "attention_bias": False})
    model = checkpoints.redraw(transformers.Qwen3ForCausalLM(stock))
    checkpoints.write_json(tmp_path / "config.json", BY_NAME["dream"].written)
    save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    opened = dllm_fast.load(tmp_path, family="dream")
    assert (opened.info.family, opened.info.shift) == ("dream", 1)
    assert opened.info.notes == (
        "no model.layers.*.self_attn.q_proj.bias in the files, unlike others of this family",
        "model.layers.0.self_attn.q_norm.weight in the files, unlike others of this family",
    )
    mask = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    with torch.inference_mode():
        torch.testing.assert_close(opened(IDS), model(IDS, attention_mask=mask).logits, atol=2e-6, rtol=0)


def test_a_part_of_some_layers_is_named(tmp_path):
    folder = saved("dream", tmp_path, without=r"layers\.1\.self_attn\.v_proj\.bias")
    with pytest.raises(CheckpointError, match=r"got none for model.layers.1.self_attn.v_proj.bias"):
        dllm_fast.load(folder)


def test_norms_of_another_form_are_refused(tmp_path):
    folder = saved("dream", tmp_path, **norms(64))
    with pytest.raises(CheckpointError, match=r"q_norm.weight must make up \[16\] by config.json, got \[64\]"):
        dllm_fast.load(folder)


@pytest.mark.parametrize("name", ["a2d-qwen3", "rnd1", "llada-as-llama", "illada"])
def test_a_block_size_that_the_family_does_not_know(tmp_path, name):
    folder = saved(name, tmp_path, config={"block_size": 8})
    with pytest.raises(
        CheckpointError, match=r"block_size in config.json is 8, but models of the family .* attend without blocks"
    ):
        dllm_fast.load(folder)
    assert dllm_fast.load(folder, attention="full").info.attention == "full"
    info = dllm_fast.load(folder, attention="block_causal", block_length=8).info
    assert (info.attention, info.block_length) == ("block_causal", 8)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("illada", {"layer_norm_eps": 1e-5}, "layer_norm_eps in config.json must be None"),
        ("illada", {"mlp_bias": True}, "mlp_bias in config.json must be False"),
        (
            "nemotron-labs-diffusion",
            {"sliding_window": 64},
            "sliding_window in config.json must be null or at least .* got 64 and 512",
        ),
        ("dream", {"use_sliding_window": True}, "use_sliding_window in config.json must be False"),
        ("llada2", {"score_function": "softmax"}, "score_function in config.json must be 'sigmoid'"),
    ],
)
def test_settings_that_ask_for_another_computation(tmp_path, name, settings, message):
    with pytest.raises(CheckpointError, match=message):
        dllm_fast.load(saved(name, tmp_path, config=settings))


def test_a_window_as_long_as_the_context_is_none(tmp_path):
    dllm_fast.load(saved("nemotron-labs-diffusion", tmp_path, config={"sliding_window": 512}))


def test_mistral_with_a_window(tmp_path):
    folder = saved("a2d-llama", tmp_path, config={"model_type": "mistral", "architectures": ..., "sliding_window": 64})
    with pytest.raises(CheckpointError, match=r"sliding_window in config.json must be null"):
        dllm_fast.load(folder, attention="full")


def test_the_mask_of_illada(tmp_path):
    """Its config does not say it: the table does."""
    model = dllm_fast.load(saved("illada", tmp_path, config={"mask_token_id": ...}))
    assert (model.mask_token_id, model.eos_token_ids) == (5, (2,))
    assert model.info.sources["mask_token_id"] == "family illada"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("llada", "config.json: architectures 'LLaDAModelLM'"),
        ("llada-moe", "config.json: architectures 'LLaDAMoEModelLM'"),
        ("sdar", "config.json: architectures 'SDARForCausalLM'"),
        ("illada", "config.json: architectures 'ILLaDAForCausalLM'"),
    ],
)
def test_without_model_type_the_class_tells(tmp_path, name, source):
    info = dllm_fast.load(saved(name, tmp_path, config={"model_type": ...})).info
    assert (info.family, info.sources["family"]) == (name, source)


@pytest.mark.parametrize("name", ["llada", "llada2", "nemotron-labs-diffusion"])
def test_without_names_the_weights_tell(tmp_path, name):
    info = dllm_fast.load(saved(name, tmp_path, config={"model_type": ..., "architectures": ...})).info
    assert info.family == name
    assert info.sources["family"].startswith("weights: ")


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_an_old_config_of_an_encoder(tmp_path, kind):
    """From 2019 to 2021 neither model_type nor architectures were written."""
    sizes = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = getattr(transformers, f"{kind}Config")(**sizes, max_position_embeddings=64)
    stock = checkpoints.redraw(getattr(transformers, f"{kind}ForMaskedLM")(config))
    stock.save_pretrained(tmp_path)
    written = checkpoints.read_config(tmp_path)
    old = {"hidden_act", "initializer_range", "type_vocab_size", "max_position_embeddings", "layer_norm_eps", *sizes}
    checkpoints.write_json(tmp_path / "config.json", {name: written[name] for name in old})
    model = dllm_fast.load(tmp_path)
    assert model.info.family == kind.lower()
    assert model.info.sources["family"].startswith(f"weights: {kind.lower()}.")
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS), stock(input_ids=IDS).logits, atol=2e-6, rtol=0)


def test_nothing_tells(tmp_path):
    folder = saved("sdar", tmp_path, config={"model_type": ..., "architectures": ...})
    with pytest.raises(CheckpointError, match=r'must name its model_type, got none.* "model_type": "bert" .*or pass family='):
        dllm_fast.load(folder)
    info = dllm_fast.load(folder, family="sdar").info
    assert (info.family, info.sources["family"], info.block_length) == ("sdar", "caller", 4)
    with pytest.raises(InvalidValueError, match=r"family must be one of llada-moe, .*got 'sadr'; did you mean 'sdar'\?"):
        dllm_fast.load(folder, family="sadr")


def test_a_family_under_another_name(tmp_path):
    folder = saved("sdar", tmp_path, config={"model_type": "mine", "architectures": ["Mine"]})
    with pytest.raises(CheckpointError, match="where it is one of these under another name pass family="):
        dllm_fast.load(folder)
    BY_NAME["sdar"].save(tmp_path / "plain")
    assert torch.equal(dllm_fast.load(folder, family="sdar")(IDS), dllm_fast.load(tmp_path / "plain")(IDS))
    assert dllm_fast.load(folder, family="sdar").config["model_type"] == "mine"


@pytest.mark.parametrize("kind", ["Bert", "XLMRoberta", "DistilBert"])
def test_an_encoder_under_another_name(tmp_path, kind):
    sizes = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = getattr(transformers, f"{kind}Config")(**sizes, max_position_embeddings=64)
    stock = checkpoints.redraw(getattr(transformers, f"{kind}ForMaskedLM")(config))
    stock.save_pretrained(tmp_path)
    checkpoints.change_config(tmp_path, model_type="mine", architectures=["Mine"])
    with pytest.raises(CheckpointError, match="where it is one of these under another name pass family="):
        dllm_fast.load(tmp_path)
    family = {"XLMRoberta": "roberta"}.get(kind, kind.lower())
    model = dllm_fast.load(tmp_path, family=family)
    assert (model.info.family, model.info.sources["family"]) == (family, "caller")
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS), stock(input_ids=IDS).logits, atol=2e-6, rtol=0)


def test_a_causal_family_is_refused_by_its_name_too(tmp_path):
    folder = saved("a2d-llama", tmp_path, config={"model_type": "mine", "architectures": ...})
    with pytest.raises(CheckpointError, match=r"got family 'llama', which is causal"):
        dllm_fast.load(folder, family="llama")
    assert dllm_fast.load(folder, family="llama", attention="full").info.family == "llama"


@pytest.mark.parametrize(
    ("name", "family"), [("llada-moe", "llada-moe"), ("dream-reasoner", "dream-reasoner"), ("dream", "dream")]
)
def test_a_shared_type_is_told_apart_by_settings(tmp_path, name, family):
    folder = saved(name, tmp_path, config={"architectures": ...})
    assert dllm_fast.load(folder).info.family == family


@pytest.mark.parametrize(
    ("written", "block", "family", "length"),
    [
        *((key, 8, "config.json: model_type 'Dream'", f"config.json: {key}") for key in BLOCK_KEYS),
        ("block_size", ..., "weights: model.layers.0.self_attn.q_norm.weight", "family dream-reasoner"),
    ],
)
def test_a_dream_with_norms_of_its_heads_attends_by_blocks(tmp_path, written, block, family, length):
    """Whatever its config calls the length of the blocks, and where it says none."""
    stock = BY_NAME["dream-reasoner"].model()
    model = dllm_fast.load(saved("dream-reasoner", tmp_path, config={"block_size": ..., written: block}))
    info = model.info
    assert (info.family, info.shift, info.attention) == ("dream-reasoner", 0, "block_causal")
    assert info.block_length == (32 if block is ... else block)
    assert (info.sources["family"], info.sources["block_length"]) == (family, length)
    seen = IDS[0][None] // info.block_length <= IDS[0][:, None] // info.block_length
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS), stock(IDS, attention_mask=seen[None, None]).logits, atol=2e-6, rtol=0)


@pytest.mark.parametrize("key", BLOCK_KEYS)
def test_a_dream_whose_config_and_weights_say_two_families(tmp_path, key):
    folder = saved("dream", tmp_path, config={key: 8})
    with pytest.raises(
        CheckpointError,
        match=rf"of dream-reasoner and dream: {key}=8 .* ends with .self_attn.q_norm.weight, .*pass family='dream-reasoner' or "
        "family='dream' with attention='full'",
    ):
        dllm_fast.load(folder)
    info = dllm_fast.load(folder, family="dream", attention="full").info
    assert (info.family, info.shift, info.block_length) == ("dream", 1, None)
    assert dllm_fast.load(folder, family="dream-reasoner").info.block_length == 8


@pytest.mark.parametrize("act", ["gelu", "gelu_pytorch_tanh", "relu2", "mish"])
@pytest.mark.parametrize("name", ["a2d-llama", "llada2"])
def test_other_activations(tmp_path, name, act):
    twin = BY_NAME[name]
    folder = saved(name, tmp_path, config={"hidden_act": act})
    stock = twin.model()
    changed = type(stock)(type(stock.config)(**{**stock.config.to_dict(), "hidden_act": act})).eval()
    changed.load_state_dict(stock.state_dict())
    block = twin.block or 20
    seen = IDS[0][None] // block <= IDS[0][:, None] // block
    with torch.inference_mode():
        expected = changed(IDS, attention_mask=seen[None, None], use_cache=False).logits
        assert (expected - stock(IDS, attention_mask=seen[None, None], use_cache=False).logits).abs().max() > 1e-3
    torch.testing.assert_close(dllm_fast.load(folder)(IDS), expected, atol=2e-6, rtol=0)


def test_activations_of_llada(tmp_path):
    model = dllm_fast.load(saved("llada", tmp_path, config={"activation_type": "gelu"}))
    BY_NAME["llada"].save(tmp_path / "plain")
    assert (model(IDS) - dllm_fast.load(tmp_path / "plain")(IDS)).abs().max() > 1e-3
    assert MASK not in dllm_fast.sample(model, [1, 2], max_new_tokens=2, stop_at_eos=False).sequences[0]


def test_llada_with_fewer_key_heads(tmp_path):
    """`n_kv_heads` is read; a file that has as many as there are heads contradicts it."""
    folder = saved("llada", tmp_path, config={"n_kv_heads": 2})
    with pytest.raises(CheckpointError, match=r"k_proj.weight.* must make up \[128, 64\] by config.json"):
        dllm_fast.load(folder)
    state = load_file(folder / "model.safetensors")
    state = {key: tensor[:32].clone() if re.search(r"[kv]_proj", key) else tensor for key, tensor in state.items()}
    save_file(state, folder / "model.safetensors")
    assert dllm_fast.load(folder).network.kv_heads == 2


def test_weights_and_settings_of_llada_are_told_apart(tmp_path):
    """Its own settings over weights under the names of Llama, and the other way round."""
    BY_NAME["llada"].save(tmp_path / "own")
    plain = BY_NAME["llada"].model().state_dict()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(BY_NAME["llada"].written))
    save_file({key: tensor.clone() for key, tensor in plain.items()}, tmp_path / "mixed" / "model.safetensors")
    assert torch.equal(dllm_fast.load(tmp_path / "mixed")(IDS), dllm_fast.load(tmp_path / "own")(IDS))


@pytest.mark.parametrize(
    ("settings", "family", "rule"),
    [
        ({"model_type": "Dream", "block_size": 32}, "dream-reasoner", ("block_causal", 32, 0)),
        ({"model_type": "Dream", "block_length": 8}, "dream-reasoner", ("block_causal", 8, 0)),
        ({"model_type": "Dream"}, "dream", ("full", None, 1)),
        ({"model_type": "llada", "num_experts": 4}, "llada-moe", ("full", None, 0)),
        ({"model_type": "lladamoe"}, "llada-moe", ("full", None, 0)),
        ({"model_type": "llada", "d_model": 64}, "llada", ("full", None, 0)),
        ({"model_type": "illada"}, "illada", ("full", None, 0)),
    ],
)
def test_a_model_in_memory_is_told_apart_in_the_same_way(settings, family, rule):
    model = torch.nn.Linear(4, 4)
    model.config = SimpleNamespace(**settings)
    info = describe(model)
    assert (info.family, (info.attention, info.block_length, info.shift)) == (family, rule)


def test_the_norms_of_a_model_in_memory_tell_too():
    model = BY_NAME["dream-reasoner"].model()
    model.config.model_type = "Dream"
    info = describe(model)
    assert (info.family, info.attention, info.block_length, info.shift) == ("dream-reasoner", "block_causal", 32, 0)


@pytest.mark.parametrize("family", [[], {}, 3, "nothing"])
def test_a_family_is_a_name_of_the_table(tmp_path, family):
    error = (InvalidValueError, "be one of") if isinstance(family, str) else (InvalidTypeError, "be a name")
    with pytest.raises(error[0], match=f"family must {error[1]}"):
        dllm_fast.load(saved("sdar", tmp_path), family=family)
