"""Folders of DiffusionGemma: which settings and keys are understood, and what is refused by name."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import dllm_fast
import gemma
from checkpoints import change_config, change_weights, read_config, write_json
from dllm_fast.errors import CheckpointError, InvalidValueError

IDS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return gemma.save(gemma.stock(), tmp_path_factory.mktemp("gemma"))


@pytest.fixture
def folder(written, tmp_path):
    for file in written.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_text(folder, **changes):
    text = read_config(folder)["text_config"] | changes
    change_config(folder, text_config={name: value for name, value in text.items() if value is not ...})


def test_what_is_known_of_it(folder):
    model = dllm_fast.load(folder)
    info = model.info
    assert (info.family, info.attention, info.block_length, info.shift) == (
        "diffusion-gemma",
        "encoder_canvas",
        gemma.CANVAS,
        0,
    )
    assert (info.mask_token_id, info.eos_token_ids, info.context, info.vocabulary) == (
        None,
        (gemma.EOS,),
        512,
        gemma.VOCABULARY,
    )
    assert info.sources["block_length"] == "config.json: canvas_length"
    assert info.sources["context"] == "config.json: max_position_embeddings"
    assert model.engine is None


def test_what_reads_images_is_passed_over_and_named(folder):
    images = [key for key in load_file(folder / "model.safetensors") if "vision" in key]
    notes = "\n".join(dllm_fast.load(folder).info.notes)
    for place in ("model.encoder.vision_tower.*", "model.encoder.embed_vision.*"):
        count = sum(key.startswith(place[:-1]) for key in images)
        assert f"{count} tensors of {place}" in notes
    right = dllm_fast.load(folder)(IDS)
    change_weights(folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if key not in images})
    bare = dllm_fast.load(folder)
    assert bare.info.notes == ()
    assert torch.equal(bare(IDS), right)


def test_more_experts_than_tensors(tmp_path):
    """They lie in one tensor a layer, so that the number of tensors bounds only the layers."""
    model = gemma.stock(num_experts=150, num_hidden_layers=2, layer_types=[gemma.LOCAL, gemma.GLOBAL])
    opened = dllm_fast.load(gemma.save(model, tmp_path))
    assert opened.network.stack[0].experts.gate_up.shape[0] == 150


def test_first_configs_say_global_heads_once(folder):
    """`per_layer_config` is how transformers 5.24 writes what the published config says for all global layers."""
    right = dllm_fast.load(folder)(IDS)
    change_text(folder, per_layer_config=..., global_head_dim=16, num_global_key_value_heads=1)
    assert torch.equal(dllm_fast.load(folder)(IDS), right)


def test_every_key_counts(folder):
    """Another number in any tensor is another network, a refusal, or among those that are passed over by name."""
    path, expected = folder / "model.safetensors", dict(dllm_fast.load(folder).network.named_parameters())
    state = load_file(path)
    for key, tensor in state.items():
        if "vision" in key:
            continue
        changed = tensor.clone()
        changed.view(-1)[-1] += 1
        save_file(state | {key: changed}, path)
        made = dict(dllm_fast.load(folder).network.named_parameters())
        assert any(not torch.equal(made[name], expected[name]) for name in expected), key


def test_weights_that_are_there_twice(folder):
    """The part that encodes may be written once more; it is never another one."""
    right, own = dllm_fast.load(folder)(IDS), "model.encoder.language_model.layers.0.mlp.up_proj.weight"
    again = own.replace("encoder.language_model", "decoder")
    change_weights(folder, lambda tensors: {**tensors, own: tensors[again].clone()})
    assert torch.equal(dllm_fast.load(folder)(IDS), right)
    change_weights(folder, lambda tensors: {**tensors, own: tensors[again] + 1})
    with pytest.raises(CheckpointError, match=rf"^{own} and {again} in .* must be one: .*run this model with transformers$"):
        dllm_fast.load(folder)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention in config.json must be null or 'vision'"),
        ({"layer_types": ["sliding_attention"]}, "layer_types in config.json must name one of"),
        ({"layer_types": ["chunked"] * 3}, "layer_types in config.json must name one of"),
        ({"top_k_experts": 5}, "a token must go to at most 4 experts"),
        ({"num_experts": ...}, "num_experts in config.json must be a whole number"),
        ({"num_experts": 10**6}, "num_experts in config.json must be at most"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers in config.json must be at most"),
        ({"per_layer_config": {"2": {"rope_theta": 3}}}, "per_layer_config in config.json must change head_dim and"),
        ({"per_layer_config": {"0": {"head_dim": 4}}}, "per_layer_config in config.json must say the same of all layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads in config.json must divide the 4 attention heads"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rope_scaling in config.json must be default"),
        ({"rope_parameters": {"full_attention": 3}}, "rope_parameters in config.json must hold an object"),
        ({"sliding_window": 0}, "sliding_window in config.json must be a whole number above 0"),
        ({"final_logit_softcapping": "no"}, "final_logit_softcapping in config.json must be a number above 0"),
        ({"hidden_size": 16}, "must make up"),
    ],
)
def test_settings_that_are_refused(folder, changes, why):
    change_text(folder, **changes)
    with pytest.raises(CheckpointError, match=why):
        dllm_fast.load(folder)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            {"attention": "full"},
            "attention must be 'encoder_canvas' for the family diffusion-gemma, .*got 'full'; leave it out",
        ),
        ({"attention": "causal_context"}, "whose network encodes and denoises, got 'causal_context'"),
        ({"shift": 1}, "shift must be 0 for a model whose canvas predicts itself"),
    ],
)
def test_arguments_that_are_refused(folder, arguments, why):
    with pytest.raises(InvalidValueError, match=why):
        dllm_fast.load(folder, **arguments)


def test_a_canvas_for_a_network_that_knows_none(tmp_path):
    from families import TWINS

    with pytest.raises(InvalidValueError, match=r"attention must be 'full' for the family llada, .*got 'encoder_canvas'"):
        dllm_fast.load(TWINS[0].save(tmp_path), attention="encoder_canvas")


def test_no_text_model(folder):
    change_config(folder, text_config=...)
    with pytest.raises(CheckpointError, match=r"config\.json must hold text_config"):
        dllm_fast.load(folder)


def test_untied_weights(folder):
    """Where the config does not tie them, both parts must be there; transformers would draw the missing one."""
    change_config(folder, tie_word_embeddings=False)
    change_weights(folder, lambda t: {**t, "lm_head.weight": t["model.decoder.embed_tokens.weight"] * 2})
    with pytest.raises(
        CheckpointError, match=r"must hold the weights that encode, because tie_word_embeddings in config\.json"
    ):
        dllm_fast.load(folder)
    change_weights(
        folder,
        lambda t: (
            t
            | {
                key.replace("model.decoder", "model.encoder.language_model"): tensor.clone()
                for key, tensor in t.items()
                if key.startswith("model.decoder.") and "self_conditioning" not in key and not key.endswith("scalar")
            }
        ),
    )
    model = dllm_fast.load(folder)
    assert torch.equal(model.network.head.weight, 2 * model.network.embed.weight)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(folder, dtype):
    """Its logits stay float32, and lie near those of the same weights in float32."""
    logits = dllm_fast.load(folder, dtype=dtype)(IDS)
    assert logits.dtype == torch.float32
    assert 0 < (logits - dllm_fast.load(folder)(IDS)).abs().max() < 0.1


def test_quantised_to_8_bits(folder):
    """The linear layers of the blocks and the experts, as of other decoders."""
    model = dllm_fast.load(folder, dtype="bfloat16", quantise="fp8")
    assert model.network.stack[0].mlp.down.weight.dtype == torch.float8_e4m3fn
    assert (model(IDS) - dllm_fast.load(folder)(IDS)).abs().max() < 1.0


def test_adapters(folder, tmp_path):
    """peft puts one into the layers that encode and another into those that denoise; here both are one set."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "base_model_name_or_path": None}
    write_json(adapter / "adapter_config.json", settings)
    place = "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_"
    save_file(
        {f"{place}A.weight": torch.ones(2, 32), f"{place}B.weight": torch.ones(32, 2)}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"the adapter .* must be merged before: it changes the layers that encode"):
        dllm_fast.load(folder, adapter=adapter)


def test_what_its_generation_config_recommends(folder):
    """Rules that a checkpoint brings are its family's default, where no preset is named."""
    said = {
        "t_max": 0.9,
        "t_min": 0.3,
        "max_denoising_steps": 3,
        "stability_threshold": 0,
        "confidence_threshold": 0.25,
        "sampler_config": {"entropy_bound": 0.7, "_cls_name": "EntropyBoundSamplerConfig"},
        "eos_token_id": [1, 7],
    }
    write_json(folder / "generation_config.json", said)
    model = dllm_fast.load(folder)
    used = dllm_fast.sample(model, [1, 2, 3], max_new_tokens=gemma.CANVAS, seed=0).config
    assert (used.temperature, used.temperature_end, used.steps_per_block) == (0.9, 0.3, 3)
    assert (used.stop_stable, used.stop_entropy, used.entropy_bound, used.eos_token_ids) == (0, 0.25, 0.7, (1, 7))
    plain = dllm_fast.sample(model, [1, 2, 3], max_new_tokens=gemma.CANVAS, seed=0, preset="diffusion-gemma").config
    assert (plain.temperature, plain.steps_per_block) == (0.8, 48)
    write_json(folder / "generation_config.json", said | {"t_max": "hot"})
    with pytest.raises(CheckpointError, match=r"t_max in generation_config\.json must be a number above 0, got 'hot'"):
        dllm_fast.load(folder)


def test_a_model_in_memory_recommends_the_same():
    stock = gemma.stock()
    assert dllm_fast.explain(stock).settings == {"preset": "diffusion-gemma"}
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as own

    stock.generation_config = own.DiffusionGemmaGenerationConfig(
        t_max=0.9, max_denoising_steps=3, sampler_config=own.EntropyBoundSamplerConfig(entropy_bound=0.7)
    )
    assert dllm_fast.explain(stock).settings == {
        "preset": "diffusion-gemma",
        "temperature": 0.9,
        "steps_per_block": 3,
        "entropy_bound": 0.7,
    }
