"""Adapters of peft: a folder of one opens as its base with the adapter merged, to what peft itself makes of it."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import checkpoints
import dllm_fast
from dllm_fast import cli
from dllm_fast.errors import CheckpointError
from families import TWINS

IDS = torch.arange(5, 25)[None]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
QUERY = "bert.encoder.layer.0.attention.self.query"
BY_NAME = {twin.name: twin for twin in TWINS}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model = checkpoints.redraw(transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, max_position_embeddings=32)))
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapter(folder: Path, base: Path | str | None, tensors: dict[str, torch.Tensor] | None = None, **settings: object) -> Path:
    """An adapter as peft writes one: of the first query, unless other tensors are given."""
    folder.mkdir()
    usual = {"peft_type": "LORA", "base_model_name_or_path": None if base is None else str(base), "r": 2, "lora_alpha": 6}
    checkpoints.write_json(folder / "adapter_config.json", usual | {"target_modules": ["query"]} | settings)
    save_file(matrices() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


def matrices(name: str = QUERY, rank: int = 2, inner: int = 16, outer: int = 16) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(rank)
    return {
        f"base_model.model.{name}.lora_A.weight": torch.randn(rank, inner, generator=random),
        f"base_model.model.{name}.lora_B.weight": torch.randn(outer, rank, generator=random),
    }


def changed(base: Path, out: Path, deltas: dict[str, torch.Tensor]) -> Path:
    """The base with what is said added to its weights."""
    out.mkdir()
    tensors = load_file(base / "model.safetensors")
    for key, delta in deltas.items():
        tensors[key] = tensors[key] + delta
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_text((base / "config.json").read_text())
    return out


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / 2**0.5),
        ({"alpha_pattern": {"query": 8}}, 4.0),
        ({"alpha_pattern": {"self.query": 8}}, 4.0),
        ({"alpha_pattern": {"key": 8, "uery": 8}}, 3.0),
        ({"r": 8, "rank_pattern": {"query": 2}}, 3.0),
        ({"lora_dropout": 0.5, "use_dora": False, "init_lora_weights": "gaussian"}, 3.0),
    ],
)
def test_the_weights_that_it_makes(base: Path, tmp_path: Path, settings: dict[str, Any], scale: float) -> None:
    folder = adapter(tmp_path / "adapter", base, **settings)
    a, b = matrices().values()
    expected = dllm_fast.load(changed(base, tmp_path / "changed", {f"{QUERY}.weight": (b @ a) * scale}))
    for model in (dllm_fast.load(folder), dllm_fast.load(base, adapter=folder)):
        assert torch.equal(model(IDS), expected(IDS))
        assert not torch.equal(model(IDS), dllm_fast.load(base)(IDS))
    assert model.info.notes == (f"LoRA of {folder} is merged: 1 weights, rank 2, scale {round(scale, 6)}",)


def test_it_is_rounded_once(base: Path, tmp_path: Path) -> None:
    """In bfloat16 the sum is rounded, not the product."""
    checkpoints.change_weights(base, lambda tensors: {key: tensor.bfloat16() for key, tensor in tensors.items()})
    folder = adapter(tmp_path / "adapter", base)
    a, b = matrices().values()
    weight = load_file(base / "model.safetensors")[f"{QUERY}.weight"]
    found = dict(dllm_fast.load(folder).network.named_parameters())
    expected = (weight.float() + (b @ a) * 3.0).bfloat16()
    assert any(torch.equal(part, expected) for tensor in found.values() for part in tensor.split(16) if part.dim() == 2)


def test_whole_tensors(base: Path, tmp_path: Path) -> None:
    """Biases and modules that were trained, under the names of today and of older versions."""
    bias, dense = torch.randn(16), torch.randn(16, 16)
    more = {
        f"base_model.model.{QUERY}.base_layer.bias": bias,
        "base_model.model.cls.predictions.transform.dense.modules_to_save.weight": dense,
    }
    folder = adapter(tmp_path / "adapter", base, matrices() | more, bias="lora_only")
    tensors = load_file(base / "model.safetensors")
    a, b = matrices().values()
    deltas = {
        f"{QUERY}.weight": (b @ a) * 3.0,
        f"{QUERY}.bias": bias - tensors[f"{QUERY}.bias"],
        "cls.predictions.transform.dense.weight": dense - tensors["cls.predictions.transform.dense.weight"],
    }
    expected = dllm_fast.load(changed(base, tmp_path / "changed", deltas))
    torch.testing.assert_close(dllm_fast.load(folder)(IDS), expected(IDS), rtol=0, atol=2e-6)
    assert "2 whole tensors" in dllm_fast.load(folder).info.notes[0]


def test_a_head_of_its_own(base: Path, tmp_path: Path) -> None:
    """The base ties its head, the adapter brings one that was trained."""
    head = torch.randn(40, 16)
    folder = adapter(tmp_path / "adapter", base, matrices() | {"base_model.model.cls.predictions.decoder.weight": head})
    a, b = matrices().values()
    stock = transformers.BertForMaskedLM.from_pretrained(base)
    stock.cls.predictions.decoder.weight = torch.nn.Parameter(head)
    stock.bert.encoder.layer[0].attention.self.query.weight.data += (b @ a) * 3.0
    with torch.no_grad():
        torch.testing.assert_close(dllm_fast.load(folder)(IDS), stock.eval()(IDS).logits, rtol=0, atol=5e-6)


HEAD, TABLE = "cls.predictions.decoder", "bert.embeddings.word_embeddings"


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    settings = transformers.BertConfig(**SIZES, max_position_embeddings=32, tie_word_embeddings=False)
    checkpoints.redraw(transformers.BertForMaskedLM(settings)).save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"


def test_a_product_over_a_whole_tensor(untied: Path, tmp_path: Path) -> None:
    """peft saves a head that it wrapped beside the matrices of it: both count."""
    head, pair = torch.randn(40, 16), matrices(HEAD, outer=40)
    folder = adapter(tmp_path / "adapter", untied, pair | {f"base_model.model.{HEAD}.base_layer.weight": head})
    a, b = pair.values()
    found = dllm_fast.load(folder)(IDS)
    checkpoints.change_weights(untied, lambda tensors: tensors | {f"{HEAD}.weight": head + (b @ a) * 3.0})
    assert torch.equal(found, dllm_fast.load(untied)(IDS))


@pytest.mark.parametrize("more", [("dense.original_module",), ("dense.modules_to_save", "dense.original_module")])
def test_what_a_trained_copy_replaced_is_not_used(base: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Under bias="all" peft saves the biases of the original, too, which nothing runs."""
    name, bias = "cls.predictions.transform", torch.randn(16)
    there = load_file(base / "model.safetensors")[f"{name}.dense.bias"]
    for order, keys in enumerate((("dense", *more), (*more, "dense"))):
        found = {f"base_model.model.{name}.{key}.bias": torch.randn(16) if "original" in key else bias.clone() for key in keys}
        folder = adapter(tmp_path / f"adapter{order}", base, matrices() | found)
        a, b = matrices().values()
        deltas = {f"{QUERY}.weight": (b @ a) * 3.0, f"{name}.dense.bias": bias - there}
        expected = dllm_fast.load(changed(base, tmp_path / f"changed{order}", deltas))
        torch.testing.assert_close(dllm_fast.load(folder)(IDS), expected(IDS), rtol=0, atol=2e-6)


def test_norms_under_the_names_of_tensorflow(base: Path, tmp_path: Path) -> None:
    """peft writes the names of modules; files, of ESM say, have others."""
    norm = "bert.encoder.layer.0.output.LayerNorm"
    more = {f"base_model.model.{norm}.{kind}": torch.rand(16) for kind in ("weight", "bias")}
    folder = adapter(tmp_path / "adapter", base, matrices() | more)
    expected = dllm_fast.load(folder)(IDS)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    checkpoints.change_weights(
        base, lambda tensors: {re.sub("|".join(old), lambda m: old[m[0]], key): tensor for key, tensor in tensors.items()}
    )
    assert torch.equal(dllm_fast.load(folder)(IDS), expected)


def test_two_tensors_for_one_weight(base: Path, tmp_path: Path) -> None:
    names = ("cls.predictions.transform.dense.bias", "cls.predictions.transform.dense.base_layer.bias")
    more = {f"base_model.model.{name}": torch.randn(16) for name in names}
    with pytest.raises(CheckpointError, match=r"one tensor for each weight, got .*, which differ"):
        dllm_fast.load(adapter(tmp_path / "adapter", base, matrices() | more))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"base_model.model.{TABLE}.weight": torch.ones(40, 16)}, rf"must bring both .* got {TABLE}\.weight alone"),
        (matrices(HEAD, outer=40), rf"must leave the output matrix .* got a LoRA of {HEAD}\.weight"),
    ],
)
def test_one_of_two_tied_matrices(base: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    """peft's own forward and its own merge do not agree on these, or leave a head that no file holds."""
    with pytest.raises(CheckpointError, match=message + r".*tie_word_embeddings = False.*load\(folder, adapter=\.\.\.\)"):
        dllm_fast.load(adapter(tmp_path / "adapter", base, matrices() | tensors))


def test_the_table_of_the_base_once_more(base: Path, tmp_path: Path) -> None:
    """An adapter that brings what was tied as it was changes nothing."""
    table = load_file(base / "model.safetensors")[f"{TABLE}.weight"]
    plain = dllm_fast.load(adapter(tmp_path / "plain", base))
    folder = adapter(tmp_path / "adapter", base, matrices() | {f"base_model.model.{TABLE}.weight": table})
    assert torch.equal(dllm_fast.load(folder)(IDS), plain(IDS))


def test_tokenizer_of_the_adapter_or_of_the_base(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base)
    assert dllm_fast.load(folder).tokenizer is None
    (base / "vocab.txt").write_text("[UNK]\n[MASK]\na\n")
    assert dllm_fast.load(folder).mask_token_id == 1
    (folder / "vocab.txt").write_text("[UNK]\na\n[MASK]\n")
    checkpoints.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    assert dllm_fast.load(folder).mask_token_id == 2


def test_sampling_with_an_adapter(tmp_path: Path) -> None:
    base = BY_NAME["sdar"].save(tmp_path / "base")
    name = "model.layers.1.self_attn.q_proj"
    outer, inner = load_file(base / "model.safetensors")[f"{name}.weight"].shape
    folder = adapter(tmp_path / "adapter", base, matrices(name, 4, inner, outer), r=4)
    a, b = matrices(name, 4, inner, outer).values()
    plain = changed(base, tmp_path / "changed", {f"{name}.weight": (b @ a) * 1.5})
    answers = [dllm_fast.sample(str(f), [1, 2, 3], max_new_tokens=8, mask_token_id=501).sequences[0] for f in (folder, plain)]
    assert answers[0].tolist() == answers[1].tolist()


def test_the_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapter(tmp_path / "adapter", base)
    capsys.readouterr()
    for arguments in ((folder,), (base, "--adapter", folder)):
        assert cli.main(["explain", *map(str, arguments)]) == 0
        assert f"LoRA of {folder} is merged" in capsys.readouterr().out


# Against peft itself


def wrapped(base: Path, out: Path, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    """peft's model of a base, drawn and saved."""
    peft = pytest.importorskip("peft", reason="peft is what it is compared with")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft, about what it finds in transformers
        kind = getattr(transformers, json.loads((base / "config.json").read_text())["architectures"][0])
        model = peft.get_peft_model(kind.from_pretrained(base, dtype=dtype), peft.LoraConfig(r=2, lora_alpha=5, **settings))
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=random).to(parameter.dtype) * 0.1)
        model.save_pretrained(out)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["query", "value"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["query", "dense"], "bias": "all"},
        {"target_modules": ["query"], "bias": "lora_only", "modules_to_save": ["transform"]},
        {"target_modules": ["query", "key"], "rank_pattern": {"key": 3}, "alpha_pattern": {"layer.1.attention.self.key": 9}},
        {"target_modules": r".*layer\.1\..*dense", "layers_to_transform": None},
    ],
)
def test_what_peft_makes_of_it(base: Path, tmp_path: Path, settings: dict[str, Any], dtype: torch.dtype) -> None:
    peft = pytest.importorskip("peft", reason="peft is what it is compared with")
    wrapped(base, tmp_path / "adapter", dtype, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft, about what it finds in transformers
        # As the files have it: peft 0.17 leaves trained biases out of them.
        plain = transformers.BertForMaskedLM.from_pretrained(base, dtype=dtype)
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").merge_and_unload().eval()
    ours = dllm_fast.load(base, adapter=tmp_path / "adapter", dtype=dtype)
    if settings.get("bias") == "lora_only":
        holds = any(
            "query" in key and key.endswith(".bias") for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        )
        assert holds is not any("biases were trained (lora_only), but it holds none" in note for note in ours.info.notes)
    with torch.no_grad():
        expected = theirs(IDS).logits
    tolerance = 5e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(ours(IDS), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "saved", [None, ["decoder"], ["word_embeddings"], ["word_embeddings", "decoder"], ["cls", "LayerNorm"]]
)
@pytest.mark.parametrize("more", [{}, {"bias": "all"}, {"ensure_weight_tying": True}])
@pytest.mark.parametrize("targets", [["query"], ["query", "decoder"]])
def test_heads_tables_and_norms(
    tmp_path: Path, tied: bool, saved: list[str] | None, more: dict[str, Any], targets: list[str]
) -> None:
    """What is opened has the logits of peft's own forward; what is refused has two answers, or no file holds it."""
    if "decoder" in targets and set(saved or ()) & {"decoder", "cls"}:
        return  # peft does not train one module in two ways
    config = transformers.BertConfig(**SIZES, max_position_embeddings=32, tie_word_embeddings=tied)
    checkpoints.redraw(transformers.BertForMaskedLM(config)).save_pretrained(tmp_path / "base")
    peft = pytest.importorskip("peft", reason="peft is what it is compared with")
    if missing := more.keys() - inspect.signature(peft.LoraConfig).parameters.keys():
        pytest.skip(f"peft {peft.__version__} has no {', '.join(missing)}")
    settings = {"target_modules": targets, "modules_to_save": saved, **more}
    theirs = wrapped(tmp_path / "base", tmp_path / "adapter", torch.float32, settings)
    if tied and ("decoder" in targets or saved == ["word_embeddings"]):
        with pytest.raises(CheckpointError, match=r"the output matrix and the token table"):
            dllm_fast.load(tmp_path / "adapter")
        return
    with torch.no_grad():
        expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(dllm_fast.load(tmp_path / "adapter")(IDS), expected, rtol=0, atol=5e-6)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type must be LORA, got 'IA3'; merge it with peft"),
        ({"use_dora": True}, "must be a plain LoRA, got use_dora True; merge it with peft"),
        ({"lora_bias": True}, "got lora_bias True"),
        ({"target_parameters": ["experts.weight"]}, "got target_parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, "got init_lora_weights 'pissa_niter_4', which changes the base"),
        ({"init_lora_weights": "mica"}, "got init_lora_weights 'mica'"),
        ({"use_news": True}, "got 'use_news': True, which is not known; take it out"),
        ({"r": 3}, "matrices of rank 3 for .*query', got [2, 16] and [16, 2]"),
        ({"r": None}, "r in adapter_config.json must be a whole number"),
        ({"lora_alpha": "x"}, "lora_alpha in adapter_config.json must be a number"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern must name layers"),
        ({"alpha_pattern": {"query": -1}}, "alpha_pattern must hold numbers above 0"),
    ],
)
def test_other_adapters(base: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message).replace(r"\.\*", ".*")):
        dllm_fast.load(adapter(tmp_path / "adapter", base, **settings))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (matrices("bert.lost"), "changes 'bert.lost.weight', which .* does not hold; is that its base"),
        (matrices("bert.lost"), "it holds 'bert.*', and some classes call their modules otherwise .*, merge it with peft"),
        (matrices(inner=8), r"must fit '.*query.weight' of .*, got shape \[16, 8\] for \[16, 16\]"),
        ({"base_model.model.bert.embeddings.word_embeddings.lora_embedding_A": torch.ones(2, 40)}, "a plain LoRA of linear"),
        (dict([next(iter(matrices().items()))]), "must hold lora_A and lora_B of"),
        ({"base_model.model.bert.embeddings.word_embeddings.weight": torch.ones(41, 16)}, "If its vocabulary was made larger"),
        (matrices() | {"base_model.model.classifier.weight": torch.ones(2, 16)}, "classifier.weight"),
    ],
)
def test_adapters_that_do_not_fit(base: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        dllm_fast.load(adapter(tmp_path / "adapter", base, tensors))


def test_a_base_that_is_not_there(base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"base_model_name_or_path must name the base .*pass load\(base, adapter=folder\)"
    ):
        dllm_fast.load(adapter(tmp_path / "a", None))
    with pytest.raises(CheckpointError, match=r"an adapter of '/lost/base' .*pass load\(base, adapter='.*b'\)"):
        dllm_fast.load(adapter(tmp_path / "b", "/lost/base"))
    with pytest.raises(CheckpointError, match=r"must be a model, got .*, an adapter as well"):
        dllm_fast.load(adapter(tmp_path / "c", tmp_path / "a"))


def test_no_weights_or_pickled_ones(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"must hold adapter_model\.safetensors; save it anew with peft"):
        dllm_fast.load(folder)


def test_a_model_beside_its_adapter_is_a_model(base: Path, tmp_path: Path) -> None:
    for path in adapter(tmp_path / "adapter", base).iterdir():
        path.rename(base / path.name)
    assert dllm_fast.load(base).info.notes == ()
    settings = json.loads((base / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA"
