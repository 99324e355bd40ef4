"""Tensors of a file that `torch.save` wrote, read without running anything: only for `dllm-fast convert`, never for `load`."""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import re
import tarfile
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from dllm_fast.errors import CheckpointError, shown
from dllm_fast.models import memory, opcodes, regular

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
# How a file begins that Git has in the place of a large one, and how a zip archive does.
_POINTER = b"version https://git-lfs"
_ARCHIVE = b"PK\x03\x04"
# Below it, a file can write outside its memory or run code in spite of weights_only=True: CVE-2025-32434, CVE-2026-24747.
SAFE = "2.10"
# In the format from before the archives: a number, a version, the system, the values, and the names of their storages.
_OLD_PICKLES = 5
# Tensors are written whole, also those that share memory: tied ones, of which models have up to four.
_MOST_SHARED = 8
_FEW_BYTES = 64 << 20
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)


class State(NamedTuple):
    """The tensors of one file, by key, and the names of what else it held."""

    tensors: dict[str, torch.Tensor]
    left_out: tuple[str, ...]


def may_hold_weights(name: str) -> bool:
    """Is a file of this name a pickle that may hold a model?"""
    return name.endswith(SUFFIXES) and not _BESIDE.fullmatch(name)


def read(path: Path) -> State:
    """The tensors of a file, mapped where its format allows.

    `torch.load` is called with `weights_only=True`, which makes tensors and plain containers and refuses every other
    object; not with versions of torch where that does not hold. The two formats that the oldest of them read without that
    rule are refused by name.

    Raises:
        CheckpointError: a torch that is not safe, no file of torch, more than tensors in it, or tensors of a kind that `load`
            does not open.
    """
    if torch.__version__ < SAFE:
        raise CheckpointError(
            f"{path} must be read by torch {SAFE} or later, got torch {torch.__version__}, in which a pickle can do harm even "
            "where only tensors are asked for; convert it with a newer one: load opens the result with any"
        )
    loaded = _loaded(path)
    tensors, left_out = _unwrapped(path, loaded)
    tensors = _without_wrappers(tensors)
    for key, tensor in tensors.items():
        _check(path, key, tensor)
    _check_sizes(path, tensors)
    return State(tensors, left_out)


def _loaded(path: Path) -> object:
    with regular.opened(path) as file:
        return _torch_load(path, file)


def _torch_load(path: Path, file: regular.File) -> object:
    """What torch makes of a file: on Linux of the very one that was checked, whatever its name leads to by now."""
    try:
        first = file.read(len(_POINTER))
        same = file.again
        if first == _POINTER:
            raise CheckpointError(
                f"{path} must hold weights, got a pointer of Git LFS to them; run `git lfs pull` in its folder"
            )
        archive = first.startswith(_ARCHIVE)
        # torch < 2.6 unpickled a tar archive, and ran a TorchScript archive, even under weights_only=True.
        if not archive and tarfile.is_tarfile(same):
            raise CheckpointError(
                f"{path} must be in torch's format of today, got a tar archive, which can run code; "
                "ask its publisher for safetensors"
            )
        if archive:
            _check_archive(path, same, file.size)
        else:
            memory.check(str(path), file.size)
            with open(same, "rb") as buffered:
                opcodes.check(buffered, pickles=_OLD_PICKLES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about the pickle's version
            # A file from before the archives cannot be mapped.
            with _containers():
                return torch.load(same, map_location="cpu", weights_only=True, mmap=archive)
    except CheckpointError:
        raise
    except opcodes.CostlyError as error:
        raise CheckpointError(
            f"{path} must be read in proportion to its length, got {error}; fetch it again, or do not use it"
        ) from error
    except opcodes.UnknownError as error:
        raise CheckpointError(
            f"{path} must hold tensors only, got {error}, so nothing of it was read; "
            "ask its publisher for safetensors, or for the state dict alone"
        ) from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = shown(found[1]) if found else "other objects"
        raise CheckpointError(
            f"{path} must hold tensors only, got {what}: unpickling that can run any code, so nothing of it was read; "
            "ask its publisher for safetensors, or for the state dict alone"
        ) from error
    except Exception as error:  # torch raises many kinds for a broken file
        first_line = str(error).splitlines()[0] if str(error) else ""
        raise CheckpointError(
            f"{path} must be a file of torch.save, got {type(error).__name__}: {first_line[:200]}; fetch it again"
        ) from error


def _check_archive(path: Path, same: str, size: int) -> None:
    """Looks at an archive as torch's own reader sees it, so that no file can show one list here and another there."""
    archive = torch._C.PyTorchFileReader(same)
    names = archive.get_all_records()
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} must hold tensors, got a TorchScript archive, which is a program; ask its publisher for safetensors"
        )
    held = sum(archive.get_record_size(name) for name in names)
    if held > size:
        raise CheckpointError(
            f"{path} must hold what is in it as it is, got {held:,} bytes in a file of {size:,}, as compressed ones have; "
            "write it with torch.save"
        )
    opcodes.check(io.BytesIO(archive.get_record("data.pkl")))


def _containers() -> contextlib.AbstractContextManager[object]:
    """Lets `torch.load` make the settings of fairseq and Lightning, a Namespace: a class that holds names and does nothing."""
    return torch.serialization.safe_globals([argparse.Namespace])


def _unwrapped(path: Path, loaded: object) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The mapping that holds the tensors, and the names of everything that stood beside it."""
    left_out: list[str] = []
    for _ in range(_DEEPEST):
        if not isinstance(loaded, Mapping):
            break
        if any(isinstance(value, torch.Tensor) for value in loaded.values()):
            left_out += [str(name) for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
            tensors = {key: value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
            if wrong := [key for key in tensors if not isinstance(key, str)]:
                raise CheckpointError(f"{path} must name its tensors by strings, got {shown(wrong[0])}; it holds no model")
            return tensors, tuple(left_out)
        inside = [name for name in _INSIDE if isinstance(loaded.get(name), Mapping)]
        if len(inside) > 1:
            raise CheckpointError(
                f"{path} must hold one model, got {shown(inside[0])} and {shown(inside[1])}; save one of them alone"
            )
        if not inside:
            break
        left_out += [str(name) for name in loaded if name != inside[0]]
        loaded = loaded[inside[0]]
    what = ", ".join(shown(name) for name in list(loaded)[:8]) if isinstance(loaded, Mapping) else type(loaded).__name__
    raise CheckpointError(
        f"{path} must hold tensors by name, bare or under one of {', '.join(_INSIDE)}, got {what or 'nothing'}; "
        "save the state dict of the model"
    )


def _without_wrappers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    while prefix := next((p for p in _WRAPPERS if tensors and all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _check(path: Path, key: str, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "quantised" if tensor.is_quantized else "empty (meta)" if tensor.is_meta else str(tensor.layout)
        raise CheckpointError(f"{path}: {shown(key)} must be a dense tensor, got a {kind} one; save the plain weights")
    if tensor.dtype not in _DTYPES:
        raise CheckpointError(
            f"{path}: {shown(key)} must be of one of the types {', '.join(str(d).removeprefix('torch.') for d in _DTYPES)}, "
            f"got {tensor.dtype}; quantised checkpoints are not supported, use the float16, bfloat16 or float32 one"
        )


def _check_sizes(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """A tensor can repeat its memory, and many can share it: then a small file would become a large one."""
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    written = sum(tensor.nbytes for tensor in tensors.values())
    if written > max(_MOST_SHARED * sum(held.values()), _FEW_BYTES):
        raise CheckpointError(
            f"{path} must hold tensors of at most {_MOST_SHARED} times its memory, got {written:,} bytes that share "
            f"{sum(held.values()):,}; save them with .contiguous()"
        )
