"""Tiny encoders that fill masks: for each form the stock class of transformers, or what was published in its place."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

import checkpoints
from families import MASK, VOCABULARY

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}


class NeoBert(nn.Module):
    """NeoBERT after its paper (2502.19587) and published keys: transformers has no class of it."""

    _supports_sdpa = False

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = config = SimpleNamespace(**SIZES | {"pad_token_id": 0, "norm_eps": 1e-5, "max_length": 64} | settings)
        width, inner = config.hidden_size, (config.intermediate_size * 2 // 3 + 7) // 8 * 8

        def block() -> nn.Module:
            parts = {
                "attention_norm": nn.RMSNorm(width, config.norm_eps),
                "qkv": nn.Linear(width, 3 * width, bias=False),
                "wo": nn.Linear(width, width, bias=False),
                "ffn_norm": nn.RMSNorm(width, config.norm_eps),
                "ffn": nn.ModuleDict(
                    {"w12": nn.Linear(width, 2 * inner, bias=False), "w3": nn.Linear(inner, width, bias=False)}
                ),
            }
            return nn.ModuleDict(parts)

        self.model = nn.ModuleDict(
            {
                "encoder": nn.Embedding(config.vocab_size, width),
                "transformer_encoder": nn.ModuleList(block() for _ in range(config.num_hidden_layers)),
                "layer_norm": nn.RMSNorm(width, config.norm_eps),
            }
        )
        self.decoder = nn.Linear(width, config.vocab_size)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        heads = self.config.num_attention_heads
        depth = self.config.hidden_size // heads
        x = self.model["encoder"](input_ids)
        speeds = 10000.0 ** -(torch.arange(0, depth, 2) / depth)
        # A rotation is a product of complex numbers: neighbours of a head are one.
        turns = torch.polar(torch.ones(()), torch.arange(input_ids.shape[1])[:, None] * speeds)[:, None]

        def turned(y: torch.Tensor) -> torch.Tensor:
            pairs = torch.view_as_complex(y.float().unflatten(-1, (-1, 2)).contiguous())
            return torch.view_as_real(pairs * turns).flatten(-2).to(y.dtype)

        seen = None if attention_mask is None else attention_mask.bool()[:, None, None]
        for block in self.model["transformer_encoder"]:
            query, key, value = block["qkv"](block["attention_norm"](x)).unflatten(-1, (heads, -1)).chunk(3, dim=-1)
            query, key = turned(query), turned(key)
            mixed = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (query, key, value)), attn_mask=seen)
            x = x + block["wo"](mixed.transpose(1, 2).flatten(2))
            gate, wide = block["ffn"]["w12"](block["ffn_norm"](x)).chunk(2, dim=-1)
            x = x + block["ffn"]["w3"](F.silu(gate) * wide)
        return SimpleNamespace(logits=self.decoder(self.model["layer_norm"](x)))

    def set_attn_implementation(self, name: str) -> None:
        """There is one."""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        settings = {"model_type": "neobert", "architectures": ["NeoBERTLMHead"], **vars(self.config)}
        (folder / "config.json").write_text(json.dumps(settings))
        save_file(self.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def twin(name: str, **settings: Any) -> Callable[..., Any]:
    """The stock class in our sizes with these settings."""

    def form(**changes: Any) -> Any:
        config = getattr(transformers, f"{name}Config")(**SIZES | settings | changes)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")  # in DeBERTa of transformers 4
            return getattr(transformers, f"{name}ForMaskedLM")(config)

    return form


bert = twin("Bert", type_vocab_size=2)
roberta = twin("Roberta", type_vocab_size=1)
albert = twin("Albert", embedding_size=24, bos_token_id=2, eos_token_id=3)
electra = twin("Electra", embedding_size=24)
ernie = twin("Ernie")
esm = twin("Esm", mask_token_id=MASK, pad_token_id=1, position_embedding_type="rotary", token_dropout=True)
roformer = twin("RoFormer", embedding_size=24)
deberta = twin(
    "DebertaV2",
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
    position_buckets=8,
    max_relative_positions=-1,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    position_biased_input=False,
)
modern_bert = twin(
    "ModernBert",
    num_hidden_layers=4,
    local_attention=16,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    cls_token_id=1,
    sep_token_id=2,
)

eurobert = twin("EuroBert", num_key_value_heads=2, mask_token_id=MASK, pad_token_id=0, bos_token_id=1, eos_token_id=2)

FORMS: dict[str, Callable[..., Any]] = {
    "bert": bert,
    "bert-relu": lambda: bert(hidden_act="relu"),
    "bert-gelu-new": lambda: bert(hidden_act="gelu_new", layer_norm_eps=1e-5),
    "bert-untied": lambda: bert(tie_word_embeddings=False),
    "roberta": roberta,
    "roberta-relu": lambda: roberta(hidden_act="relu", pad_token_id=5),
    "roberta-untied": lambda: roberta(tie_word_embeddings=False),
    "xlm-roberta": twin("XLMRoberta"),
    "xlm-roberta-xl": twin("XLMRobertaXL"),
    "camembert": twin("Camembert"),
    "roberta-prelayernorm": twin("RobertaPreLayerNorm"),
    "data2vec-text": twin("Data2VecText"),
    "distilbert": twin("DistilBert", dim=64, hidden_dim=128),
    "distilbert-relu": lambda: twin("DistilBert", dim=64, hidden_dim=128)(activation="relu", tie_word_embeddings=False),
    "albert": albert,
    "albert-groups": lambda: albert(num_hidden_layers=5, num_hidden_groups=2, inner_group_num=2, hidden_act="gelu"),
    "albert-deep": lambda: albert(num_hidden_layers=40, hidden_size=16, intermediate_size=16),
    "electra": electra,
    "electra-one-width": lambda: electra(embedding_size=64, hidden_act="relu"),
    "ernie": ernie,
    "ernie-tasks": lambda: ernie(use_task_id=True),
    "esm": esm,
    "esm-1b": lambda: esm(position_embedding_type="absolute", emb_layer_norm_before=True),
    "esm-plain": lambda: esm(token_dropout=False),
    "roformer": roformer,
    "roformer-values": lambda: roformer(rotary_value=True, embedding_size=64),
    "mpnet": twin("MPNet"),
    "deberta-v3": deberta,
    "deberta-v2": lambda: deberta(share_att_key=False, position_biased_input=True, position_buckets=-1, norm_rel_ebd="none"),
    "deberta-one-kind": lambda: deberta(pos_att_type=["c2p"], max_relative_positions=16, type_vocab_size=2),
    "deberta-other-kind": lambda: deberta(pos_att_type=["p2c"], share_att_key=False),
    "deberta-own-head": lambda: deberta(legacy=False),
    "nomic-bert": twin("NomicBert"),
    "eurobert": eurobert,
    "eurobert-biases": lambda: eurobert(attention_bias=True, tie_word_embeddings=True),
    "neobert": NeoBert,
    "modernbert": modern_bert,
    "modernbert-untied": lambda: modern_bert(tie_word_embeddings=False),
    "modernbert-biases": lambda: modern_bert(
        norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True, local_attention=7
    ),
    "modernbert-other": lambda: modern_bert(
        decoder_bias=False,
        tie_word_embeddings=False,
        hidden_activation="relu",
        classifier_activation="silu",
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    ),
}
# One of each kind; the others differ from it in single settings.
KINDS = (
    *("bert", "roberta", "xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text", "distilbert", "albert", "electra", "ernie"),
    *("esm", "esm-1b", "roformer", "mpnet", "deberta-v3", "deberta-v2", "nomic-bert", "eurobert", "neobert", "modernbert"),
)

# transformers 4 has no such class, not all of its settings, or ties what is not one.
_NEWER = ("nomic-bert", "eurobert", "eurobert-biases", "modernbert-other", "deberta-own-head")
MISSING = _NEWER if int(transformers.__version__.split(".")[0]) < 5 else ()


@dataclass(frozen=True)
class EncoderTwin:
    """A kind as the property tests take their models: all of it sees all of it."""

    name: str
    attention: str = "full"

    def save(self, folder: Path) -> Path:
        """Writes a checkpoint whose masks depend on their place and on the rest."""
        save(self.name, folder)
        checkpoints.change_config(folder, mask_token_id=MASK)
        return folder


def save(form: str, folder: Path) -> Any:
    """Writes a form with random weights; gives the stock class."""
    if form in MISSING:
        pytest.skip(f"transformers {transformers.__version__} has no {form}")
    stock = checkpoints.redraw(FORMS[form]())
    stock.save_pretrained(folder)
    return stock


TWINS = tuple(EncoderTwin(kind) for kind in KINDS if kind not in MISSING)
