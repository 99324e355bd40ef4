"""Arguments of `load`: its own, and those that people know from `from_pretrained`, understood or answered with the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.nearest import nearest
from dllm_fast.networks import quantise as eight_bits
from dllm_fast.networks.visible import RULES
from dllm_fast.records import scalar
from dllm_fast.settings.aliases import ALIASES
from dllm_fast.settings.config import SamplerConfig

# A canvas is known by its own network alone.
_SEEN = tuple(name for name, rule in RULES.items() if not rule.has_canvas)
OVERRIDES = ("mask_token_id", "shift", "block_length", "attention", "eos_token_ids", "family")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Where a model may lie. Kernels are for CUDA; on the others its networks are plain torch, and the sampler is on the host.
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_ELSEWHERE = "open it with transformers and pass the model to sample"
_ONE_DEVICE = "a model lies on one device here; pass device='cuda' or device='cpu' (device_map='cuda' is understood as that)"
_QUANTISED = f"weights are quantised by quantise='fp8' alone; pass that or dtype='bfloat16', or {_ELSEWHERE}"
_OFFLOAD = "weights are mapped from the files and copied once to one device, nothing is offloaded; leave it out"
# Arguments of from_pretrained that mean something else than what is done here, when they are neither None nor False.
_ANSWERS: Mapping[str, str] = {
    "load_in_8bit": _QUANTISED,
    "load_in_4bit": _QUANTISED,
    "quantization_config": _QUANTISED,
    "gguf_file": "files of llama.cpp are not opened; use the safetensors checkpoint that it was made from",
    "from_tf": "save the weights as safetensors with transformers first",
    "from_flax": "save the weights as safetensors with transformers first",
    "max_memory": _ONE_DEVICE,
    "offload_folder": _OFFLOAD,
    "offload_buffers": _OFFLOAD,
    "offload_state_dict": _OFFLOAD,
    "tp_plan": _ONE_DEVICE,
    "tp_size": _ONE_DEVICE,
    "device_mesh": _ONE_DEVICE,
    "variant": "the weights must be named model.safetensors; put this variant into a folder of its own under that name",
    "config": "settings come from config.json; change that file, or pass the overrides of load",
    "state_dict": "weights come from the files; write them with safetensors",
    "key_mapping": "keys are those of the family; write the weights under them",
    "ignore_mismatched_sizes": "every shape must be that of config.json; correct it, or leave keys out with ignore_keys=",
    "output_loading_info": "every key is used or named in an error; leave it out",
    "code_revision": "no code of the folder is used; leave it out",
    "proxies": "set HTTPS_PROXY in the environment",
    "mirror": "set HF_ENDPOINT in the environment",
}
# Arguments that change nothing, whatever they say, and why.
_FULFILLED: Mapping[str, str] = {
    "attn_implementation": "attention is that of dllm_fast",
    "low_cpu_mem_usage": "weights are mapped and copied once",
    "use_safetensors": "only safetensors are opened",
    "weights_only": "only safetensors are opened",
    "resume_download": "downloads go on where they stopped",
    "use_cache": "the cache is a setting of sample",
}
# Arguments of `load` that it reads itself.
_FIRST = ("dtype", "device", "revision", "adapter", "ignore_keys", "quantise")
_HUB = ("token", "cache_dir", "local_files_only", "force_download", "subfolder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What was asked of `load`.

    Attributes:
        dtype: None for that of the files.
        device: where the weights go.
        quantise: how the weights of the blocks are quantised, or None.
        hub: arguments of `locate`.
        overrides: over what the checkpoint and the table of families say.
        notes: what `explain` says about them.
    """

    dtype: torch.dtype | None
    device: torch.device
    quantise: str | None = None
    hub: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def understand(
    dtype: torch.dtype | str | None,
    device: str | torch.device | int | None,
    named: Mapping[str, Any],
    quantise: str | None = None,
) -> Arguments:
    """Reads the arguments of `load`.

    Args:
        named: those by further names.

    Raises:
        InvalidValueError, InvalidTypeError: a value, two that contradict each other, or a name that is not known.
    """
    left = {name: scalar(value) for name, value in named.items()}
    kind = _dtype(dtype, left.pop("torch_dtype", None))
    where = _place(device, left.pop("device_map", None))
    notes = []
    if _flag(left, "trust_remote_code"):
        notes.append("trust_remote_code=True was not needed: no code of the folder is run")
    if left.get("use_safetensors") is False or left.get("weights_only") is False:
        raise InvalidValueError(
            "load opens safetensors and no pickles, got a setting that asks for them; run `dllm-fast convert FOLDER OUT` "
            "and open OUT"
        )
    for name, why in _FULFILLED.items():
        if (value := left.pop(name, None)) is not None:
            notes.append(f"{name}={shown(value)} changes nothing: {why}")
    if where.type in ("mps", "xpu"):
        notes.append(f"device {where} has not been tried: the network is plain torch there, without kernels")
    if "use_auth_token" in left:
        left["token"] = _either("token", left.get("token"), "use_auth_token", left.pop("use_auth_token"))
    hub = {name: left.pop(name) for name in _HUB if name in left}
    for name, way in _ANSWERS.items():
        value = left.pop(name, None)
        if value is not None and value is not False:
            raise InvalidValueError(f"{name} is not supported by load, got {shown(value)}: {way}")
    if unknown := sorted(left.keys() - set(OVERRIDES)):
        raise InvalidValueError(_unknown(unknown[0]))
    _check_overrides(left)
    return Arguments(dtype=kind, device=where, quantise=eight_bits.known(quantise), hub=hub, overrides=left, notes=tuple(notes))


def _unknown(name: str) -> str:
    meant = ALIASES[name].ours if name in ALIASES else None
    if meant not in OVERRIDES and (name in ALIASES or name in SamplerConfig.__dataclass_fields__):
        return f"{name} is no setting of load; pass it to sample or infill, with what load returned"
    near = [meant] if meant in OVERRIDES else nearest(name, [*OVERRIDES, *_FIRST], 1)
    answer = f"did you mean {near[0]!r}?" if near else f"the overrides are {', '.join(OVERRIDES)}"
    return f"{name} is no setting of load; {answer}"


def known_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that weights may have, from itself or its name.

    Raises:
        InvalidValueError: another one.
    """
    known = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if not isinstance(known, torch.dtype) or known not in DTYPES.values():
        raise InvalidValueError(
            f"dtype must be one of {', '.join(DTYPES)}, got {shown(dtype)}; leave it out for that of the files"
        )
    return known


def _dtype(dtype: torch.dtype | str | None, other: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype under either name; "auto" is that of the files, as in transformers."""
    named = {
        name: None if isinstance(value, str) and value == "auto" else known_dtype(value)
        for name, value in (("dtype", dtype), ("torch_dtype", other))
        if value is not None
    }
    if len(set(named.values())) > 1:
        raise InvalidValueError(f"torch_dtype is another name of dtype, got {other!r} and {dtype!r}; pass one of them")
    return next(iter(named.values()), None)


def _place(device: str | torch.device | int | None, device_map: object) -> torch.device:
    where = None if device is None else known_device(device)
    if device_map is None:
        return where or torch.device("cpu")
    if isinstance(device_map, Mapping) and list(device_map) == [""]:
        device_map = device_map[""]
    if isinstance(device_map, Mapping) or (
        isinstance(device_map, str) and device_map in ("auto", "balanced", "balanced_low_0", "sequential")
    ):
        raise InvalidValueError(f"device_map={shown(device_map)} is not supported by load: {_ONE_DEVICE}")
    mapped = known_device(device_map)
    if where is not None and where != mapped:
        raise InvalidValueError(
            f"device_map is understood as device, got {shown(device_map)} and {shown(device)}; pass one of them"
        )
    return mapped


def known_device(device: object) -> torch.device:
    """A device that torch has here.

    Raises:
        InvalidValueError: no device, one that a model cannot lie on, or one that is not here; with the way.
    """
    try:
        # A number alone is that of a CUDA device; torch reads it so, but only where it finds one.
        named = f"cuda:{device}" if isinstance(device, int) and not isinstance(device, bool) else device
        where = torch.device(named) if isinstance(named, str | torch.device) else None
    except (RuntimeError, TypeError, ValueError):
        where = None
    if where is None:
        raise InvalidValueError(f"device must be a torch device, got {shown(device)}; use device='cpu' or 'cuda'")
    if where.type == "meta":
        raise InvalidValueError("device 'meta' holds no numbers, so nothing can be computed there; use device='cpu' or 'cuda'")
    if where.type not in _DEVICES:
        raise InvalidValueError(f"device must be one of {', '.join(_DEVICES)}, got {str(where)!r}; use device='cpu'")
    if where.type == "cpu":
        return where
    names = {"cuda": "CUDA", "mps": "a GPU of Apple", "xpu": "a GPU of Intel"}
    count = _count(where.type)
    if count == 0:
        raise InvalidValueError(
            f"device {str(where)!r} needs {names[where.type]}, which torch does not find here; use device='cpu', or install "
            "a torch that was built for it"
        )
    if where.index is not None and where.index >= count:
        raise InvalidValueError(
            f"device {str(where)!r} must be one that torch finds, got number {where.index} of {count} from 0; "
            f"use device='{where.type}:{count - 1}'"
        )
    return where


def _count(kind: str) -> int:
    """How many devices of a kind torch finds."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def _flag(named: dict[str, Any], name: str) -> bool:
    value = named.pop(name, None)
    if value is not None and not isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be True or False, got {shown(value)}; leave it out")
    return bool(value)


def _either(first: str, one: object, second: str, other: object) -> object:
    if one is not None and other is not None and one != other:
        raise InvalidValueError(f"{second} is another name of {first}, got both; pass one of them")
    return other if one is None else one


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    attention = overrides.get("attention")
    if attention is not None and not (isinstance(attention, str) and attention in RULES):
        raise InvalidValueError(
            f"attention must be one of {', '.join(_SEEN)}, got {shown(attention)}; leave it out for that of the family"
        )
    shift = overrides.get("shift")
    if shift is not None and not (isinstance(shift, int) and shift in (0, 1)):
        raise InvalidValueError(f"shift must be 0 or 1, got {shown(shift)}; Dream's is 1")
    family = overrides.get("family")
    if family is not None and not isinstance(family, str):
        raise InvalidTypeError(f"family must be a name, got {shown(family)}; leave it out for what the checkpoint says")
    for name in ("mask_token_id", "eos_token_ids", "block_length"):
        value: Any = overrides.get(name)
        several = name == "eos_token_ids" and isinstance(value, list | tuple)
        numbers: Sequence[Any] = value if several else [] if value is None else [value]
        if wrong := [number for number in numbers if isinstance(number, bool) or not isinstance(number, int)]:
            raise InvalidTypeError(
                f"{name} must be {'whole numbers' if several else 'a whole number'}, got {shown(wrong[0])}; leave it out for "
                "that of the checkpoint"
            )
    block = overrides.get("block_length")
    if block is not None and block < 1:
        raise InvalidValueError(
            f"block_length must be a whole number above 0, got {shown(block)}; leave it out for that of the checkpoint"
        )
