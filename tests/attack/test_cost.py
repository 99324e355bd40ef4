"""What a folder costs grows with its size and not with its square, and ten thousand loads leave nothing behind.

Long form: GROWTH_LOADS=10000 opens a whole model so many times.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_files import header, outcomes, write

import checkpoints
import limited

# Loads each folder twice and prints the processor's seconds of the faster.
MEASURE = """
import sys, time
from pathlib import Path
import torch
import dllm_fast
from dllm_fast import errors
torch.set_num_threads(1)
def seconds(folder):
    begin = time.process_time()
    try:
        if folder.name.startswith("adapter"):
            dllm_fast.load(folder.parent / "base", adapter=folder)
        else:
            dllm_fast.load(folder)
    except errors.DllmFastError:
        pass
    return time.process_time() - begin
seconds(Path(sys.argv[1]))
for path in sys.argv[1:]:
    print(min(seconds(Path(path)) for _ in range(2)))
"""


def with_empty(folder: Path, keys: list[str]) -> None:
    """The plain folder with tensors without numbers."""
    write(folder, "plain")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {key: torch.empty(0) for key in keys}, folder / "model.safetensors")


def heads(folder: Path, n: int) -> None:
    """Tensors that the model does not have, in places of their own."""
    with_empty(folder, [f"extra{i}.w.x" for i in range(n)])


def positions(folder: Path, n: int) -> None:
    """Constants that are compared with what is computed."""
    with_empty(folder, [f"m{i}.position_ids" for i in range(n)])


def layers(folder: Path, n: int) -> None:
    """A model of so many layers."""
    write(folder, "plain")
    tensors = load_file(folder / "model.safetensors")
    first = {key: tensor for key, tensor in tensors.items() if ".blocks.0." in key}
    many = {key.replace(".0.", f".{i}."): tensor.clone() for key, tensor in first.items() for i in range(n)}
    save_file({key: tensor for key, tensor in tensors.items() if ".blocks." not in key} | many, folder / "model.safetensors")
    checkpoints.change_config(folder, n_layers=n)


def index(folder: Path, n: int) -> None:
    """An index of more keys than there are."""
    write(folder, "shards")
    place = folder / "model.safetensors.index.json"
    names = {f"key{i}": "model-00001-of-00002.safetensors" for i in range(n)}
    checkpoints.write_json(place, {"weight_map": names})


def added(folder: Path, n: int) -> None:
    """Tokens that the settings add, some of them special."""
    write(folder, "plain")
    tokens = {str(260 + i): {"content": f"<extra_{i}>", "special": i % 2 == 0} for i in range(n)}
    checkpoints.write_tokenizer(folder, added_tokens_decoder=tokens, additional_special_tokens=[f"<extra_{n - 1}>"])


def words(folder: Path, n: int) -> None:
    """A list of tokens, one a line."""
    write(folder, "bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(n))]))


def adapter(folder: Path, n: int) -> None:
    """Ranks by pattern: a tenth of the layers has one."""
    write(folder, "adapter")
    place = "base_model.model.bert.encoder.layer"
    pairs = {f"{place}.{i}.q.lora_{part}.weight": torch.ones(2, 2) for i in range(n) for part in "AB"}
    save_file(pairs, folder / "adapter_model.safetensors")
    patterns = {f"layer.{i}.k": 3 for i in range(20)}
    checkpoints.write_json(
        folder / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": patterns}
    )


KINDS: dict[Callable[[Path, int], None], int] = {
    heads: 2500,
    positions: 300,
    layers: 60,
    index: 10_000,
    added: 2000,
    words: 20_000,
    adapter: 500,
}


def test_four_times_the_folder_is_no_more_than_some_four_times_the_work(tmp_path: Path) -> None:
    """With the mistake it is 16 times as much, or minutes: 8,000 added tokens took 25.6 s, 1,200 ranks by pattern 63 s."""
    folders = []
    for kind, n in KINDS.items():
        for size in (n, 4 * n):
            folders.append(tmp_path / f"{kind.__name__}-{size}")
            kind(folders[-1], size)
    ended = limited.run(MEASURE, *folders, seconds=120)
    assert ended.code == 0, (ended.output, ended.errors[-3000:])
    seconds = list(map(float, ended.output.split()))
    for kind, small, large in zip(KINDS, seconds[::2], seconds[1::2], strict=True):
        assert large < 9 * max(small, 0.02), f"{kind.__name__}: {small:.3f} s, four times as many {large:.3f} s"


def test_counts_that_no_model_has_are_refused_at_once(tmp_path: Path) -> None:
    """40,000 layers of tensors without numbers took 37 s; a header, an index and patterns that nobody needs are refused."""
    for name in ("layers", "tensors", "key"):
        write(tmp_path / name, "plain")
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header(tmp_path / "layers" / "model.safetensors", {f"model.layers.{i}.x": entry for i in range(40_000)}, 0)
    checkpoints.change_config(tmp_path / "layers", n_layers=40_000)
    header(tmp_path / "tensors" / "model.safetensors", {str(i): entry for i in range(262_145)}, 0)
    header(tmp_path / "key" / "model.safetensors", {"x" * 1000: entry}, 0)
    write(tmp_path / "adapter", "adapter")
    patterns = {f"layer.{i}": 1 for i in range(100_000)}
    name = "base_model.model.bert.encoder.layer"
    pairs = {f"{name}.{i}.lora_{part}.weight": {**entry, "shape": [0, 0]} for i in range(100) for part in "AB"}
    header(tmp_path / "adapter" / "adapter_model.safetensors", pairs, 0)
    checkpoints.write_json(
        tmp_path / "adapter" / "adapter_config.json", {"peft_type": "LORA", "r": 1, "rank_pattern": patterns}
    )
    found = list(outcomes(*(tmp_path / name for name in ("layers", "tensors", "key", "adapter")), seconds=30))
    for (how, said), expected in zip(
        found,
        (
            "n_layers in config.json must be at most 1024 for the 40000 tensors",
            "must not hold more than 262,144 tensors, got 262,145",
            "a key must not be longer than 512 characters",
            "rank_pattern must not hold more than 40000 entries for 100 layers",
        ),
        strict=True,
    ):
        assert how == "refused"
        assert expected in said


# Opens a folder many times; prints what the process holds at a fifth of them, at three fifths and at the end.
GROWTH = """
import gc, os, sys
import torch
torch.set_num_threads(1)
from dllm_fast import load
from dllm_fast.checkpoint.checkpoint import Checkpoint
folder, count, whole = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "whole"
def held():
    gc.collect()
    status = open("/proc/self/status").read()
    return [int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "Threads")] + [len(os.listdir("/proc/self/fd"))]
for i in range(1, count + 1):
    if whole:
        load(folder)
    else:
        opened = Checkpoint.open(folder)
        for key in opened.tensors:
            opened.read(key)
    if i in (count // 5, count * 3 // 5, count):
        print(*held(), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_many_loads_leave_nothing_behind(tmp_path: Path) -> None:
    """Each load through safetensors' `safe_open` left memory behind; the figures are KiB, threads and descriptors."""
    folder = write(tmp_path / "x", "plain")
    loads = int(os.environ.get("GROWTH_LOADS", "0"))
    for count, kind in ((1500, "weights"), (loads, "whole")):
        if not count:
            continue
        ended = limited.run(GROWTH, folder, count, kind, seconds=60 + count)
        assert ended.code == 0, ended.errors[-3000:]
        first, middle, last = (list(map(int, line.split())) for line in ended.output.splitlines())
        print(kind, count, first, middle, last)
        # What tokenizers and torch keep of whole models comes to 200 bytes a load.
        assert last[0] - first[0] < 600 + count * 0.35 * (kind == "whole"), (first, middle, last)
        assert last[1:] == first[1:], (first, middle, last)
