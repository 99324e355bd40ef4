"""`convert`: a folder of pickled weights becomes one that `load` opens, without running anything that comes with it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from dllm_fast.checkpoint import foreign, pickles, regular
from dllm_fast.checkpoint.checkpoint import INDEX, SINGLE, TOKENIZER_FILES, Checkpoint, read_index
from dllm_fast.checkpoint.jsonfile import read_json
from dllm_fast.errors import CheckpointError, InvalidValueError, shown
from dllm_fast.loading.arguments import known_dtype
from dllm_fast.loading.prefix import common

if TYPE_CHECKING:
    from collections.abc import Mapping

_PICKLE = "pytorch_model.bin"
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_PICKLE_SHARD = re.compile(r"pytorch_model-(\d{5})-of-(\d{5})\.bin")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}\.(bin|pt|pth)")
# What travels with the weights: data that `load` reads, and who may use it.
_DATA = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)
# Twice this is in memory while a shard is written.
SHARD_BYTES = 2 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What `convert` wrote.

    Attributes:
        folder: where.
        tensors, bytes: number and size of the weights.
        read: the files of weights that were read.
        copied: the other files.
        left_out: names of what stood in the files of weights beside tensors, such as the state of an optimizer.
    """

    folder: Path
    tensors: int
    bytes: int
    read: tuple[str, ...]
    copied: tuple[str, ...]
    left_out: tuple[str, ...]


def convert(
    source: str | Path, out: str | Path, *, dtype: torch.dtype | str | None = None, shard_bytes: int = SHARD_BYTES
) -> Converted:
    """Writes a folder of pickled weights anew with safetensors.

    Tensors are read by a reader of our own, which makes nothing else. Of the other files only configuration, tokenizer,
    card and licence are copied, as they are. Tensors that share memory (a tied head) are each written whole, so that every
    key of the source is there. The result is written beside `out` and moved there when it is complete.

    Args:
        source: a folder with `config.json` and `pytorch_model.bin`, its shards, or one other file of `torch.save`; or the
            path of that file.
        out: a folder that does not exist yet, or is empty.
        dtype: that floating-point tensors get; default: as they are.
        shard_bytes: largest file of weights, except for one tensor that is larger.

    Raises:
        CheckpointError: the source cannot be used; names the file and a remedy.
        InvalidValueError: an argument.
    """
    wanted = None if dtype is None else known_dtype(dtype)
    folder, files = _files(Path(source).expanduser())
    target = _target(folder, Path(out).expanduser())
    config = read_json(folder / "config.json")
    foreign.refuse_quantised_settings(folder, config)
    target.parent.mkdir(parents=True, exist_ok=True)
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        fresh = Path(beside) / target.name
        fresh.mkdir()  # its permissions are the user's usual ones, those of the temporary folder are not
        _write(fresh, _tensors(files, wanted, left_out), shard_bytes)
        copied = _copy(folder, fresh)
        if wanted is not None:
            _say_dtype(fresh / "config.json", config, wanted)
        written = Checkpoint.open(fresh)
        if target.exists():
            target.rmdir()  # empty, as was checked; an error if somebody has filled it meanwhile
        fresh.rename(target)
    return Converted(
        folder=target,
        tensors=len(written.tensors),
        bytes=sum(info.bytes for info in written.tensors.values()),
        read=tuple(file.name for file in files),
        copied=tuple(copied),
        left_out=tuple(dict.fromkeys(left_out)),
    )


def _target(folder: Path, out: Path) -> Path:
    """Where the result goes: a real place outside the source, with nothing in it."""
    if out.is_symlink():
        raise InvalidValueError(f"OUT must be a new folder, got {out}, which is a link; name the place that it leads to")
    try:
        target, inside = out.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name too long, a NUL
        raise InvalidValueError(f"OUT must be a path, got {shown(str(out))}: {error}; name another place") from error
    if target == inside or target.is_relative_to(inside):
        raise InvalidValueError(f"OUT must lie outside {folder}, got {out}; name another place")
    if inside.is_relative_to(target):
        raise InvalidValueError(f"OUT must not hold {folder}, got {out}; name another place")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidValueError(f"OUT must be new or an empty folder, got {out}, which is neither; name another place")
    return target


def _files(source: Path) -> tuple[Path, list[Path]]:
    """The folder, and the files of weights in it."""
    if regular.is_file(source):
        return source.parent, [source]
    if not regular.is_folder(source):
        raise CheckpointError(f"FOLDER must be the folder of config.json and of pickled weights, got {source}; check the path")
    names = regular.names(source)
    if SINGLE in names or INDEX in names:
        raise CheckpointError(
            f"{source} holds {SINGLE if SINGLE in names else INDEX} already, which load opens; leave the conversion out"
        )
    if _PICKLE in names:
        return source, [source / _PICKLE]
    if _PICKLE_INDEX in names:
        weight_map = read_index(source / _PICKLE_INDEX, _PLAIN_NAME, ".bin")
        return source, [source / name for name in sorted(set(weight_map.values()))]
    if shards := [name for name in names if _PICKLE_SHARD.fullmatch(name)]:
        totals = {int(match[2]) for name in shards if (match := _PICKLE_SHARD.fullmatch(name))}
        if totals != {len(shards)}:
            raise CheckpointError(
                f"{source} must hold every shard once, got {len(shards)} files from {shards[0]} to {shards[-1]}; "
                "fetch the missing ones"
            )
        return source, [source / name for name in shards]
    candidates = [name for name in names if pickles.may_hold_weights(name)]
    if len(candidates) > 1:
        listed = ", ".join(shown(name) for name in candidates[:8])
        raise CheckpointError(
            f"{source} must hold {_PICKLE} or one file of weights, got {listed}; pass the path of the one that is the model"
        )
    if not candidates:
        raise CheckpointError(foreign.no_weights(source, names, f"{_PICKLE} or another file of torch.save"))
    return source, [source / candidates[0]]


def _tensors(files: Sequence[Path], dtype: torch.dtype | None, left_out: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the files in memory of its own, one file open at a time."""
    seen: dict[str, str] = {}
    for file in files:
        state = pickles.read(file)
        left_out += state.left_out
        foreign.refuse_quantised_tensors(file.parent, state.tensors)
        # Of shards only all together would tell it; `load` passes over it there.
        wrapper = common(state.tensors) if len(files) == 1 else ""
        for name, tensor in state.tensors.items():
            key = name.removeprefix(wrapper)
            if key in seen:
                raise CheckpointError(
                    f"a tensor must lie in one file, got {shown(key)} in {seen[key]} and {file.name}; fetch both"
                )
            seen[key] = file.name
            read = tensor.read()
            yield key, read if dtype is None or not read.is_floating_point() else read.to(dtype)


def _write(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], shard_bytes: int) -> None:
    """One file, or shards with their index."""
    parts: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    size = total = 0

    def flush() -> None:
        save_file(held, folder / f"part-{len(parts)}", {"format": "pt"})
        parts.append(list(held))
        held.clear()

    for key, tensor in tensors:
        if held and size + tensor.nbytes > shard_bytes:
            flush()
            size = 0
        held[key] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    if len(parts) == 1:
        (folder / "part-0").rename(folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(parts):
        name = f"model-{number + 1:05}-of-{len(parts):05}.safetensors"
        (folder / f"part-{number}").rename(folder / name)
        weight_map |= dict.fromkeys(keys, name)
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _copy(folder: Path, fresh: Path) -> list[str]:
    copied = []
    for name in _DATA:
        path = folder / name
        if not regular.present(path):
            continue
        data = regular.read(path)
        if not _may_lead_to(folder, path.resolve()):
            raise CheckpointError(
                f"{path} must lie in the folder, got a link to {path.resolve()}, which would be copied into OUT; "
                "put the file itself there, or leave it away"
            )
        (fresh / name).write_bytes(data)
        copied.append(name)
    return copied


def _may_lead_to(folder: Path, place: Path) -> bool:
    """Is a file in the folder, or among the blobs of the hub's cache, to which its snapshots are links?"""
    home = folder.resolve()
    return place.is_relative_to(home) or (home.parent.name == "snapshots" and place.parent == home.parents[1] / "blobs")


def _say_dtype(path: Path, config: Mapping[str, object], dtype: torch.dtype) -> None:
    """The copied config says the dtype of the source, under a name that depends on the version of transformers."""
    names = [name for name in ("dtype", "torch_dtype") if name in config]
    if names:
        new = dict(config) | dict.fromkeys(names, str(dtype).removeprefix("torch."))
        path.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
