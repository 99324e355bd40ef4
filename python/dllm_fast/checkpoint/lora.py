"""An adapter of peft in LoRA's form (Hu et al., 2021, arXiv:2106.09685), merged into the weights as they are read.

A folder of one holds `adapter_config.json` and `adapter_model.safetensors`: for some weights W two thin matrices, so that
W + scale * B A takes the place of W; and whole tensors that were trained beside them. What is no plain LoRA is refused.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dllm_fast.checkpoint import fields, regular
from dllm_fast.checkpoint.header import TensorInfo, read_header
from dllm_fast.checkpoint.jsonfile import read_json
from dllm_fast.checkpoint.reading import pieces, read_tensor
from dllm_fast.checkpoint.regular import present
from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MATRIX = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
# Whole tensors: peft writes the layer that it wrapped, or the copy that it trained, into the name.
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save(?:\.default)?)\.")
# What a trained copy has taken the place of: nothing runs it.
_REPLACED = ".original_module."
_PATTERN = re.compile(r"\^?[\w.]+\$?")
# Layers times patterns that are held against them: a second's work; 900 of each are published.
_MOST_COMPARED = 4_000_000
# Settings that change what is computed, or that began from weights other than the base's.
_VARIANTS = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_bdlora",
    "kasa_config",
    "velora_config",
    "arrow_config",
    "monteclora_config",
    "fan_in_fan_out",
)
# Beginnings that leave the base as it is.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# Settings that say how it was trained, or that are read here. One that nobody knows may change what is computed.
_KNOWN = frozenset(
    (
        *("peft_type", "peft_version", "task_type", "auto_mapping", "parent_library", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "bias"),
        *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"),
        *("init_lora_weights", "eva_config", "corda_config", "loftq_config", "lora_ga_config", "qalora_group_size"),
        *("megatron_config", "megatron_core", "runtime_config", "ensure_weight_tying", "merge_weights", "unsloth_fixed"),
        *_VARIANTS,
    )
)
_REMEDY = "merge it with peft (merge_and_unload, then save_pretrained) and open that folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What an adapter makes of the weights of its base.

    Attributes:
        folder: where it lies.
        base: folder or hub id of its base, or None where it does not say.
        revision: of the base.
        pairs: for a key of the base, the keys of A and B in the adapter, and the scale.
        whole: for a key of the base, the key of the tensor that takes its place.
        tensors: what the header of the adapter says.
        biases: which biases were trained, as peft says it: `none`, `all` or `lora_only`.
    """

    folder: Path
    base: str | None
    revision: str | None
    pairs: Mapping[str, tuple[str, str, float]]
    whole: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    biases: str = "none"

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Reads the settings and the header.

        Raises:
            CheckpointError: a file is missing or broken, or it is no plain LoRA.
        """
        path = folder / CONFIG
        config = read_json(path)
        _refuse_variants(path, config)
        if not present(folder / WEIGHTS):
            raise CheckpointError(
                f"{folder} must hold {WEIGHTS}; save it anew with peft, which writes it, where it has adapter_model.bin"
            )
        tensors = read_header(folder / WEIGHTS)
        modules: dict[str, dict[str, str]] = {}
        whole: dict[str, str] = {}
        for key in tensors:
            name = key.removeprefix(_PREFIX)
            if match := _MATRIX.fullmatch(name):
                modules.setdefault(match[1], {})[match[2]] = key
            elif "lora_" in name:
                raise CheckpointError(f"{folder / WEIGHTS} must be a plain LoRA of linear layers, got {shown(key)}; {_REMEDY}")
            elif _REPLACED not in name:
                twin = whole.setdefault(_WRAPPED.sub(".", name), key)
                if twin != key and not _same(tensors, twin, key):
                    raise CheckpointError(
                        f"{folder / WEIGHTS} must hold one tensor for each weight, got {shown(twin)} and {shown(key)}, which "
                        f"differ; {_REMEDY}"
                    )
        settings = (
            _Own.of(folder, config, "rank_pattern", fields.whole(config, "r", file=CONFIG), len(modules)),
            _Own.of(folder, config, "alpha_pattern", fields.positive(config, "lora_alpha", 8.0, file=CONFIG), len(modules)),
            fields.flag(config, "use_rslora", file=CONFIG),
        )
        pairs = {f"{name}.weight": _pair(folder, tensors, name, found, settings) for name, found in modules.items()}
        base = config.get("base_model_name_or_path")
        revision = config.get("revision")
        return cls(
            folder=folder,
            base=base if isinstance(base, str) and base else None,
            revision=revision if isinstance(revision, str) else None,
            pairs=pairs,
            whole=whole,
            tensors=tensors,
            biases=str(config.get("bias") or "none"),
        )

    def renamed(self, name: Callable[[str], str]) -> Adapter:
        """The same with its whole tensors under the names that the base has for them."""
        return replace(self, whole={name(key): own for key, own in self.whole.items()})

    def over(self, base: Mapping[str, TensorInfo], folder: Path) -> dict[str, TensorInfo]:
        """The tensors of the base under this adapter; whole ones that the base lacks come to them.

        Raises:
            CheckpointError: the adapter changes what the base holds in another shape.
        """
        found = dict(base) | {key: self.tensors[own] for key, own in self.whole.items() if key not in base}
        for key, own in self.whole.items():
            self._check_shape(found, folder, key, self.tensors[own].shape)
        for key, (a, b, _) in self.pairs.items():
            if key in found:
                self._check_shape(found, folder, key, (self.tensors[b].shape[0], self.tensors[a].shape[1]))
        return found

    def check_held(self, tensors: Mapping[str, TensorInfo], folder: Path) -> None:
        """Refuses what is added to a weight that is not there.

        Asked last: of a head that is not there because it is tied, `head.decide` says what is wrong.
        """
        if lost := next((key for key in self.pairs if key not in tensors), None):
            root = lost.partition(".")[0] + "."
            others = [other for other in tensors if other.startswith(root)]
            kin = difflib.get_close_matches(lost, others[:1000], n=1, cutoff=0.0)
            why = f" (it holds {shown(kin[0])}, and some classes call their modules otherwise than their files)" if kin else ""
            raise CheckpointError(
                f"the adapter {self.folder} changes {shown(lost)}, which {folder} does not hold; is that its base? "
                f"If it is{why}, {_REMEDY}"
            )

    def _check_shape(self, base: Mapping[str, TensorInfo], folder: Path, key: str, made: tuple[int, ...]) -> None:
        if base[key].shape != made:
            raise CheckpointError(
                f"the adapter {self.folder} must fit {shown(key)} of {folder}, got shape {list(made)} for "
                f"{list(base[key].shape)}; is that its base? If its vocabulary was made larger, {_REMEDY}"
            )

    def replaces(self, key: str) -> bool:
        """Does a tensor of the adapter take the place of this one?"""
        return key in self.whole

    def changes(self, key: str) -> bool:
        """Is this weight other than in the base?"""
        return key in self.whole or key in self.pairs

    def adds(self, key: str) -> bool:
        """Is a product added to this weight?"""
        return key in self.pairs

    def replacement(self, key: str) -> Tensor:
        """The tensor that takes the place of one of the base; a product may be added to it."""
        return self._read(self.whole[key])

    def merged(self, key: str, weight: Tensor) -> Tensor:
        """A weight with the product added, in float32 where there is one, so that it is rounded once, in the model's dtype."""
        if key not in self.pairs:
            return weight
        a, b, scale = self.pairs[key]
        return weight.float() + (self._read(b).float() @ self._read(a).float()) * scale

    def _read(self, key: str) -> Tensor:
        return read_tensor(self.tensors[key])

    @property
    def note(self) -> str:
        """What `explain` says about it."""
        ranks = sorted({self.tensors[a].shape[0] for a, _, _ in self.pairs.values()})
        scales = sorted({round(scale, 6) for _, _, scale in self.pairs.values()})
        more = f", {len(self.whole)} whole tensors" if self.whole else ""
        # Older versions of peft train biases and do not write them.
        if self.biases != "none" and not any(f"{key.removesuffix('weight')}bias" in self.whole for key in self.pairs):
            more += f"; biases were trained ({self.biases}), but it holds none of these layers, so that those of the base stay"
        return (
            f"LoRA of {self.folder} is merged: {len(self.pairs)} weights, rank {', '.join(map(str, ranks))}, "
            f"scale {', '.join(map(str, scales))}{more}"
        )


def is_adapter(folder: Path) -> bool:
    """Does a folder hold an adapter and no model? One that holds both is a model whose adapter is beside it."""
    has_model = any(name.startswith("model") and name.endswith(".safetensors") for name in regular.names(folder))
    return present(folder / CONFIG) and not has_model


def _refuse_variants(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type must be LORA, got {shown(kind)}; {_REMEDY}")
    for name in _VARIANTS:
        if config.get(name):
            raise CheckpointError(f"{path}: the adapter must be a plain LoRA, got {name} {shown(config[name])}; {_REMEDY}")
    start = config.get("init_lora_weights")
    if start not in _STARTS:
        raise CheckpointError(
            f"{path}: the adapter must begin from its base as it is, got init_lora_weights {shown(start)}, which changes the "
            f"base; {_REMEDY}"
        )
    if strange := sorted(name for name, value in config.items() if value and name not in _KNOWN):
        raise CheckpointError(
            f"{path} must hold settings of a plain LoRA, got {shown(strange[0])}: {shown(config[strange[0]])}, which is not "
            f"known; take it out where it only says how the adapter was trained, or {_REMEDY}"
        )


def _same(tensors: Mapping[str, TensorInfo], first: str, second: str) -> bool:
    """Are two tensors of the adapter equal? A trained copy may be written under two names."""
    one, other = tensors[first], tensors[second]
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a.equal(b) for (_, a), (_, b) in zip(pieces(one), pieces(other), strict=True))


class _Own(NamedTuple):
    """A setting that may differ from layer to layer: by the end of the layer's name, as peft compares them."""

    usual: float
    others: tuple[tuple[re.Pattern[str], float], ...]

    @classmethod
    def of(cls, folder: Path, config: Mapping[str, Any], setting: str, usual: float, layers: int) -> _Own:
        """Reads `rank_pattern` or `alpha_pattern`, for so many layers."""
        said = fields.mapping(config, setting, file=CONFIG)
        if len(said) * layers > _MOST_COMPARED:
            raise CheckpointError(
                f"{folder / CONFIG}: {setting} must not hold more than {_MOST_COMPARED // layers} entries for {layers} layers, "
                f"got {len(said)}; {_REMEDY}"
            )
        for pattern, value in said.items():
            if not _PATTERN.fullmatch(pattern):  # a pattern of somebody else's could run for ever
                raise CheckpointError(f"{folder / CONFIG}: {setting} must name layers, got {shown(pattern)}; {_REMEDY}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise CheckpointError(
                    f"{folder / CONFIG}: {setting} must hold numbers above 0, got {shown(value)}; fetch it again"
                )
        return cls(usual, tuple((re.compile(rf"(.*\.)?({pattern})"), value) for pattern, value in said.items()))

    def __call__(self, name: str) -> float:
        return next((value for pattern, value in self.others if pattern.fullmatch(name)), self.usual)


def _pair(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    name: str,
    found: Mapping[str, str],
    settings: tuple[_Own, _Own, bool],
) -> tuple[str, str, float]:
    if len(found) != 2:
        raise CheckpointError(f"{folder / WEIGHTS} must hold lora_A and lora_B of {shown(name)}, got one; fetch it again")
    a, b = found["A"], found["B"]
    shapes = [tensors[a].shape, tensors[b].shape]
    ranks, alphas, by_root = settings
    rank = ranks(name)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or not shapes[0][0] == shapes[1][1] == rank:
        raise CheckpointError(
            f"{folder / WEIGHTS} must hold matrices of rank {rank} for {shown(name)}, got {list(shapes[0])} and "
            f"{list(shapes[1])}; fetch it again"
        )
    return a, b, alphas(name) / (math.sqrt(rank) if by_root else rank)
