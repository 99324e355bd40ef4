"""Under which keys the checkpoints of BERT's kin have the parameters of an `Encoder`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

TABLE, DENSE = "bert.embeddings.word_embeddings", "cls.predictions.transform.dense"
ANGLES = "bert.encoder.angles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """The keys of a checkpoint.

    Attributes:
        root: what stands for `bert` before the parts outside of the layers.
        layer: prefix of layer {i}, which is layer {j} of group {g}.
        inside: parts of a layer that are called otherwise than BERT's; several make one parameter in this order.
        outside: the same of all other parts.
        head: the output matrix.
        bias: the bias on the logits, by itself.
        flags: what these keys say of the form.
        bare_head: the head has no biases, unless the checkpoint holds them.
    """

    root: str
    layer: str = "{root}.encoder.layer.{i}."
    inside: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    head: str = "cls.predictions.decoder"
    bias: str = "cls.predictions.bias"
    flags: Mapping[str, Any] = field(default_factory=dict)
    bare_head: bool = False

    def keys(self, name: str, inner_groups: int = 1) -> tuple[str, ...]:
        """The keys that make the parameter of this name."""
        part, _, kind = name.rpartition(".")
        if name == "cls.predictions.bias":
            return (self.bias,)
        if not part.startswith("bert.encoder.layer."):
            theirs = self.outside.get(part, part)
            theirs = f"{self.root}.{theirs.removeprefix('bert.')}" if theirs.startswith("bert.") else theirs
            return (_joined(theirs, kind),)
        number, _, rest = part.removeprefix("bert.encoder.layer.").partition(".")
        group, inner = divmod(int(number), inner_groups)
        prefix = self.layer.format(root=self.root, i=number, g=group, j=inner)
        found = self.inside.get(rest, rest)
        return tuple(prefix + _joined(one, kind) for one in ((found,) if isinstance(found, str) else found))

    def found(self, there: Collection[str], *, fused: bool) -> int:
        """How many of a few telling keys a checkpoint holds."""
        query = "qkv" if self.flags.get("fused", fused) else "query"
        first = "bert.encoder.layer.0"
        parts = f"{first}.attention.self.{query}", f"{first}.output.dense", "bert.embeddings.LayerNorm"
        return sum(self.keys(f"{part}.weight")[0] in there for part in (TABLE, DENSE, *parts))


def _joined(part: str, kind: str) -> str:
    return part + kind if part.endswith("_") else f"{part}.{kind}"


# RoBERTa's head, by its own names and by fairseq's.
_LM_HEAD = {"cls.predictions.transform.dense": "lm_head.dense", "cls.predictions.transform.LayerNorm": "lm_head.layer_norm"}


def roberta(root: str, **more: Any) -> Spelling:
    outside = {**_LM_HEAD, "cls.predictions.decoder": "lm_head.decoder", **more.pop("outside", {})}
    return Spelling(root=root, outside=outside, head="lm_head.decoder", bias="lm_head.bias", **more)


def _fairseq(side: str, norm: str, *, fused: bool) -> Spelling:
    """fairseq's RoBERTa, before anybody converted it.

    Args:
        side: older ones call it a decoder.
        norm: of the embeddings, which fairseq renamed.
        fused: the oldest have query, key and value in one matrix.
    """
    root = f"{side}.sentence_encoder"
    outside = {ours: f"{side}.{theirs}" for ours, theirs in _LM_HEAD.items()} | {
        "bert.embeddings.word_embeddings": f"{root}.embed_tokens",
        "bert.embeddings.position_embeddings": f"{root}.embed_positions",
        "bert.embeddings.LayerNorm": f"{root}.{norm}",
        "cls.predictions.decoder": f"{side}.lm_head",
    }
    inside = {
        "attention.self.qkv": "self_attn.in_proj_",
        "attention.self.query": "self_attn.q_proj",
        "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj",
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "self_attn_layer_norm",
        "intermediate.dense": "fc1",
        "output.dense": "fc2",
        "output.LayerNorm": "final_layer_norm",
    }
    return Spelling(
        root=root,
        layer="{root}.layers.{i}.",
        inside=inside,
        outside=outside,
        head=f"{side}.lm_head",
        bias=f"{side}.lm_head.bias",
        flags={"type_vocab_size": 0, "fused": fused},
    )


FAIRSEQ = tuple(
    _fairseq(side, norm, fused=fused)
    for side in ("encoder", "decoder")
    for norm in ("layernorm_embedding", "emb_layer_norm")
    for fused in (False, True)
)
# The number of fairseq's format, and an empty number by which its positions know their device: neither is computed with.
FAIRSEQ_BUFFERS = r"(encoder|decoder)\.sentence_encoder\.(version|embed_positions\._float_tensor)"

DISTILBERT = Spelling(
    root="distilbert",
    layer="{root}.transformer.layer.{i}.",
    inside={
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    },
    outside={
        "cls.predictions.transform.dense": "vocab_transform",
        "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
        "cls.predictions.decoder": "vocab_projector",
    },
    head="vocab_projector",
    bias="vocab_projector.bias",
)

ALBERT = Spelling(
    root="albert",
    layer="{root}.encoder.albert_layer_groups.{g}.albert_layers.{j}.",
    inside={
        "attention.self.query": "attention.query",
        "attention.self.key": "attention.key",
        "attention.self.value": "attention.value",
        "attention.output.dense": "attention.dense",
        "attention.output.LayerNorm": "attention.LayerNorm",
        "intermediate.dense": "ffn",
        "output.dense": "ffn_output",
        "output.LayerNorm": "full_layer_layer_norm",
    },
    outside={
        "bert.project": "albert.encoder.embedding_hidden_mapping_in",
        "cls.predictions.transform.dense": "predictions.dense",
        "cls.predictions.transform.LayerNorm": "predictions.LayerNorm",
        "cls.predictions.decoder": "predictions.decoder",
    },
    head="predictions.decoder",
    bias="predictions.bias",
)

ELECTRA = Spelling(
    root="electra",
    outside={
        "bert.project": "electra.embeddings_project",
        "cls.predictions.transform.dense": "generator_predictions.dense",
        "cls.predictions.transform.LayerNorm": "generator_predictions.LayerNorm",
        "cls.predictions.decoder": "generator_lm_head",
    },
    head="generator_lm_head",
    bias="generator_lm_head.bias",
)

# Norms that stand before their parts; the second is that of the feedforward.
PRE_NORMS = {"attention.output.LayerNorm": "attention.LayerNorm", "output.LayerNorm": "LayerNorm"}

_NOMIC_HEAD = {"cls.predictions.transform.LayerNorm": "cls.predictions.transform.layer_norm"}
NOMIC = Spelling(
    root="nomic_bert",
    layer="{root}.layers.{i}.",
    inside={
        "attention.self.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.output.dense": "self_attn.o_proj",
        "attention.output.LayerNorm": "post_attention_layernorm",
        "intermediate.dense": "mlp.up_proj",
        "intermediate.gate": "mlp.gate_proj",
        "output.dense": "mlp.down_proj",
        "output.LayerNorm": "post_mlp_layernorm",
    },
    outside=_NOMIC_HEAD,
)
# As its own code writes it, and transformers, too, under a root of its own.
NOMIC_SAVED = Spelling(
    root="nomic_bert",
    layer="{root}.encoder.layers.{i}.",
    inside={
        "attention.self.qkv": "attn.Wqkv",
        "attention.output.dense": "attn.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "mlp.fc11",
        "intermediate.gate": "mlp.fc12",
        "output.dense": "mlp.fc2",
        "output.LayerNorm": "norm2",
    },
    outside=_NOMIC_HEAD | {"bert.embeddings.LayerNorm": "nomic_bert.emb_ln"},
)
NOMIC_REMOTE = replace(
    NOMIC_SAVED, root="bert", outside=_NOMIC_HEAD | {"bert.embeddings.LayerNorm": "bert.emb_ln"}, bare_head=True
)

ROFORMER = Spelling(
    root="roformer",
    outside={"bert.project": "roformer.embeddings_project", ANGLES: "roformer.encoder.embed_positions"},
)

MPNET = roberta(
    "mpnet",
    inside={
        "attention.self.query": "attention.attn.q",
        "attention.self.key": "attention.attn.k",
        "attention.self.value": "attention.attn.v",
        "attention.output.dense": "attention.attn.o",
        "attention.output.LayerNorm": "attention.LayerNorm",
    },
    outside={"bert.encoder.relative": "mpnet.encoder.relative_attention_bias"},
)

_DEBERTA_LAYER = {
    "attention.self.query": "attention.self.query_proj",
    "attention.self.key": "attention.self.key_proj",
    "attention.self.value": "attention.self.value_proj",
    "attention.self.relative.key": "attention.self.pos_key_proj",
    "attention.self.relative.query": "attention.self.pos_query_proj",
}
_DEBERTA_OUTSIDE = {
    "bert.encoder.relative.embeddings": "deberta.encoder.rel_embeddings",
    "bert.encoder.relative.LayerNorm": "deberta.encoder.LayerNorm",
}
DEBERTA = Spelling(root="deberta", inside=_DEBERTA_LAYER, outside=_DEBERTA_OUTSIDE)
# The head that DeBERTa was trained with; transformers' own is another.
DEBERTA_LM = Spelling(
    root="deberta",
    inside=_DEBERTA_LAYER,
    outside=_DEBERTA_OUTSIDE
    | {
        "cls.predictions.transform.dense": "lm_predictions.lm_head.dense",
        "cls.predictions.transform.LayerNorm": "lm_predictions.lm_head.LayerNorm",
    },
    head="lm_predictions.lm_head.decoder",
    bias="lm_predictions.lm_head.bias",
    flags={"tie_word_embeddings": True},
)


def old_name(key: str, there: Collection[str]) -> str:
    """The key, or the one that a norm had in TensorFlow, where the checkpoint has that."""
    part, _, kind = key.rpartition(".")
    old = f"{part}.{ {'weight': 'gamma', 'bias': 'beta'}.get(kind, kind) }"
    return old if key not in there and old in there else key
