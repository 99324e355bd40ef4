"""How a checkpoint of DiffusionGemma is laid out, as transformers 5.11 and later write it.

The weights that encode and those that denoise are one set; only a factor of each layer is there twice. A tower for images may
lie beside them. It is not opened: these models are run for text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dllm_fast.checkpoint import head
from dllm_fast.checkpoint.fields import context, flag, mapping, positive, whole
from dllm_fast.errors import CheckpointError, shown
from dllm_fast.families.config_keys import entry
from dllm_fast.networks.activations import activation
from dllm_fast.networks.diffusion_gemma import GLOBAL, LOCAL, DiffusionGemma, DiffusionGemmaConfig
from dllm_fast.networks.experts import ExpertsConfig
from dllm_fast.networks.rotary import Rotary

if TYPE_CHECKING:
    from dllm_fast.checkpoint.checkpoint import Checkpoint

_ENCODER, _DECODER = "model.encoder.language_model.", "model.decoder."
_TABLE = "embed_tokens.weight"
TABLE, HEAD = _DECODER + _TABLE, "lm_head.weight"
_IMAGES = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")
# Every sixth layer is global where the config does not say.
_EVERY = 6
_WINDOW, _WIDE = 512, 512
_ROTARY: Mapping[str, Mapping[str, Any]] = {
    LOCAL: {"rope_type": "default", "rope_theta": 10_000.0},
    GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}

# Our parameter of a layer: the ends of the keys whose rows make it.
_LAYER: Mapping[str, tuple[str, ...]] = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "attention.out": ("self_attn.o_proj",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
    "experts.router": ("router.proj",),
    "before_attention": ("input_layernorm",),
    "behind_attention": ("post_attention_layernorm",),
    "before_mlp": ("pre_feedforward_layernorm",),
    "behind_mlp": ("post_feedforward_layernorm_1",),
    "before_experts": ("pre_feedforward_layernorm_2",),
    "behind_experts": ("post_feedforward_layernorm_2",),
    "behind_both": ("post_feedforward_layernorm",),
}
_WHOLE: Mapping[str, str] = {
    "experts.router.scale": "router.scale",
    "experts.router.expert_scale": "router.per_expert_scale",
    "experts.gate_up": "experts.gate_up_proj",
    "experts.down": "experts.down_proj",
    "scalar": "layer_scalar",
}
_ONCE: Mapping[str, tuple[str, ...]] = {
    "norm.weight": ("norm.weight",),
    "conditioning.norm.weight": ("self_conditioning.pre_norm.weight",),
    "conditioning.mlp.gate_up.weight": ("self_conditioning.gate_proj.weight", "self_conditioning.up_proj.weight"),
    "conditioning.mlp.down.weight": ("self_conditioning.down_proj.weight",),
}


def build(checkpoint: Checkpoint) -> tuple[DiffusionGemma, dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The network of a checkpoint without values, the keys of its parameters, and patterns of spare keys.

    Raises:
        CheckpointError: a setting is missing or asks for what this forward does not compute, or the weights that encode are
            others than those that denoise.
    """
    if checkpoint.adapter is not None:
        raise CheckpointError(
            f"the adapter {checkpoint.adapter.folder} must be merged before: it changes the layers that encode and those that "
            "denoise, which are one set here, by itself; merge it with peft, and open the folder where the two are still equal"
        )
    config = read(checkpoint.config)
    output = head.decide(
        checkpoint,
        table=(TABLE, _ENCODER + _TABLE),
        head=(HEAD,),
        tied=flag(checkpoint.config, _TIED, default=True),
    )
    network = DiffusionGemma(replace(config, tied=output.tied))
    pieces = {name: keys(name, config) for name, _ in network.named_parameters()}
    pieces["embed.weight"] = (output.table,)
    spare = [re.escape(HEAD)] if output.tied else []
    spare += [re.escape(key) for key in _again(checkpoint)]
    notes = list(output.notes)
    for place in _IMAGES:
        if count := sum(key.startswith(place) for key in checkpoint.tensors):
            spare.append(re.escape(place) + ".*")
            said = f"opened for text alone: {count} tensors of {place}*, which read images, are passed over"
            token = checkpoint.config.get("image_token_id")
            notes.append(said if token is None else f"{said}; the id {shown(token)} of an image is read as a token")
    network.notes = tuple(notes)
    return network, pieces, tuple(spare)


_TIED = "tie_word_embeddings"


def _again(checkpoint: Checkpoint) -> list[str]:
    """Keys of the part that encodes which are there once more, and are the same.

    Raises:
        CheckpointError: one that differs, or none although the config does not tie the two.
    """
    found = [key for key in checkpoint.tensors if key.startswith(_ENCODER) and not key.endswith(".layer_scalar")]
    twice = [(key, _DECODER + key.removeprefix(_ENCODER)) for key in found]
    if not found and not flag(checkpoint.config, _TIED, default=True):
        raise CheckpointError(
            f"{checkpoint.folder} must hold the weights that encode, because {_TIED} in config.json is false, got none under "
            f'{_ENCODER}*; write "{_TIED}": true where they are those of {_DECODER}*'
        )
    for own, other in twice:
        if other in checkpoint.tensors and not head.equal(checkpoint, own, other):
            raise CheckpointError(
                f"{own} and {other} in {checkpoint.folder} must be one: the weights that encode and those that denoise are run "
                "as one set, got two that differ; run this model with transformers"
            )
    return [own for own, other in twice if other in checkpoint.tensors]


def keys(name: str, config: DiffusionGemmaConfig) -> tuple[str, ...]:
    """Of one of our parameters the keys whose rows make it."""
    if name == "embed.weight":
        return (TABLE,)
    if name == "head.weight":
        return (HEAD,)
    if name in _ONCE:
        return tuple(_DECODER + key for key in _ONCE[name])
    _, layer, part = name.split(".", 2)
    if part == "encoder_scalar":
        return (f"{_ENCODER}layers.{layer}.layer_scalar",)
    place = f"{_DECODER}layers.{layer}."
    if part in _WHOLE:
        return (place + _WHOLE[part],)
    owner, _, kind = part.rpartition(".")
    ends = _LAYER[owner]
    if owner == "attention.qkv" and config.kinds[int(layer)] == GLOBAL:
        ends = ends[:2]  # keys are values, too
    return tuple(f"{place}{end}.{kind}" for end in ends)


def read(config: Mapping[str, Any]) -> DiffusionGemmaConfig:
    """Sizes and flags, as config.json has them.

    Raises:
        CheckpointError: a setting is missing, or asks for what this forward does not compute.
    """
    text = mapping(config, "text_config")
    if not text:
        raise CheckpointError("config.json must hold text_config, the settings of the text model, got none; fetch it again")
    if text.get("use_bidirectional_attention") not in (None, "vision"):
        raise CheckpointError(
            "use_bidirectional_attention in config.json must be null or 'vision' (text is encoded causally), got "
            f"{shown(text['use_bidirectional_attention'])}; run this model with transformers"
        )
    kinds = _kinds(text)
    width, heads, head_dim = whole(text, "hidden_size"), whole(text, "num_attention_heads"), whole(text, "head_dim", 256)
    shapes = _shapes(text, kinds, whole(text, "num_key_value_heads"), head_dim)
    if any(heads % kv for kv, _ in shapes):
        raise CheckpointError(
            f"num_key_value_heads in config.json must divide the {heads} attention heads in every layer, got "
            f"{sorted({kv for kv, _ in shapes})}; is it the one of these weights?"
        )
    return DiffusionGemmaConfig(
        vocabulary=whole(text, "vocab_size"),
        context=context(text, "max_position_embeddings"),
        width=width,
        heads=heads,
        inner=whole(text, "intermediate_size"),
        kinds=kinds,
        shapes=shapes,
        window=whole(text, "sliding_window", _WINDOW),
        rotary={kind: _rotary(text, kind, shapes[kinds.index(kind)][1]) for kind in dict.fromkeys(kinds)},
        act=activation(text, "hidden_activation", "gelu_pytorch_tanh"),
        norm_eps=positive(text, "rms_norm_eps", 1e-6),
        bias=flag(text, "attention_bias"),
        softcap=positive(text, "final_logit_softcapping", 30.0),
        experts=ExpertsConfig(
            count=whole(text, "num_experts"), chosen=whole(text, "top_k_experts"), inner=whole(text, "moe_intermediate_size")
        ),
        tied=True,
    )


# What its generation config calls our settings.
_NAMES = {
    "t_max": "temperature",
    "t_min": "temperature_end",
    "max_denoising_steps": "steps_per_block",
    "stability_threshold": "stop_stable",
    "confidence_threshold": "stop_entropy",
}


def recommended(settings: object) -> dict[str, Any]:
    """What a generation config says over the preset, in our words; it leaves open most often.

    Raises:
        CheckpointError: a setting that is no number, or too small a one.
    """
    file = "generation_config.json"
    found: dict[str, Any] = {}
    bound = entry(entry(settings, "sampler_config"), "entropy_bound")
    said = {name: entry(settings, name) for name in _NAMES} | {"entropy_bound": bound}
    for name, value in said.items():
        if value is not None:
            ours = _NAMES.get(name, name)
            is_count = ours in {"steps_per_block", "stop_stable"}
            least = {"least": int(ours == "steps_per_block")}
            found[ours] = whole(said, name, file=file, **least) if is_count else positive(said, name, 1.0, file=file)
    return found


def _kinds(text: Mapping[str, Any]) -> tuple[str, ...]:
    layers, kinds = whole(text, "num_hidden_layers"), text.get("layer_types")
    if kinds is None:
        kinds = [GLOBAL if (index + 1) % _EVERY == 0 else LOCAL for index in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (LOCAL, GLOBAL) for kind in kinds):
        raise CheckpointError(
            f"layer_types in config.json must name one of {LOCAL} and {GLOBAL} for each of {layers} layers, got "
            f"{shown(kinds)}; is it the one of these weights?"
        )
    return (*kinds[:-1], GLOBAL)  # the stock class makes the last one global whatever the config says


def _shapes(text: Mapping[str, Any], kinds: Sequence[str], kv_heads: int, head_dim: int) -> tuple[tuple[int, int], ...]:
    """Heads of keys and their width: transformers writes them by layer, the first configs for all global layers."""
    by_layer = text.get("per_layer_config")
    if by_layer is None:
        wide = whole(text, "num_global_key_value_heads", kv_heads), whole(text, "global_head_dim", _WIDE)
        return tuple(wide if kind == GLOBAL else (kv_heads, head_dim) for kind in kinds)
    by_layer = mapping(text, "per_layer_config")
    shapes = []
    for index in range(len(kinds)):
        own = mapping(by_layer, str(index))
        if unknown := own.keys() - {"head_dim", "num_key_value_heads"}:
            raise CheckpointError(
                f"per_layer_config in config.json must change head_dim and num_key_value_heads alone, got "
                f"{shown(sorted(unknown))} for layer {index}; run this model with transformers"
            )
        shapes.append((whole(own, "num_key_value_heads", kv_heads), whole(own, "head_dim", head_dim)))
    for kind in set(kinds):
        alike = {shape for shape, other in zip(shapes, kinds, strict=True) if other == kind}
        if len(alike) > 1:
            raise CheckpointError(
                f"per_layer_config in config.json must say the same of all layers of {kind}, got {sorted(alike)}; run this "
                "model with transformers"
            )
    return tuple(shapes)


def _rotary(text: Mapping[str, Any], kind: str, head_dim: int) -> Rotary:
    given = mapping(text, "rope_parameters").get(kind) or _ROTARY[kind]
    if not isinstance(given, Mapping):
        raise CheckpointError(
            f"rope_parameters in config.json must hold an object for {kind}, got {shown(given)}; fetch it again"
        )
    rotary = Rotary.from_config({"rope_parameters": dict(given)}, head_dim)
    if rotary.width != head_dim:
        raise CheckpointError(
            f"partial_rotary_factor in config.json must leave a head of {kind} whole under this rope_type, got "
            f"{shown(given.get('partial_rotary_factor'))}; is it the one of these weights?"
        )
    return rotary
