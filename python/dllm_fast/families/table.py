"""The table of families: what tells a checkpoint, how it is laid out, and what its files do not say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dllm_fast.families import diffusion_gemma, layouts
from dllm_fast.families import encoder_layouts as encoders
from dllm_fast.families.config_keys import BLOCK_KEYS
from dllm_fast.families.layouts import Layout
from dllm_fast.networks import modernbert, neobert
from dllm_fast.networks.visible import RULES

if TYPE_CHECKING:
    from torch import nn

    from dllm_fast.checkpoint.checkpoint import Checkpoint
    from dllm_fast.networks.visible import Attention, AttentionRule


class Builder(Protocol):
    """What makes a network of a checkpoint, where that is no decoder."""

    @property
    def build(self) -> Callable[[Checkpoint], tuple[nn.Module, Mapping[str, Sequence[str]], Sequence[str]]]:
        """Of a checkpoint the network without values, for every parameter the keys that make it, and patterns of spare keys."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row.

    Attributes:
        name: what we call it.
        model_types: `model_type` of its configs.
        shared_types: model types that its configs have and those of another family, too: one of the next two must tell.
        architectures: classes that its configs name.
        marks: settings that, of the families of a shared type, only its configs have.
        parts: ends of keys that, of the families of a shared type, only its files have.
        tensors: weights that only its files have; they tell where the config says nothing.
        layout: of a decoder, or of an encoder.
        attention: which tokens a token sees: all; those of its block and of the blocks before it (`block_causal`); those
            before it, and in the block that is being filled all of that (`causal_context`); or, for models that read known
            tokens first and masks last, those before it in that order (`causal_reordered`); or as `causal_context`, by a
            network that encodes what lies before the block and denoises the block (`encoder_canvas`).
        block_length: of attention by blocks, where the config does not say.
        block_keys: settings that say it.
        shift: the logits of position i - 1 predict position i.
        mask_token: how the mask is written in the tokenizer.
        mask_token_id: where neither config nor tokenizer says it.
        end_tokens: further tokens that end an answer.
        defaults: recommended settings over `preset`, by the papers, cards and repositories.
        preset: the published rule.
        recommended: what a generation config says over the preset, for families that write rules into it.
        models: checkpoints that people have.
        verified: how we know that the numbers are right.
    """

    name: str
    model_types: tuple[str, ...]
    layout: Layout | Builder
    shared_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    attention: Attention = "full"
    block_length: int | None = None
    block_keys: tuple[str, ...] = ()
    shift: int = 0
    mask_token: str | None = None
    mask_token_id: int | None = None
    end_tokens: tuple[str, ...] = ()
    preset: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recommended: Callable[[object], Mapping[str, Any]] | None = None
    models: str
    verified: str

    @property
    def attention_rule(self) -> type[AttentionRule]:
        """What is true of its attention whatever the length of its blocks."""
        return RULES[self.attention]

    def fits(self, model_type: str, classes: Sequence[str], says: Callable[[str], object], keys: Iterable[str]) -> bool:
        """Does it describe this model?

        Args:
            model_type: of its config; "" for none.
            classes: that its config names, or its own.
            says: gives a setting of its config, None where it has none.
            keys: of its weights.
        """
        if model_type in self.model_types:
            return True
        # Compared without regard to case, because their authors do not agree.
        named = bool({name.lower() for name in classes} & {name.lower() for name in self.architectures})
        if model_type not in self.shared_types:
            return named and not model_type
        return named or self.mark(says) is not None or self.part(keys) is not None

    def mark(self, says: Callable[[str], object]) -> str | None:
        """The first of `marks` that a config has."""
        return next((mark for mark in self.marks if says(mark) is not None), None)

    def part(self, keys: Iterable[str]) -> str | None:
        """The first key that ends as one of `parts`."""
        return next((key for key in keys if key.endswith(self.parts)), None) if self.parts else None


# The first row that fits counts, so the narrower rows of a model type come first.
FAMILIES: tuple[Family, ...] = (
    Family(
        name="llada-moe",
        model_types=("llada_moe", "lladamoe"),
        shared_types=("llada",),
        architectures=("LLaDAMoEModelLM", "LLaDAMoEModel", "LLaDAMoEForCausalLM"),
        marks=("num_experts",),
        layout=layouts.LLADA_MOE,
        mask_token="<|mask|>",
        mask_token_id=156895,
        preset="fast-dllm",
        defaults={"block_length": 32, "threshold": 0.9},
        models="LLaDA-MoE-7B-A1B",
        verified="twin (Qwen3Moe), loop",
    ),
    Family(
        name="llada",
        model_types=("llada",),
        architectures=("LLaDAModelLM",),
        tensors=("model.transformer.wte.weight",),
        layout=layouts.LLADA,
        mask_token="<|mdm_mask|>",
        mask_token_id=126336,
        end_tokens=("<|eot_id|>",),
        preset="llada",
        models="LLaDA-8B, LLaDA-1.5, under their own names or those of Llama",
        verified="twin (Llama), loop",
    ),
    Family(
        name="illada",
        model_types=("illada",),
        architectures=("ILLaDAForCausalLM",),
        layout=layouts.ILLADA,
        mask_token="<[MASK]>",
        mask_token_id=5,
        preset="llada",
        models="iLLaDA-8B",
        verified="twin (Llama), loop",
    ),
    Family(
        name="llada2",
        model_types=("llada2_moe",),
        architectures=("LLaDA2MoeModelLM",),
        tensors=("model.word_embeddings.weight",),
        layout=layouts.LLADA2,
        attention="block_causal",
        block_length=32,
        block_keys=BLOCK_KEYS,
        mask_token="<|mask|>",
        mask_token_id=156895,
        preset="fast-dllm",
        defaults={"threshold": 0.95},
        models="LLaDA2.0, mini and flash",
        verified="twin (Glm4Moe), loop (diffusers' pipeline)",
    ),
    # The files of LLaDA2.1 say nothing that those of LLaDA2.0 do not say, so nobody is taken for it without being told.
    Family(
        name="llada2.1",
        model_types=(),
        shared_types=("llada2_moe",),
        layout=layouts.LLADA2,
        attention="block_causal",
        block_length=32,
        block_keys=BLOCK_KEYS,
        mask_token="<|mask|>",
        mask_token_id=156895,
        preset="llada2.1-quality",
        models='LLaDA2.1, mini and flash: its files read like those of 2.0, so pass `family="llada2.1"` to `load`',
        verified="twin (Glm4Moe), loop (its own)",
    ),
    Family(
        name="dream-reasoner",
        model_types=(),
        shared_types=("Dream", "dream"),
        marks=BLOCK_KEYS,
        # No published Dream that sees everything has norms of its heads.
        parts=(".self_attn.q_norm.weight",),
        layout=layouts.QWEN3,
        attention="block_causal",
        block_length=32,
        block_keys=BLOCK_KEYS,
        mask_token_id=151669,
        end_tokens=("<|im_end|>",),
        preset="fast-dllm",
        defaults={"threshold": 0.9},
        models="DreamReasoner-8B",
        verified="twin (Qwen3), loop",
    ),
    Family(
        name="dream",
        model_types=("Dream", "dream"),
        architectures=("DreamModel",),
        layout=layouts.QWEN2,
        shift=1,
        mask_token="<|mask|>",
        mask_token_id=151666,
        end_tokens=("<|im_end|>",),
        preset="dream-entropy",
        defaults={"max_new_tokens": 512, "temperature": 0.2, "top_p": 0.95},
        models="Dream-7B, Dream-Coder, DiffuCoder",
        verified="twin (Qwen2), loop",
    ),
    Family(
        name="fast-dllm-v2",
        model_types=("Fast_dLLM_Qwen", "fast_dllm_qwen"),
        architectures=("Fast_dLLM_QwenForCausalLM",),
        layout=layouts.QWEN2,
        attention="block_causal",
        block_length=32,
        block_keys=("bd_size", *BLOCK_KEYS),
        shift=1,
        mask_token="|<MASK>|",
        mask_token_id=151665,
        end_tokens=("<|im_end|>",),
        preset="fast-dllm",
        defaults={"block_length": 8, "threshold": 0.9},
        models="Fast_dLLM_v2 1.5B and 7B",
        verified="twin (Qwen2), loop",
    ),
    Family(
        name="sdar",
        model_types=("sdar",),
        architectures=("SDARForCausalLM",),
        layout=layouts.QWEN3,
        attention="block_causal",
        block_length=4,
        block_keys=BLOCK_KEYS,
        mask_token="<|MASK|>",
        mask_token_id=151669,
        end_tokens=("<|im_end|>",),
        preset="fast-dllm",
        defaults={"threshold": 0.9},
        models="SDAR, TraDo",
        verified="twin (Qwen3), loop",
    ),
    Family(
        name="sdar-moe",
        model_types=("sdar_moe",),
        architectures=("SDARMoeForCausalLM",),
        layout=layouts.QWEN3_MOE,
        attention="block_causal",
        block_length=4,
        block_keys=BLOCK_KEYS,
        mask_token="<|MASK|>",
        mask_token_id=151669,
        end_tokens=("<|im_end|>",),
        preset="fast-dllm",
        defaults={"threshold": 0.9},
        models="SDAR-30B-A3B",
        verified="twin (Qwen3Moe), loop",
    ),
    Family(
        name="wedlm",
        model_types=("wedlm",),
        architectures=("WeDLMForCausalLM",),
        layout=layouts.WEDLM,
        attention="causal_reordered",
        mask_token="<|mask|>",
        end_tokens=("<|im_end|>",),
        preset="llada",
        models="WeDLM (one token a forward; its own rule is the preset `wedlm`)",
        verified="twin (Qwen3)",
    ),
    Family(
        name="rnd1",
        model_types=("rnd1",),
        architectures=("RND1LM",),
        layout=layouts.QWEN3_MOE,
        mask_token="<|mask|>",
        mask_token_id=151669,
        preset="llada",
        defaults={"temperature": 0.1},
        models="RND1-30B-A3B",
        verified="twin (Qwen3Moe)",
    ),
    Family(
        name="a2d-qwen3",
        model_types=("a2d-qwen3",),
        architectures=("A2DQwen3LMHeadModel",),
        layout=layouts.QWEN3,
        mask_token="<|mask|>",
        preset="llada",
        models="dllm's converted Qwen3",
        verified="twin (Qwen3)",
    ),
    Family(
        name="a2d-qwen2",
        model_types=("a2d-qwen2",),
        architectures=("A2DQwen2LMHeadModel",),
        layout=layouts.QWEN2,
        mask_token="<|mask|>",
        preset="llada",
        models="dllm's converted Qwen2",
        verified="twin (Qwen2)",
    ),
    Family(
        name="a2d-llama",
        model_types=("a2d-llama",),
        architectures=("A2DLlamaLMHeadModel",),
        layout=layouts.LLAMA,
        mask_token="<|mask|>",
        preset="llada",
        models="dllm's converted Llama",
        verified="twin (Llama)",
    ),
    Family(
        name="stable-diffcoder",
        model_types=("stable_diffcoder",),
        shared_types=("llama",),
        architectures=("StableDiffCoderForCausalLM", "StableDiffCoderModelLM", "StableDiffCoderModel"),
        layout=layouts.LLAMA,
        attention="block_causal",
        block_length=4,
        block_keys=BLOCK_KEYS,
        mask_token="<[MASK_TOKEN]>",
        mask_token_id=5,
        preset="llada",
        models="Stable-DiffCoder-8B",
        verified="twin (Llama)",
    ),
    Family(
        name="nemotron-labs-diffusion",
        model_types=("nemotron_labs_diffusion",),
        architectures=("NemotronLabsDiffusionModel",),
        tensors=("encoder.embed_tokens.weight",),
        layout=layouts.NEMOTRON,
        attention="causal_context",
        block_length=32,
        block_keys=BLOCK_KEYS,
        mask_token_id=100,
        preset="fast-dllm",
        defaults={"threshold": 0.9},
        models="Nemotron-Labs-Diffusion 3B, 8B, 14B",
        verified="twin (Ministral3), loop",
    ),
    Family(
        name="bert",
        model_types=("bert",),
        architectures=("BertForMaskedLM", "BertForPreTraining"),
        tensors=("bert.encoder.layer.0.attention.self.query.weight",),
        layout=encoders.BERT,
        mask_token="[MASK]",
        models="BERT and its kin, and the embedded models",
        verified="twin (Bert), real weights (our own, AntiBERTy, rxnfp)",
    ),
    Family(
        name="xlm-roberta-xl",
        model_types=("xlm-roberta-xl",),
        tensors=("roberta.encoder.layer.0.attention.self_attn_layer_norm.weight",),
        layout=encoders.XLM_ROBERTA_XL,
        mask_token="<mask>",
        models="XLM-R XL and XXL",
        verified="twin (XLMRobertaXL)",
    ),
    Family(
        name="roberta",
        model_types=("roberta", "xlm-roberta", "camembert"),
        architectures=("RobertaForMaskedLM", "XLMRobertaForMaskedLM", "CamembertForMaskedLM"),
        tensors=(
            "roberta.embeddings.word_embeddings.weight",
            "encoder.sentence_encoder.embed_tokens.weight",
            "decoder.sentence_encoder.embed_tokens.weight",
        ),
        layout=encoders.ROBERTA,
        mask_token="<mask>",
        models="RoBERTa (also with fairseq's keys), XLM-R, CamemBERT",
        verified="twin (Roberta), real weights (Sapiens)",
    ),
    Family(
        name="roberta-prelayernorm",
        model_types=("roberta-prelayernorm",),
        tensors=("roberta_prelayernorm.embeddings.word_embeddings.weight",),
        layout=encoders.ROBERTA_PRELAYERNORM,
        mask_token="<mask>",
        models="RoBERTa with norms before",
        verified="twin (RobertaPreLayerNorm)",
    ),
    Family(
        name="data2vec-text",
        model_types=("data2vec-text",),
        architectures=("Data2VecTextForMaskedLM",),
        tensors=("data2vec_text.embeddings.word_embeddings.weight",),
        layout=encoders.DATA2VEC_TEXT,
        mask_token="<mask>",
        models="Data2Vec for text",
        verified="twin (Data2VecText)",
    ),
    Family(
        name="diffusion-gemma",
        model_types=("diffusion_gemma",),
        architectures=("DiffusionGemmaForBlockDiffusion",),
        tensors=("model.decoder.embed_tokens.weight",),
        layout=diffusion_gemma,
        attention="encoder_canvas",
        block_length=256,
        block_keys=("canvas_length",),
        preset="diffusion-gemma",
        recommended=diffusion_gemma.recommended,
        models="DiffusionGemma-26B-A4B, for text",
        verified="twin (DiffusionGemma), loop",
    ),
    Family(
        name="distilbert",
        model_types=("distilbert",),
        architectures=("DistilBertForMaskedLM",),
        tensors=("distilbert.embeddings.word_embeddings.weight",),
        layout=encoders.DISTILBERT,
        mask_token="[MASK]",
        models="DistilBERT",
        verified="twin (DistilBert)",
    ),
    Family(
        name="albert",
        model_types=("albert",),
        architectures=("AlbertForMaskedLM", "AlbertForPreTraining"),
        tensors=("albert.embeddings.word_embeddings.weight",),
        layout=encoders.ALBERT,
        mask_token="[MASK]",
        models="ALBERT",
        verified="twin (Albert)",
    ),
    Family(
        name="electra",
        model_types=("electra",),
        architectures=("ElectraForMaskedLM",),
        tensors=("electra.embeddings.word_embeddings.weight",),
        layout=encoders.ELECTRA,
        mask_token="[MASK]",
        models="ELECTRA, its generators",
        verified="twin (Electra)",
    ),
    Family(
        name="ernie",
        model_types=("ernie",),
        architectures=("ErnieForMaskedLM", "ErnieForPreTraining"),
        tensors=("ernie.embeddings.word_embeddings.weight",),
        layout=encoders.ERNIE,
        mask_token="[MASK]",
        models="ERNIE 1.0 to 3.0",
        verified="twin (Ernie)",
    ),
    Family(
        name="esm",
        model_types=("esm",),
        architectures=("EsmForMaskedLM",),
        tensors=("esm.embeddings.word_embeddings.weight",),
        layout=encoders.ESM,
        mask_token="<mask>",
        models="ESM-1b, ESM-2 (proteins)",
        verified="twin (Esm)",
    ),
    Family(
        name="roformer",
        model_types=("roformer",),
        architectures=("RoFormerForMaskedLM",),
        tensors=("roformer.embeddings.word_embeddings.weight",),
        layout=encoders.ROFORMER,
        mask_token="[MASK]",
        models="RoFormer",
        verified="twin (RoFormer)",
    ),
    Family(
        name="mpnet",
        model_types=("mpnet",),
        architectures=("MPNetForMaskedLM",),
        tensors=("mpnet.embeddings.word_embeddings.weight",),
        layout=encoders.MPNET,
        mask_token="<mask>",
        models="MPNet",
        verified="twin (MPNet)",
    ),
    Family(
        name="deberta-v2",
        model_types=("deberta-v2",),
        architectures=("DebertaV2ForMaskedLM",),
        tensors=("deberta.encoder.layer.0.attention.self.query_proj.weight",),
        layout=encoders.DEBERTA_V2,
        mask_token="[MASK]",
        models="DeBERTa v2 and v3 (without convolution)",
        verified="twin (DebertaV2)",
    ),
    Family(
        name="nomic-bert",
        model_types=("nomic_bert",),
        tensors=("nomic_bert.embeddings.word_embeddings.weight", "bert.encoder.layers.0.attn.Wqkv.weight"),
        architectures=("NomicBertForMaskedLM",),
        layout=encoders.NOMIC_BERT,
        mask_token="[MASK]",
        models="nomic-bert",
        verified="twin (NomicBert)",
    ),
    Family(
        name="eurobert",
        model_types=("eurobert",),
        layout=layouts.LLAMA,
        mask_token="<|mask|>",
        mask_token_id=128002,
        models="EuroBERT",
        verified="twin (EuroBert)",
    ),
    Family(
        name="neobert",
        model_types=("neobert",),
        tensors=("model.encoder.weight",),
        layout=neobert,
        mask_token="[MASK]",
        models="NeoBERT",
        verified="twin (its published definition)",
    ),
    Family(
        name="modernbert",
        model_types=("modernbert",),
        architectures=("ModernBertForMaskedLM",),
        tensors=("model.embeddings.tok_embeddings.weight",),
        layout=modernbert,
        mask_token="[MASK]",
        models="ModernBERT, ModernBERT-chat",
        verified="twin (ModernBert)",
    ),
)


def works_with() -> str:
    """The table of README: families, how they attend, their recommended rule, and how we know that it is right."""
    head = "| family | checkpoints | attention | shift | default rule | verified by |\n| --- | --- | --- | --- | --- | --- |"
    rows = []
    for family in FAMILIES:
        attention = family.attention.replace("_", "-")
        attention += f", blocks of {family.block_length}" if family.block_length else ""
        more = ", ".join(f"{name}={value}" for name, value in family.defaults.items())
        rule = " ".join([f"`{family.preset}`" if family.preset else "one token a forward", f"({more})" if more else ""]).strip()
        rows.append(f"| {family.name} | {family.models} | {attention} | {family.shift} | {rule} | {family.verified} |")
    return "\n".join([head, *rows])
