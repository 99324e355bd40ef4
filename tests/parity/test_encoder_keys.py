"""Encoders under the keys and configs that were published before, and beside, those that the stock classes write today."""

from __future__ import annotations

import ast
import re

import pytest
import torch

import checkpoints
import dllm_fast
from encoders import FORMS, KINDS, MISSING, save
from families import MASK, TWINS, VOCABULARY

BY_NAME = {twin.name: twin for twin in TWINS}
IDS = torch.randint(6, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))
IDS[:, ::3] = MASK


def same_logits(folder, stock, **settings):
    model = dllm_fast.load(folder, **settings)
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS), stock(input_ids=IDS).logits, rtol=0, atol=2e-6)
    return model


def renamed(folder, *pairs: tuple[str, str]):
    """Replaces patterns in all keys, in order."""

    def change(tensors):
        for pattern, new in pairs:
            tensors = {re.sub(pattern, new, key): tensor for key, tensor in tensors.items()}
        return tensors

    checkpoints.change_weights(folder, change)


FAIRSEQ = (
    (r"roberta\.embeddings\.word_embeddings", "S.embed_tokens"),
    (r"roberta\.embeddings\.position_embeddings", "S.embed_positions"),
    (r"roberta\.embeddings\.LayerNorm", "S.emb_layer_norm"),
    (r"roberta\.encoder\.layer\.", "S.layers."),
    (r"attention\.self\.(.)\w+\.", r"self_attn.\1_proj."),
    (r"attention\.output\.dense", "self_attn.out_proj"),
    (r"attention\.output\.LayerNorm", "self_attn_layer_norm"),
    (r"intermediate\.dense", "fc1"),
    (r"output\.dense", "fc2"),
    (r"output\.LayerNorm", "final_layer_norm"),
)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize(("says", "norm"), [("roberta", "emb_layer_norm"), (..., "layernorm_embedding")])
def test_keys_of_fairseq(tmp_path, side, fused, says, norm):
    stock = save("roberta", tmp_path)
    # It has no segments; whoever converts it adds zeros.
    stock.roberta.embeddings.token_type_embeddings.weight.data.zero_()
    renamed(
        tmp_path,
        *FAIRSEQ,
        ("emb_layer_norm", norm),
        (r"^S\.", f"{side}.sentence_encoder."),
        (r"^lm_head\.", f"{side}.lm_head."),
    )

    def change(tensors):
        tensors.pop("roberta.embeddings.token_type_embeddings.weight")
        tensors[f"{side}.sentence_encoder.version"] = torch.tensor([3.0])
        tensors[f"{side}.sentence_encoder.embed_positions._float_tensor"] = torch.zeros(1)
        tensors[f"{side}.lm_head.weight"] = tensors[f"{side}.sentence_encoder.embed_tokens.weight"]
        for layer in range(2) if fused else ():
            base = f"{side}.sentence_encoder.layers.{layer}.self_attn."
            for kind in ("weight", "bias"):
                tensors[f"{base}in_proj_{kind}"] = torch.cat([tensors.pop(f"{base}{part}_proj.{kind}") for part in "qkv"])

    checkpoints.change_weights(tmp_path, change)
    checkpoints.change_config(tmp_path, model_type=says, architectures=...)
    assert same_logits(tmp_path, stock).info.family == "roberta"


NOMIC_WORDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
}


@pytest.mark.parametrize("has_biases", [False, True])
def test_nomic_bert_as_its_own_code_wrote_it(tmp_path, has_biases):
    stock = save("nomic-bert", tmp_path)
    if not has_biases:
        for bias in (stock.cls.predictions.transform.dense.bias, stock.cls.predictions.decoder.bias):
            bias.data.zero_()
    renamed(tmp_path, (r"^nomic_bert\.", "bert."), (r"predictions\.bias", "predictions.decoder.bias"))

    def change(tensors):
        bare = () if has_biases else ("cls.predictions.transform.dense.bias", "cls.predictions.decoder.bias")
        kept = {key: tensor for key, tensor in tensors.items() if key not in bare}
        return kept | {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"]}

    checkpoints.change_weights(tmp_path, change)
    config = checkpoints.read_config(tmp_path)
    changes = {theirs: config[ours] for ours, theirs in NOMIC_WORDS.items()} | dict.fromkeys([*NOMIC_WORDS, "hidden_act"], ...)
    changes |= {"rope_parameters": ..., "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False}
    changes |= {"activation_function": "swiglu", "prenorm": False, "qkv_proj_bias": False, "rotary_scaling_factor": None}
    checkpoints.change_config(tmp_path, **changes)
    assert same_logits(tmp_path, stock).info.context == 64


def test_nomic_bert_by_the_names_of_its_modules(tmp_path):
    stock = save("nomic-bert", tmp_path)
    # Two names of one tensor: a bias and a table that are tied.
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    checkpoints.change_weights(tmp_path, lambda _: {k: t for k, t in stock.state_dict().items() if k not in tied})
    same_logits(tmp_path, stock)


def test_roformer_without_its_table_of_angles(tmp_path):
    stock = save("roformer", tmp_path)
    table = stock.roformer.encoder.embed_positions.weight
    angles = torch.arange(64)[:, None] * 10000.0 ** -(torch.arange(0, 16, 2).double() / 16)
    table.data = torch.cat((angles.sin(), angles.cos()), dim=-1).float()
    checkpoints.change_weights(tmp_path, lambda tensors: {k: t for k, t in tensors.items() if "embed_positions" not in k})
    same_logits(tmp_path, stock)


def test_ernie_under_the_names_of_bert(tmp_path):
    stock = save("ernie-tasks", tmp_path)
    renamed(tmp_path, (r"^ernie\.", "bert."))
    same_logits(tmp_path, stock)


def test_what_esm_2_was_saved_with(tmp_path):
    """A head for contacts, ESM-1b's table, frequencies of every layer: none changes a logit, and the last are checked."""
    stock = save("esm", tmp_path)
    name = "esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq"
    spare = {
        "esm.contact_head.regression.weight": torch.ones(1, 8),
        "esm.contact_head.regression.bias": torch.ones(1),
        "esm.embeddings.position_embeddings.weight": torch.ones(64, 64),
        "esm.embeddings.position_ids": torch.arange(64)[None],
        name: 10000.0 ** -(torch.arange(0, 16, 2) / 16),
    }
    checkpoints.change_weights(tmp_path, lambda tensors: tensors | spare)
    same_logits(tmp_path, stock)
    checkpoints.change_weights(tmp_path, lambda tensors: tensors | {name: spare[name] * 2})
    with pytest.raises(dllm_fast.DllmFastError, match=f"{name} .* must be the frequencies"):
        dllm_fast.load(tmp_path)


@pytest.mark.parametrize("form", KINDS)
def test_norms_as_tensorflow_called_them(tmp_path, form):
    stock = save(form, tmp_path)
    renamed(tmp_path, (r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta"))
    same_logits(tmp_path, stock)


@pytest.mark.parametrize("form", sorted({*KINDS} - {"eurobert", "neobert", "modernbert"}))
def test_a_config_without_names_is_known_by_its_weights(tmp_path, form):
    stock = save(form, tmp_path)
    family = dllm_fast.load(tmp_path).info.family
    checkpoints.change_config(tmp_path, model_type=..., architectures=...)
    model = same_logits(tmp_path, stock)
    assert model.info.family == family
    assert model.info.sources["family"].startswith("weights: ")


@pytest.mark.parametrize("kind", ["roberta", "mpnet", "xlm-roberta-xl", "data2vec-text", "roberta-prelayernorm", "esm-1b"])
def test_positions_behind_the_padding_token_leave_so_much_less_room(tmp_path, kind):
    save(kind, tmp_path)
    assert dllm_fast.load(tmp_path).info.context == 62


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        *(("bert", 64), ("distilbert", 64), ("albert", 64), ("electra", 64), ("ernie", 64), ("roformer", 64)),
        *(("nomic-bert", 64), ("eurobert", 64), ("neobert", 64), ("modernbert", 64), ("deberta-v2", 64)),
        # No table of positions, and no number in the config that bounds them.
        *(("esm", None), ("deberta-v3", None)),
    ],
)
def test_context(tmp_path, kind, context):
    stock = save(kind, tmp_path)
    model = dllm_fast.load(tmp_path)
    assert model.info.context == context
    if context is None:
        ids = IDS.repeat(1, 3)
        with torch.inference_mode():
            torch.testing.assert_close(model(ids), stock(input_ids=ids).logits, rtol=0, atol=2e-6)


def test_every_form_has_a_row_of_its_own_kind(tmp_path):
    for form in {*FORMS} - {*MISSING}:
        save(form, tmp_path / form)
        assert "twin" in dllm_fast.load(tmp_path / form).info.verified


SOME = ("bert", "roberta", "distilbert", "modernbert", "neobert", "eurobert")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "model.module."])
@pytest.mark.parametrize("form", [form for form in SOME if form not in MISSING])
def test_a_prefix_of_all_keys_is_passed_over(tmp_path, form, prefix):
    stock = save(form, tmp_path)
    renamed(tmp_path, ("^", prefix))
    model = same_logits(tmp_path, stock)
    assert model.info.notes == (f"every key of the weights begins with {prefix!r}, which is passed over",)
    if form in ("bert", "roberta", "distilbert", "modernbert"):
        checkpoints.change_config(tmp_path, model_type=..., architectures=...)
        assert same_logits(tmp_path, stock).info.family == form


def test_a_prefix_of_some_keys_is_named(tmp_path):
    stock = save("bert", tmp_path)
    renamed(tmp_path, ("^", "model.net."))
    more = {"loss.weight": torch.ones(2), "loss.bias": torch.ones(2), "model.step": torch.ones(1)}
    checkpoints.change_weights(tmp_path, lambda tensors: tensors | more)
    message = r"'model.net.bert.*' under 'model.net.' and 'loss.bias' elsewhere; .*ignore_keys=\['loss.\*', 'model.step'\]"
    with pytest.raises(dllm_fast.DllmFastError, match=message):
        dllm_fast.load(tmp_path)
    same_logits(tmp_path, stock, ignore_keys=["loss.*", "model.step"])
    # What the next error proposes can be added: it, too, is written as in the files.
    checkpoints.change_weights(tmp_path, lambda tensors: tensors | {"model.net.bert.extra": torch.ones(2)})
    with pytest.raises(dllm_fast.DllmFastError, match=r"ignore_keys=\['model.net.bert.extra'\]"):
        dllm_fast.load(tmp_path, ignore_keys=["loss.*", "model.step"])
    same_logits(tmp_path, stock, ignore_keys=["loss.*", "model.step", "model.net.bert.extra"])
    checkpoints.change_weights(tmp_path, lambda tensors: {k: t for k, t in tensors.items() if k.startswith("model.net.")})
    for pattern in ("model.net.bert.extra", "bert.extra"):
        same_logits(tmp_path, stock, ignore_keys=[pattern])


@pytest.mark.parametrize(("form", "other"), [("bert", "roberta"), ("roberta", "bert"), ("esm", "bert"), ("modernbert", "bert")])
def test_weights_of_another_encoder(tmp_path, form, other):
    """The error names the family whose keys they are, not the lack of a head."""
    stock = save(form, tmp_path)
    message = rf"must be those of a {other} model \(%s\), got .*, which {form} models have; .*or pass family='{form}'"
    with pytest.raises(dllm_fast.DllmFastError, match=message % "caller"):
        dllm_fast.load(tmp_path, family=other)
    checkpoints.change_config(tmp_path, model_type=other)
    with pytest.raises(dllm_fast.DllmFastError, match=message % f"config.json: model_type '{other}'"):
        dllm_fast.load(tmp_path)
    same_logits(tmp_path, stock, family=form)


def test_weights_that_are_no_encoder(tmp_path):
    BY_NAME["a2d-llama"].save(tmp_path)
    with pytest.raises(dllm_fast.DllmFastError, match=r"and its token table, got none .* is config\.json the one of these"):
        dllm_fast.load(tmp_path, family="bert")


def test_a_further_key_is_left_out_as_the_error_says(tmp_path):
    """The patterns that it proposes fit nothing that the model needs."""
    stock = save("bert", tmp_path)
    more = (
        "bert.extra",
        "cls.predictions.extra",
        "bert.embeddings.word_embeddings.extra",
        "bert",
        "other.a",
        "other.b",
        "x[1].a",
    )
    checkpoints.change_weights(tmp_path, lambda tensors: tensors | {key: torch.ones(2) for key in more})
    with pytest.raises(dllm_fast.DllmFastError, match=r"which the model of this config\.json does not have") as caught:
        dllm_fast.load(tmp_path)
    proposed = ast.literal_eval(str(caught.value).partition("ignore_keys=")[2])
    assert proposed == [
        *("bert", "bert.embeddings.word_embeddings.extra", "bert.extra", "cls.predictions.extra", "other.*", "x[[]1].*")
    ]
    same_logits(tmp_path, stock, ignore_keys=proposed)
