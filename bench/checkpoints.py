"""Checkpoints with random weights for the benches: the families of tests/families.py in sizes where time means something.

Each is written under the key names of its family and opened by `dllm_fast.load` as any other. Needs transformers.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.harness import ROOT

# Of the fixtures, which are 64 wide; head_dim and the width of experts grow with the width.
FIXTURE_WIDTH = 64
GROWING = ("head_dim", "moe_intermediate_size", "expert_intermediate_size")
# Their fixtures have short blocks; without these keys the table of families says the length.
BLOCK_KEYS = ("block_size", "block_length", "bd_size")
# transformers derives them from what we change.
DERIVED = ("layer_types", "mlp_layer_types")
ENCODERS = {"bert": "BertConfig", "roberta": "RobertaConfig", "modernbert": "ModernBertConfig"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a model; the last id of the vocabulary is the mask."""

    width: int = 256
    inner: int = 768
    layers: int = 4
    vocabulary: int = 32_000
    context: int = 1024

    @property
    def mask(self) -> int:
        return self.vocabulary - 1

    def of(self, config: dict[str, Any]) -> dict[str, Any]:
        """The same config in this size, in the words of whichever family."""
        sizes = {
            ("hidden_size", "d_model"): self.width,
            ("num_hidden_layers", "n_layers"): self.layers,
            ("intermediate_size", "mlp_hidden_size"): self.inner,
            ("vocab_size", "embedding_size"): self.vocabulary,
            ("max_position_embeddings", "max_sequence_length"): self.context,
            ("mask_token_id",): self.mask,
        }
        out = {key: value for key, value in config.items() if key not in (*BLOCK_KEYS, *DERIVED)}
        for names, value in sizes.items():
            out |= dict.fromkeys([name for name in names if name in config], value)
        for name in GROWING:
            if config.get(name) is not None:
                out[name] = config[name] * self.width // FIXTURE_WIDTH
        if config.get("model_type") == "Dream" and "block_size" in config:
            out["block_size"] = 32  # it is what tells DreamReasoner from Dream
        if "moe_layer_freq" in config:
            out["moe_layer_freq"] = [1] * self.layers
        return out


def twin(name: str, size: Size) -> Any:
    """A fixture of tests/families.py in this size: `save(folder)` writes it, `model()` is the stock class of transformers."""
    fixture = next(fixture for fixture in _families().TWINS if fixture.name == name)

    def stock() -> Any:
        config = fixture.stock()
        return type(config)(**size.of(config.to_dict()))

    return dataclasses.replace(fixture, stock=stock, written=size.of(fixture.written))


def families(size: Size) -> dict[str, Callable[[Path], Path]]:
    """For every family the function that writes its checkpoint into a folder."""
    decoders = {fixture.name: twin(fixture.name, size).save for fixture in _families().TWINS if fixture.form_of is None}
    return decoders | {name: _encoder(name, size) for name in ENCODERS}


def _encoder(name: str, size: Size) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        hf: Any = importlib.import_module("transformers")
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
        config = getattr(hf, ENCODERS[name])(
            hidden_size=size.width,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=4,
            vocab_size=size.vocabulary,
            max_position_embeddings=size.context,
            **ids,
        )
        config.mask_token_id = size.mask
        model = hf.AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.normal_(0, 0.05, generator=random)
                if "norm" in key.lower() and key.endswith("weight"):
                    parameter.add_(1)
        model.save_pretrained(folder)
        return folder

    return save


def _families() -> Any:
    """tests/families.py: the fixtures are written once, for tests and benches."""
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module("families")
