"""Tiny models of transformers' own classes, with random weights that make every token count."""

from __future__ import annotations

import torch
import transformers as hf

MASK = 501
COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
GQA = COMMON | {"num_key_value_heads": 2, "head_dim": 16, "is_causal": False, "mask_token_id": MASK}
MLM = COMMON | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": MASK}
MOE = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
# Positions from 8 on make queries longer, so that a wrong position shows twice.
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 8,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
DECODERS = {
    "Llama": {"num_key_value_heads": 4},
    "Qwen2": {},
    "Qwen3": {},
    "Qwen3Moe": MOE | {"num_experts": 4},
    "Glm4Moe": MOE | {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "Ministral3": {},
}
ENCODERS = {
    "Bert": {},
    "Roberta": {"pad_token_id": 1},
    "ModernBert": {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    "Electra": {"embedding_size": 32},
    "EuroBert": {},
    "DistilBert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
}
# transformers 4 has no bidirectional decoders, Ministral3 not yet, and encoders with attention of their own.
MODERN = int(hf.__version__.split(".")[0]) >= 5
NATIVE = [name for name in [*DECODERS, *(ENCODERS if MODERN else ())] if hasattr(hf, f"{name}Config")]
BLOCKS = [name for name in DECODERS if name in NATIVE]
WITHOUT = ["MPNet", "DebertaV2", *(name for name in ENCODERS if name not in NATIVE and hasattr(hf, f"{name}Config"))]
FALLBACKS = {"MPNet": {"pad_token_id": 1}, "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}}
PROMPTS = [[7, 8, 9], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21], [30, 31, 32, 33, 34, 35, 36, 37]]
NEW = 16


def model_of(name: str, **more):
    """A tiny model with weights that make every token count."""
    if name in DECODERS:
        rope = {"rope_parameters": YARN, "sliding_window": None} if name == "Ministral3" else {}
        config = getattr(hf, f"{name}Config")(**GQA | DECODERS[name] | rope | more)
        return drawn(getattr(hf, f"{name}ForCausalLM")(config))
    config = getattr(hf, f"{name}Config")(**MLM | (ENCODERS | FALLBACKS)[name] | more)
    return drawn(getattr(hf, f"{name}ForMaskedLM")(config))


def drawn(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            one = "norm" in name.lower() and name.endswith("weight")
            scale = 0.05 if one or name.endswith("bias") else 1.0 if "embed" in name or "tokens" in name else 0.4
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + float(one))
    return model.eval()
