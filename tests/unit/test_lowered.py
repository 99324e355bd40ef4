"""A cased vocabulary of which a text reaches no capital letter, because its class makes text lower case unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import checkpoints
import dllm_fast
from dllm_fast.errors import LoweredTextWarning
from dllm_fast.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "[DOC]"]
SMILES = ["c", "1", "o", "n", "(", ")", "=", "C", "N", "O", "Cl", "Br"]
REMARK = r"made lower case, .*BertTokenizer does so: 5 tokens .*'Br', 'C', 'Cl'.*write \{\"do_lower_case\": false\} into"


def folder_of(place: Path, words: list[str], **settings: Any) -> Path:
    """A BERT with this vocabulary."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokens = [*SPECIAL, *words]
    config = transformers.BertConfig(**sizes, vocab_size=len(tokens), max_position_embeddings=16)
    checkpoints.redraw(transformers.BertForMaskedLM(config)).save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(tokens) + "\n")
    if settings:
        checkpoints.write_json(place / "tokenizer_config.json", settings)
    return place


@pytest.mark.parametrize("saved", [False, True], ids=["vocab.txt", "tokenizer.json"])
def test_it_is_said(tmp_path: Path, saved: bool) -> None:
    folder = folder_of(tmp_path / "model", SMILES)
    theirs = transformers.BertTokenizerFast.from_pretrained(folder)
    if saved:
        cased = transformers.BertTokenizerFast.from_pretrained(folder, do_lower_case=False)
        cased.backend_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocab.txt").unlink()
    with pytest.warns(LoweredTextWarning, match=REMARK) as caught:
        model = dllm_fast.load(folder)
    assert len(caught) == 1
    assert str(caught[0].message) in dllm_fast.explain(model).notes
    assert model.tokenizer is not None
    assert model.tokenizer.encode("C C [MASK] O") == theirs("C C [MASK] O")["input_ids"]


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (SMILES, {"do_lower_case": False}),
        (SMILES, {"do_lower_case": True}),
        (SMILES, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ([word.lower() for word in SMILES[:8]], {}),
        ([*(f"word{i}" for i in range(60)), "COVID"], {}),
    ],
    ids=["cased", "said", "another class", "uncased", "a stray one"],
)
def test_nothing_is_said(tmp_path: Path, words: list[str], settings: dict[str, Any]) -> None:
    folder = folder_of(tmp_path / "model", words, **settings)
    if settings.get("tokenizer_class") == "PreTrainedTokenizerFast":
        transformers.BertTokenizerFast.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer is not None
    assert tokenizer.remark is None
    dllm_fast.load(folder)
