"""A tiny model of every class of the installed transformers that fills masks, as its own config makes it."""

from __future__ import annotations

import torch
import transformers as hf
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

# What configs call the sizes; each takes those that it has.
_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "embedding_size": 32,
    "emb_dim": 32,
    "emb_size": 32,
    "d_model": 32,
    "dim": 32,
    "num_hidden_layers": 2,
    "n_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_heads": 2,
    "n_head": 2,
    "intermediate_size": 64,
    "hidden_dim": 64,
    "d_head": 16,
    "d_inner": 64,
    "max_position_embeddings": 128,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 3,
    "sep_token_id": 4,
    "mask_token_id": 5,
}
_PARTS = {
    "text_config": {name: value for name, value in _SIZES.items() if not name.startswith(("e", "d_", "n_", "dec"))},
    "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
}
_MORE = {
    "big_bird": {"block_size": 4, "num_random_blocks": 1, "max_position_embeddings": 256},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "mobilebert": {"embedding_size": 16},
    "modernvbert": _PARTS,
    "perceiver": {
        "d_latents": 32,
        "num_latents": 8,
        "num_self_attends_per_block": 1,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    "reformer": {
        "attention_head_size": 16,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [8, 24],
        "feed_forward_size": 64,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
    },
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8, "shape_embed_dim": 8, "pronunciation_embed_dim": 8},
    "ultravbert": _PARTS,
    "xmod": {"default_language": "en_XX"},
}

NAMES = tuple(MODEL_FOR_MASKED_LM_MAPPING_NAMES.items())


def config_of(model_type: str, **more: object):
    """Its config with small sizes."""
    config_class = hf.CONFIG_MAPPING[model_type]
    names = {**vars(config_class()), **getattr(config_class, "attribute_map", {})}
    sizes = {name: value for name, value in _SIZES.items() if name in names}
    return config_class(**sizes | _MORE.get(model_type, {}) | more)


def mask_filler(model_type: str, class_name: str):
    """A model with the weights that its class draws."""
    torch.manual_seed(1)
    return getattr(hf, class_name)(config_of(model_type)).eval()


def whole_state(model) -> dict[str, object]:
    """Everything that a model holds, comparable by equality: tensors to the bit, modules by class, every plain attribute."""
    found = {}
    for path, module in model.named_modules():
        found[path] = type(module)
        found.update({f"{path}.{name}": _frozen(value) for name, value in vars(module).items()})
    return found


def _frozen(value: object) -> object:
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        return type(value), tensor.dtype, tensor.shape, value.requires_grad, tensor.contiguous().view(-1).numpy().tobytes()
    if isinstance(value, torch.nn.Module):
        return type(value), id(value)
    if isinstance(value, dict):
        return type(value), [(_frozen(key), _frozen(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), [_frozen(item) for item in value]
    if isinstance(value, hf.PretrainedConfig | hf.GenerationConfig):
        return type(value), _frozen(vars(value))
    return value if isinstance(value, str | bytes | int | float | bool | None) else (type(value), id(value))
