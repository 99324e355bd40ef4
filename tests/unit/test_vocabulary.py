"""Tokenizers without `tokenizer.json`, and settings over one: the ids are those of transformers' own classes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

import checkpoints
import dllm_fast
from dllm_fast import cli
from dllm_fast.errors import CheckpointError
from dllm_fast.text import vocabulary
from dllm_fast.text.tokenizer import Tokenizer

BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>"]
AMINO_ACIDS = list("LAGVSERTIDPKQNFYMHWCXBUZO.-")
# Case, accents, Chinese signs, pieces, punctuation, and what is unknown.
WORDS = [
    "he",
    "##llo",
    "h",
    "##e",
    "##l",
    "##o",
    "world",
    "Hello",
    "HE",
    "é",
    "e",
    "café",
    "cafe",
    "北",
    "京",
    "北京",
    ".",
    ",",
    "a",
]
WORDS += ["##a", "!", "İ", "i", "##i", "MASK", "[", "]", "ß", "un", "##known"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ h", "Ġh e", "Ġ Ġ"]
TEXTS = st.lists(
    st.sampled_from(
        [*WORDS, *AMINO_ACIDS, " ", " ", "  ", "\n", "\t", "hello", "CAFÉ", "[MASK]", "<mask>", "<eos>", "\u00ad", "é"]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


def folder_of(folder: Path, model_type: str | None = None, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    if settings:
        checkpoints.write_json(folder / "tokenizer_config.json", settings)
    if model_type is not None:
        checkpoints.write_json(folder / "config.json", {"model_type": model_type})
    return folder


def with_words(folder: Path, special: list[str] = BRACKETS) -> Path:
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n", encoding="utf-8")
    return folder


def with_bytes(folder: Path, special: list[str] = ANGLES, mask: str = "<mask>") -> Path:
    tokens = [*special, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    tokens += [merge.replace(" ", "") for merge in MERGES] + [mask]
    checkpoints.write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    return folder


def opened(folder: Path) -> Tokenizer:
    tokenizer, missing = Tokenizer.find(folder)
    assert tokenizer is not None, missing
    return tokenizer


SETTINGS = (
    {},
    {"do_lower_case": False},
    {"do_lower_case": True},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": True, "strip_accents": False},
    {"tokenize_chinese_chars": False},
    {"strip_accents": None, "do_lower_case": False, "clean_up_tokenization_spaces": True},
)


@pytest.fixture(scope="module")
def word_folders(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tokenizer, Any]]:
    """BERT's vocabulary under every setting: alone, and over a `tokenizer.json` that says otherwise."""
    pairs = []
    for number, settings in enumerate(SETTINGS):
        for cased in (None, True, False):
            place = tmp_path_factory.mktemp(f"words{number}")
            folder = with_words(folder_of(place, "bert", tokenizer_class="BertTokenizer", **settings))
            if cased is not None:
                transformers.BertTokenizerFast.from_pretrained(folder, do_lower_case=not cased).save_pretrained(place / "saved")
                (place / "saved" / "tokenizer.json").rename(folder / "tokenizer.json")
                (folder / "vocab.txt").unlink()
            pairs.append((opened(folder), transformers.AutoTokenizer.from_pretrained(folder)))
    return pairs


@given(TEXTS)
def test_words_and_their_settings(word_folders: list[tuple[Tokenizer, Any]], text: str) -> None:
    for ours, theirs in word_folders:
        assert ours.encode(text) == theirs(text)["input_ids"], theirs.init_kwargs
        assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def byte_folders(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tokenizer, Any]]:
    """Byte-level pairs of RoBERTa, GPT-2 and DeBERTa under both settings: alone, and over a `tokenizer.json`."""
    pairs = []
    mask = dict.fromkeys(("rstrip", "single_word", "normalized"), False) | {
        "__type": "AddedToken",
        "lstrip": True,
        "special": True,
    }
    for name, model_type in (("Roberta", "roberta"), ("GPT2", "gpt2"), ("Deberta", "deberta")):
        for settings in ({}, {"add_prefix_space": True}, {"add_prefix_space": False}):
            for saved in (None, True, False):
                place = tmp_path_factory.mktemp(name)
                folder = folder_of(place, model_type, tokenizer_class=f"{name}Tokenizer", **settings)
                special = {"Roberta": ANGLES, "GPT2": ["<|endoftext|>"], "Deberta": [t for t in BRACKETS if t != "[MASK]"]}[
                    name
                ]
                with_bytes(folder, special, "[MASK]" if name == "Deberta" else "<mask>")
                if name != "GPT2":
                    said = json.loads((folder / "tokenizer_config.json").read_text())
                    own = mask | {"content": "[MASK]" if name == "Deberta" else "<mask>"}
                    checkpoints.write_json(folder / "tokenizer_config.json", said | {"mask_token": own})
                if saved is not None:
                    kind = getattr(transformers, f"{name}TokenizerFast", None) or getattr(transformers, f"{name}Tokenizer")
                    kind.from_pretrained(folder, add_prefix_space=saved).save_pretrained(place / "saved")
                    (place / "saved" / "tokenizer.json").rename(folder / "tokenizer.json")
                    (folder / "vocab.json").unlink()
                    (folder / "merges.txt").unlink()
                pairs.append((opened(folder), transformers.AutoTokenizer.from_pretrained(folder)))
    return pairs


@given(TEXTS)
def test_bytes_and_their_settings(byte_folders: list[tuple[Tokenizer, Any]], text: str) -> None:
    for ours, theirs in byte_folders:
        assert ours.encode(text) == theirs(text)["input_ids"], theirs.init_kwargs
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)


@pytest.fixture(scope="module")
def proteins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = folder_of(tmp_path_factory.mktemp("esm"), "esm")
    (folder / "vocab.txt").write_text("\n".join(["<cls>", "<pad>", "<eos>", "<unk>", *AMINO_ACIDS, "<null_1>", "<mask>"]))
    return opened(folder), transformers.EsmTokenizer.from_pretrained(folder)


@given(st.text(alphabet="LAGVSE MKX<>.-z\n", max_size=20) | TEXTS)
def test_proteins(proteins: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = proteins
    assert ours.encode(text) == theirs(text)["input_ids"]


def test_proteins_are_read_and_written(proteins: tuple[Tokenizer, Any]) -> None:
    ours, theirs = proteins
    assert ours.mask_token_id == theirs.mask_token_id
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.decode(ours.encode("MK<mask>T")) == theirs.decode(theirs("MK<mask>T")["input_ids"], skip_special_tokens=True)


@given(TEXTS)
def test_words_with_the_tokens_of_mpnet(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "mpnet"
    if not folder.exists():
        with_words(folder_of(folder, "mpnet"), ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])
    assert opened(folder).encode(text) == transformers.MPNetTokenizerFast.from_pretrained(folder)(text)["input_ids"]


@pytest.mark.parametrize(
    ("model_type", "class_name"),
    [
        ("distilbert", None),
        ("electra", None),
        ("mobilebert", None),
        (None, "DistilBertTokenizerFast"),
        ("test", "ElectraTokenizer"),
    ],
)
def test_kin_of_bert(tmp_path: Path, model_type: str | None, class_name: str | None) -> None:
    settings = {} if class_name is None else {"tokenizer_class": class_name}
    folder = with_words(folder_of(tmp_path, model_type, **settings))
    assert opened(folder).encode("Hello [MASK]") == [2, 5, 6, 4, 3]


def test_names_and_ids_of_the_special_tokens(tmp_path: Path) -> None:
    tokenizer = opened(with_words(folder_of(tmp_path, "bert")))
    assert tokenizer.special_tokens == dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BRACKETS, strict=True)
    )
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (4, 0, None)
    assert tokenizer.decode(tokenizer.encode("hello, world!")) == "hello, world!"


def test_tokens_of_the_settings_come_before_those_of_the_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bert", unk_token="<unk>", mask_token={"content": "<mask>", "lstrip": True})
    (folder / "vocab.txt").write_text("\n".join(["<unk>", "<mask>", "[CLS]", "[SEP]", "a", "b"]))
    assert opened(folder).encode("a <mask>b?") == [2, 4, 1, 5, 0, 3]
    assert opened(folder).mask_token_id == 1


def test_older_files_of_added_tokens(tmp_path: Path) -> None:
    folder = with_words(folder_of(tmp_path, "bert", additional_special_tokens=["<b>"]))
    count = len(BRACKETS) + len(WORDS)
    checkpoints.write_json(folder / "added_tokens.json", {"<b>": count + 1, "<a>": count})
    theirs = transformers.BertTokenizerFast.from_pretrained(folder)
    for text in ("he<a>llo <b> A", "<B><A>"):
        assert opened(folder).encode(text) == theirs(text)["input_ids"]
    checkpoints.write_json(folder / "added_tokens.json", {"<a>": count + 5})
    with pytest.raises(CheckpointError, match=f"the token '<a>' must get the id {count + 5}, got {count}"):
        opened(folder)
    checkpoints.write_json(folder / "added_tokens.json", {"<a>": "x"})
    with pytest.raises(CheckpointError, match=r"added_tokens\.json: it must map tokens to ids"):
        opened(folder)


def test_a_word_of_the_vocabulary_that_is_added_is_found_as_a_whole(tmp_path: Path) -> None:
    added = {str(len(BRACKETS) + WORDS.index("MASK")): {"content": "MASK", "special": False, "normalized": False}}
    folder = with_words(folder_of(tmp_path, "bert", added_tokens_decoder=added))
    theirs = transformers.BertTokenizerFast.from_pretrained(folder)
    assert opened(folder).encode("heMASKa") == theirs("heMASKa")["input_ids"]


def test_other_normalizers_and_classes_are_left_alone(tmp_path: Path) -> None:
    """A class without settings of its own takes the file as it is."""
    folder = folder_of(tmp_path, "bert", tokenizer_class="PreTrainedTokenizerFast", do_lower_case=True)
    transformers.BertTokenizerFast.from_pretrained(with_words(folder), do_lower_case=False).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").rename(folder / "tokenizer.json")
    ours, theirs = opened(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.encode("Hello") == theirs("Hello")["input_ids"]
    assert ours.encode("Hello") != ours.encode("hello")


# Folders without a tokenizer that can be used open for ids


def reason(folder: Path) -> str:
    tokenizer, missing = Tokenizer.find(folder)
    assert tokenizer is None
    assert missing is not None
    return missing


def test_a_vocabulary_without_the_unknown_token(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bert")
    (folder / "vocab.txt").write_text("[PAD]\na\nb\n")
    assert "must hold the token for what it does not know, got no [UNK]; name it as unk_token" in reason(folder)


@pytest.mark.parametrize("model_type", ["test", None])
def test_a_vocabulary_of_an_unknown_class(tmp_path: Path, model_type: str | None) -> None:
    assert "needs to be told the class of its tokenizer" in reason(with_words(folder_of(tmp_path, model_type)))
    assert "BertTokenizer" in reason(tmp_path)


def test_a_class_that_is_not_built_here(tmp_path: Path) -> None:
    folder = with_words(folder_of(tmp_path, "bert", tokenizer_class="BertJapaneseTokenizer"))
    assert "of the class BertJapaneseTokenizer, which is not built here; open it with transformers" in reason(folder)
    (folder_of(tmp_path / "half", "roberta") / "vocab.json").write_text("{}")
    assert "must hold vocab.json and merges.txt for RobertaTokenizer, got vocab.json" in reason(tmp_path / "half")


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
def test_words_that_rjieba_cuts(tmp_path: Path, file: str) -> None:
    """RoFormer's tokenizer.json names BERT's splitting, because `tokenizers` cannot write its own."""
    folder = with_words(folder_of(tmp_path, "roformer"))
    if file == "tokenizer.json":
        transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(tmp_path / "saved")
        (tmp_path / "saved" / "tokenizer.json").rename(folder / "tokenizer.json")
    assert f"{file} is of RoFormerTokenizer, which cuts Chinese words with rjieba" in reason(folder)
    assert "pass tokenizer=, or pass ids" in reason(folder)
    checkpoints.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    assert opened(folder).mask_token_id is not None


def test_a_list_of_whole_tokens_is_short(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "esm")
    (folder / "vocab.txt").write_text("\n".join(["<unk>", *map(str, range(10_000))]))
    assert "must hold at most 10,000 tokens for a tokenizer of this class, got 10,001" in reason(folder)


def test_a_broken_vocabulary(tmp_path: Path) -> None:
    (folder_of(tmp_path, "bert") / "vocab.txt").write_bytes(b"\xff\xfe")
    assert "vocab.txt must be UTF-8" in reason(tmp_path)
    (folder_of(tmp_path, "roberta") / "vocab.txt").unlink()
    with_bytes(tmp_path)
    (tmp_path / "merges.txt").write_text("x y\n")
    assert "makes no tokenizer" in reason(tmp_path)


def test_sentencepiece_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder_of(tmp_path, "xlm-roberta") / "sentencepiece.bpe.model").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert reason(tmp_path).endswith("which is not installed; pip install transformers sentencepiece protobuf")
    (folder_of(tmp_path, "t5-like") / "sentencepiece.bpe.model").write_bytes(b"x")
    assert "needs to be told the class" in reason(tmp_path)


def test_sentencepiece_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line to install, where a package is missing: transformers names tiktoken then, which reads other files."""
    (folder_of(tmp_path, "xlm-roberta") / "sentencepiece.bpe.model").write_bytes(b"no model")
    monkeypatch.setattr(vocabulary, "_READERS", {"sentencepiece": "no_such_module", "protobuf": "no_package.there"})
    assert reason(tmp_path) == (
        f"{tmp_path / 'sentencepiece.bpe.model'} needs sentencepiece and protobuf, not installed; "
        "pip install transformers sentencepiece protobuf"
    )
    monkeypatch.setattr(vocabulary, "_READERS", {"sentencepiece": "sys"})
    assert "makes no XLMRobertaTokenizer: " in reason(tmp_path)
    assert reason(tmp_path).endswith("; fetch the file again")


def test_the_folder_opens_and_explain_says_why(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\na\nb\n")
    model = dllm_fast.load(tmp_path)
    assert model.tokenizer is None
    assert model.info.notes == (f"no tokenizer for text: {reason(tmp_path)}",)
    checkpoints.write_json(with_words(tmp_path) / "tokenizer_config.json", {"do_lower_case": True})
    assert dllm_fast.load(tmp_path).info.notes == ()


def test_sentencepiece_through_transformers(tmp_path: Path) -> None:
    """A model of sentencepiece in the classes of XLM-R, ALBERT, DeBERTa v2 and Llama."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece trains the model")
    pytest.importorskip("google.protobuf", reason="transformers reads the model with protobuf")
    (tmp_path / "text").write_text("\n".join(f"the cat {i} sat on mat number {i * 7} and said hello" for i in range(200)))
    special = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
    for kind, model_type in (("unigram", "xlm-roberta"), ("unigram", "albert"), ("unigram", "deberta-v2"), ("bpe", "llama")):
        folder = folder_of(tmp_path / model_type, model_type, tokenizer_class={"llama": "LlamaTokenizer"}.get(model_type))
        file = {"xlm-roberta": "sentencepiece.bpe", "albert": "spiece", "deberta-v2": "spm", "llama": "tokenizer"}[model_type]
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / "text"),
            model_prefix=str(folder / file),
            vocab_size=60,
            model_type=kind,
            minloglevel=2,
            **special,
        )
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        ours = opened(folder)
        for text in ("the cat said hello", "  The  mat, 7 ", "é zz <mask> [MASK] sat", ""):
            assert ours.encode(text) == theirs(text)["input_ids"], (model_type, text)
        assert ours.special_tokens.get("mask_token") == theirs.special_tokens_map.get("mask_token")


def test_a_config_without_a_model_type(tmp_path: Path) -> None:
    """Of 2019: the keys of the weights tell the model, and that tells the tokenizer."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(with_words(tmp_path))
    checkpoints.change_config(tmp_path, model_type=..., architectures=...)
    checkpoints.write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": True})
    model = dllm_fast.load(tmp_path)
    assert model.tokenizer is not None
    assert (model.tokenizer.encode("Hello"), model.mask_token_id) == ([2, 5, 6, 3], 4)


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\na\nb\n")
    capsys.readouterr()
    assert cli.main(["infill", str(tmp_path), "--text", "a [MASK]"]) == 2
    assert "name it as unk_token in tokenizer_config.json" in capsys.readouterr().err


NAMES = ("tokenizer_class", "unk_token", "cls_token", "sep_token", "mask_token", "do_lower_case", "strip_accents")
NAMES += ("tokenize_chinese_chars", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens", "chat_template")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 60)
    | st.sampled_from(["[UNK]", "[MASK]", "he", "", " ", "BertTokenizer", "Esm", "a\n"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["content", "lstrip", "5", "60", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6), st.sampled_from(["bert", "mpnet", "esm", "roberta", "test"])
)
def test_any_settings_are_read_or_answered(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any], model_type: str
) -> None:
    folder = with_bytes(with_words(folder_of(tmp_path_factory.mktemp("any"), model_type)))
    checkpoints.write_json(folder / "tokenizer_config.json", settings)
    try:
        tokenizer, missing = Tokenizer.find(folder)
    except CheckpointError:
        return
    assert (tokenizer is None) == (missing is not None)
    if tokenizer is not None:
        assert all(0 <= i < tokenizer.vocabulary for i in tokenizer.encode("Hello <mask> he[MASK]"))
