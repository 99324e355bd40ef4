"""Files of a folder that are none, change while they are read, or are larger than anybody needs: an error of ours, at once.

All of it runs in child processes: the mistake would be one that waits for ever, fills the memory or ends the process.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import checkpoints
import limited
from dllm_fast.checkpoint import regular
from families import TWINS

ROOT = Path(__file__).resolve().parents[2]

# Whatever a name of a folder may stand for instead of a file.
KINDS = ["pipe", "socket", "zero", "full", "random", "folder", "loop", "nowhere", "proc", "memory", "stdin"]
# Every file that some part of the package opens.
COMMON = ["config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
COMMON += ["tokenizer.json", "chat_template.jinja", "quantize_config.json", "model.safetensors"]
SHARDED = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
NAMES = {
    "plain": COMMON,
    "shards": SHARDED,
    "bert": ["vocab.txt"],
    "dream": ["vocab.json", "merges.txt"],
    "camembert": ["sentencepiece.bpe.model"],
    "adapter": ["adapter_config.json", "adapter_model.safetensors"],
    "pickled": ["pytorch_model.bin", "config.json", "README.md", "tokenizer.json"],
    "pickled shards": ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
}

# Reads each folder that it is given, and says how that ended.
READ = """
import sys
from pathlib import Path
import dllm_fast
from dllm_fast import errors
from dllm_fast.loading.convert import convert
def whole(folder):
    if folder.name.startswith("pickled"):
        convert(folder, folder.with_name(folder.name + "-out"))
        return ""
    if folder.name.startswith("adapter"):
        return str(dllm_fast.load(folder.parent / "base", adapter=folder).info.notes)
    return str(dllm_fast.load(folder).info.notes)
for path in sys.argv[1:]:
    print("begins", ascii(path), flush=True)
    try:
        print("opened", ascii(path), ascii(whole(Path(path))), flush=True)
    except errors.DllmFastError as error:
        print("refused", ascii(path), ascii(str(error)), flush=True)
"""


def put(path: Path, kind: str) -> None:
    """Puts something in the place of a file."""
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            here = os.open(".", os.O_RDONLY)
            os.chdir(path.parent)  # the name of a socket is short
            try:
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(path.name)
            finally:
                os.fchdir(here)
                os.close(here)
        case "folder":
            path.mkdir()
        case _:
            ends = {
                "zero": "/dev/zero",
                "full": "/dev/full",
                "random": "/dev/urandom",
                "loop": path.name,
                "nowhere": "lost",
                "proc": "/proc/self/status",
                "memory": "/proc/self/mem",
                "stdin": "/dev/stdin",
            }
            path.symlink_to(ends[kind])


def write(folder: Path, kind: str) -> Path:
    """A folder with the files of one kind."""
    folder.parent.mkdir(exist_ok=True)
    llada = next(twin for twin in TWINS if twin.name == "llada")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 300}
    match kind:
        case "plain":
            llada.save(folder)
            checkpoints.write_tokenizer(folder)
        case "shards":
            llada.save(folder, shards=2)
        case "dream":
            llada.save(folder)
            checkpoints.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})
            checkpoints.write_json(folder / "vocab.json", {"a": 0, "b": 1})
            (folder / "merges.txt").write_text("#version: 0.2\n")
        case "bert" | "camembert":
            config = transformers.BertConfig(**sizes, max_position_embeddings=32)
            checkpoints.redraw(transformers.BertForMaskedLM(config)).save_pretrained(folder)
            if kind == "bert":
                (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
            else:
                checkpoints.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CamembertTokenizer"})
        case "adapter":
            folder.mkdir()
            write(folder.parent / "base", "bert") if not (folder.parent / "base").exists() else None
            name = "base_model.model.bert.encoder.layer.0.attention.self.query"
            matrices = {f"{name}.lora_A.weight": torch.ones(2, 16), f"{name}.lora_B.weight": torch.ones(16, 2)}
            checkpoints.write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4})
            checkpoints.save_file(matrices, folder / "adapter_model.safetensors")
        case _:
            folder.mkdir()
            config = transformers.BertConfig(**sizes, max_position_embeddings=32)
            model = transformers.BertForMaskedLM(config)
            checkpoints.write_json(folder / "config.json", config.to_dict())
            if kind == "pickled":
                torch.save(model.state_dict(), folder / "pytorch_model.bin")
            else:
                name = "pytorch_model-00001-of-00001.bin"
                torch.save(model.state_dict(), folder / name)
                index = {"metadata": {}, "weight_map": dict.fromkeys(model.state_dict(), name)}
                checkpoints.write_json(folder / "pytorch_model.bin.index.json", index)
    return folder


def outcomes(*folders: Path, gigabytes: float = 8, seconds: float = 120) -> Iterator[tuple[str, str]]:
    """How each folder was read: `opened` or `refused`, and what was said."""
    ended = limited.run(READ, *folders, gigabytes=gigabytes, seconds=seconds)
    lines = ended.output.splitlines()
    assert ended.code == 0, f"{lines[-1] if lines else ''}: ended with {ended.code}\n{ended.errors[-3000:]}"
    for line in lines:
        how, _, rest = line.partition(" ")
        if how != "begins":
            yield how, rest


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A case is one name, which stands for something else; the error names it."""
    cases = [(base, name, kind) for base, names in NAMES.items() for name in names for kind in KINDS]
    folders = []
    for number, (base, name, kind) in enumerate(cases):
        whole = tmp_path / "whole" / base
        if not whole.exists():
            write(whole, base)
        folder = shutil.copytree(whole, tmp_path / f"{base.replace(' ', '-')}-{number}")
        if name == "added_tokens.json":
            checkpoints.write_json(folder / "tokenizer_config.json", {})
        put(folder / name, kind)
        folders.append(folder)
    (tmp_path / "whole" / "base").rename(tmp_path / "base")  # of the adapters
    for (how, said), (base, name, kind) in zip(outcomes(*folders), cases, strict=True):
        # Without a usable vocabulary a model opens, for ids, and its notes say why.
        notes = base in ("bert", "camembert")
        assert (how == "opened") == notes, (how, said, kind)
        assert name in said.partition(" ")[2], (said, kind)


# What changes between two steps


CHANGES = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
import checkpoints
from dllm_fast import errors
from dllm_fast.checkpoint import reading, regular
from dllm_fast.checkpoint.checkpoint import Checkpoint
folder = Path(sys.argv[1])
weights = folder / "model.safetensors"
def refused(change, what, read=lambda opened: opened.read("a")):
    checkpoints.write_weights(folder, {"a": torch.ones(4, 3_000_000), "b": torch.ones(2)})
    opened = Checkpoint.open(folder)
    change()
    try:
        read(opened)
    except errors.CheckpointError as error:
        assert what in str(error), error
        assert "model.safetensors" in str(error), error
    else:
        raise AssertionError(what)
def replaced():
    other = weights.with_name("other")
    other.write_bytes(weights.read_bytes())
    other.rename(weights)
def rewritten():
    data = weights.read_bytes()
    weights.write_bytes(data)
def pipe():
    weights.unlink()
    os.mkfifo(weights)
refused(replaced, "has changed since it was opened")
refused(rewritten, "has changed since it was opened")
refused(lambda: os.truncate(weights, 1000), "has changed since it was opened")
refused(weights.unlink, "is missing or no file")
refused(pipe, "must be a regular file, got a pipe")
def next_one(change):
    def read(opened):
        with reading.Weights() as files:
            files.copy(opened.tensors["b"], torch.empty(2))
            change()
            files.copy(opened.tensors["a"], torch.empty(4, 3_000_000))
    return read
for change in (rewritten, lambda: os.truncate(weights, 1000)):
    refused(lambda: None, "has changed since it was opened", next_one(change))
weights.unlink()
# While it is read: a mapped file would end the process here.
def slowly(opened):
    pieces = opened.pieces("a")
    next(pieces)
    os.truncate(weights, 1000)
    for _ in pieces:
        pass
refused(lambda: None, "became shorter", slowly)
def at_once(opened):
    regular._READ_BYTES = 2**20
    class Cut(regular.File):
        def fill(self, place, begin=None):
            os.truncate(weights, 2_000_000)
            super().fill(place, begin)
    whole, regular.File = regular.File, Cut
    try:
        opened.copy("a", torch.empty(4, 3_000_000))
    finally:
        regular.File = whole
refused(lambda: None, "became shorter", at_once)
# One that grows while it is read is not believed either.
class Grows(regular.File):
    def check_end(self):
        with self.path.open("ab") as file:
            file.write(b" ")
        super().check_end()
regular.File = Grows
try:
    regular.read(weights)
except errors.CheckpointError as error:
    assert "must have as many bytes as it says" in str(error), error
else:
    raise AssertionError("it grew")
print(len(os.listdir("/proc/self/fd")))
"""


def test_a_file_that_changes_between_two_steps_is_an_error(tmp_path: Path) -> None:
    ended = limited.run(CHANGES, tmp_path / "x", ROOT / "tests")
    assert ended.code == 0, ended.errors[-3000:]
    assert int(ended.output) <= 5, "descriptors stayed open"


# What links may lead to


def test_links_of_the_hub_and_of_people_are_followed(tmp_path: Path) -> None:
    """The hub's snapshots are links into blobs; people put links to another disk. What nobody may copy is only read."""
    plain = write(tmp_path / "plain", "plain")
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(plain.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    far = tmp_path / "far"
    far.mkdir()
    for file in plain.iterdir():
        (far / file.name).symlink_to(file)
    whole = tmp_path / "linked"
    whole.symlink_to(far)
    odd = tmp_path / "with\na line\udcff"
    odd.symlink_to(far)
    assert [how for how, _ in outcomes(snapshot, far, whole, odd)] == ["opened"] * 4


# What is too large


def header(path: Path, entries: dict[str, object], data: int) -> None:
    """A file of weights whose numbers are a hole."""
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + data)


def enlarged(folder: Path, scale: int) -> Path:
    """A folder of a model with so many times the vocabulary, whose weights are holes."""
    write(folder, "plain")
    config = checkpoints.read_config(folder)
    rows = config["vocab_size"] * scale
    checkpoints.change_config(folder, vocab_size=rows, embedding_size=rows)
    entries, at = {}, 0
    for key, tensor in load_file(folder / "model.safetensors").items():
        shape = [rows, *tensor.shape[1:]] if tensor.shape[0] == config["vocab_size"] else list(tensor.shape)
        size = 4 * math.prod(shape)
        entries[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header(folder / "model.safetensors", entries, at)
    return folder


def test_what_does_not_fit_into_memory_is_refused_before_it_is_tried(tmp_path: Path) -> None:
    """8 TB of holes, and 3 GB where 2 are free: the error says what is needed and what is there."""
    ((how, said),) = outcomes(enlarged(tmp_path / "sparse", 2**25), seconds=60)
    assert how == "refused"
    assert "must fit into memory, needs 8,796,0" in said
    ((how, said),) = outcomes(enlarged(tmp_path / "limited", 12_000), gigabytes=4)
    assert how == "refused"
    assert re.search(r"needs 3,14\d,\d{3},\d{3} bytes, and \d{1,3}(,\d{3}){2,3} are free here", said)


LARGE = {
    "values": lambda: '{"model_type": "llada", "x": [' + "[]," * 1_000_000 + "[]]}",
    "bytes": lambda: '{"model_type": "llada", "x": "' + "x" * 5_000_000 + '"}',
    "depth": lambda: '{"x":' * 100_000 + "1" + "}" * 100_000,
    "quotes": lambda: '{"x": "' + '\\"' * 1_900_000 + "\\",
    "begun": lambda: '"' * 3_999_999,
}


def test_json_is_bounded_by_values_depth_and_size(tmp_path: Path) -> None:
    """Each within 1.5 GB of address space beside torch, and seconds; a search for strings that goes back would take hours."""
    folders = []
    for kind, text in LARGE.items():
        folder = write(tmp_path / kind, "plain")
        (folder / "config.json").write_text(text())
        folders.append(folder)
    for (how, said), kind in zip(outcomes(*folders, gigabytes=5, seconds=60), LARGE, strict=True):
        assert how == "refused", kind
        assert "config.json" in said.partition(" ")[2], kind


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_an_interrupt_while_a_file_is_opened_closes_it_once(tmp_path, monkeypatch):
    class Late(regular.File):
        def __init__(self, *given):
            super().__init__(*given)
            raise KeyboardInterrupt

    (tmp_path / "one").write_bytes(b"1")
    monkeypatch.setattr(regular, "File", Late)
    with pytest.raises(KeyboardInterrupt) as caught, regular.opened(tmp_path / "one"):
        pass
    other = os.open(tmp_path / "one", os.O_RDONLY)  # has the number that is free now
    del caught
    gc.collect()
    os.fstat(other)
    os.close(other)
