"""How the checkpoints of BERT's kin are laid out: settings to an `EncoderConfig`, keys to the parameters of an `Encoder`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dllm_fast.checkpoint.fields import flag, positive, whole
from dllm_fast.checkpoint.head import decide, decide_bias
from dllm_fast.errors import CheckpointError, InvalidValueError, shown
from dllm_fast.families import encoder_keys as keys
from dllm_fast.families.encoder_keys import Spelling, roberta
from dllm_fast.networks.activations import activation
from dllm_fast.networks.encoder import Encoder, EncoderConfig
from dllm_fast.networks.relative import Buckets, Disentangled
from dllm_fast.networks.rotary import Rotary

if TYPE_CHECKING:
    from dllm_fast.checkpoint.checkpoint import Checkpoint

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the checkpoints of a model type are read.

    Attributes:
        spellings: the ways in which its keys are written; the first is today's.
        names: settings that it calls otherwise, the best first.
        defaults: what transformers takes where config.json leaves a setting out.
        flags: what holds for the type.
        fixed: settings that must have one of these values, because nothing else is computed.
        more: fields that follow from several settings.
        harmless: patterns of keys that no logit depends on.
    """

    spellings: tuple[Spelling, ...]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Settings = field(default_factory=dict)
    flags: Settings = field(default_factory=dict)
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    more: Callable[[Settings, EncoderConfig], EncoderConfig] | None = None
    harmless: tuple[str, ...] = ()

    @property
    def tables(self) -> frozenset[str]:
        """The keys under which its token table may lie."""
        return frozenset(key for spelling in self.spellings for key in spelling.keys(f"{keys.TABLE}.weight"))

    def read(self, config: Settings) -> EncoderConfig:
        """The form and sizes that a config.json says."""
        for name, allowed in {**_FIXED, **self.fixed}.items():
            _only(config, name, *allowed)

        def called(name: str) -> str:
            return next((theirs for theirs in self.names.get(name, ()) if config.get(theirs) is not None), name)

        fields: dict[str, Any] = {name: config.get(name) for name in ("mask_token_id", "eos_token_id", "pad_token_id")}
        if isinstance(fields["eos_token_id"], list):
            fields["eos_token_id"] = None  # several; nothing here needs them
        if "pad_token_id" not in config:
            fields["pad_token_id"] = self.defaults.get("pad_token_id", 0)
        for name in _SIZES:
            fields[name] = whole(config, called(name))
        fields["type_vocab_size"] = whole(config, "type_vocab_size", self.defaults.get("type_vocab_size", 2), least=0)
        fields["layer_norm_eps"] = positive(config, called("layer_norm_eps"), self.defaults.get("layer_norm_eps", 1e-12))
        fields["hidden_act"] = activation(config, called("hidden_act"), self.defaults.get("hidden_act", "gelu"))
        fields["tie_word_embeddings"] = flag(config, "tie_word_embeddings", default=True)
        made = EncoderConfig(**fields | dict(self.flags))
        return made if self.more is None else self.more(config, made)

    def build(self, checkpoint: Checkpoint) -> tuple[Encoder, dict[str, tuple[str, ...]], tuple[str, ...]]:
        """The network of a checkpoint without values, for every parameter the keys that make it, and patterns of spare keys.

        Raises:
            CheckpointError: a setting is missing, or asks for what this forward does not compute; or there is no head.
        """
        there = checkpoint.tensors
        spelling = max(self.spellings, key=lambda s: s.found(there, fused=bool(self.flags.get("fused"))))
        try:
            config = replace(self.read(checkpoint.config), **spelling.flags)
        except InvalidValueError as error:
            raise CheckpointError(f"config.json in {checkpoint.folder}: {error}") from error
        _check_head(checkpoint, spelling)
        head, own = f"{spelling.head}.weight", f"{spelling.head}.bias"
        output = decide(checkpoint, table=spelling.keys(f"{keys.TABLE}.weight"), head=(head,), tied=config.tie_word_embeddings)
        bias, notes = decide_bias(checkpoint, bias=spelling.bias, own=own)
        if spelling.keys(f"{keys.ANGLES}.weight")[0] in there:
            config = replace(config, rotary=None)  # the checkpoint has them in a table
        has_bias = not spelling.bare_head or bias in there
        network = Encoder(replace(config, tie_word_embeddings=output.tied, head_bias=has_bias))
        network.notes = output.notes + notes
        pieces = {}
        for name, _ in network.named_parameters():
            pieces[name] = tuple(keys.old_name(key, there) for key in spelling.keys(name, config.inner_groups))
        pieces[f"{keys.TABLE}.weight"] = (output.table,)
        if has_bias:
            pieces["cls.predictions.bias"] = (bias,)
        # The head once more, which `decide` has compared; and other heads.
        spare = [re.escape(key) for key in ((head,) if output.tied else ()) + (own, spelling.bias)]
        spare += [rf"{re.escape(spelling.root)}\.pooler\.(dense\.)?(weight|bias)", r"cls\.seq_relationship\.(weight|bias)"]
        return network, pieces, (*spare, *self.harmless)


_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    "max_position_embeddings",
)
_FIXED: Mapping[str, tuple[object, ...]] = {"position_embedding_type": ("absolute",), "is_decoder": (False,)}


def _only(config: Settings, name: str, *allowed: object) -> None:
    """Refuses a setting that asks for another computation; one that is missing or null is at its usual value."""
    value = config.get(name)
    if value is not None and value not in allowed:
        raise CheckpointError(
            f"{name} in config.json must be {' or '.join(map(repr, allowed))} for this encoder, got {shown(value)}; "
            "open the model with transformers and pass it to sample instead"
        )


def _check_head(checkpoint: Checkpoint, spelling: Spelling) -> None:
    """Refuses a model that fills no masks.

    Raises:
        CheckpointError: it has no head for that.
    """
    dense = spelling.keys(f"{keys.DENSE}.weight")[0]
    if dense in checkpoint.tensors or dense in checkpoint.ignored:
        return
    if any(key.startswith("discriminator_predictions.") for key in checkpoint.tensors):
        raise CheckpointError(
            f"{checkpoint.folder} must hold a model that fills masks, got an ELECTRA discriminator, which tells replaced "
            "tokens from real ones; use its generator"
        )
    table = spelling.keys(f"{keys.TABLE}.weight")[0]
    # Without a head the classes of transformers leave the root out of their keys.
    if not any(table == key or table.endswith(f".{key}") for key in checkpoint.tensors):
        raise CheckpointError(
            f"{checkpoint.folder} must hold the head that fills masks and its token table, got none for {dense} and {table}; "
            "is config.json the one of these weights?"
        )
    raise CheckpointError(
        f"{checkpoint.folder} must hold the head that fills masks, got none for {dense}; a model for embeddings or "
        "classification has none: use the checkpoint that it was made from"
    )


def _albert(config: Settings, made: EncoderConfig) -> EncoderConfig:
    layers, groups = made.num_hidden_layers, whole(config, "num_hidden_groups", 1)
    if groups > layers:
        raise CheckpointError(
            f"num_hidden_groups in config.json must be at most num_hidden_layers={layers}, got {groups}; fetch it again"
        )
    width = whole(config, "embedding_size", 128)
    return replace(made, embedding_size=width, groups=groups, inner_groups=whole(config, "inner_group_num", 1))


def _projected(config: Settings, made: EncoderConfig, default: int | None = None) -> EncoderConfig:
    width = whole(config, "embedding_size", default or made.hidden_size)
    return replace(made, embedding_size=None if width == made.hidden_size else width)


def _ernie(config: Settings, made: EncoderConfig) -> EncoderConfig:
    tasks = whole(config, "task_type_vocab_size", 3) if flag(config, "use_task_id") else 0
    return replace(made, task_types=tasks)


def _esm(config: Settings, made: EncoderConfig) -> EncoderConfig:
    drops_masks = flag(config, "token_dropout")
    if drops_masks and made.mask_token_id is None:
        raise CheckpointError("mask_token_id must be in config.json where token_dropout is true, got none; add it")
    made = replace(made, embedding_norm=flag(config, "emb_layer_norm_before"), drops_masks=drops_masks)
    if config.get("position_embedding_type") != "rotary":
        return replace(made, positions="counted")
    rotary = _rotary(made, Rotary(width=made.head_dim, theta=positive(config, "rope_theta", 10000.0)))
    # Nothing in it is as long as max_position_embeddings.
    return replace(rotary, max_position_embeddings=None)


def _rotary(made: EncoderConfig, rotary: Rotary) -> EncoderConfig:
    if made.head_dim % 2:
        raise InvalidValueError(f"hidden_size must make heads of even width, got {made.hidden_size}; correct it")
    return replace(made, positions="rotary", rotary=rotary)


def _roformer(config: Settings, made: EncoderConfig) -> EncoderConfig:
    made = _rotary(_projected(config, made), Rotary(width=made.head_dim, theta=10000.0))
    return replace(made, turns_pairs=True, turns_values=flag(config, "rotary_value"))


def _nomic(config: Settings, made: EncoderConfig) -> EncoderConfig:
    theta = positive(config, "rotary_emb_base", 1000.0)
    return _rotary(made, Rotary.from_config(config, made.head_dim, theta=theta))


def _deberta(config: Settings, made: EncoderConfig) -> EncoderConfig:
    _only(config, "embedding_size", made.hidden_size)
    _only({"relative_attention": flag(config, "relative_attention")}, "relative_attention", True)
    kinds = config.get("pos_att_type")
    kinds = [kind.strip() for kind in kinds.lower().split("|")] if isinstance(kinds, str) else kinds or []
    if not isinstance(kinds, list) or not set(kinds) <= {"c2p", "p2c"}:
        raise CheckpointError(f"pos_att_type in config.json must name c2p and p2c, got {shown(kinds)}; it is not computed here")
    farthest = config.get("max_relative_positions")
    farthest = made.max_position_embeddings if farthest in (None, -1, 0) else whole(config, "max_relative_positions")
    assert farthest is not None
    buckets = 0 if config.get("position_buckets") in (None, -1, 0) else whole(config, "position_buckets", least=4)
    relative = Disentangled(
        span=buckets or farthest,
        buckets=buckets,
        farthest=farthest,
        by_key="c2p" in kinds,
        by_query="p2c" in kinds,
        own_projections=not flag(config, "share_att_key"),
        is_normed="layer_norm" in str(config.get("norm_rel_ebd", "none")).lower(),
    )
    if flag(config, "position_biased_input", default=True):
        return replace(made, relative=relative)
    return replace(made, relative=relative, positions="none", max_position_embeddings=None)


_ROBERTA_FLAGS: Settings = {"positions": "counted", "head_act": "gelu"}
_PAD_1: Settings = {"pad_token_id": 1}
ROBERTA = Form(
    spellings=(roberta("roberta"), *keys.FAIRSEQ),
    defaults=_PAD_1,
    flags=_ROBERTA_FLAGS,
    harmless=(keys.FAIRSEQ_BUFFERS,),
)
_PRE_NORM_FLAGS: Settings = {**_ROBERTA_FLAGS, "pre_norm": True}

BERT = Form(spellings=(Spelling(root="bert"),))
DATA2VEC_TEXT = replace(ROBERTA, spellings=(roberta("data2vec_text"),))
XLM_ROBERTA_XL = Form(
    spellings=(
        roberta(
            "roberta",
            inside=keys.PRE_NORMS | {"attention.output.LayerNorm": "attention.self_attn_layer_norm"},
        ),
    ),
    defaults={**_PAD_1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    flags={**_PRE_NORM_FLAGS, "embedding_norm": False},
)
ROBERTA_PRELAYERNORM = Form(
    spellings=(
        roberta(
            "roberta_prelayernorm",
            inside=keys.PRE_NORMS | {"output.LayerNorm": "intermediate.LayerNorm"},
            outside={"bert.encoder.LayerNorm": "bert.LayerNorm"},
        ),
    ),
    defaults=_PAD_1,
    flags=_PRE_NORM_FLAGS,
)
DISTILBERT = Form(
    spellings=(keys.DISTILBERT,),
    names={
        "hidden_size": ("dim",),
        "num_hidden_layers": ("n_layers",),
        "num_attention_heads": ("n_heads",),
        "intermediate_size": ("hidden_dim",),
        "hidden_act": ("activation",),
    },
    flags={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
)
ALBERT = Form(
    spellings=(keys.ALBERT,),
    defaults={"hidden_act": "gelu_new"},
    more=_albert,
    harmless=(r"sop_classifier\.classifier\.(weight|bias)",),
)
ELECTRA = Form(spellings=(keys.ELECTRA,), flags={"head_act": "gelu"}, more=partial(_projected, default=128))
ERNIE = Form(spellings=(Spelling(root="ernie"), Spelling(root="bert")), more=_ernie)
ESM = Form(
    spellings=(
        roberta(
            "esm",
            inside=keys.PRE_NORMS,
            outside={
                "bert.embeddings.LayerNorm": "esm.embeddings.layer_norm",
                "bert.encoder.LayerNorm": "esm.encoder.emb_layer_norm_after",
            },
        ),
    ),
    flags={"type_vocab_size": 0, "pre_norm": True, "hidden_act": "gelu"},
    fixed={"position_embedding_type": ("absolute", "rotary")},
    more=_esm,
    # ESM-2 was saved with the table of ESM-1b, which it does not use.
    harmless=(r"esm\.contact_head\.regression\.(weight|bias)", r"esm\.embeddings\.position_embeddings\.weight"),
)
NOMIC_BERT = Form(
    spellings=(keys.NOMIC_SAVED, keys.NOMIC_REMOTE, keys.NOMIC),
    names={
        "hidden_size": ("n_embd",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "intermediate_size": ("n_inner",),
        "max_position_embeddings": ("n_positions",),
        "layer_norm_eps": ("layer_norm_epsilon",),
    },
    defaults={"hidden_act": "silu"},
    flags={"bias": False, "gated": True, "fused": True},
    fixed={
        **dict.fromkeys(("prenorm", "parallel_block", "use_rms_norm", "causal", "rotary_emb_interleaved"), (False,)),
        **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), (False,)),
        **dict.fromkeys(("rotary_emb_scale_base", "rotary_scaling_factor"), (None,)),
        "activation_function": ("swiglu",),
        "rotary_emb_fraction": (1.0,),
        "num_experts": (0,),
    },
    more=_nomic,
)
ROFORMER = Form(spellings=(keys.ROFORMER,), more=_roformer)
MPNET = Form(
    spellings=(keys.MPNET,),
    flags={**_ROBERTA_FLAGS, "type_vocab_size": 0, "pad_token_id": 1, "relative": Buckets()},
    fixed={"relative_attention_num_buckets": (32,)},
)
DEBERTA_V2 = Form(
    spellings=(keys.DEBERTA, keys.DEBERTA_LM),
    defaults={"type_vocab_size": 0, "layer_norm_eps": 1e-7},
    fixed={"conv_kernel_size": (0,)},
    more=_deberta,
    harmless=(r"mask_predictions\..*",),
)
