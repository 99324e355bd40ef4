"""The encoder computes what `transformers.BertForMaskedLM` computes, and refuses what it cannot compute."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError
from dllm_fast.loading.load import load
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.encoder import Encoder, EncoderConfig

CONFIG = EncoderConfig(
    vocab_size=23,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=40,
    max_position_embeddings=17,
    mask_token_id=5,
    eos_token_id=6,
    pad_token_id=0,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in which every tensor, biases and norms too, is random and large enough to matter."""
    random = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.randn(tensor.shape, generator=random) * 0.3).bfloat16()
        for name, tensor in Encoder(CONFIG).state_dict().items()
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    return tmp_path


def opened(folder: Path) -> LoadedModel:
    return load(folder, dtype="float32")


def rewrite_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 9), (2, 17)])
def test_same_logits_as_transformers(folder: Path, batch: int, length: int) -> None:
    transformers = pytest.importorskip("transformers")
    stock, report = transformers.BertForMaskedLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    ids = torch.randint(0, 23, (batch, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        expected = stock.eval()(input_ids=ids).logits
    logits = opened(folder)(ids)
    assert logits.dtype == torch.float32
    assert logits.shape == (batch, length, 23)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6)


def test_attributes(folder: Path) -> None:
    model = opened(folder)
    assert (model.mask_token_id, model.eos_token_ids) == (5, (6,))
    network = model.network
    assert isinstance(network, Encoder)
    assert network.config == CONFIG
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_an_answer_does_not_depend_on_its_neighbours(folder: Path) -> None:
    model = opened(folder)
    ids = torch.randint(0, 23, (4, 17), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(ids)[2:3], model(ids[2:3]), rtol=0, atol=2e-6)


def test_missing_and_unexpected_tensors_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = tensors.pop("cls.predictions.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"got none for cls.predictions.bias"):
        opened(folder)


def test_a_wrong_shape_is_named(folder: Path) -> None:
    rewrite_config(folder, max_position_embeddings=18)
    with pytest.raises(CheckpointError, match=r"position_embeddings.weight must make up \[18, 24\] .*got \[17, 24\]"):
        opened(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("model_type", "t5"), ("hidden_act", "prelu"), ("position_embedding_type", "relative_key"), ("is_decoder", True)],
)
def test_other_architectures_are_refused(folder: Path, name: str, value: object) -> None:
    rewrite_config(folder, **{name: value})
    with pytest.raises(CheckpointError, match=rf"{name} (in config.json )?must be"):
        opened(folder)


def test_a_config_without_a_size_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    del settings["vocab_size"]
    path.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="vocab_size"):
        opened(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_unreadable_files_are_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{ not a file of that kind")
    with pytest.raises(CheckpointError, match=name):
        opened(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        opened(folder)


def test_bad_ids_are_refused(folder: Path) -> None:
    model = opened(folder)
    with pytest.raises(InvalidTypeError, match="int64 tensor of shape"):
        model(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(InvalidTypeError, match="int64 tensor of shape"):
        model(torch.zeros(1, 5))
    with pytest.raises(InvalidValueError, match="context of 17 tokens, got 18"):
        model(torch.zeros(1, 18, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 5}, "must divide"),
        ({"mask_token_id": 23}, r"mask_token_id must lie in \[0, vocab_size=23"),
    ],
)
def test_bad_configs_are_refused(folder: Path, change: dict[str, int], message: str) -> None:
    rewrite_config(folder, **change)
    with pytest.raises(CheckpointError, match=message):
        opened(folder)
