"""BERT, RoBERTa and ModernBERT give the logits of the stock transformers classes, from folders that those classes wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import checkpoints
import dllm_fast
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.slots import SlotCache
from encoders import FORMS, KINDS, save
from families import MASK, VOCABULARY

LENGTHS = (23, 40, 31, 1)


def opened(folder: Path, dtype=torch.float32):
    """The network of a folder, as `load` opens it."""
    return dllm_fast.load(folder, dtype=dtype).network


def batch_of(ids, ends=None, **cache):
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    end = None if ends is None else torch.tensor(ends)[:, None].expand_as(ids)
    return Batch(ids=ids, positions=positions, end=end, **cache)


def some_ids(shape, seed=0, low=6):
    """Tokens, of which some are masks."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(low, VOCABULARY, shape, generator=random)
    return ids.masked_fill(torch.rand(shape, generator=random) < 0.3, MASK)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_logits_of_ragged_rows_are_those_of_the_stock_class(tmp_path, form, attention):
    stock = save(form, tmp_path)
    if attention == "sdpa" and not stock._supports_sdpa:
        attention = "eager"
    stock.set_attn_implementation(attention)
    network = opened(tmp_path)
    ids = some_ids((len(LENGTHS), max(LENGTHS)))
    for row, length in enumerate(LENGTHS):
        ids[row, length:] = stock.config.pad_token_id
    logits = network.logits(network.hidden(batch_of(ids, LENGTHS)))
    assert logits.std() > 0.05
    for row, length in enumerate(LENGTHS):
        # The row alone: in transformers 4 padding changes what ESM makes of a row.
        expected = stock(input_ids=ids[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(logits[row, :length], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_logits_of_full_rows_with_any_ids(tmp_path, form):
    stock = save(form, tmp_path)
    network = opened(tmp_path)
    ids = some_ids((3, 50), low=0)
    ids[1, 7] = ids[1, 8] = stock.config.pad_token_id  # inside a text: RoBERTa does not count it
    expected = stock(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    logits = network.logits(network.hidden(batch_of(ids)))
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", KINDS)
@torch.no_grad()
def test_keys_from_a_cache_change_nothing(tmp_path, form):
    stock = save(form, tmp_path)
    network = opened(tmp_path)
    ids = some_ids((2, 40))
    ids[1, 3] = stock.config.pad_token_id  # left of the block: what stands behind is counted without it
    whole = network.hidden(batch_of(ids))
    cache = SlotCache(network, 2, 40, dtype=torch.float32, device=torch.device("cpu"))
    everywhere = torch.arange(40).expand(2, 40)
    first = network.hidden(batch_of(ids, cache=cache, slots=everywhere, keys=40))
    torch.testing.assert_close(first, whole, rtol=0, atol=2e-6)
    block = everywhere[:, 12:20]
    part = Batch(ids=ids[:, 12:20], positions=block, cache=cache, slots=block, keys=40)
    torch.testing.assert_close(network.hidden(part), whole[:, 12:20], rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", ["bert", "roberta"])
@torch.no_grad()
def test_old_names_and_spare_keys(tmp_path, form):
    save(form, tmp_path)
    expected = opened(tmp_path)
    prefix, head = ("bert", "cls.predictions") if form == "bert" else ("roberta", "lm_head")

    def change(tensors):
        old = {
            k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for k, v in tensors.items()
        }
        old[f"{prefix}.embeddings.position_ids"] = torch.arange(64)[None]
        old[f"{prefix}.pooler.dense.weight"] = torch.zeros(64, 64)
        old[f"{prefix}.pooler.dense.bias"] = torch.zeros(64)
        old["cls.seq_relationship.weight"] = torch.zeros(2, 64)
        old["cls.seq_relationship.bias"] = torch.zeros(2)
        old[f"{head}.decoder.weight"] = old[f"{prefix}.embeddings.word_embeddings.weight"]
        old[f"{head}.decoder.bias"] = old.pop(f"{head}.bias")
        return old

    checkpoints.change_weights(tmp_path, change)
    network = opened(tmp_path)
    for name, parameter in expected.named_parameters():
        assert torch.equal(network.get_parameter(name), parameter), name


@pytest.mark.parametrize("says", [True, ...])
@pytest.mark.parametrize("form", ["bert-untied", "roberta-untied", "modernbert-untied"])
@torch.no_grad()
def test_a_head_of_the_files_counts_whatever_the_config_says(tmp_path, form, says):
    stock = save(form, tmp_path)
    checkpoints.change_config(tmp_path, tie_word_embeddings=says)
    model = dllm_fast.load(tmp_path)
    ids = some_ids((2, 40))
    torch.testing.assert_close(model(ids), stock(input_ids=ids).logits, rtol=0, atol=2e-6)
    heads = {"bert-untied": "cls.predictions.decoder", "roberta-untied": "lm_head.decoder", "modernbert-untied": "decoder"}
    expected = [f"{heads[form]}.weight differs from"]
    bias = f"{heads[form]}.bias"
    if bias in load_file(tmp_path / "model.safetensors") and form != "modernbert-untied":
        expected.append(f"{bias} differs from")  # in transformers 4 the two are one
    assert len(model.info.notes) == len(expected)
    assert all(note.startswith(start) for note, start in zip(model.info.notes, expected, strict=True))


@pytest.mark.parametrize("form", ["bert", "roberta", "modernbert"])
def test_a_tied_table_may_lie_under_the_name_of_the_head(tmp_path, form):
    save(form, tmp_path)
    expected = opened(tmp_path)

    def change(tensors):
        table = next(key for key in tensors if key.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
        head = {"bert": "cls.predictions.decoder.weight", "roberta": "lm_head.decoder.weight"}.get(form, "decoder.weight")
        tensors[head] = tensors.pop(table)

    checkpoints.change_weights(tmp_path, change)
    for name, parameter in opened(tmp_path).named_parameters():
        assert torch.equal(expected.get_parameter(name), parameter), name


@pytest.mark.parametrize("form", ["bert", "roberta", "modernbert"])
def test_a_head_of_another_shape_is_refused(tmp_path, form):
    save(form, tmp_path)
    head = {"bert": "cls.predictions.decoder.weight", "roberta": "lm_head.decoder.weight"}.get(form, "decoder.weight")
    checkpoints.change_weights(tmp_path, lambda tensors: tensors | {head: torch.zeros(520, 64)})
    with pytest.raises(
        dllm_fast.DllmFastError, match=rf"{head} and .*embeddings.weight in .* must be one matrix.*got \[520, 64\]"
    ):
        dllm_fast.load(tmp_path)


@torch.no_grad()
def test_modernbert_as_transformers_4_wrote_it(tmp_path):
    stock = save("modernbert", tmp_path)
    checkpoints.change_config(
        tmp_path,
        rope_parameters=...,
        layer_types=...,
        global_attn_every_n_layers=3,
        global_rope_theta=160000.0,
        local_rope_theta=10000.0,
    )
    ids = some_ids((2, 50))
    network = opened(tmp_path)
    torch.testing.assert_close(network.logits(network.hidden(batch_of(ids))), stock(input_ids=ids).logits, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", KINDS)
@torch.no_grad()
def test_bfloat16_is_as_close_as_the_stock_class(tmp_path, form):
    stock = save(form, tmp_path)
    ids = some_ids((2, 40))
    exact = stock(input_ids=ids).logits
    network = opened(tmp_path, torch.bfloat16)
    ours = (network.logits(network.hidden(batch_of(ids))).float() - exact).abs().mean()
    theirs = (stock.bfloat16()(input_ids=ids).logits.float() - exact).abs().mean()
    assert ours < 1.1 * theirs


@pytest.mark.parametrize("form", KINDS)
def test_from_folder_to_text(tmp_path, form):
    stock = save(form, tmp_path)
    checkpoints.write_tokenizer(tmp_path)
    model = dllm_fast.load(tmp_path)
    ids = some_ids((2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), stock(input_ids=ids).logits, rtol=0, atol=2e-6)
    result = dllm_fast.sample(model, [{"role": "user", "content": "hello"}], max_new_tokens=8, stop_at_eos=False)
    assert model.mask_token_id == (getattr(stock.config, "mask_token_id", None) or 259)  # of the config, of the tokenizer
    assert len(result.new_tokens[0]) == 8
    assert isinstance(result.text, str)


def test_a_hostile_folder_opens_and_nothing_of_it_runs(tmp_path):
    folder, marker = tmp_path / "model", tmp_path / "marker"
    save("bert", folder)
    checkpoints.write_tokenizer(folder)
    checkpoints.make_hostile(folder, marker)
    model = dllm_fast.load(folder)
    assert model(some_ids((1, 8))).shape == (1, 8, VOCABULARY)
    with pytest.raises(dllm_fast.DllmFastError, match="unsafe"):
        dllm_fast.sample(model, [{"role": "user", "content": "hello"}], max_new_tokens=4)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type in config.json must be 'absolute'"),
        ("bert", {"is_decoder": True}, "is_decoder in config.json must be False"),
        ("bert", {"hidden_act": "prelu"}, "hidden_act in config.json must be one of"),
        ("bert", {"hidden_size": ...}, "hidden_size"),
        ("bert", {"num_attention_heads": 5}, "must divide"),
        ("roberta", {"pad_token_id": 600, "max_position_embeddings": 700}, "pad_token_id must lie in"),
        (
            "bert",
            {"pad_token_id": "x"},
            r"config.json in .*: pad_token_id must lie in \[0, vocab_size=512\), got 'x'; correct it",
        ),
        ("esm", {"mask_token_id": True}, r"mask_token_id must lie in \[0, vocab_size=512\), got True"),
        ("distilbert", {"activation": "prelu"}, "activation in config.json must be one of"),
        ("distilbert", {"dim": ...}, "hidden_size in config.json must be a whole number"),
        ("distilbert", {"n_layers": 3000}, "n_layers in config.json must be at most"),
        ("albert", {"num_hidden_groups": 3}, "num_hidden_groups in config.json must be at most num_hidden_layers=2, got 3"),
        ("electra", {"is_decoder": True}, "is_decoder in config.json must be False"),
        ("esm", {"position_embedding_type": "relative_key"}, "must be 'absolute' or 'rotary'"),
        ("esm", {"mask_token_id": ...}, "mask_token_id must be in config.json where token_dropout is true"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets in config.json must be 32"),
        ("deberta-v3", {"conv_kernel_size": 3}, "conv_kernel_size in config.json must be 0 .* got 3; open the model with"),
        ("deberta-v3", {"relative_attention": ...}, "relative_attention in config.json must be True"),
        ("deberta-v3", {"pos_att_type": ["c2p", "p2p"]}, "pos_att_type in config.json must name c2p and p2c"),
        ("nomic-bert", {"prenorm": True}, "prenorm in config.json must be False"),
        ("nomic-bert", {"rotary_scaling_factor": 2}, "rotary_scaling_factor in config.json must be None"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types in config.json"),
        ("modernbert", {"hidden_activation": "prelu"}, "hidden_activation in config.json"),
        ("modernbert", {"local_attention": 0}, "local_attention in config.json"),
        ("modernbert", {"num_attention_heads": 5}, "num_attention_heads in config.json"),
    ],
)
def test_settings_that_are_not_computed_are_refused(tmp_path, form, change, message):
    save(form, tmp_path)
    checkpoints.change_config(tmp_path, **change)
    with pytest.raises(dllm_fast.DllmFastError, match=message):
        dllm_fast.load(tmp_path)


@pytest.mark.parametrize(
    ("form", "head", "message"),
    [
        ("electra", "discriminator_predictions", "got an ELECTRA discriminator, .*; use its generator"),
        ("bert", "classifier", "must hold the head that fills masks, got none for cls.predictions.transform.dense.weight"),
        ("mpnet", None, "must hold the head that fills masks, got none for lm_head.dense.weight"),
    ],
)
def test_a_model_without_a_head_is_refused_as_that(tmp_path, form, head, message):
    save(form, tmp_path)

    def change(tensors):
        kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(("generator_", "cls.", "lm_head."))}
        return kept | ({} if head is None else {f"{head}.dense.weight": torch.zeros(2, 64)})

    checkpoints.change_weights(tmp_path, change)
    with pytest.raises(dllm_fast.DllmFastError, match=message):
        dllm_fast.load(tmp_path)


@pytest.mark.parametrize("form", ["bert", "roberta", "modernbert"])
def test_missing_and_unknown_keys_are_named(tmp_path, form):
    save(form, tmp_path)
    key = "model.final_norm.weight" if form == "modernbert" else f"{form}.encoder.layer.1.output.dense.bias"

    def rename(tensors):
        tensors["mystery"] = tensors.pop(key)

    checkpoints.change_weights(tmp_path, rename)
    with pytest.raises(dllm_fast.DllmFastError, match=key):
        dllm_fast.load(tmp_path)
