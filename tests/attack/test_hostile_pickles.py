"""Hostile pickles: `convert` refuses them in proportion to their length, and never crashes, hangs or fills memory or disk.

`ATTACK_PICKLES=20000` changes so many.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import tempfile
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import limited
from dllm_fast.checkpoint import memory, pickles
from dllm_fast.errors import CheckpointError

MUTATIONS = int(os.environ.get("ATTACK_PICKLES", "400"))
START = b"\x80\x02"


def number(value: int) -> bytes:
    return long(value, 9)


def long(value: int, length: int = 20) -> bytes:
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def tensor(size: list[int], stride: list[int], *, offset: int = 0, numel: int = 4, key: str = "0") -> bytes:
    """A tensor of float32 in the storage of that key."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numel) + b"tQ"
    shape = b"(" + b"".join(map(number, size)) + b"t(" + b"".join(map(number, stride)) + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + shape + b"\x89ccollections\nOrderedDict\n)RtR"


def state(value: bytes, key: str = "w") -> bytes:
    return START + b"}" + text(key) + value + b"s."


def doubled(times: int) -> bytes:
    """A tuple that holds one tuple twice, and so on."""
    return b"K\x01" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


ONCE = b"c__builtin__\nbytearray\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R"
NOT_HERE = "must hold tensors by name"
BROKEN = "must be a file of torch.save, got a broken one: "
OUTSIDE = "'w' must lie in the file, needs .* bytes of a storage of "
# What `data.pkl` of an archive is, and what the error says.
HOSTILE = {
    "a tuple in a tuple, as a key": (START + b"})" + b"\x85" * 10**6 + b"K\x01s.", f"{NOT_HERE}.* got tuple"),
    "a tuple in a tuple": (START + b")" + b"\x85" * 10**6 + b".", f"{NOT_HERE}.* got tuple"),
    "a tuple of twice the same, as a key": (START + b"}" + doubled(60) + b"K\x01s.", f"{NOT_HERE}.* got tuple"),
    "a tuple of twice the same, as the key of a storage": (START + doubled(60) + b"Q.", f"{BROKEN}a storage without a class"),
    "a list of twice the same, counted": (
        START + b"ccollections\nCounter\n]" + b"q\x00h\x00a" * 60 + b"\x85R.",
        f"{NOT_HERE}.* got Other",
    ),
    "a list of twice the same, called": (START + b"]" + b"q\x00h\x00a" * 60 + b")R.", f"{BROKEN}a call of something without a"),
    "a long text, counted often": (
        START + b"](" + text("a" * 10**5) + b"q\x00" + b"ccollections\nCounter\nh\x00\x85R" * 10**4 + b"e.",
        f"{NOT_HERE}.* got list",
    ),
    "a long list of pairs, mapped often": (
        START + b"](" + b"](" + b"](K\x01K\x01e" * 10**4 + b"eq\x00" + b"ccollections\nOrderedDict\nh\x00\x85R" * 10**4 + b"e.",
        f"{NOT_HERE}.* got list",
    ),
    "a long list of pairs and of what is none, mapped often": (
        START
        + b"]("
        + b"]("
        + b"](K\x01K\x01e" * 10**4
        + b"K\x01eq\x00"
        + b"ccollections\nOrderedDict\nh\x00\x85R" * 10**4
        + b"e.",
        f"{NOT_HERE}.* got list",
    ),
    "one list of pairs under two names": (
        START
        + b"}("
        + text("a")
        + b"ccollections\nOrderedDict\n]]("
        + text("w")
        + tensor([4], [1])
        + b"eaq\x00\x85R"
        + text("state_dict")
        + b"ccollections\nOrderedDict\nh\x00\x85Ru.",
        f"{NOT_HERE}.* got 'a', 'state_dict'",
    ),
    "numbers of one hash, as keys": (
        START + b"}(" + b"".join(long(i * (2**61 - 1)) + b"K\x01" for i in range(10**5)) + b"u.",
        f"{NOT_HERE}.* got 0, 2305843009213693951",
    ),
    "bytes": (START + b"](" + ONCE * 40 + b"e.", f"{NOT_HERE}.* got list"),
    "a text in a slow encoding": (
        START + b"c_codecs\nencode\n(" + text("ü" * 10**6) + text("punycode") + b"tR.",
        f"{NOT_HERE}.* got Other",
    ),
    "a long name of a function": (START + b"c" + b"a" * 10**4 + b"\nb\n.", "got a name of 10,001 characters"),
    "a line without an end": (START + b"c" + b"a" * 10**6 + b"\nb\n.", BROKEN),
    "bytes of 4 EB": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x3fa.", BROKEN),
    "code": (START + b"cposix\nsystem\n" + text("true") + b"\x85R.", "must hold tensors only, got 'posix.system'"),
    "storage from a name": (START + b"ctorch.storage\n_load_from_bytes\n.", "got 'torch.storage._load_from_bytes'"),
    "digits": (START + b"I" + b"9" * 10**7 + b"\n.", BROKEN),
    "a text of 4 GB": (START + b"X" + b"\xff" * 4 + b"a.", BROKEN),
    "what it has not made": (START + b"h\x07.", f"{BROKEN}a value 7 that it has not made"),
    "an end without a beginning": (START + b"t.", f"{BROKEN}no beginning of what it puts together"),
    "lists in lists": (START + b"}K\x01" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s.", f"{NOT_HERE}.* got 1;"),
    "itself": (START + b"}q\x00" + text("model") + b"h\x00s.", NOT_HERE),
    "a tensor of a size alone": (
        START + b"}" + text("w") + b"ctorch\nTensor\nJ" + struct.pack("<i", 10**9) + b"\x85Rs.",
        "'w' must be a dense tensor, got one without numbers in the file",
    ),
    "one number, two billion times": (state(tensor([2 * 10**9], [0])), "got 8,000,000,000 bytes in .*, which share memory"),
    "one number, for ever": (state(tensor([10**6, 10**6], [0, 0])), "got 4,000,000,000,000 bytes in"),
    "more than there is": (state(tensor([10**9], [1])), f"{OUTSIDE}16"),
    "more than there is, as it says": (state(tensor([10**9], [1], numel=10**9)), f"{OUTSIDE}16"),
    "before the beginning": (state(tensor([4], [1], offset=-100)), f"{BROKEN}a tensor whose place"),
    "behind the end": (state(tensor([4], [1], offset=10**15)), f"{OUTSIDE}16"),
    "a negative size": (state(tensor([-4], [1])), f"{BROKEN}a tensor whose place"),
    "a negative stride": (state(tensor([4], [-1])), f"{BROKEN}a tensor whose place"),
    "a size that overflows": (state(tensor([2**61, 4], [1, 1])), f"{OUTSIDE}16"),
    "a storage elsewhere": (state(tensor([4], [1], key="../../x")), f"{OUTSIDE}0"),
    "very many dimensions": (state(tensor([1] * 10**5, [1] * 10**5)), f"{BROKEN}a tensor whose place"),
    "a very long name": (state(tensor([4], [1]), key="w" * 10**6), "must not be longer than 512 characters"),
    "half of a letter": (START + b"}X\x03\0\0\0\xed\xa0\x80" + tensor([4], [1]) + b"s.", "can be written as UTF-8"),
}

CONVERT = """
import sys
from pathlib import Path
from dllm_fast.errors import CheckpointError
from dllm_fast.loading.convert import convert

for folder in map(Path, sys.argv[1:]):
    try:
        convert(folder, folder.parent / "out")
        print("converted")
    except CheckpointError as error:
        print(str(error).replace("\\n", " ")[:300])
    assert not (folder.parent / "out").exists()
"""


def archive(path: Path, data: bytes, kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in {"data.pkl": data, "version": b"3\n", "byteorder": b"little", "data/0": bytes(16)}.items():
            file.writestr(f"model/{name}", content)


def folder_of(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "bert"}')
    return path


def test_what_asks_for_much_is_refused_at_once(tmp_path: Path) -> None:
    folders = []
    for index, (data, _) in enumerate(HOSTILE.values()):
        folders.append(folder_of(tmp_path / str(index)))
        archive(folders[-1] / "pytorch_model.bin", data)
    folders.append(folder_of(tmp_path / "compressed"))
    archive(folders[-1] / "pytorch_model.bin", START + text("a" * 10**8) + b".", zipfile.ZIP_DEFLATED)
    messages = [message for _, message in HOSTILE.values()] + ["got 100,0.* bytes in a file of .*, as compressed ones have"]
    ended = limited.run(CONVERT, *folders, seconds=120, gigabytes=12)
    assert (ended.code, ended.errors) == (0, "")
    for said, message, name in zip(ended.output.splitlines(), messages, [*HOSTILE, "compressed"], strict=True):
        assert re.search(message, said), (name, said)


def test_two_numbers_far_apart_are_not_read_over_and_over(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    whole = torch.zeros(10**6)
    torch.save({f"w{i}": whole[:: 10**6 - 1] for i in range(17)}, path)
    with pytest.raises(CheckpointError, match=r"got 68,000,000 bytes in 4,00.*, which share memory"):
        pickles.read(path)
    torch.save({f"w{i}": whole[:: 10**6 - 1] for i in range(16)}, path)
    assert pickles.read(path).tensors["w15"].read().tolist() == [0, 0]


def test_weights_larger_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    torch.save({"w": torch.zeros(1000)}, path)
    monkeypatch.setattr(memory, "available", lambda: 3999)
    with pytest.raises(CheckpointError, match=r"x.bin: a tensor of \[1000\] must fit into memory, needs 4,000 bytes"):
        pickles.read(path).tensors["w"].read()


def test_the_format_from_before_the_archives_is_followed_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x")
    path = folder / "pytorch_model.bin"
    torch.save({"w": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert limited.run(CONVERT.replace("    assert", "    break\n    assert"), folder).output == "converted\n"
    (tmp_path / "out" / "model.safetensors").unlink()
    (tmp_path / "out" / "config.json").unlink()
    (tmp_path / "out").rmdir()
    # The fourth pickle is that of the values.
    file = io.BytesIO(whole)
    for _ in range(3):
        pickle.load(file)
    path.write_bytes(whole[: file.tell()] + HOSTILE["a tuple in a tuple, as a key"][0])
    ended = limited.run(CONVERT, folder, seconds=60, gigabytes=12)
    assert (ended.code, ended.errors) == (0, "")
    assert "got a broken one: pickle exhausted before seeing STOP" in ended.output
    # Without a list of its storages there are no numbers.
    keys = whole.index(b"]", len(whole) - 60)
    path.write_bytes(whole[:keys] + b"].")
    ended = limited.run(CONVERT, folder)
    assert (ended.code, ended.errors) == (0, "")
    assert "'w' must lie in the file, needs 16 bytes of a storage of 0" in ended.output


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inside: (
        st.lists(inside, max_size=5) | st.dictionaries(st.text(max_size=5), inside, max_size=5) | st.tuples(inside, inside)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=10), VALUES, max_size=8), st.integers(1, 3), st.booleans(), st.integers(2, 5))
def test_what_programs_save_is_read_as_torch_reads_it(
    values: dict[str, object], tensors: int, is_new: bool, protocol: int
) -> None:
    saved = {f"t{i}": torch.randn(i + 2, 3)[1:].t() for i in range(tensors)}
    saved["tied"], saved["bias"] = saved["t0"], torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    what = {"epoch": 3, "state_dict": OrderedDict(saved), "milestones": Counter([1, 1, 2]), "kept": values, "b": b"\0\xff"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.bin"
        torch.save(what, path, _use_new_zipfile_serialization=is_new, pickle_protocol=protocol)
        found = pickles.read(path)
        assert found.left_out == ("epoch", "milestones", "kept", "b")
        assert found.tensors.keys() == saved.keys()
        for key, tensor in saved.items():
            read = found.tensors[key].read()
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)


MUTATE = """
import random, shutil, sys
from pathlib import Path
import torch
from dllm_fast.errors import CheckpointError
from dllm_fast.loading.convert import convert

folder, count = Path(sys.argv[1]), int(sys.argv[2])
path, out = folder / "pytorch_model.bin", folder.parent / "out"
generator = random.Random(0)
tensors = {f"layer.{i}.weight": torch.arange(i + 1.0) for i in range(6)}
states = [tensors, {"state_dict": tensors, "epoch": 3}, {"model": tensors, "kept": [(1, (2, "x")), {"a": None}]}]
seeds = []
for state in states:
    for is_new in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=is_new)
        seeds.append(path.read_bytes())
known = b"}]()aeu0q\\x85\\x86\\x87tRQbsh.K\\x80"
converted = 0
for _ in range(count):
    data = bytearray(generator.choice(seeds))
    for _ in range(generator.choice((1, 1, 2, 5, 20))):
        # In the pickles, or in the list of what an archive holds, which is at its end.
        at = generator.randrange(min(len(data), 2000))
        at = len(data) - 1 - at if generator.random() < 0.3 else at
        data[at] = generator.choice((generator.randrange(256), generator.choice(known), data[generator.randrange(len(data))]))
    path.write_bytes(data)
    try:
        convert(folder, out)
        shutil.rmtree(out)
        converted += 1
    except CheckpointError:
        assert not out.exists()
print(converted, "of", count)
"""


def test_changed_files_are_converted_or_refused(tmp_path: Path) -> None:
    ended = limited.run(MUTATE, folder_of(tmp_path / "x"), MUTATIONS, seconds=60 + MUTATIONS / 20, gigabytes=12)
    print(ended.output)
    assert (ended.code, ended.errors) == (0, "")
    converted = int(ended.output.split()[0])
    assert 0 < converted < MUTATIONS
