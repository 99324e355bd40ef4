"""What a checkpoint may be, and everything it may not: each refusal names the file and the key, and nothing is ever run."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import checkpoints
from dllm_fast.checkpoint import checkpoint as module
from dllm_fast.checkpoint.checkpoint import Checkpoint, locate
from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError
from dllm_fast.text.tokenizer import Tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.write_weights(tmp_path / "single")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return checkpoints.write_shards(tmp_path / "shards")


def write_header(path: Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def assert_same_weights(opened: Checkpoint) -> None:
    expected = checkpoints.some_tensors()
    assert opened.tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        info = opened.tensors[key]
        assert (info.dtype, info.shape) == (tensor.dtype, tuple(tensor.shape))
        assert torch.equal(opened.read(key), tensor)
        assert opened.read(key).dtype == tensor.dtype
    assert sum(info.bytes for info in opened.tensors.values()) == sum(tensor.nbytes for tensor in expected.values())


# What opens


def test_one_file(folder: Path) -> None:
    opened = Checkpoint.open(str(folder))
    assert_same_weights(opened)
    assert opened.folder == folder
    assert opened.config == {"model_type": "test"}
    assert (opened.generation_config, opened.tokenizer_config) == ({}, {})


def test_shards_with_and_without_an_index(tmp_path: Path) -> None:
    assert_same_weights(Checkpoint.open(checkpoints.write_shards(tmp_path / "with")))
    assert_same_weights(Checkpoint.open(checkpoints.write_shards(tmp_path / "without", index=False)))


def test_the_one_file_comes_before_an_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{ broken")
    assert_same_weights(Checkpoint.open(folder))


def test_optional_files(folder: Path) -> None:
    checkpoints.write_json(folder / "generation_config.json", {"eos_token_id": [1, 2]})
    checkpoints.write_json(folder / "tokenizer_config.json", {"mask_token": "[MASK]"})
    opened = Checkpoint.open(folder)
    assert opened.generation_config == {"eos_token_id": [1, 2]}
    assert opened.tokenizer_config == {"mask_token": "[MASK]"}


def test_links_are_followed(shards: Path, tmp_path: Path) -> None:
    """The cache of the hub: names that are links to files named by their hash."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for number, path in enumerate(sorted(shards.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..") / "blobs" / str(number))
    assert_same_weights(Checkpoint.open(snapshot))


def test_buffers_of_integers_are_listed_but_not_read(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(2), "position_ids": torch.arange(4)}
    opened = Checkpoint.open(checkpoints.write_weights(tmp_path / "x", tensors))
    assert opened.tensors["position_ids"].dtype == torch.int64
    with pytest.raises(CheckpointError, match=r"'position_ids' must hold floating-point numbers, got torch.int64"):
        opened.read("position_ids")


def test_an_unknown_key(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must hold 'nothing\.weight'"):
        Checkpoint.open(folder).read("nothing.weight")


def test_a_file_that_changes_after_opening(folder: Path) -> None:
    opened = Checkpoint.open(folder)
    checkpoints.change_weights(folder, lambda tensors: {key: tensor.flatten() for key, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        opened.read("a.weight")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="private memory is read from /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_copying_takes_no_memory_but_where_the_numbers_stay(tmp_path: Path, dtype: str) -> None:
    checkpoints.write_weights(tmp_path, {"big": torch.ones(50, 1_000_000)})
    code = f"""
import re, torch
from dllm_fast.checkpoint.checkpoint import Checkpoint
def private():
    return int(re.search(r"Anonymous: +(\\d+)", open("/proc/self/smaps_rollup").read())[1]) * 1024
opened = Checkpoint.open({str(tmp_path)!r})
before = private()
target = torch.empty(50, 1_000_000, dtype=torch.{dtype})
opened.copy("big", target)
assert private() - before - target.nbytes < 16_000_000, private() - before - target.nbytes
assert (target == 1).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# What is refused


def test_hostile_files_are_never_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    checkpoints.write_tokenizer(folder)
    checkpoints.make_hostile(folder, marker)
    opened = Checkpoint.open(folder)
    assert_same_weights(opened)
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("safe")) == "safe"
    with pytest.raises(CheckpointError, match="unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "hello"}])
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"'pytorch_model.bin': a pickle can run any code"):
        Checkpoint.open(folder)
    assert not marker.exists()


def test_the_hostile_pickle_would_have_run(folder: Path, tmp_path: Path) -> None:
    """The proof above is one only if the traps work."""
    marker = tmp_path / "marker"
    checkpoints.make_hostile(folder, marker)
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert marker.exists()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_files(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        Checkpoint.open(folder)


def test_no_folder(folder: Path) -> None:
    for path in (folder / "none", folder / "config.json"):
        with pytest.raises(CheckpointError, match="a checkpoint is a folder"):
            Checkpoint.open(path)


def test_a_link_to_nowhere(folder: Path) -> None:
    (folder / "generation_config.json").symlink_to(folder / "lost.json")
    with pytest.raises(CheckpointError, match=r"generation_config.json is missing or no file"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"[1, 2]", r"must hold an object, got \[1, 2\]"),
        (b'"model"', "must hold an object"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "must be JSON"),
        (b'{"a": "\xff"}', "must be JSON"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_bad_json(folder: Path, name: str, text: bytes, message: str) -> None:
    (folder / name).write_bytes(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(folder)
    assert name in str(caught.value)


def test_huge_json(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(4_000_001)
    with pytest.raises(CheckpointError, match=r"config.json must not be larger than 4,000,000 bytes, got 4,000,001"):
        Checkpoint.open(folder)


def test_quantised_checkpoints(folder: Path) -> None:
    checkpoints.change_config(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(CheckpointError, match=r"config.json: quantised checkpoints are not supported, got quantization_config"):
        Checkpoint.open(folder)
    checkpoints.change_config(folder, quantization_config=None)
    Checkpoint.open(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_types_of_quantised_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = checkpoints.write_weights(tmp_path / "x", {"a.weight": torch.ones(4).to(dtype)})
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: 'a.weight' must be of one of .* quantised checkpoints are not"
    ):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(0, 8)}, b"1234567", "describes 8 bytes of weights, the file has 7"),
        ({"a": entry(0, 8)}, b"123456789", "describes 8 bytes of weights, the file has 9"),
        ({"a": entry(0, 12)}, b"1" * 12, r"must have 8 bytes, got data_offsets \[0, 12\]"),
        ({"a": entry(8, 0)}, b"1" * 8, r"must have 8 bytes, got data_offsets \[8, 0\]"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"1" * 12, "'b' must begin at byte 8, behind 'a', got 4"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, b"1" * 8, "'b' must begin at byte 8, behind 'a', got 0"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, b"1" * 20, "'b' must begin at byte 8, behind 'a', got 12"),
        ({"a": entry(8, 16)}, b"1" * 16, "'a' must begin at byte 0, behind 'the header', got 8"),
        ({"a": entry(0, 8, shape=(-2,))}, b"1" * 8, "must have dtype, shape and data_offsets"),
        ({"a": entry(0, 8, shape=(True, 2))}, b"1" * 8, "must have dtype, shape and data_offsets"),
        ({"a": entry(0, 0, shape=(0, 2**62, 2**62))}, b"", "the file is broken"),
        ({"a": entry(0, 4, shape=(1,) * 9)}, b"1" * 4, "at most 8 dimensions"),
        ({"a": entry(0, 8, "F33")}, b"1" * 8, "must be of one of the types"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"1" * 8, "must have dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, b"1" * 8, "must have dtype, shape and data_offsets"),
        ({"a": 5}, b"", "must have dtype, shape and data_offsets, got"),
        (b'{"a": 1, "a": 2}', b"", "names 'a' twice"),
        (b"[]", b"", "must hold an object"),
        (b'{"a": NaN}', b"", "NaN is no number"),
        (b"[" * 100_000, b"", "nested too deeply|must be JSON"),
    ],
)
def test_bad_headers(folder: Path, header: object, data: bytes, message: str) -> None:
    write_header(folder / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(folder)
    assert "model.safetensors" in str(caught.value)


def test_pointers_of_git_lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CheckpointError, match="got a pointer of Git LFS to them; run `git lfs pull`"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("length", [0, 100, 2**31, 2**63, 2**64 - 1])
def test_headers_of_absurd_size(folder: Path, length: int) -> None:
    write_header(folder / "model.safetensors", b"{}", length=length)
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, 100])
def test_truncated_files(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "/tmp/model.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "..",
        "",
        "model.bin",
        ".hidden.safetensors",
        "model.safetensors\x00",
        "model.safetensors\n",
        "~/model.safetensors",
        "a" * 300 + ".safetensors",
        5,
        None,
    ],
)
def test_names_of_shards_that_are_no_plain_names(shards: Path, name: object) -> None:
    (shards / "sub").mkdir()
    save_file({"a.weight": torch.ones(3, 4)}, shards / "sub" / "model.safetensors")
    save_file({"a.weight": torch.ones(3, 4)}, shards.parent / "secret.safetensors")
    index = shards / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    checkpoints.write_json(index, {"weight_map": weight_map | {"a.weight": name}})
    with pytest.raises(CheckpointError, match=r"index.json: 'a.weight' must name a .safetensors file of the same folder"):
        Checkpoint.open(shards)


def test_an_index_that_disagrees_with_its_shards(shards: Path) -> None:
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, second, third = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))

    def refused(weight_map: object, message: str) -> None:
        checkpoints.write_json(path, {"weight_map": weight_map})
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(shards)

    names = index["weight_map"]
    refused(names | {"a.weight": second}, f"'a.weight' must lie in '{second}', whose header does not hold it")
    refused(names | {"d.weight": third}, f"'d.weight' must lie in '{third}', whose header does not hold it")
    refused(names | {"a.weight": "model-00009-of-00003.safetensors"}, "'model-00009-of-00003.safetensors', which is missing")
    refused({}, "weight_map must be an object")
    refused([], "weight_map must be an object")
    save_file({"a.weight": torch.ones(1), "spare": torch.ones(1)}, shards / first)
    refused(names, "weight_map must name every tensor, got none for 'spare'")
    save_file({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, shards / first)
    refused(names, "a tensor must lie in one shard, got 'b.weight'")
    path.write_text('{"weight_map": {"a.weight": "x.safetensors", "a.weight": "y.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"index.json must be JSON: an object names 'a.weight' twice"):
        Checkpoint.open(shards)


def test_a_missing_shard_without_an_index(tmp_path: Path) -> None:
    folder = checkpoints.write_shards(tmp_path / "x", index=False)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="must hold every shard once, got 2 files"):
        Checkpoint.open(folder)


def test_an_empty_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"must hold model.safetensors, or .* got 'config.json'"):
        Checkpoint.open(folder)


@st.composite
def corruptions(draw: st.DrawFn) -> tuple[str, int, bytes]:
    kind = draw(st.sampled_from(["flip", "cut", "insert", "header"]))
    return kind, draw(st.integers(0, 400)), draw(st.binary(min_size=1, max_size=9))


@given(st.lists(corruptions(), min_size=1, max_size=3))
def test_random_corruption_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int, bytes]]
) -> None:
    """Whatever happens to a file: an error of ours, or tensors that can be read and are as the header says."""
    folder = checkpoints.write_weights(tmp_path_factory.mktemp("corrupt"))
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for kind, place, new in changes:
        at = place % (len(data) + 1)
        if kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "header":
            data = new[:8].ljust(8, b"\0") + data[8:]
        else:
            data = data[:at] + new + data[at + len(new) :]
    path.write_bytes(data)
    refusal = "model.safetensors was accepted"
    try:
        opened = Checkpoint.open(folder)
        for key, info in opened.tensors.items():
            if info.dtype.is_floating_point:
                tensor = opened.read(key)
                assert (tensor.dtype, tuple(tensor.shape)) == (info.dtype, info.shape)
                tensor.double().sum()
    except CheckpointError as error:
        refusal = str(error)
    assert "model.safetensors" in refusal


# Where a checkpoint is


def test_a_folder_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(folder) == folder
    assert locate(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert locate(folder.name) == Path(folder.name)
    with pytest.raises(InvalidValueError, match="revision is for hub ids, got 'main'"):
        locate(folder, "main")


@pytest.mark.parametrize(
    "name",
    ["", "./lost", "/lost/folder", "../x", "a/b/c", "a--b/c", "a/..", "org/name\n", "a b", "\x00", "x" * 5000],
)
def test_neither_folder_nor_id(name: str) -> None:
    with pytest.raises(InvalidValueError, match="from a folder or a hub id like org/name"):
        locate(name)


def test_a_missing_path_is_no_id() -> None:
    with pytest.raises(InvalidValueError, match="from a folder or a hub id"):
        locate(Path("org/name"))
    with pytest.raises(InvalidTypeError, match="got int"):
        locate(5)  # type: ignore[arg-type]


def test_a_hub_id_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install huggingface_hub \(the extra `hf`\)"):
        locate("org/name")


@pytest.fixture
def cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with one model of two revisions, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    root = tmp_path / "hub" / "models--org--name"
    for name, commit in (("main", "a" * 40), ("old", "b" * 40)):
        (root / "snapshots" / commit).mkdir(parents=True)
        for path in folder.iterdir():
            (root / "snapshots" / commit / path.name).symlink_to(path)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / name).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return root


def test_a_hub_id_from_the_offline_cache(cache: Path) -> None:
    found = locate("org/name")
    assert found == cache / "snapshots" / ("a" * 40)
    assert_same_weights(Checkpoint.open(found))
    for revision in ("old", "b" * 40):
        assert locate("org/name", revision) == cache / "snapshots" / ("b" * 40)


def test_a_hub_id_that_cannot_be_fetched(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="'org/other' is no folder here, and cannot be fetched"):
        locate("org/other")
    with pytest.raises(CheckpointError, match="cannot be fetched from the hub at revision 'lost'"):
        locate("org/name", "lost")


def test_only_data_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    utils = pytest.importorskip("huggingface_hub.utils")
    asked = {}

    def snapshot_download(name: str, **settings: object) -> str:
        asked.update(settings, name=name)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert locate("org/name", "v1") == tmp_path
    assert (asked["name"], asked["revision"]) == ("org/name", "v1")
    names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "modeling_x.py",
        "pytorch_model.bin",
    ]
    kept = list(utils.filter_repo_objects(names, allow_patterns=asked["allow_patterns"]))
    assert kept == names[:4]
    assert module.INDEX in asked["allow_patterns"]
