"""Which optional parts a decoder has: what config.json says and what the files hold must agree.

Biases of the attention and norms of query and key heads are parts that one checkpoint of a family has and the next has not.
A setting decides where there is one; where the config is silent, the files do, not the name of the family.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dllm_fast.checkpoint.fields import flag
from dllm_fast.errors import CheckpointError

if TYPE_CHECKING:
    from dllm_fast.checkpoint.checkpoint import Checkpoint
    from dllm_fast.families.layouts import Keys
    from dllm_fast.networks.decoder import DecoderConfig


@dataclass(frozen=True, slots=True)
class _Part:
    """A parameter that a layer may have, the field that says so, and the settings of config.json that do."""

    parameter: str
    field: str
    settings: tuple[str, ...]


_PARTS = (
    _Part("qkv.bias", "qkv_bias", ("attention_bias", "include_qkv_bias", "use_qkv_bias")),
    _Part("out.bias", "out_bias", ("attention_bias", "use_bias")),
    _Part("q_norm.weight", "qk_norm", ("qk_norm", "use_qk_norm", "qk_layernorm")),
    _Part("mlp.router.bias", "bias", ("moe_router_enable_expert_bias",)),
)


def settle(config: DecoderConfig, keys: Keys, checkpoint: Checkpoint) -> tuple[DecoderConfig, tuple[str, ...]]:
    """The config with the parts that the files hold, and what `explain` should say about those that the family has otherwise.

    Args:
        config: what config.json and the family make of the checkpoint.
        keys: where the parts lie.
        checkpoint: what its files hold.

    Raises:
        CheckpointError: config.json says that a part is there, or is not, and the files say otherwise.
    """
    notes = []
    for part in _PARTS:
        of_experts = part.parameter.startswith("mlp.router")
        if part.parameter not in keys or (of_experts and config.experts is None):
            continue
        expected = bool(getattr(config.experts if of_experts else config, part.field))
        key = keys[part.parameter][0]
        found = next((k for k in _in_layers(key, config.layers) if k in checkpoint.tensors), None)
        setting = next((name for name in part.settings if checkpoint.config.get(name) is not None), None)
        if setting is not None:
            says = flag(checkpoint.config, setting)
            # Some families have no bias behind the attention whatever the setting of the others.
            if (found is not None) != says and (found is not None or expected):
                raise CheckpointError(
                    f"{setting} in config.json is {str(says).lower()}, but {checkpoint.folder} holds "
                    f"{found or 'no ' + key.replace('{i}', '*')}; is config.json the one of these weights? "
                    f"Leave {setting} out of it to go by the weights"
                )
        if (found is not None) != expected:
            notes.append(f"{found or 'no ' + key.replace('{i}', '*')} in the files, unlike others of this family")
            if of_experts:
                config = replace(config, experts=replace(config.experts, bias=found is not None))  # type: ignore[type-var]
            else:
                config = replace(config, **{part.field: found is not None})  # type: ignore[arg-type]
    return config, tuple(notes)


def _in_layers(key: str, layers: int) -> Iterable[str]:
    return (key.replace("{i}", str(i)) for i in range(layers))
