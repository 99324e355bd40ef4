"""Tokenizers as people have them, small enough to be trained in a test, and models that read what they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import checkpoints

CORPUS = (
    *["Paris is the capital of France. Rome is the capital of Italy, and able people are unable to do the undoable."] * 5,
    *["it is bearable, unbearable: 1234 words; some (more) words!"] * 3,
)
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>")


def word_piece() -> tokenizers.Tokenizer:
    """As BERT's: lower case, words in pieces, `[CLS]` and `[SEP]` around a text."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=150, show_progress=False, special_tokens=list(BERT)))
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def byte_level(*, prefix: bool = False, lstrip: bool = False, closed: bool = False) -> tokenizers.Tokenizer:
    """As GPT-2's; with `lstrip` and `closed` as RoBERTa's."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=list(ROBERTA) if closed else []
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=lstrip)])
    if closed:
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix)
    return made


def metaspace(scheme: str, *, unigram: bool = False, closed: bool = False) -> tokenizers.Tokenizer:
    """As T5's, XLM-R's and Mistral's."""
    made = tokenizers.Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer: Any
    if unigram:
        trainer = trainers.UnigramTrainer(vocab_size=150, show_progress=False, unk_token="<unk>", special_tokens=list(ROBERTA))
    else:
        trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False, special_tokens=list(ROBERTA))
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens(["<mask>"])
    if closed:
        made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return made


def prepended() -> tokenizers.Tokenizer:
    """As Llama 2's, whose normalizer puts a space before every piece of text, one behind a special token included."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    # Words one by one, or the space behind a word would become part of it.
    words = [word for line in CORPUS for word in line.split()]
    made.train_from_iterator(words, trainers.BpeTrainer(vocab_size=220, show_progress=False, special_tokens=["<unk>"]))
    made.add_special_tokens(["<mask>"])
    return made


def mask_of(tokenizer: tokenizers.Tokenizer) -> int:
    """The id of the mask."""
    found = tokenizer.token_to_id("<mask>") or tokenizer.token_to_id("[MASK]")
    assert found is not None
    return found


def save(folder: Path, kind: str = "bert", *, template: str | None = None, context: int = 64) -> Path:
    """A folder of a tiny BERT or RoBERTa with random weights that make every token count, and its tokenizer."""
    hf = pytest.importorskip("transformers")
    import native_models

    made = word_piece() if kind == "bert" else byte_level(lstrip=True, closed=True)
    named = (
        {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        if kind == "bert"
        else {
            **{"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"},
            **{"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"},
        }
    )
    shape = native_models.COMMON | {"vocab_size": made.get_vocab_size(), "max_position_embeddings": context}
    if kind == "bert":
        model = hf.BertForMaskedLM(hf.BertConfig(**shape, pad_token_id=0))
    else:
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        model = hf.RobertaForMaskedLM(hf.RobertaConfig(**shape | {"max_position_embeddings": context + 2}, **ids))
    native_models.drawn(model).save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    checkpoints.write_json(
        folder / "tokenizer_config.json", settings if template is None else settings | {"chat_template": template}
    )
    return folder
