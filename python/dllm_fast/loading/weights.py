"""From the tensors of a checkpoint to the parameters of a network, each copied once to where it stays."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from dllm_fast.checkpoint import memory
from dllm_fast.checkpoint.checkpoint import IN_LAYER
from dllm_fast.checkpoint.reading import Weights
from dllm_fast.errors import CheckpointError
from dllm_fast.loading.spare import is_constant
from dllm_fast.networks import quantise
from dllm_fast.ops.quantise import E4M3

if TYPE_CHECKING:
    from torch import nn

    from dllm_fast.checkpoint.checkpoint import Checkpoint

# Kept in float32 whatever the dtype of the model, as the published classes do: they decide which experts are chosen.
_FLOAT32 = re.compile(r".*\.router\.bias")
_SHOWN = 5


def fill(
    network: nn.Module,
    checkpoint: Checkpoint,
    pieces: Mapping[str, Sequence[str]],
    harmless: Iterable[str],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Gives every parameter of a network that was built on the meta device its values.

    Everything is compared with the headers before the first byte is copied. At any time at most one parameter is in
    memory besides those that are finished, so the peak is the network itself plus a piece of a few megabytes.

    Args:
        pieces: for every parameter, the keys whose rows make it, in order.
        harmless: patterns of keys that may be in the files without being used, because no logit depends on them.

    Raises:
        CheckpointError: keys are missing or not expected, a shape is not that of the config, a constant is not what the
            network computes in its place, or there is not memory enough.
    """
    wanted = dict(network.named_parameters())
    _check_keys(network, checkpoint, pieces, harmless)
    for name, parameter in wanted.items():
        _check_shapes(checkpoint, pieces[name], parameter)
    kinds = {name: _kept(name, parameter, dtype) for name, parameter in wanted.items()}
    if device.type == "cpu":
        needed = sum(parameter.numel() * kinds[name].itemsize for name, parameter in wanted.items())
        memory.check(f"the model of {checkpoint.folder} in {dtype}", needed)
    state = {}
    with Weights() as files:
        for name, parameter in wanted.items():
            with memory.allocated(f"{name} of the model of {checkpoint.folder}", parameter.numel() * kinds[name].itemsize):
                target, scale = _filled(parameter, checkpoint, files, pieces[name], dtype=kinds[name], device=device)
            state[name] = target
            if scale is not None:
                state[quantise.scale_name(name)] = scale
    network.load_state_dict(state, strict=False, assign=True)
    network.eval().requires_grad_(False)


def _filled(
    parameter: torch.Tensor,
    checkpoint: Checkpoint,
    files: Weights,
    keys: Sequence[str],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The values of one parameter, and the scales of its rows where it is held in 8 bits."""
    target = torch.empty(parameter.shape, dtype=dtype, device=device)
    scale = torch.empty(target.shape[:-1], device=device) if dtype == E4M3 else None
    width = target.shape[-1]
    rows = target.view(-1, width) if target.dim() > 2 else target
    place = 0
    for key in keys:
        shape = checkpoint.tensors[key].shape
        count = math.prod(shape[:-1]) if len(shape) > 2 else shape[0]
        if scale is None:
            checkpoint.copy(key, rows[place : place + count].view(shape), files)
        else:
            for begin, piece in checkpoint.pieces(key, width, files):
                first = place + begin // width
                lines = slice(first, first + len(piece) // width)
                quantise.store(piece.view(-1, width), rows[lines], scale.view(-1)[lines])
        place += count
    return target, scale


def _kept(name: str, parameter: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    """In which dtype a parameter stays."""
    if parameter.dtype == E4M3:
        return E4M3
    return torch.float32 if _FLOAT32.fullmatch(name) else dtype


def _check_keys(
    network: nn.Module, checkpoint: Checkpoint, pieces: Mapping[str, Sequence[str]], harmless: Iterable[str]
) -> None:
    used = {key for name, _ in network.named_parameters() for key in pieces[name]}
    missing = sorted(used - checkpoint.tensors.keys())
    if ignored := [key for key in missing if key in checkpoint.ignored]:
        raise CheckpointError(
            f"ignore_keys must leave out only what the model of {checkpoint.folder} does not need, got {_some(ignored)}; "
            "leave its parameters in"
        )
    if missing:
        raise CheckpointError(
            f"{checkpoint.folder} must hold a tensor for every part of the model, got none for {_some(missing)}; "
            "is config.json the one of these weights?"
        )
    spare = [re.compile(pattern) for pattern in harmless]
    others = sorted(key for key in checkpoint.tensors.keys() - used if not any(p.fullmatch(key) for p in spare))
    if unknown := [key for key in others if not is_constant(checkpoint, key, network)]:
        file = checkpoint.tensors[unknown[0]].file.name
        raise CheckpointError(
            f"{file} in {checkpoint.folder} holds {_some(unknown)}, which the model of this config.json does not have; "
            f"is config.json the one of these weights?{_advice(unknown, used, checkpoint.prefix)}"
        )


def _advice(keys: Sequence[str], used: Collection[str], prefix: str) -> str:
    """What to pass as `ignore_keys` to leave out a further head; nothing for parts of layers, which are never one.

    A pattern stands for keys of one place where the model uses none of that place; else the key itself does.
    """
    if any(IN_LAYER.search(key) for key in keys):
        return ""

    taken = {key[: dot.start()] for key in used for dot in re.finditer(r"\.", key)}

    def pattern(key: str) -> str:
        place = key.rpartition(".")[0]
        is_free = place and place not in taken
        return f"{glob.escape(prefix + place)}.*" if is_free else glob.escape(prefix + key)

    groups = list(dict.fromkeys(map(pattern, keys)))
    return f" Where they are not needed, as another head is not, pass ignore_keys={groups}"


def _check_shapes(checkpoint: Checkpoint, keys: Sequence[str], parameter: torch.Tensor) -> None:
    stacked = parameter.dim() > 2
    shape = (parameter.shape[0] * parameter.shape[1], *parameter.shape[2:]) if stacked else tuple(parameter.shape)
    found = [checkpoint.tensors[key].shape for key in keys]
    if found == [tuple(parameter.shape)]:
        return  # as it is, a stack or not
    fits = all(len(f) == len(shape) and f[1:] == shape[1:] for f in found) and sum(f[0] for f in found) == shape[0]
    if not fits:
        info = checkpoint.tensors[keys[0]]
        raise CheckpointError(
            f"{info.file.name} in {checkpoint.folder}: {_some(list(keys))} must make up {list(shape)} by config.json, "
            f"got {', '.join(str(list(f)) for f in found[:_SHOWN])}; is config.json the one of these weights?"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
