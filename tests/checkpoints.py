"""Model folders small enough to be made in a test: random weights under the names that published checkpoints have."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import nn

NORM = re.compile(r"(.*[._])?(layer_?norm|norm\d*|ln_f|\w+_norm|\w*layernorm)\.(weight|gamma)", re.IGNORECASE)

SPECIALS = ("<|pad|>", "<|eos|>", "<|eot|>", "<|mask|>")
TEMPLATE = (
    "{% for message in messages %}<|eot|>{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|eot|>assistant: {% endif %}"
)


def redraw(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights from N(0, 0.05), norms near 1: logits are not flat, and a bias or a norm that is left out shows."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(0, 0.05, generator=random)
            if NORM.fullmatch(name):
                parameter.add_(1)
    return module.eval()


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def change_config(folder: Path, **changes: object) -> None:
    """Sets entries of `config.json`; `...` removes one."""
    config = read_config(folder) | changes
    write_json(folder / "config.json", {name: value for name, value in config.items() if value is not ...})


def change_weights(folder: Path, change: Any) -> None:
    """Rewrites `model.safetensors` with what `change` makes of its dict of tensors."""
    tensors = load_file(folder / "model.safetensors")
    tensors = change(tensors) or tensors
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def write_weights(folder: Path, tensors: dict[str, torch.Tensor] | None = None, config: dict[str, Any] | None = None) -> Path:
    """A folder of one file of weights."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", config or {"model_type": "test"})
    save_file(some_tensors() if tensors is None else tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def some_tensors() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 4, generator=random),
        "b.weight": torch.randn(5, 2, generator=random).bfloat16(),
        "c.weight": torch.randn(7, generator=random).half(),
    }


def write_shards(folder: Path, *, index: bool = True) -> Path:
    """The same weights in one shard for each tensor."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {"model_type": "test"})
    tensors = some_tensors()
    names = {key: f"model-{i:05}-of-{len(tensors):05}.safetensors" for i, key in enumerate(tensors, 1)}
    for key, name in names.items():
        save_file({key: tensors[key]}, folder / name)
    if index:
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})
    return folder


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Byte-level BPE without a merge: 256 bytes, then pad, eos, eot and mask. Any text round-trips."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    return backend


def write_tokenizer(folder: Path, *, template: object = TEMPLATE, **settings: object) -> Path:
    """`tokenizer.json` and `tokenizer_config.json` into a folder."""
    folder.mkdir(exist_ok=True)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<|pad|>", "eos_token": "<|eos|>", "mask_token": "<|mask|>"}
    if template is not None:
        named["chat_template"] = template  # type: ignore[assignment]
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named, **settings})
    return folder


class _Marker:
    """Unpickled, it creates a file: the proof that somebody unpickled it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def make_hostile(folder: Path, marker: Path) -> Path:
    """Adds to a folder what would create `marker` if it were run, imported, unpickled or rendered without a sandbox."""
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    for name in ("modeling_hostile.py", "configuration_hostile.py", "tokenization_hostile.py", "__init__.py", "config.py"):
        (folder / name).write_text(code, encoding="utf-8")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code, encoding="utf-8")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(_Marker(marker)))
    kinds = ("AutoConfig", "AutoModel", "AutoModelForMaskedLM", "AutoModelForCausalLM")
    change_config(folder, auto_map=dict.fromkeys(kinds, "modeling_hostile.Hostile"), trust_remote_code=True)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_hostile.Hostile", None]}
    settings["tokenizer_class"] = "HostileTokenizer"
    settings["chat_template"] = (
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% if c.__name__ == 'Popen' %}"
        f"{{{{ c(['touch', {str(marker)!r}]) }}}}{{% endif %}}{{% endfor %}}"
    )
    write_json(path, settings)
    return folder
