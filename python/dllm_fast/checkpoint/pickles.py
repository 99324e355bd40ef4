"""Tensors of a file that `torch.save` wrote, read without running anything: only for `dllm-fast convert`, never for `load`.

torch's own reader is not asked: it makes what a pickle tells it to make, if only of some kinds, and has had faults.
`opcodes.py` finds what the pickle describes, and the numbers are read from their places in the file, which must hold them.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import torch

from dllm_fast.checkpoint import memory, regular
from dllm_fast.checkpoint.opcodes import BrokenError, Key, OddTensor, Storage, Stored, TooMuchError, UnknownError, value
from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Written beside the weights by training; none of them holds the model.
_BESIDE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states?)[\w.-]*")
# Where training programs keep the tensors inside what they save.
_INSIDE = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
_DEEPEST = 4
# Put before every key by the wrappers for several devices and for compilation.
_WRAPPERS = ("module.", "_orig_mod.")
# How a file begins that Git has in the place of a large one, how a zip archive does, and what stands in a tar archive.
_POINTER = b"version https://git-lfs"
_ARCHIVE = b"PK\x03\x04"
_TAR, _TAR_PLACE = b"ustar", 257
# Of an archive's pickle; that of 100,000 tensors has 20 MB.
_LARGEST_PICKLE = 64_000_000
# The first pickle of the format from before the archives.
_MAGIC = 0x1950A86A20F9469CFC6C
# Tensors are written whole, also those that share memory: tied ones, of which models have up to four.
_MOST_SHARED = 8
_FEW_BYTES = 64 << 20
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)


class Place(NamedTuple):
    """Where the bytes of a storage lie in the file."""

    begin: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor of the file, whose numbers are read when they are asked for."""

    path: Path
    stamp: regular.Stamp
    stored: Stored
    place: Place

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers."""
        return self.stored.dtype

    @property
    def numel(self) -> int:
        """How many they are."""
        return math.prod(self.stored.size)

    def read(self) -> torch.Tensor:
        """The tensor, in memory of its own.

        Raises:
            CheckpointError: the file is not as it was, or memory is out.
        """
        stored, width = self.stored, self.dtype.itemsize
        span = _span(stored)
        memory.check(f"{self.path}: a tensor of {list(stored.size)}", span * width)
        data = torch.empty(span * width, dtype=torch.uint8)
        with regular.opened(self.path) as file:
            if file.stamp != self.stamp:
                raise CheckpointError(
                    f"{self.path} must stay as it is while it is read; convert it again when nobody writes it"
                )
            first = self.place.begin + (stored.storage.begin * stored.storage.dtype.itemsize) + stored.offset * width
            file.fill(data.numpy().data, first)
        return data.view(self.dtype).as_strided(stored.size, stored.stride).contiguous()


class State(NamedTuple):
    """The tensors of one file, by key, and the names of what else it held."""

    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]


def may_hold_weights(name: str) -> bool:
    """Is a file of this name a pickle that may hold a model?"""
    return name.endswith(SUFFIXES) and not _BESIDE.fullmatch(name)


def read(path: Path) -> State:
    """The tensors of a file: an archive, or the format from before those.

    Raises:
        CheckpointError: no file of torch, more than tensors in it, or tensors of a kind that `load` does not open.
    """
    with regular.opened(path) as file:
        try:
            loaded, places = _read(path, file)
            found, left_out = _unwrapped(path, loaded)
            found = _without_wrappers(found)
            tensors = {key: _checked(path, file, places, key, stored) for key, stored in found.items()}
        except CheckpointError:
            raise
        except UnknownError as error:
            raise CheckpointError(
                f"{path} must hold tensors only, got {error}: unpickling that can run any code, so nothing of it was read; "
                "ask its publisher for safetensors, or for the state dict alone"
            ) from error
        except TooMuchError as error:
            raise CheckpointError(f"{path} must hold the weights of a model, got {error}; save its state dict alone") from error
        # Of the libraries that read archives and pickles, for broken files.
        except (
            BrokenError,
            zipfile.BadZipFile,
            struct.error,
            OSError,
            ValueError,
            OverflowError,
            EOFError,
            RuntimeError,
        ) as error:
            said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise CheckpointError(f"{path} must be a file of torch.save, got a broken one: {said}; fetch it again") from error
        _check_sizes(path, file.size, tensors)
    return State(tensors, left_out)


# From a storage to where it lies, or None where it does not.
_Places = Callable[[Storage], Place | None]


def _read(path: Path, file: regular.File) -> tuple[Any, _Places]:
    first = file.read(_TAR_PLACE + len(_TAR))
    if first.startswith(_POINTER):
        raise CheckpointError(f"{path} must hold weights, got a pointer of Git LFS to them; run `git lfs pull` in its folder")
    if first[_TAR_PLACE:] == _TAR:
        raise CheckpointError(
            f"{path} must be in torch's format of today, got a tar archive, which can run code; "
            "ask its publisher for safetensors"
        )
    with open(file.again, "rb") as buffered:
        return _archive(path, file, buffered) if first.startswith(_ARCHIVE) else _old_format(file, buffered)


def _archive(path: Path, file: regular.File, buffered: IO[bytes]) -> tuple[Any, _Places]:
    entries = zipfile.ZipFile(buffered).infolist()
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise CheckpointError(
            f"{path} must hold tensors, got a TorchScript archive, which is a program; ask its publisher for safetensors"
        )
    held = sum(entry.file_size for entry in entries)
    if held > file.size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path} must hold what is in it as it is, got {held:,} bytes in a file of {file.size:,}, as compressed ones have; "
            "write it with torch.save"
        )
    by_name: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        if entry.filename in by_name:
            raise BrokenError(f"two entries of one name, {shown(entry.filename)}")
        by_name[entry.filename] = entry
    pickled = [name for name in by_name if re.fullmatch(r"[^/]*/data\.pkl", name)]
    if len(pickled) != 1:
        raise BrokenError(f"{len(pickled)} entries data.pkl")
    top = pickled[0].removesuffix("data.pkl")

    def content(name: str, largest: int) -> bytes:
        place = _content(file, by_name[name])
        if place.length > largest:
            raise TooMuchError(f"{name} of {place.length:,} bytes")
        buffered.seek(place.begin)
        return buffered.read(place.length)

    if f"{top}byteorder" in by_name and content(f"{top}byteorder", 100) != b"little":
        raise UnknownError("numbers of another byte order than little")
    data = content(pickled[0], _LARGEST_PICKLE)
    loaded, _ = value(io.BytesIO(data), len(data))

    def place(storage: Storage) -> Place | None:
        entry = by_name.get(f"{top}data/{storage.key}")
        return None if entry is None else _content(file, entry)

    return loaded, place


def _content(file: regular.File, entry: zipfile.ZipInfo) -> Place:
    """Where the bytes of an entry lie: behind a header that says its own length."""
    header = bytearray(30)
    if not 0 <= entry.header_offset <= file.size - len(header):
        raise BrokenError("an entry outside the file")
    file.fill(memoryview(header), entry.header_offset)
    if not header.startswith(_ARCHIVE):
        raise BrokenError("an entry without a header")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    begin = entry.header_offset + len(header) + name + extra
    if begin + entry.file_size > file.size:
        raise BrokenError("an entry that ends behind the end")
    return Place(begin, entry.file_size)


def _old_format(file: regular.File, buffered: IO[bytes]) -> tuple[Any, _Places]:
    """Five pickles, then each storage: the number of its elements in 8 bytes, and these."""
    magic, _ = value(buffered, file.size)
    if not isinstance(magic, int) or magic != _MAGIC:
        raise UnknownError("a pickle that torch.save did not write")
    value(buffered, file.size)  # of its protocol
    system, _ = value(buffered, file.size)
    loaded, dtypes = value(buffered, file.size)
    keys, _ = value(buffered, file.size)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnknownError("numbers of another byte order than little")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BrokenError("no list of its storages")
    places: dict[str, Place] = {}
    at = buffered.tell()
    for key in keys:
        count = bytearray(8)
        if at + len(count) > file.size:
            raise EOFError("no end of its storages")
        file.fill(memoryview(count), at)
        if key not in dtypes or key in places:
            raise BrokenError(f"a storage {shown(key)} that no tensor has, or twice")
        length = int.from_bytes(count, "little") * dtypes[key].itemsize
        places[key] = Place(at + len(count), length)
        at += len(count) + length
    if at > file.size:
        raise EOFError("no end of its storages")
    return loaded, lambda storage: places.get(storage.key)


def _unwrapped(path: Path, loaded: Any) -> tuple[dict[str, Stored | OddTensor], tuple[str, ...]]:
    """The mapping that holds the tensors, and the names of everything that stood beside it."""
    left_out: list[str] = []
    for _ in range(_DEEPEST):
        if not isinstance(loaded, dict):
            break
        tensors = {key: found for key, found in loaded.items() if isinstance(found, Stored | OddTensor)}
        if tensors:
            left_out += [str(name) for name in loaded if name not in tensors]
            if wrong := next((key for key in tensors if isinstance(key, Key)), None):
                raise CheckpointError(f"{path} must name its tensors by strings, got {wrong}; it holds no model")
            return tensors, tuple(left_out)
        inside = [name for name in _INSIDE if isinstance(loaded.get(name), dict)]
        if len(inside) > 1:
            raise CheckpointError(
                f"{path} must hold one model, got {shown(inside[0])} and {shown(inside[1])}; save one of them alone"
            )
        if not inside:
            break
        left_out += [str(name) for name in loaded if name != inside[0]]
        loaded = loaded[inside[0]]
    if isinstance(loaded, dict):
        what = ", ".join(str(name) if isinstance(name, Key) else shown(name) for name in list(loaded)[:8]) or "nothing"
    else:
        what = "Tensor" if isinstance(loaded, Stored | OddTensor) else type(loaded).__name__
    raise CheckpointError(
        f"{path} must hold tensors by name, bare or under one of {', '.join(_INSIDE)}, got {what}; "
        "save the state dict of the model"
    )


def _without_wrappers(tensors: dict[str, Stored | OddTensor]) -> dict[str, Stored | OddTensor]:
    while prefix := next((p for p in _WRAPPERS if tensors and all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _checked(path: Path, file: regular.File, places: _Places, key: str, stored: Stored | OddTensor) -> Tensor:
    """A tensor whose numbers are all in the file."""
    name = f"{path}: {shown(key)}"
    if not key.isascii() and any("\ud800" <= character <= "\udfff" for character in key):
        raise CheckpointError(f"{name} must be a name that can be written as UTF-8; it holds no model")
    if isinstance(stored, OddTensor):
        raise CheckpointError(f"{name} must be a dense tensor, got {stored.kind}; save the plain weights")
    if stored.dtype not in _DTYPES:
        raise CheckpointError(
            f"{name} must be of one of the types {', '.join(str(d).removeprefix('torch.') for d in _DTYPES)}, "
            f"got {stored.dtype}; quantised checkpoints are not supported, use the float16, bfloat16 or float32 one"
        )
    place = places(stored.storage)
    first = stored.storage.begin * stored.storage.dtype.itemsize
    needed = first + (stored.offset + _span(stored)) * stored.dtype.itemsize
    if place is None or needed > place.length:
        raise CheckpointError(
            f"{name} must lie in the file, needs {needed:,} bytes of a storage of {0 if place is None else place.length:,}; "
            "fetch it again"
        )
    return Tensor(path, file.stamp, stored, place)


def _span(stored: Stored) -> int:
    """Elements from the first of a tensor to its last."""
    if 0 in stored.size:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(stored.size, stored.stride, strict=True))


def _check_sizes(path: Path, size: int, tensors: Mapping[str, Tensor]) -> None:
    """A tensor can repeat its memory or pass over most of it, and many can share it: then a small file would be much work."""
    written = sum(tensor.numel * tensor.dtype.itemsize for tensor in tensors.values())
    read = sum(_span(tensor.stored) * tensor.dtype.itemsize for tensor in tensors.values())
    for found in (written, read):
        if found > max(_MOST_SHARED * size, _FEW_BYTES):
            raise CheckpointError(
                f"{path} must hold tensors of at most {_MOST_SHARED} times its size, got {found:,} bytes in {size:,}, "
                "which share memory; save them with .contiguous()"
            )
