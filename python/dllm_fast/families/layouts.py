"""How the checkpoints of the decoder families are laid out: settings to a `DecoderConfig`, keys to our parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dllm_fast.checkpoint.fields import context, flag, mapping, positive, whole
from dllm_fast.errors import CheckpointError, shown
from dllm_fast.networks.activations import activation
from dllm_fast.networks.decoder import DecoderConfig
from dllm_fast.networks.experts import ExpertsConfig
from dllm_fast.networks.rotary import Rotary

# Our parameter: the keys whose rows make it, in order. {i} is a layer, {e} runs over the experts.
Keys = dict[str, tuple[str, ...]]

_STANDARD: Keys = {
    "embed.weight": ("model.embed_tokens.weight",),
    "norm.weight": ("model.norm.weight",),
    "head.weight": ("lm_head.weight",),
    "attention_norm.weight": ("model.layers.{i}.input_layernorm.weight",),
    "mlp_norm.weight": ("model.layers.{i}.post_attention_layernorm.weight",),
    "qkv.weight": tuple(f"model.layers.{{i}}.self_attn.{x}_proj.weight" for x in "qkv"),
    "qkv.bias": tuple(f"model.layers.{{i}}.self_attn.{x}_proj.bias" for x in "qkv"),
    "out.weight": ("model.layers.{i}.self_attn.o_proj.weight",),
    "out.bias": ("model.layers.{i}.self_attn.o_proj.bias",),
    "q_norm.weight": ("model.layers.{i}.self_attn.q_norm.weight",),
    "k_norm.weight": ("model.layers.{i}.self_attn.k_norm.weight",),
    "mlp.gate_up.weight": ("model.layers.{i}.mlp.gate_proj.weight", "model.layers.{i}.mlp.up_proj.weight"),
    "mlp.down.weight": ("model.layers.{i}.mlp.down_proj.weight",),
    "mlp.router.weight": ("model.layers.{i}.mlp.gate.weight",),
    "mlp.router.bias": ("model.layers.{i}.mlp.gate.e_score_correction_bias",),
    "mlp.gate_up": ("model.layers.{i}.mlp.experts.{e}.gate_proj.weight", "model.layers.{i}.mlp.experts.{e}.up_proj.weight"),
    "mlp.down": ("model.layers.{i}.mlp.experts.{e}.down_proj.weight",),
    "mlp.shared.gate_up.weight": (
        "model.layers.{i}.mlp.shared_experts.gate_proj.weight",
        "model.layers.{i}.mlp.shared_experts.up_proj.weight",
    ),
    "mlp.shared.down.weight": ("model.layers.{i}.mlp.shared_experts.down_proj.weight",),
}

_BLOCK = "model.transformer.blocks.{i}."
_LLADA: Keys = {
    "embed.weight": ("model.transformer.wte.weight",),
    "norm.weight": ("model.transformer.ln_f.weight",),
    "head.weight": ("model.transformer.ff_out.weight",),
    "attention_norm.weight": (_BLOCK + "attn_norm.weight",),
    "mlp_norm.weight": (_BLOCK + "ff_norm.weight",),
    "qkv.weight": tuple(f"{_BLOCK}{x}_proj.weight" for x in "qkv"),
    "qkv.bias": tuple(f"{_BLOCK}{x}_proj.bias" for x in "qkv"),
    "out.weight": (_BLOCK + "attn_out.weight",),
    "mlp.gate_up.weight": (_BLOCK + "ff_proj.weight", _BLOCK + "up_proj.weight"),
    "mlp.down.weight": (_BLOCK + "ff_out.weight",),
}

_LLADA_MOE: Keys = _STANDARD | {
    "mlp.router.bias": ("model.layers.{i}.mlp.expert_bias",),
    "mlp.shared.gate_up.weight": (
        "model.layers.{i}.shared_expert.gate_proj.weight",
        "model.layers.{i}.shared_expert.up_proj.weight",
    ),
    "mlp.shared.down.weight": ("model.layers.{i}.shared_expert.down_proj.weight",),
}

_LLADA2: Keys = _STANDARD | {
    "embed.weight": ("model.word_embeddings.weight",),
    # Query, key and value rows lie in this order in one matrix already.
    "qkv.weight": ("model.layers.{i}.attention.query_key_value.weight",),
    "qkv.bias": ("model.layers.{i}.attention.query_key_value.bias",),
    "out.weight": ("model.layers.{i}.attention.dense.weight",),
    "out.bias": ("model.layers.{i}.attention.dense.bias",),
    "q_norm.weight": ("model.layers.{i}.attention.query_layernorm.weight",),
    "k_norm.weight": ("model.layers.{i}.attention.key_layernorm.weight",),
    "mlp.router.bias": ("model.layers.{i}.mlp.gate.expert_bias",),
}

_NEMOTRON: Keys = {
    ours: tuple(key.replace("model.", "encoder.", 1).replace("lm_head.", "diffusion_head.") for key in keys)
    for ours, keys in _STANDARD.items()
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Reads a config and names the keys.

    Attributes:
        read: makes a `DecoderConfig` of the settings.
        keys: where our parameters lie.
        tied_setting: says that the head is the token table.
        converted: where they lie after a conversion to another form.
    """

    read: Callable[[Mapping[str, Any]], DecoderConfig]
    keys: Keys
    tied_setting: str = "tie_word_embeddings"
    converted: Keys | None = None

    def found(self, tensors: Collection[str]) -> Keys:
        """The keys under which a checkpoint with these tensors has its token table."""
        if self.converted is None or self.keys["embed.weight"][0] in tensors:
            return self.keys
        return self.converted if self.converted["embed.weight"][0] in tensors else self.keys


def pieces(keys: Keys, config: DecoderConfig, names: list[str], there: int) -> dict[str, tuple[str, ...]]:
    """For each of our parameters, the keys of the checkpoint whose rows make it.

    Args:
        there: number of tensors in the checkpoint.

    Raises:
        CheckpointError: far more would be needed; of a few that are missing, `weights.fill` says which.
    """
    found: dict[str, tuple[str, ...]] = {}
    needed = 0
    for name in names:
        layer, short = (name.split(".")[1], name.split(".", 2)[2]) if name.startswith("stack.") else ("", name)
        experts = range(config.experts.count) if config.experts is not None and "{e}" in keys[short][0] else range(1)
        needed += len(experts) * len(keys[short])
        if needed > 4 * there + 1000:
            raise CheckpointError(
                f"{config.layers} layers of config.json must have a tensor for every part and expert, got {there} tensors; is "
                "config.json the one of these weights?"
            )
        found[name] = tuple(key.replace("{i}", layer).replace("{e}", str(e)) for e in experts for key in keys[short])
    return found


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the Llama form and all that follow it call alike."""
    _only(config, "use_sliding_window", False, None)
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise CheckpointError(
            f"layer_types in config.json must be full_attention, got {config['layer_types']}; "
            "sliding windows are not computed by this decoder"
        )
    width, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    head_dim = whole(config, "head_dim", width // heads)
    return {
        "vocabulary": whole(config, "vocab_size"),
        "context": context(config, "max_position_embeddings"),
        "width": width,
        "layers": whole(config, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": whole(config, "num_key_value_heads", heads),
        "head_dim": head_dim,
        "inner": whole(config, "intermediate_size", 0, least=0),
        "norm_eps": positive(config, "rms_norm_eps", 1e-6),
        "rotary": Rotary.from_config(config, head_dim),
        "act": activation(config, "hidden_act", "silu"),
        "tied": flag(config, "tie_word_embeddings"),
    }


def _llama(config: Mapping[str, Any]) -> DecoderConfig:
    _only(config, "mlp_bias", False)
    bias = flag(config, "attention_bias")
    return DecoderConfig(**_sizes(config), qkv_bias=bias, out_bias=bias)


def _mistral(config: Mapping[str, Any]) -> DecoderConfig:
    _no_window(config)
    return _llama(config)


def _illada(config: Mapping[str, Any]) -> DecoderConfig:
    _only(config, "layer_norm_eps", None)  # it would make the norms LayerNorms
    return _llama(config)


def _qwen2(config: Mapping[str, Any]) -> DecoderConfig:
    return DecoderConfig(**_sizes(config), qkv_bias=True)


def _qwen3(config: Mapping[str, Any]) -> DecoderConfig:
    bias = flag(config, "attention_bias")
    return DecoderConfig(**_sizes(config), qkv_bias=bias, out_bias=bias, qk_norm=True)


def _wedlm(config: Mapping[str, Any]) -> DecoderConfig:
    bias, norm = flag(config, "attention_bias", default=True), flag(config, "qk_norm")
    return DecoderConfig(**_sizes(config), qkv_bias=bias, qk_norm=norm)


def _qwen3_moe(config: Mapping[str, Any]) -> DecoderConfig:
    sizes = _sizes(config)
    step = whole(config, "decoder_sparse_step", 1, least=0) or 1
    plain = set(config.get("mlp_only_layers") or ()) | {i for i in range(sizes["layers"]) if (i + 1) % step}
    bias = flag(config, "attention_bias")
    experts = ExpertsConfig(
        count=whole(config, "num_experts" if "num_experts" in config else "num_local_experts"),
        chosen=whole(config, "num_experts_per_tok"),
        inner=whole(config, "moe_intermediate_size"),
        normalize=flag(config, "norm_topk_prob"),
    )
    return DecoderConfig(**sizes, qkv_bias=bias, out_bias=bias, qk_norm=True, experts=experts, dense=frozenset(plain))


def _llada(config: Mapping[str, Any]) -> DecoderConfig:
    if "d_model" not in config and "hidden_size" in config:  # converted to the names of Llama
        tied = flag(config, "weight_tying", default=flag(config, "tie_word_embeddings"))
        return replace(_llama(config), rotary_float32=flag(config, "rope_full_precision", default=True), tied=tied)
    _only(config, "block_type", "llama")
    _only(config, "layer_norm_type", "rms")
    # With "swiglu" the published class halves what it has projected, and does not run.
    _only(config, "activation_type", "silu", "gelu", "relu")
    for name in ("alibi", "attention_layer_norm", "input_emb_norm", "include_bias", "multi_query_attention", "norm_after"):
        _only(config, name, False, None)
    _only(config, "rope", True)
    _only(config, "rope_scaling", None)
    width, heads = whole(config, "d_model"), whole(config, "n_heads")
    theta = {"rope_theta": config.get("rope_theta", 10000.0)}
    return DecoderConfig(
        vocabulary=whole(config, "embedding_size" if config.get("embedding_size") else "vocab_size"),
        context=context(config, "max_sequence_length"),
        width=width,
        layers=whole(config, "n_layers"),
        heads=heads,
        kv_heads=whole(config, "n_kv_heads", heads),
        head_dim=width // heads,
        inner=int(config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * width),
        norm_eps=positive(config, "rms_norm_eps", 1e-5),
        rotary=Rotary.from_config(theta, width // heads),
        rotary_float32=flag(config, "rope_full_precision", default=True),
        act=activation(config, "activation_type", "silu"),
        qkv_bias=flag(config, "include_qkv_bias"),
        tied=flag(config, "weight_tying", default=True),
        logit_scale=width**-0.5 if flag(config, "scale_logits") else 1.0,
    )


def _llada_moe(config: Mapping[str, Any]) -> DecoderConfig:
    sizes = _sizes(config)
    _only(config, "moe_router_score_function", "softmax", None)
    _only(config, "routed_scaling_factor", 1, None)
    frequency = config.get("moe_layer_freq") or [1] * sizes["layers"]
    bias = flag(config, "attention_bias")
    experts = ExpertsConfig(
        count=whole(config, "num_experts"),
        chosen=whole(config, "num_experts_per_tok"),
        inner=whole(config, "expert_intermediate_size"),
        shared=whole(config, "shared_expert_intermediate_size", 0, least=0),
        normalize=flag(config, "norm_topk_prob"),
        bias=flag(config, "moe_router_enable_expert_bias"),
    )
    return DecoderConfig(
        **sizes | {"inner": whole(config, "dense_intermediate_size", 0, least=0)},
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=flag(config, "qk_layernorm"),
        experts=experts,
        dense=frozenset(i for i, kind in enumerate(frequency) if kind == 0),
        clip=None if config.get("clip_qkv") is None else positive(config, "clip_qkv", 1.0),
    )


def _llada2(config: Mapping[str, Any]) -> DecoderConfig:
    sizes = _sizes({"partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5, **config})
    _only(config, "norm_head", False, None)
    _only(config, "score_function", "sigmoid", None)
    inner = whole(config, "moe_intermediate_size")
    experts = ExpertsConfig(
        count=whole(config, "num_experts"),
        chosen=whole(config, "num_experts_per_tok"),
        inner=inner,
        shared=inner * whole(config, "num_shared_experts", 0, least=0),
        sigmoid=True,
        groups=whole(config, "n_group", 1, least=0) or 1,
        chosen_groups=whole(config, "topk_group", 1, least=0) or 1,
        normalize=flag(config, "norm_topk_prob", default=True),
        scale=positive(config, "routed_scaling_factor", 2.5),
        bias=True,
    )
    return DecoderConfig(
        **sizes,
        qkv_bias=flag(config, "use_qkv_bias"),
        out_bias=flag(config, "use_bias"),
        qk_norm=flag(config, "use_qk_norm", default=True),
        experts=experts,
        dense=frozenset(range(min(whole(config, "first_k_dense_replace", 0, least=0), sizes["layers"]))),
    )


def _nemotron(config: Mapping[str, Any]) -> DecoderConfig:
    _no_window(config)
    rope = mapping(config, "rope_parameters") or mapping(config, "rope_scaling")
    bias = flag(config, "attention_bias")
    return DecoderConfig(
        **_sizes(config),
        qkv_bias=bias,
        out_bias=bias,
        query_growth=float(rope.get("llama_4_scaling_beta") or 0.0),
        query_span=int(rope.get("original_max_position_embeddings") or config.get("max_position_embeddings") or 1),
    )


LLAMA = Layout(_llama, _STANDARD)
MISTRAL = Layout(_mistral, _STANDARD)
ILLADA = Layout(_illada, _STANDARD)
QWEN2 = Layout(_qwen2, _STANDARD)
QWEN3 = Layout(_qwen3, _STANDARD)
QWEN3_MOE = Layout(_qwen3_moe, _STANDARD)
WEDLM = Layout(_wedlm, _STANDARD)
LLADA = Layout(_llada, _LLADA, tied_setting="weight_tying", converted=_STANDARD)
LLADA_MOE = Layout(_llada_moe, _LLADA_MOE)
LLADA2 = Layout(_llada2, _LLADA2)
NEMOTRON = Layout(_nemotron, _NEMOTRON)


def _no_window(config: Mapping[str, Any]) -> None:
    """Refuses a window of attention that is shorter than the context.

    Raises:
        CheckpointError: there is one.
    """
    window, longest = config.get("sliding_window"), context(config, "max_position_embeddings")
    if (
        window is not None
        and config.get("layer_types") is None
        and (longest is None or whole(config, "sliding_window") < longest)
    ):
        raise CheckpointError(
            f"sliding_window in config.json must be null or at least max_position_embeddings, got {shown(window)} and "
            f"{longest}; sliding windows are not computed by this decoder"
        )


def _only(config: Mapping[str, Any], name: str, *allowed: object) -> None:
    """Refuses a setting that asks for another computation; a missing one is at its usual value.

    Raises:
        CheckpointError: it does.
    """
    value = config.get(name, allowed[0])
    if value not in allowed:
        raise CheckpointError(
            f"{name} in config.json must be {' or '.join(map(repr, allowed))} for this decoder, got {value!r}; "
            "open the model with transformers and pass it to sample instead"
        )
