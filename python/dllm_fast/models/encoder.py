"""A small bidirectional transformer: the forward of `BertForMaskedLM` in plain torch.

The module tree carries the key names of the stock Hugging Face class, so the `state_dict` of an `Encoder` *is* a
`BertForMaskedLM` checkpoint: anybody can open the folder with transformers, and this package does not need it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError

# What this forward computes; a config that asks for anything else is refused instead of being computed wrongly.
FIXED_SETTINGS: dict[str, object] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "is_decoder": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Sizes and special tokens of an `Encoder`, under the names of `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    mask_token_id: int
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise InvalidValueError(
                f"num_attention_heads must divide hidden_size, got {self.num_attention_heads} and {self.hidden_size}"
            )
        for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
            token: int | None = getattr(self, name)
            if token is not None and not 0 <= token < self.vocab_size:
                raise InvalidValueError(f"{name} must lie in [0, vocab_size={self.vocab_size}), got {token}")

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read `config.json`; keys that this forward does not use are ignored."""
        try:
            raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {folder / 'config.json'}: {error}") from error
        for name, expected in FIXED_SETTINGS.items():
            # Keys at their default are often left out by transformers; only the family must be named.
            if raw.get(name, None if name == "model_type" else expected) != expected:
                raise CheckpointError(f"{name} must be {expected!r} for this forward, got {raw.get(name)!r} in {folder}")
        known = {name: raw[name] for name in cls.__dataclass_fields__ if name in raw}
        try:
            return cls(**known)
        except (TypeError, InvalidValueError) as error:
            raise CheckpointError(f"{folder / 'config.json'}: {error}") from error

    def to_json(self) -> str:
        """The text of a `config.json` that transformers opens as a `BertForMaskedLM`."""
        settings = {
            "architectures": ["BertForMaskedLM"],
            **FIXED_SETTINGS,
            **asdict(self),
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "torch_dtype": "bfloat16",
        }
        return json.dumps(settings, indent=2, sort_keys=True) + "\n"


class Embeddings(nn.Module):
    """Token, position and (constant) segment vectors, summed and normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: ids.shape[1]]
        segment = self.token_type_embeddings.weight[0]
        return cast(Tensor, self.LayerNorm(self.word_embeddings(ids) + segment + places))


class SelfAttention(nn.Module):
    """Attention of every position to every position; there is no mask of any kind."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        shape = (batch, length, self.heads, width // self.heads)
        query, key, value = (project(hidden).view(shape).transpose(1, 2) for project in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).reshape(batch, length, width)


class Residual(nn.Module):
    """Project back to the width of the stream, add the stream, normalise (the post-norm form)."""

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, update: Tensor, stream: Tensor) -> Tensor:
        return cast(Tensor, self.LayerNorm(self.dense(update) + stream))


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Residual(config, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = Residual(config, inner)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.attention["output"](self.attention["self"](hidden), hidden)
        return cast(Tensor, self.output(F.gelu(self.intermediate["dense"](hidden)), hidden))


class Head(nn.Module):
    """Logits over the vocabulary; the output matrix is the token table."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform = nn.ModuleDict({"dense": dense, "LayerNorm": norm})
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        hidden = self.transform["LayerNorm"](F.gelu(self.transform["dense"](hidden)))
        return F.linear(hidden, table, self.bias)


class Encoder(nn.Module):
    """Token ids `[B, L]` (int64) to logits `[B, L, V]` (float32), L at most `config.max_position_embeddings`.

    Attributes: `config`, and the ids `mask_token_id` and `eos_token_id` (None for a model without one).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.mask_token_id = config.mask_token_id
        self.eos_token_id = config.eos_token_id
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.bert = nn.ModuleDict({"embeddings": Embeddings(config), "encoder": nn.ModuleDict({"layer": layers})})
        self.cls = nn.ModuleDict({"predictions": Head(config)})

    def forward(self, ids: Tensor) -> Tensor:
        if ids.dim() != 2 or ids.dtype != torch.int64:
            raise InvalidTypeError(f"ids must be int64 of shape [B, L], got {ids.dtype} of shape {list(ids.shape)}")
        if ids.shape[1] > self.config.max_position_embeddings:
            raise InvalidValueError(
                f"this model has {self.config.max_position_embeddings} positions, got a canvas of {ids.shape[1]}; "
                "shorten the prompt or the answer"
            )
        embeddings = cast(Embeddings, self.bert["embeddings"])
        hidden = embeddings(ids)
        for layer in cast(nn.ModuleDict, self.bert["encoder"])["layer"].children():
            hidden = layer(hidden)
        return cast(Tensor, self.cls["predictions"](hidden, embeddings.word_embeddings.weight))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read a Hugging Face folder (`config.json`, `model.safetensors`); weights of any float type become float32.

        The model comes back in evaluation mode, on the CPU and without gradients. Raises `CheckpointError` when the
        folder is unreadable, asks for another architecture, or its tensors are not exactly those of the config.
        """
        folder = Path(folder)
        model = cls(EncoderConfig.from_folder(folder))
        try:
            tensors = load_file(folder / "model.safetensors")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {folder / 'model.safetensors'}: {error}") from error
        expected = model.state_dict()
        missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        if missing or unexpected:
            raise CheckpointError(f"{folder}: missing tensors {missing}, unexpected tensors {unexpected}")
        for name, tensor in tensors.items():
            if tensor.shape != expected[name].shape:
                raise CheckpointError(
                    f"{folder}: {name} must have shape {list(expected[name].shape)}, got {list(tensor.shape)}"
                )
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return model.eval().requires_grad_(False)
