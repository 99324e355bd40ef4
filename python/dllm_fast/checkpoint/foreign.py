"""What a folder may hold that `load` does not open: each kind gets an answer that names the file and the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dllm_fast.checkpoint import pickles, regular
from dllm_fast.checkpoint.jsonfile import optional_json
from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from pathlib import Path

# Settings under which programs say that weights are quantised. MLX writes `quantization`, with group_size and bits.
_KEYS = ("quantization_config", "compression_config", "quantization", "quant_config", "quant_method", "awq_config")
# Files of their own that say it: AutoGPTQ, AutoAWQ, Quanto, TensorRT.
QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "quantization_map.json", "hf_quant_config.json")
# What only quantised weights hold, where no setting says so: GPTQ and AWQ, bitsandbytes, fp8, compressed-tensors, HQQ, EETQ.
_PARTS = re.compile(
    r"(.*\.)?(qweight|qzeros|SCB|absmax|quant_map|nested_absmax|quant_state\..*|weight\.(absmax|quant_map|quant_state\..*)|"
    r"weight_packed|weight_scale|weight_scale_inv|weight_scales|W_q)"
)
# What programs called it before, or beside, config.json.
_OTHER_CONFIGS = ("bert_config.json", "albert_config.json", "ernie_config.json", "electra_config.json", "model_config.json")
_REMEDY = "use the float16, bfloat16 or float32 checkpoint that it was made from"
# transformers 5 reads neither TensorFlow nor Flax.
_FOUR = (
    "save them anew as safetensors with transformers 4 (pip install 'transformers<5'; from_pretrained(..., {}=True), then "
    "save_pretrained)"
)
# By the end of a name: what such a file is, and the way from it.
_WEIGHTS = {
    ".gguf": ("weights of llama.cpp", "fetch the safetensors checkpoint that it was made from"),
    ".msgpack": ("weights of Flax", _FOUR.format("from_flax")),
    ".h5": ("weights of TensorFlow", _FOUR.format("from_tf")),
    ".onnx": ("an exported program", "fetch the safetensors checkpoint that it was made from"),
    ".npz": ("arrays of MLX or NumPy", "fetch the safetensors checkpoint that they were made from"),
    ".ckpt.index": ("weights of TensorFlow", _FOUR.format("from_tf")),
}


def refuse_quantised_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses a folder whose settings say that its weights are quantised.

    Raises:
        CheckpointError: names the key or the file, the method, and the remedy.
    """
    for name in _KEYS:
        if value := config.get(name):
            raise CheckpointError(
                f"{folder / 'config.json'}: quantised checkpoints are not supported, got {name}{_method(value)}; {_REMEDY}"
            )
    for name in QUANTISED_FILES:
        if regular.present(folder / name):
            value = optional_json(folder / name) if name.endswith(".json") else None
            raise CheckpointError(f"{folder}: quantised checkpoints are not supported, got {name}{_method(value)}; {_REMEDY}")


def refuse_quantised_tensors(folder: Path, keys: Iterable[str]) -> None:
    """Refuses weights whose names say that they are quantised, where no setting does.

    Raises:
        CheckpointError: names the key and the remedy.
    """
    names = set(keys)
    # MLX writes a weight with its scales and biases beside it.
    scaled = {key for key in names if key.endswith(".scales") and f"{key.removesuffix('scales')}biases" in names}
    if found := sorted(scaled | {key for key in names if _PARTS.fullmatch(key)}):
        raise CheckpointError(
            f"{folder}: quantised checkpoints are not supported, got the tensor {shown(found[0])}, which belongs to "
            f"quantised weights; {_REMEDY}"
        )


def _method(value: object) -> str:
    """What a setting says about the method, in brackets."""
    if not isinstance(value, Mapping):
        return f" ({shown(value)})" if isinstance(value, str) else ""
    names = ("quant_method", "quant_algo", "quant_type", "bits", "w_bit", "load_in_4bit", "load_in_8bit", "group_size")
    said = [f"{name} {value[name]}" for name in names if isinstance(value.get(name), str | int) and value[name]]
    return f" ({', '.join(said)[:100]})" if said else ""


def no_config(folder: Path, names: list[str]) -> str:
    """Why a folder without `config.json` is not opened, and the way from what it holds instead."""
    wanted = f"{folder} must hold config.json, which is missing or no file"
    if inside := _below(folder, names, lambda name: name == "config.json"):
        return f"{wanted}; found {inside}"
    if others := [name for name in names if name in _OTHER_CONFIGS]:
        return f"{wanted}; found {shown(others[0])}: rename it to config.json where it says the sizes of this model"
    for end, (what, way) in _WEIGHTS.items():
        if found := [name for name in names if name.endswith(end)]:
            return f"{wanted}; got {shown(found[0])}: {what}; {way}"
    if "params.json" in names:
        return f"{wanted}; got 'params.json' of a model's own program; fetch the checkpoint in Hugging Face format"
    if "config.json" not in names and not any(name.endswith((".safetensors", *pickles.SUFFIXES)) for name in names):
        return f"{wanted}, and no weights; pass the folder of config.json"
    return f"{wanted}; fetch it again, or write it: model_type and the sizes of the model"


def no_weights(folder: Path, names: list[str], wanted: str) -> str:
    """Why a folder without safetensors is not opened, and the way from what it holds instead.

    Args:
        names: of its files.
        wanted: what it must hold.
    """
    if found := [name for name in names if name in ("adapter_model.safetensors", "adapter_model.bin")]:
        return (
            f"{folder} must hold {wanted}, got {shown(found[0])}: an adapter of peft and not its base; put its "
            "adapter_config.json into a folder with it and pass load(base, adapter=folder)"
        )
    if found := [name for name in names if pickles.may_hold_weights(name)]:
        return (
            f"{folder} must hold {wanted}, got {shown(found[0])}: a pickle can run any code, so it is not opened; "
            f"run `dllm-fast convert {folder} OUT`, which reads tensors and nothing else, and open OUT"
        )
    for end, (what, way) in _WEIGHTS.items():
        if found := [name for name in names if name.endswith(end)]:
            return f"{folder} must hold {wanted}, got {shown(found[0])}: {what}; {way}"
    if found := [name for name in names if name.endswith(".safetensors")]:
        return (
            f"{folder} must hold {wanted}, got {shown(found[0])}: a name that no index lists; "
            "rename it if it is the model, or fetch the index"
        )
    if inside := _below(folder, names, lambda name: name.endswith(".safetensors") or pickles.may_hold_weights(name)):
        return f"{folder} must hold {wanted}; found {inside}"
    others = ", ".join(shown(name) for name in names[:8])
    return f"{folder} must hold {wanted}, got {others or 'an empty folder'}; fetch the weights"


def _below(folder: Path, names: Iterable[str], fits: Callable[[str], bool]) -> str:
    """Files of some name in the folders of a folder, and what to do with them, as text for an error; "" for none."""
    found = []
    for name in names:
        try:
            inside = regular.names(folder / name) if regular.is_folder(folder / name) else []
        except CheckpointError:  # not ours to read
            continue
        found += [f"{name}/{file}" for file in inside if fits(file)][:1]
    # A folder of sentence-transformers has one of the model and others of pooling, whose config names no model.
    found = [path for path in found if _names_a_model(folder / path)] or found
    # By number, so that checkpoint-1000 comes after checkpoint-500.
    found.sort(key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)])
    if not found:
        return ""
    more = f" and {len(found) - 5} before" if len(found) > 5 else ""
    way = "pass that folder" if len(found) == 1 else "pass one of these folders"
    return f"{', '.join(map(shown, found[-5:]))}{more}: {way}"


def _names_a_model(path: Path) -> bool:
    try:
        return bool(optional_json(path.with_name("config.json")).get("model_type"))
    except CheckpointError:
        return False
