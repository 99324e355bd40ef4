"""What folders hold that `load` does not open: each answer names what is there and the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import checkpoints
import dllm_fast
from dllm_fast.errors import CheckpointError

QUANTISED = "quantised checkpoints are not supported, got "


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config (quant_method gptq, bits 4)"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config (quant_method awq)"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config (load_in_4bit True)"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config (quant_method fp8)"),
        (
            {"compression_config": {"quant_method": "compressed-tensors"}},
            "compression_config (quant_method compressed-tensors)",
        ),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization (bits 4, group_size 64)"),
        ({"quantization": "int8"}, "quantization ('int8')"),
        ({"quantization_config": [1]}, "quantization_config;"),
    ],
)
def test_quantised_settings(tmp_path: Path, config: dict[str, object], said: str) -> None:
    folder = checkpoints.write_weights(tmp_path / "x", config={"model_type": "bert", **config})
    with pytest.raises(CheckpointError, match=re.escape(f"config.json: {QUANTISED}{said}")):
        dllm_fast.load(folder)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_quantised_files(tmp_path: Path, name: str) -> None:
    folder = checkpoints.write_weights(tmp_path / "x")
    checkpoints.write_json(folder / name, {"bits": 4, "group_size": 128})
    with pytest.raises(CheckpointError, match=re.escape(f"{QUANTISED}{name} (bits 4, group_size 128)")):
        dllm_fast.load(folder)


@pytest.mark.parametrize(
    "keys",
    [
        ["a.qweight", "a.qzeros", "a.scales"],
        ["a.weight", "a.weight.absmax"],
        ["a.weight", "a.weight.quant_state.bitsandbytes__nf4"],
        ["a.weight", "a.SCB"],
        ["a.weight", "a.weight_scale_inv"],
        ["a.weight_packed", "a.weight_scale"],
        ["a.weight", "a.scales", "a.biases"],
        ["a.weight", "a.weight_scales"],
        ["a.W_q"],
    ],
)
def test_quantised_tensors_that_no_setting_names(tmp_path: Path, keys: list[str]) -> None:
    tensors = {key: torch.ones(2) for key in [*keys, "norm.weight"]}
    folder = checkpoints.write_weights(tmp_path / "x", tensors)
    with pytest.raises(CheckpointError, match=f"{QUANTISED}the tensor 'a.*; use the float16, bfloat16 or float32 checkpoint"):
        dllm_fast.load(folder)


def test_what_only_looks_quantised(tmp_path: Path) -> None:
    config = {"model_type": "test", "quantization_config": None, "quantization": {}}
    folder = checkpoints.write_weights(tmp_path / "x", {"a.scales": torch.ones(2), "a.scale": torch.ones(2)}, config)
    with pytest.raises(CheckpointError, match=r"model_type in config\.json must be one of"):
        dllm_fast.load(folder)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("pytorch_model.bin", "a pickle can run any code, so it is not opened; run `dllm-fast convert "),
        ("model.ckpt", "run `dllm-fast convert "),
        ("model-q4_k_m.gguf", "weights of llama.cpp; fetch the safetensors checkpoint"),
        (
            "flax_model.msgpack",
            "weights of Flax; save them anew as safetensors with transformers 4 (pip install 'transformers<5'; "
            "from_pretrained(..., from_flax=True), then save_pretrained)",
        ),
        ("tf_model.h5", "transformers 4 (pip install 'transformers<5'; from_pretrained(..., from_tf=True), then"),
        ("adapter_model.safetensors", "an adapter of peft and not its base; put its adapter_config.json into a folder with it"),
        ("adapter_model.bin", "an adapter of peft and not its base"),
        ("model.onnx", "an exported program; fetch the safetensors"),
        ("weights.npz", "arrays of MLX or NumPy"),
        ("weights.safetensors", "a name that no index lists; rename it"),
        ("training_args.bin", "; fetch the weights"),
    ],
)
def test_weights_of_other_programs(tmp_path: Path, name: str, way: str) -> None:
    checkpoints.write_json(tmp_path / "config.json", {"model_type": "bert"})
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=re.escape(way)) as caught:
        dllm_fast.load(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("model-q4_k_m.gguf", "weights of llama.cpp; fetch the safetensors checkpoint"),
        ("params.json", "fetch the checkpoint in Hugging Face format"),
        ("model.safetensors", "fetch it again, or write it: model_type and the sizes"),
        ("notes.txt", "and no weights; pass the folder of config.json"),
    ],
)
def test_a_folder_without_a_config(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"must hold config\.json, which is missing") as caught:
        dllm_fast.load(tmp_path)
    assert way in str(caught.value)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["checkpoint-500/config.json"], "'checkpoint-500/config.json': pass that folder"),
        (
            [f"checkpoint-{step}/config.json" for step in (500, 1000, 20, 7, 8, 9)],
            "'checkpoint-20/config.json', 'checkpoint-500/config.json', 'checkpoint-1000/config.json' and 1 before: pass one",
        ),
        (["0_Transformer/config.json", "modules.json"], "'0_Transformer/config.json': pass that folder"),
        (["bert_config.json", "model.safetensors"], "'bert_config.json': rename it to config.json"),
    ],
)
def test_where_a_config_lies_instead(tmp_path: Path, files: list[str], found: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=re.escape("found ")) as caught:
        dllm_fast.load(tmp_path)
    assert found in str(caught.value)


def test_where_weights_lie_instead(tmp_path: Path) -> None:
    checkpoints.write_json(tmp_path / "config.json", {"model_type": "bert"})
    checkpoints.write_weights(tmp_path / "checkpoint-500")
    (tmp_path / "checkpoint-400").mkdir()
    (tmp_path / "checkpoint-400" / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"found 'checkpoint-500/model\.safetensors': pass that folder"):
        dllm_fast.load(tmp_path)


def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    """The parts behind the model have configs, too, and some have weights."""
    checkpoints.write_weights(tmp_path / "0_Transformer", config={"model_type": "bert"})
    for part in ("1_Pooling", "2_Dense"):
        checkpoints.write_weights(tmp_path / part, config={"word_embedding_dimension": 16})
    with pytest.raises(CheckpointError, match=r"found '0_Transformer/config\.json': pass that folder"):
        dllm_fast.load(tmp_path)
