"""`dllm-fast convert`: pickled weights become a folder that `load` opens; nothing is run, nothing is left half-written."""

from __future__ import annotations

import argparse
import fractions
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import checkpoints
import dllm_fast
from dllm_fast import cli
from dllm_fast.checkpoint import pickles
from dllm_fast.checkpoint.checkpoint import Checkpoint
from dllm_fast.errors import CheckpointError, InvalidValueError
from dllm_fast.loading.convert import convert

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}


@pytest.fixture
def bert() -> Any:
    """Its head is the table of its tokens, and its two biases are one."""
    config = transformers.BertConfig(**SIZES, max_position_embeddings=24)
    return checkpoints.redraw(transformers.BertForMaskedLM(config))


@pytest.fixture
def folder(tmp_path: Path, bert: Any) -> Path:
    return pickled(tmp_path / "bert", bert.state_dict(), bert.config)


def pickled(folder: Path, state: object, config: Any = None, **how: Any) -> Path:
    folder.mkdir()
    checkpoints.write_json(folder / "config.json", config.to_dict() if config is not None else {"model_type": "test"})
    torch.save(state, folder / "pytorch_model.bin", **how)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    opened = Checkpoint.open(folder)
    return {key: opened.read(key) for key in opened.tensors}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_tied_weights_open_and_give_the_logits_of_the_class(bert: Any, tmp_path: Path, how: dict[str, Any]) -> None:
    folder = pickled(tmp_path / "bert", bert.state_dict(), bert.config, **how)
    assert bert.cls.predictions.decoder.weight is bert.bert.embeddings.word_embeddings.weight
    with pytest.raises(CheckpointError, match=r"run `dllm-fast convert .*bert OUT`"):
        dllm_fast.load(folder)
    done = convert(folder, tmp_path / "out")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = bert(ids).logits
    torch.testing.assert_close(dllm_fast.load(tmp_path / "out")(ids), expected, rtol=0, atol=2e-6)
    assert sorted(path.name for path in done.folder.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(weights(done.folder), {key: tensor for key, tensor in bert.state_dict().items() if "position_ids" not in key})


def test_views_and_tensors_of_any_order_become_their_own(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"rows": whole[1:3], "turned": whole.T, "every.second": whole[:, ::2], "whole": whole, "same": whole}
    folder = pickled(tmp_path / "x", state)
    done = convert(folder, tmp_path / "out")
    assert_same(weights(done.folder), state)
    assert done.bytes == sum(tensor.nbytes for tensor in state.values()), "not the storage behind the views"


@pytest.mark.parametrize("index", [True, False])
def test_shards(tmp_path: Path, index: bool) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    checkpoints.write_json(folder / "config.json", {"model_type": "test"})
    tensors = checkpoints.some_tensors()
    names = {key: f"pytorch_model-{i:05}-of-{len(tensors):05}.bin" for i, key in enumerate(tensors, 1)}
    for key, name in names.items():
        torch.save({key: tensors[key]}, folder / name)
    if index:
        checkpoints.write_json(folder / "pytorch_model.bin.index.json", {"weight_map": names})
    assert_same(weights(convert(folder, tmp_path / "one").folder), tensors)
    parts = convert(folder, tmp_path / "parts", shard_bytes=50)
    assert_same(weights(parts.folder), tensors)
    assert sorted(path.name for path in parts.folder.iterdir())[1:] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    (folder / names["b.weight"]).unlink()
    with pytest.raises(CheckpointError, match=r"'pytorch_model-00002-of-00003.bin', which is missing|every shard once, got 2"):
        convert(folder, tmp_path / "three")


def test_an_index_that_leaves_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    checkpoints.write_json(folder / "config.json", {"model_type": "test"})
    for name in ("../a.bin", "/etc/passwd", "a.safetensors", 5):
        checkpoints.write_json(folder / "pytorch_model.bin.index.json", {"weight_map": {"a": name}})
        with pytest.raises(CheckpointError, match=r"must name a \.bin file of the same folder"):
            convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("state", "left_out"),
    [
        ({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, ("epoch",)),
        ({"model": {"a": torch.ones(2)}, "optimizer": {"state": {}}}, ("optimizer",)),
        ({"model": {"state_dict": {"a": torch.ones(2)}, "step": 1}, "args": {}}, ("args", "step")),
        ({"args": argparse.Namespace(lr=1.0), "model": {"a": torch.ones(2)}, "extra_state": {}}, ("args", "extra_state")),
        ({"module.a": torch.ones(2)}, ()),
        ({"module._orig_mod.a": torch.ones(2)}, ()),
        ({"a": torch.nn.Parameter(torch.ones(2)), "version": 1}, ("version",)),
    ],
)
def test_what_training_programs_save(tmp_path: Path, state: object, left_out: tuple[str, ...]) -> None:
    done = convert(pickled(tmp_path / "x", state), tmp_path / "out")
    assert_same(weights(done.folder), {"a": torch.ones(2)})
    assert done.left_out == left_out


@pytest.mark.parametrize("prefix", ["model.", "net.module."])
def test_what_lightning_saves(bert: Any, tmp_path: Path, prefix: str) -> None:
    """The name of the model in its module stands before every key."""
    state = {"state_dict": {prefix + key: tensor for key, tensor in bert.state_dict().items()}, "epoch": 3}
    done = convert(pickled(tmp_path / "x", state, bert.config), tmp_path / "out")
    assert weights(done.folder).keys() == bert.state_dict().keys()
    assert dllm_fast.load(done.folder).info.notes == ()


def test_prefixes_that_are_none(tmp_path: Path) -> None:
    """Every key of a tied Llama begins with `model.`."""
    state = {key: torch.ones(2) for key in ("model.embed_tokens.weight", "model.norm.weight")}
    assert_same(weights(convert(pickled(tmp_path / "x", state), tmp_path / "out").folder), state)


def test_a_file_of_another_name(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "x", {"a": torch.ones(2)})
    (folder / "pytorch_model.bin").rename(folder / "model.pt")
    for name in ("optimizer.pt", "training_args.bin", "rng_state_0.pth"):
        (folder / name).write_bytes(b"never read")
    assert convert(folder, tmp_path / "out").read == ("model.pt",)
    torch.save({"a": torch.zeros(2)}, folder / "ema.pth")
    with pytest.raises(CheckpointError, match=r"one file of weights, got 'ema.pth', 'model.pt'; pass the path of the one"):
        convert(folder, tmp_path / "other")
    assert_same(weights(convert(folder / "ema.pth", tmp_path / "other").folder), {"a": torch.zeros(2)})


def test_another_dtype(folder: Path, tmp_path: Path) -> None:
    checkpoints.change_config(folder, torch_dtype="float32", dtype=...)
    done = convert(folder, tmp_path / "out", dtype="bfloat16")
    assert {tensor.dtype for tensor in weights(done.folder).values()} == {torch.bfloat16}
    assert checkpoints.read_config(done.folder) == checkpoints.read_config(folder) | {"torch_dtype": "bfloat16"}
    assert dllm_fast.load(done.folder).info.dtype == torch.bfloat16
    with pytest.raises(InvalidValueError, match="dtype must be one of float32"):
        convert(folder, tmp_path / "other", dtype="int8")


def test_only_data_is_copied(folder: Path, tmp_path: Path) -> None:
    checkpoints.write_tokenizer(folder)
    (folder / "vocab.txt").write_text("[UNK]\n")
    marker = tmp_path / "marker"
    for name in ("modeling.py", "configuration.py", "tokenization.py"):
        (folder / name).write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    (folder / "secret.txt").write_text("x")
    done = convert(folder, tmp_path / "out")
    assert done.copied == ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
    assert {path.name for path in done.folder.iterdir()} == {*done.copied, "model.safetensors"}
    assert all((done.folder / name).read_bytes() == (folder / name).read_bytes() for name in done.copied)
    assert not marker.exists()


# What is refused, and that nothing is left behind


def refused(source: Path, out: Path, message: str, error: type[Exception] = CheckpointError) -> None:
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(error, match=message):
        convert(source, out)
    assert sorted(out.parent.rglob("*")) == before


def test_pickles_with_code(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = checkpoints.write_weights(tmp_path / "x")
    (folder / "model.safetensors").unlink()
    checkpoints.make_hostile(folder, marker)
    refused(folder, tmp_path / "out", r"pytorch_model.bin must hold tensors only, got .*nothing of it was read")
    torch.save({"a": torch.ones(2), "b": checkpoints._Marker(marker)}, folder / "pytorch_model.bin")
    refused(folder, tmp_path / "out", r"pytorch_model.bin must hold tensors only, got '\w.*nothing of it was read")
    torch.save({"state_dict": {"a": torch.ones(2)}, "device": fractions.Fraction(1, 2)}, folder / "pytorch_model.bin")
    refused(folder, tmp_path / "out", r"must hold tensors only, got 'fractions\.Fraction'")
    assert not marker.exists()


def test_formats_that_old_versions_of_torch_run(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "x", {})
    path = folder / "pytorch_model.bin"
    archive = torch._C.PyTorchFileWriter(str(path))
    for name in ("constants.pkl", "data.pkl", "code/__torch__.py"):
        archive.write_record(name, b"\x80\x02).", 4)
    archive.write_end_of_file()
    refused(folder, tmp_path / "out", "got a TorchScript archive, which is a program")
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(checkpoints._Marker(tmp_path / "marker"))
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    refused(folder, tmp_path / "out", "got a tar archive, which can run code")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("size", [0, 1, 100, 900])
def test_broken_files(folder: Path, tmp_path: Path, size: int) -> None:
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:size])
    refused(folder, tmp_path / "out", "pytorch_model.bin must")


def test_pointers_of_git_lfs(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    refused(folder, tmp_path / "out", "got a pointer of Git LFS")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.ones(2)], "must hold tensors by name, .* got list"),
        (torch.ones(2), "must hold tensors by name, .* got Tensor"),
        ({}, "must hold tensors by name, .* got nothing"),
        ({"epoch": 1}, "got 'epoch'"),
        (
            {"model": {"a": torch.ones(2)}, "state_dict": {"a": torch.ones(2)}},
            "must hold one model, got 'state_dict' and 'model'",
        ),
        ({1: torch.ones(2)}, "must name its tensors by strings, got 1"),
        ({"a": torch.ones(2).to_sparse()}, "'a' must be a dense tensor, got a sparse one"),
        ({"a": torch.ones(2, dtype=torch.int8)}, r"'a' must be of one of the types .* got torch.int8; quantised"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' must be of one of the types"),
        (
            {"a.qweight": torch.ones(2, dtype=torch.int32)},
            "quantised checkpoints are not supported, got the tensor 'a.qweight'",
        ),
    ],
)
def test_what_is_no_model(tmp_path: Path, state: object, message: str) -> None:
    refused(pickled(tmp_path / "x", state), tmp_path / "out", message)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "x", {})
    (folder / "pytorch_model.bin").unlink()
    for i in (1, 2):
        torch.save({"a": torch.ones(2)}, folder / f"pytorch_model-0000{i}-of-00002.bin")
    refused(folder, tmp_path / "out", "a tensor must lie in one file, got 'a' in pytorch_model-00001-of-00002.bin")


def test_places_for_the_result(folder: Path, tmp_path: Path) -> None:
    refused(folder, folder, "OUT must lie outside", InvalidValueError)
    refused(folder, folder / "out", "OUT must lie outside", InvalidValueError)
    refused(folder, tmp_path, "OUT must not hold", InvalidValueError)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    refused(folder, tmp_path / "link", "which is a link", InvalidValueError)
    refused(folder, tmp_path / "link" / "out", "OUT must lie outside", InvalidValueError)
    refused(tmp_path / "link", folder / "out", "OUT must lie outside", InvalidValueError)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    refused(folder, tmp_path / "full", "OUT must be new or an empty folder", InvalidValueError)
    refused(folder, tmp_path / "full" / "x", "OUT must be new or an empty folder", InvalidValueError)
    (tmp_path / "empty").mkdir()
    convert(folder, tmp_path / "empty")
    assert dllm_fast.load(tmp_path / "empty").info.family == "bert"
    convert(folder, tmp_path / "a" / "b")
    assert dllm_fast.load(tmp_path / "a" / "b").info.family == "bert"


def test_links_to_files_elsewhere_are_not_copied(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "vocab.txt").symlink_to(tmp_path / "secret")
    refused(folder, tmp_path / "out", "vocab.txt must lie in the folder, got a link to .*secret")


def test_the_cache_of_the_hub(folder: Path, tmp_path: Path) -> None:
    """Its names are links to files named by their hash."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "main"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert dllm_fast.load(convert(snapshot, tmp_path / "out").folder).info.family == "bert"


def test_folders_that_need_no_conversion_or_cannot_have_one(folder: Path, tmp_path: Path) -> None:
    done = convert(folder, tmp_path / "out")
    refused(done.folder, tmp_path / "again", "holds model.safetensors already, which load opens")
    checkpoints.change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, tmp_path / "again", r"got quantization_config \(quant_method gptq, bits 4\)")
    (folder / "config.json").unlink()
    refused(folder, tmp_path / "again", "config.json is missing")
    refused(tmp_path / "none", tmp_path / "again", "must be the folder of config.json and of pickled weights")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, tmp_path / "again", "must hold pytorch_model.bin or another file of torch.save, got an empty folder")


def test_names_of_pickles() -> None:
    assert all(map(pickles.may_hold_weights, ("pytorch_model.bin", "model.pt", "best.ckpt", "weights.pth")))
    assert not any(map(pickles.may_hold_weights, ("optimizer.pt", "training_args.bin", "rng_state_0.pth", "a.safetensors")))


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(folder), str(tmp_path / "out"), "--dtype", "float16", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["folder"] == str(tmp_path / "out")
    assert said["read"] == ["pytorch_model.bin"]
    assert cli.main(["convert", str(folder), str(tmp_path / "out")]) == 2
    assert "OUT must be new or an empty folder" in capsys.readouterr().err
    assert cli.main(["convert", str(folder), str(tmp_path / "more")]) == 0
    assert f"how it will be run: dllm-fast explain {tmp_path / 'more'}" in capsys.readouterr().out
