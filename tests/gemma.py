"""Tiny random checkpoints of DiffusionGemma, made from transformers' own class and written by its own `save_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

VOCABULARY, CANVAS, WINDOW, EOS = 96, 8, 6, 1
LOCAL, GLOBAL = "sliding_attention", "full_attention"
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "sliding_window": WINDOW,
    "layer_types": [LOCAL, LOCAL, GLOBAL],
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 16,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "final_logit_softcapping": 5.0,
    "eos_token_id": EOS,
}


def stock(seed: int = 0, *, canvas: int = CANVAS, **settings: Any) -> Any:
    """The class of transformers in float32, its weights redrawn so that every part shows in the logits.

    Args:
        seed: of the weights.
        canvas: its canvas_length.
        settings: of the text model, over those above.
    """
    if not hasattr(hf, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip(f"transformers {hf.__version__} has no DiffusionGemma, which came with 5.11")
    images = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    config = hf.DiffusionGemmaConfig(
        text_config=hf.DiffusionGemmaTextConfig(**{**TEXT, **settings}),
        vision_config=hf.Gemma4VisionConfig(**images, num_key_value_heads=2),
        canvas_length=canvas,
    )
    model = hf.DiffusionGemmaForBlockDiffusion(config).eval()
    random = torch.Generator().manual_seed(seed)
    scalars = [item for item in model.named_buffers() if item[0].endswith("layer_scalar")]
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *scalars]:
            tensor.normal_(0, 0.12 if "proj" in name else 0.07, generator=random)
            if "norm" in name or "scal" in name:
                tensor.add_(1)
            if "q_norm" in name or "post_" in name:
                tensor.mul_(0.4)  # scores are not scaled, and every part is normed: softer ones leave float32 its digits
    return model


def save(model: Any, folder: Path) -> Path:
    """Writes it as transformers does."""
    model.save_pretrained(folder)
    return folder
