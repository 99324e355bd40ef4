"""Arguments that people know from `from_pretrained`: understood, or answered with the cause and the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import dllm_fast
from dllm_fast.checkpoint import checkpoint
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.loading import arguments

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bert")
    transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)).save_pretrained(place)
    return place


@pytest.mark.parametrize(
    ("named", "dtype"),
    [
        ({}, torch.float32),
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "torch.float16", "dtype": torch.float16}, torch.float16),
        ({"torch_dtype": "auto"}, torch.float32),
        ({"dtype": "auto"}, torch.float32),
        ({"device_map": "cpu"}, torch.float32),
        ({"device_map": {"": "cpu"}, "device": "cpu"}, torch.float32),
        ({"device_map": None, "low_cpu_mem_usage": None, "load_in_8bit": False}, torch.float32),
        ({"trust_remote_code": False, "token": "secret", "cache_dir": "/nowhere", "local_files_only": True}, torch.float32),
    ],
)
def test_what_is_understood(folder: Path, named: dict[str, Any], dtype: torch.dtype) -> None:
    info = dllm_fast.load(folder, **named).info
    assert (info.dtype, info.device, info.notes) == (dtype, torch.device("cpu"), ())


def test_what_explain_says(folder: Path) -> None:
    model = dllm_fast.load(folder, trust_remote_code=True, attn_implementation="flash_attention_2")
    assert model.info.notes == (
        "trust_remote_code=True was not needed: no code of the folder is run",
        "attn_implementation='flash_attention_2' changes nothing: attention is that of dllm_fast",
    )
    assert "no code of the folder is run" in str(dllm_fast.explain(model))


@pytest.mark.parametrize(
    "name", ["attn_implementation", "low_cpu_mem_usage", "use_safetensors", "weights_only", "resume_download", "use_cache"]
)
def test_what_changes_nothing_leaves_a_note(folder: Path, name: str) -> None:
    (note,) = dllm_fast.load(folder, **{name: True}).info.notes
    assert note.startswith(f"{name}=True changes nothing: ")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"torch_dtype": "bfloat16", "dtype": "float16"}, "torch_dtype is another name of dtype, got 'bfloat16' and 'float16'"),
        ({"torch_dtype": "int8"}, "dtype must be one of float32"),
        (
            {"device_map": "auto"},
            "device_map='auto' is not supported by load: a model lies on one device here; pass device='cuda'",
        ),
        ({"device_map": {"model.layers.0": 0, "lm_head": "cpu"}}, "a model lies on one device here"),
        ({"device_map": "cpu", "device": "cuda"}, "needs CUDA, which torch does not find here"),
        ({"device": "meta"}, "device 'meta' holds no numbers"),
        ({"device": "mps"}, "device 'mps' needs a GPU of Apple, which torch does not find here; use device='cpu'"),
        ({"device": "xpu"}, "device 'xpu' needs a GPU of Intel"),
        ({"device": "vulkan"}, "device must be one of cpu, cuda, mps, xpu, got 'vulkan'"),
        ({"device": "gpu"}, "device must be a torch device, got 'gpu'; use device='cpu' or 'cuda'"),
        ({"device_map": 3.5}, "device must be a torch device"),
        ({"device": True}, "device must be a torch device"),
        ({"device": 0}, "device 'cuda:0' needs CUDA, which torch does not find here"),
        (
            {"load_in_8bit": True},
            "load_in_8bit is not supported by load, got True: weights are quantised by quantise='fp8' alone; pass",
        ),
        ({"quantization_config": {"a": 1}}, "quantization_config is not supported by load"),
        ({"variant": "fp16"}, "variant is not supported by load, got 'fp16': the weights must be named model.safetensors"),
        ({"use_safetensors": False}, "run `dllm-fast convert FOLDER OUT`"),
        ({"offload_folder": "x"}, "nothing is offloaded"),
        ({"max_memory": {0: "1GB"}}, "a model lies on one device here"),
        ({"ignore_mismatched_sizes": True}, "leave keys out with ignore_keys="),
        ({"token": "a", "use_auth_token": "b"}, "use_auth_token is another name of token, got both"),
        ({"subfolder": "../x"}, "subfolder must lie in the model's folder"),
        ({"subfolder": "/etc"}, "subfolder must lie in the model's folder"),
        ({"num_labels": 2}, "num_labels is no setting of load; the overrides are"),
        ({"blocklength": 2}, "blocklength is no setting of load; did you mean 'block_length'"),
        ({"dtyp": 2}, "dtyp is no setting of load; did you mean 'dtype'"),
        ({"mask_id": 2}, "mask_id is no setting of load; did you mean 'mask_token_id'"),
        ({"threshold": 0.9}, "threshold is no setting of load; pass it to sample or infill"),
        ({"gen_length": 9}, "gen_length is no setting of load; pass it to sample or infill"),
    ],
)
def test_what_is_answered(folder: Path, named: dict[str, Any], message: str) -> None:
    if torch.cuda.is_available() and "CUDA" in message:
        pytest.skip("there is a CUDA device here")
    with pytest.raises(InvalidValueError) as caught:
        dllm_fast.load(folder, **named)
    assert message in str(caught.value)


def test_flags_are_flags(folder: Path) -> None:
    with pytest.raises(InvalidTypeError, match="trust_remote_code must be True or False, got 'yes'"):
        dllm_fast.load(folder, trust_remote_code="yes")


def test_devices_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert arguments.known_device("cuda:1") == arguments.known_device(1) == torch.device("cuda", 1)
    with pytest.raises(InvalidValueError, match=r"'cuda:3' must be one that torch finds, got number 3 of 2 .*device='cuda:1'"):
        arguments.known_device("cuda:3")


def test_other_devices_are_allowed_and_said_to_be_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    asked = arguments.understand(None, None, {"device_map": "mps"})
    assert asked.device == torch.device("mps")
    assert asked.notes == ("device mps has not been tried: the network is plain torch there, without kernels",)


def test_a_folder_below(folder: Path) -> None:
    assert dllm_fast.load(folder.parent, subfolder=folder.name).info.family == "bert"


def test_arguments_of_the_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="it fetches hub ids")
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **settings: Any) -> str:
        asked.update(settings)
        return str(folder.parent)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    model = dllm_fast.load("org/name", use_auth_token="secret", cache_dir="/c", local_files_only=True, subfolder=folder.name)
    assert model.info.family == "bert"
    assert {name: asked[name] for name in ("token", "cache_dir", "local_files_only")} == {
        "token": "secret",
        "cache_dir": "/c",
        "local_files_only": True,
    }
    assert f"{folder.name}/config.json" in asked["allow_patterns"]
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for pattern in asked["allow_patterns"])
    assert {f"{folder.name}/{name}" for name in checkpoint.TOKENIZER_FILES} < set(asked["allow_patterns"])
