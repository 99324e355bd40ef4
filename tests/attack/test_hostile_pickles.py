"""Hostile pickles: `convert` refuses them in proportion to their length, and never crashes, hangs or fills memory or disk.

`ATTACK_PICKLES=20000` changes so many.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

import limited
from dllm_fast.models import opcodes

MUTATIONS = int(os.environ.get("ATTACK_PICKLES", "400"))
START = b"\x80\x02"


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


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
# What `data.pkl` of an archive is, and what the error says.
HOSTILE = {
    "a tuple in a tuple, as a key": (START + b"})" + b"\x85" * 10**6 + b"K\x01s.", "more than 64 tuples within each other"),
    "a tuple in a tuple": (START + b")" + b"\x85" * 10**6 + b".", "more than 64 tuples within each other"),
    "sizes of a size": (START + b")" + b"ctorch\nSize\n" * 100 + b"\x85R" * 100 + b".", "pytorch_model.bin must"),
    "a tuple of twice the same, as a key": (START + b"}" + doubled(60) + b"K\x01s.", "used over and over"),
    "a list of twice the same, counted": (
        START + b"ccollections\nCounter\n]" + b"q\x00h\x00a" * 60 + b"\x85R.",
        "used over and over",
    ),
    "a long text, counted often": (
        START + b"](" + text("a" * 10**5) + b"q\x00" + b"ccollections\nCounter\nh\x00\x85R" * 10**4 + b"e.",
        "used over and over",
    ),
    "bytes": (START + b"](" + ONCE * 40 + b"e.", r"got bytes \(__builtin__.bytearray\)"),
    "a text in a slow encoding": (
        START + b"c_codecs\nencode\n(" + text("ü" * 10**6) + text("punycode") + b"tR.",
        r"got bytes \(_codecs.encode\)",
    ),
    "another protocol": (pickle.dumps({"w": 1}, protocol=4), "got the instruction FRAME"),
    "digits": (START + b"I" + b"9" * 10**7 + b"\n.", "pytorch_model.bin must"),
    "a text of 4 GB": (START + b"X" + b"\xff" * 4 + b"a.", "pytorch_model.bin must be a file of torch.save"),
    "what it has not made": (START + b"h\x07.", "a value 7 that it has not made"),
    "an end without a beginning": (START + b"t.", "no beginning of what it puts together"),
    "lists in lists": (START + b"}K\x01" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s.", "must hold tensors by name"),
    "itself": (START + b"}q\x00" + text("model") + b"h\x00s.", "must hold tensors by name"),
    "one number, two billion times": (state(tensor([2 * 10**9], [0])), "got 8,000,000,000 bytes that share 16"),
    "one number, for ever": (state(tensor([10**6, 10**6], [0, 0])), "got 4,000,000,000,000 bytes that share 16"),
    "more than there is": (state(tensor([10**9], [1])), "pytorch_model.bin must be a file of torch.save"),
    "more than there is, as it says": (state(tensor([10**9], [1], numel=10**9)), "must be a file of torch.save"),
    "before the beginning": (state(tensor([4], [1], offset=-100)), "must be a file of torch.save"),
    "behind the end": (state(tensor([4], [1], offset=10**15)), "must be a file of torch.save"),
    "a negative size": (state(tensor([-4], [1])), "must be a file of torch.save"),
    "a negative stride": (state(tensor([4], [-1])), "must be a file of torch.save"),
    "a size that overflows": (state(tensor([2**62, 4], [1, 1])), "must be a file of torch.save"),
    "a storage elsewhere": (state(tensor([4], [1], key="../../x")), "must be a file of torch.save"),
    "very many dimensions": (state(tensor([1] * 10**5, [1] * 10**5)), "must have at most 8 dimensions"),
    "a very long name": (state(tensor([4], [1]), key="w" * 10**6), "must not be longer than 512 characters"),
}

CONVERT = """
import sys
from pathlib import Path
from dllm_fast.errors import CheckpointError
from dllm_fast.models.convert import convert

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
    assert "more than 64 tuples" in ended.output


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inside: (
        st.lists(inside, max_size=5) | st.dictionaries(st.text(max_size=5), inside, max_size=5) | st.tuples(inside, inside)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=10), VALUES, max_size=8), st.integers(0, 3), st.booleans())
def test_what_programs_save_is_let_through(values: dict[str, object], tensors: int, is_new: bool) -> None:
    saved = {f"t{i}": torch.ones(i, 2).t() for i in range(tensors)}
    saved["tied"] = next(iter(saved.values()), None)
    what = {
        "epoch": 3,
        "state_dict": OrderedDict(saved),
        "milestones": Counter([1, 1, 2]),
        "kept": values,
        "size": torch.Size([2]),
    }
    file = io.BytesIO()
    torch.save(what, file, _use_new_zipfile_serialization=is_new)
    if is_new:
        with zipfile.ZipFile(file) as opened:
            name = next(name for name in opened.namelist() if name.endswith("/data.pkl"))
            opcodes.check(io.BytesIO(opened.read(name)))
    else:
        file.seek(0)
        opcodes.check(file, pickles=5)
        # What follows is the storages.
        assert len(file.read()) == sum(8 + 8 * i for i in range(1, tensors)) + (8 if tensors else 0)


MUTATE = """
import random, shutil, sys
from pathlib import Path
import torch
from dllm_fast.errors import CheckpointError
from dllm_fast.models.convert import convert

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
        at = generator.randrange(min(len(data), 2000))
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
