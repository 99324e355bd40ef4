"""Tiny checkpoints of every decoder family under its original key names, each with the stock transformers class it equals."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file

VOCABULARY = 512
MASK = 501
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Twin:
    """A family's tiny checkpoint, or one of a form that others have given it.

    `stock` makes the transformers config, `written` the config.json as the family writes it, `rename` turns the stock
    class's state dict into the family's. `attention` and `block` say how the family attends; `form_of` is the row of the table
    where the name is not.
    """

    name: str
    stock: Callable[[], Any]
    written: dict[str, Any]
    rename: Callable[[State], State] = lambda state: state
    attention: str = "full"
    block: int | None = None
    shift: int = 0
    form_of: str | None = None

    @property
    def family(self) -> str:
        """The row of the table."""
        return self.form_of or self.name

    def model(self, seed: int = 0) -> Any:
        """The stock class in float32, its weights redrawn so that what a mask predicts depends on its place and the rest."""
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(self.stock(), dtype=torch.float32, attn_implementation="sdpa").eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if "inv_freq" in name:
                    continue
                scale = 0.05 if "embed" in name or "lm_head" in name else 0.12
                noise = torch.randn(tensor.shape, generator=generator) * scale
                tensor.copy_(1 + noise if "norm" in name else noise)
        return model

    def save(self, folder: Path, seed: int = 0, *, dtype: torch.dtype = torch.float32, shards: int = 1) -> Path:
        """Writes `config.json` and the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.written))
        state = {k: v.to(dtype).contiguous() for k, v in self.rename(unfused(self.model(seed))).items()}
        if shards == 1:
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
            return folder
        keys = sorted(state)
        weight_map = {}
        for n in range(shards):
            name = f"model-{n + 1:05}-of-{shards:05}.safetensors"
            part = {key: state[key] for key in keys[n::shards]}
            save_file(part, folder / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, name)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder


def unfused(model: Any) -> State:
    """The state dict with the experts one by one, as checkpoints keep them."""
    state = {}
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if key.endswith("experts.gate_up_proj"):
            base = key.removesuffix("gate_up_proj")
            for e, both in enumerate(tensor):
                gate, up = both.chunk(2)
                state[f"{base}{e}.gate_proj.weight"], state[f"{base}{e}.up_proj.weight"] = gate, up
        elif key.endswith("experts.down_proj"):
            base = key.removesuffix("down_proj")
            state |= {f"{base}{e}.down_proj.weight": down for e, down in enumerate(tensor)}
        else:
            state[key] = tensor
    return state


def renamed(*pairs: tuple[str, str]) -> Callable[[State], State]:
    """Replaces the first part of each pair by the second in every key, in order."""

    def rename(state: State) -> State:
        return {functools.reduce(lambda k, pair: k.replace(*pair), pairs, key): tensor for key, tensor in state.items()}

    return rename


_LLADA = renamed(
    ("lm_head.weight", "model.transformer.ff_out.weight"),
    ("model.embed_tokens", "model.transformer.wte"),
    ("model.norm", "model.transformer.ln_f"),
    ("model.layers", "model.transformer.blocks"),
    ("self_attn.o_proj", "attn_out"),
    ("self_attn.", ""),
    ("mlp.gate_proj", "ff_proj"),
    ("mlp.up_proj", "up_proj"),
    ("mlp.down_proj", "ff_out"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ff_norm"),
)


def _llada2(state: State) -> State:
    state = renamed(
        ("embed_tokens", "word_embeddings"),
        ("self_attn.o_proj", "attention.dense"),
        ("self_attn.q_norm", "attention.query_layernorm"),
        ("self_attn.k_norm", "attention.key_layernorm"),
        ("gate.e_score_correction_bias", "gate.expert_bias"),
    )(state)
    for key in [key for key in state if key.endswith("self_attn.q_proj.weight")]:
        base = key.removesuffix("q_proj.weight")
        parts = [state.pop(f"{base}{x}_proj.weight") for x in "qkv"]
        state[base.replace("self_attn", "attention") + "query_key_value.weight"] = torch.cat(parts)
    return state


def _settings(**values: Any) -> dict[str, Any]:
    return {**COMMON, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, **values}


def _rope(theta: float, **more: Any) -> dict[str, Any]:
    """The rotation as transformers 5 takes it, or as 4 does."""
    if int(hf.__version__.split(".")[0]) >= 5:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}}
    scaling = {name: value for name, value in more.items() if name != "partial_rotary_factor"}
    return {"rope_theta": theta, **more} | ({"rope_scaling": scaling} if scaling else {})


def _ministral3(**settings: Any) -> Any:
    if not hasattr(hf, "Ministral3Config"):
        import pytest  # the benches use these families, too

        pytest.skip(f"transformers {hf.__version__} has no Ministral3, the stock class of Nemotron-Labs-Diffusion")
    return hf.Ministral3Config(**settings)


_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LLADA2_MOE = {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
_YARN = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0}

TWINS = (
    Twin(
        "llada",
        lambda: hf.LlamaConfig(**_settings(num_key_value_heads=4, rms_norm_eps=1e-5), **_rope(5e5)),
        {
            "model_type": "llada",
            "architectures": ["LLaDAModelLM"],
            "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
            "d_model": 64,
            "n_heads": 4,
            "n_kv_heads": 4,
            "n_layers": 2,
            "mlp_hidden_size": 128,
            "max_sequence_length": 512,
            "vocab_size": VOCABULARY,
            "embedding_size": VOCABULARY,
            "weight_tying": False,
            "rope": True,
            "rope_theta": 5e5,
            "rms_norm_eps": 1e-5,
            "layer_norm_type": "rms",
            "block_type": "llama",
            "activation_type": "silu",
            "mask_token_id": MASK,
            "eos_token_id": 500,
        },
        _LLADA,
    ),
    Twin(
        "llada-moe",
        lambda: hf.Qwen3MoeConfig(**_settings(num_key_value_heads=4, head_dim=16, norm_topk_prob=False, **_MOE), **_rope(5e4)),
        _settings(
            model_type="llada",
            architectures=["LLaDAMoEModelLM"],
            num_key_value_heads=4,
            qk_layernorm=True,
            norm_topk_prob=False,
            num_experts=4,
            num_experts_per_tok=2,
            expert_intermediate_size=32,
            moe_layer_freq=[1, 1],
            rope_theta=5e4,
            mask_token_id=MASK,
        ),
    ),
    Twin(
        "llada2",
        lambda: hf.Glm4MoeConfig(
            **_settings(head_dim=16, use_qk_norm=True, n_routed_experts=8, n_shared_experts=1, **_LLADA2_MOE),
            **_rope(6e5, partial_rotary_factor=0.5),
        ),
        _settings(
            model_type="llada2_moe",
            architectures=["LLaDA2MoeModelLM"],
            head_dim=16,
            num_experts=8,
            num_shared_experts=1,
            rope_theta=6e5,
            partial_rotary_factor=0.5,
            use_qk_norm=True,
            use_bias=False,
            block_length=8,
            mask_token_id=MASK,
            **_LLADA2_MOE,
        ),
        _llada2,
        attention="block_causal",
        block=8,
    ),
    Twin(
        "dream",
        lambda: hf.Qwen2Config(**_settings(), **_rope(1e6)),
        _settings(model_type="Dream", architectures=["DreamModel"], rope_theta=1e6, mask_token_id=MASK, eos_token_id=500),
        shift=1,
    ),
    Twin(
        "fast-dllm-v2",
        lambda: hf.Qwen2Config(**_settings(), **_rope(1e6)),
        _settings(
            model_type="Fast_dLLM_Qwen",
            architectures=["Fast_dLLM_QwenForCausalLM"],
            rope_theta=1e6,
            bd_size=8,
            mask_token_id=MASK,
        ),
        attention="block_causal",
        block=8,
        shift=1,
    ),
    Twin(
        "sdar",
        lambda: hf.Qwen3Config(**_settings(head_dim=32), **_rope(1e6)),
        _settings(
            model_type="sdar",
            architectures=["SDARForCausalLM"],
            head_dim=32,
            rope_theta=1e6,
            block_size=4,
            mask_token_id=MASK,
        ),
        attention="block_causal",
        block=4,
    ),
    Twin(
        "sdar-moe",
        lambda: hf.Qwen3MoeConfig(**_settings(head_dim=16, norm_topk_prob=True, **_MOE), **_rope(1e6)),
        _settings(
            model_type="sdar_moe",
            architectures=["SDARMoeForCausalLM"],
            head_dim=16,
            norm_topk_prob=True,
            rope_theta=1e6,
            block_size=4,
            mask_token_id=MASK,
            **_MOE,
        ),
        attention="block_causal",
        block=4,
    ),
    Twin(
        "wedlm",
        lambda: hf.Qwen3Config(**_settings(head_dim=16, attention_bias=False), **_rope(1e6)),
        _settings(
            model_type="wedlm",
            architectures=["WeDLMForCausalLM"],
            head_dim=16,
            attention_bias=False,
            qk_norm=True,
            rope_theta=1e6,
            mask_token_id=MASK,
        ),
        attention="causal_reordered",
    ),
    Twin(
        "rnd1",
        lambda: hf.Qwen3MoeConfig(**_settings(head_dim=16, norm_topk_prob=True, **_MOE), **_rope(1e6)),
        _settings(
            model_type="rnd1",
            architectures=["RND1LM"],
            head_dim=16,
            norm_topk_prob=True,
            rope_theta=1e6,
            mask_token_id=MASK,
            **_MOE,
        ),
    ),
    Twin(
        "a2d-qwen3",
        lambda: hf.Qwen3Config(**_settings(head_dim=16, tie_word_embeddings=True), **_rope(1e6)),
        _settings(
            model_type="a2d-qwen3",
            architectures=["A2DQwen3LMHeadModel"],
            head_dim=16,
            tie_word_embeddings=True,
            rope_theta=1e6,
            mask_token_id=MASK,
        ),
    ),
    Twin(
        "a2d-qwen2",
        lambda: hf.Qwen2Config(**_settings(), **_rope(1e6)),
        _settings(model_type="a2d-qwen2", architectures=["A2DQwen2LMHeadModel"], rope_theta=1e6, mask_token_id=MASK),
    ),
    Twin(
        "a2d-llama",
        lambda: hf.LlamaConfig(
            **_settings(),
            **_rope(
                5e5,
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        _settings(
            model_type="a2d-llama",
            architectures=["A2DLlamaLMHeadModel"],
            rope_theta=5e5,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            mask_token_id=MASK,
        ),
    ),
    Twin(
        "stable-diffcoder",
        lambda: hf.LlamaConfig(**_settings(), **_rope(5e5)),
        _settings(
            model_type="stable_diffcoder",
            architectures=["StableDiffCoderForCausalLM"],
            rope_theta=5e5,
            block_size=4,
            mask_token_id=MASK,
        ),
        attention="block_causal",
        block=4,
    ),
    Twin(
        "nemotron-labs-diffusion",
        lambda: _ministral3(
            **_settings(head_dim=16, sliding_window=None),
            rope_parameters={**_YARN, "rope_theta": 1e6, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
        ),
        _settings(
            model_type="nemotron_labs_diffusion",
            architectures=["NemotronLabsDiffusionModel"],
            head_dim=16,
            rope_parameters={**_YARN, "rope_theta": 1e6, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
            block_size=8,
            mask_token_id=MASK,
        ),
        renamed(("model.", "encoder."), ("lm_head", "diffusion_head")),
        attention="causal_context",
        block=8,
    ),
    Twin(
        "illada",
        lambda: hf.LlamaConfig(**_settings(rms_norm_eps=1e-5, tie_word_embeddings=True), **_rope(6e5)),
        _settings(
            model_type="illada",
            architectures=["ILLaDAForCausalLM"],
            attention_bias=False,
            mlp_bias=False,
            layer_norm_eps=None,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_theta=6e5,
            eos_token_id=2,
            mask_token_id=MASK,
        ),
    ),
    Twin(
        "dream-reasoner",
        lambda: hf.Qwen3Config(**_settings(head_dim=16), **_rope(1e6)),
        _settings(
            model_type="Dream",
            architectures=["DreamForCausalLM"],
            head_dim=16,
            rope_theta=1e6,
            block_size=8,
            mask_token_id=MASK,
        ),
        attention="block_causal",
        block=8,
    ),
    Twin(
        "llada-as-llama",
        lambda: hf.LlamaConfig(**_settings(num_key_value_heads=4, rms_norm_eps=1e-5), **_rope(6e5)),
        _settings(
            model_type="llada",
            architectures=["LLaDAModelLM"],
            num_key_value_heads=4,
            rms_norm_eps=1e-5,
            rope_theta=6e5,
            mask_token_id=MASK,
        ),
        form_of="llada",
    ),
    Twin(
        "lladamoe",
        lambda: hf.Qwen3MoeConfig(**_settings(head_dim=16, norm_topk_prob=True, **_MOE), **_rope(5e4)),
        _settings(
            model_type="lladamoe",
            norm_topk_prob=True,
            num_experts=4,
            num_experts_per_tok=2,
            expert_intermediate_size=32,
            rope_theta=5e4,
            mask_token_id=MASK,
        ),
        form_of="llada-moe",
    ),
    Twin(
        "dream-without-biases",
        lambda: hf.LlamaConfig(**_settings(), **_rope(1e6)),
        _settings(model_type="Dream", architectures=["DreamModel"], attention_bias=False, rope_theta=1e6, mask_token_id=MASK),
        shift=1,
        form_of="dream",
    ),
    Twin(
        "sdar-without-norms",
        lambda: hf.Qwen2Config(**_settings(), **_rope(1e6)),
        _settings(model_type="sdar", architectures=["SDARForCausalLM"], rope_theta=1e6, block_size=4, mask_token_id=MASK),
        attention="block_causal",
        block=4,
        form_of="sdar",
    ),
)


def visible(twin: Twin, length: int) -> torch.Tensor:
    """Which key each query sees by the family's own attention rule, bool `[1, 1, L, L]`, from its definition."""
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    if twin.attention == "full":
        return torch.ones(1, 1, length, length, dtype=torch.bool)
    match twin.attention:
        case "causal_reordered":
            seen = k <= q
        case "causal_context":
            seen = (k <= q) | (q // twin.block == (length - 1) // twin.block)
        case _:
            seen = k // twin.block <= q // twin.block
    return seen[None, None]
