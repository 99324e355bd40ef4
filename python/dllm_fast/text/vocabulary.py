"""Tokenizers of folders without `tokenizer.json`: from their vocabulary, and what `tokenizer_config.json` changes of one.

transformers builds its tokenizers from a class and settings; what those classes do to ids is said here once, as data.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from dllm_fast.checkpoint import regular
from dllm_fast.checkpoint.jsonfile import optional_json
from dllm_fast.checkpoint.regular import present
from dllm_fast.errors import CheckpointError, shown
from dllm_fast.text.failures import reason, translated

# Where each kind of vocabulary lies.
WORDS, PIECES, MERGES = "vocab.txt", "vocab.json", "merges.txt"
SENTENCEPIECE = ("sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "spm.model", "tokenizer.model")


# Of a vocabulary that becomes one pattern; ESM's has 33 tokens.
_LONGEST_LIST = 10_000
# One of so many tokens has a capital letter in a vocabulary that is cased.
_CASED_SHARE = 20


class UnusableError(Exception):
    """The files make no tokenizer here; the text says why and what to do. The folder still opens, for ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the tokenizer classes of one kind have in common.

    Attributes:
        model: `wordpiece` (BERT's), `bytes` (byte-level pairs, GPT-2's), or `words` (every token of the list is whole).
        special: tokens by name, where the settings do not say others.
        around: names of the tokens before and behind every text.
        mask_takes_space: the mask swallows the space before it.
    """

    model: Literal["wordpiece", "bytes", "words"]
    special: Mapping[str, str]
    around: tuple[str, ...] = ("cls_token", "sep_token")
    mask_takes_space: bool = False


_BRACKETS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_ANGLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
BERT = Kind(model="wordpiece", special=_BRACKETS)
MPNET = Kind(model="wordpiece", special=_ANGLES | {"unk_token": "[UNK]"}, mask_takes_space=True)
ROBERTA = Kind(model="bytes", special=_ANGLES, mask_takes_space=True)
DEBERTA = Kind(model="bytes", special=_BRACKETS | {"bos_token": "[CLS]", "eos_token": "[SEP]"}, mask_takes_space=True)
GPT2 = Kind(model="bytes", special=dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"), around=())
ESM = Kind(
    model="words",
    special={"cls_token": "<cls>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
    around=("cls_token", "eos_token"),
)
# By the name of the class, without "Tokenizer" and "Fast".
_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(
        ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM", "SqueezeBert", "Lxmert", "Nezha"), BERT
    ),
    "MPNet": MPNET,
    **dict.fromkeys(("Roberta", "Longformer", "Bart", "LED"), ROBERTA),
    "Deberta": DEBERTA,
    "GPT2": GPT2,
    "Esm": ESM,
}
# Classes of transformers that make a fast tokenizer of a sentencepiece model.
_THROUGH_TRANSFORMERS = frozenset(
    (
        "XLMRoberta",
        "Camembert",
        "Albert",
        "DebertaV2",
        "Llama",
        "Gemma",
        "T5",
        "XLNet",
        "BigBird",
        "Barthez",
        "MBart",
        "RemBert",
    )
)
# What their settings may say of how they split; special tokens are added to that.
_PASSED = ("do_lower_case", "keep_accents", "remove_space", "split_by_punct", "vocab_type", "add_prefix_space", "legacy")
# The class that transformers takes for a model_type, where no settings name one.
_BY_MODEL_TYPE = {
    **dict.fromkeys(("bert", "ernie", "megatron-bert", "nezha", "nomic_bert", "mobilebert"), "Bert"),
    "distilbert": "DistilBert",
    "electra": "Electra",
    "convbert": "ConvBert",
    "layoutlm": "LayoutLM",
    "squeezebert": "SqueezeBert",
    "mpnet": "MPNet",
    **dict.fromkeys(("roberta", "data2vec-text", "roberta-prelayernorm"), "Roberta"),
    "longformer": "Longformer",
    "deberta": "Deberta",
    "esm": "Esm",
    "gpt2": "GPT2",
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "xmod"), "XLMRoberta"),
    "camembert": "Camembert",
    "albert": "Albert",
    "deberta-v2": "DebertaV2",
    "roformer": "RoFormer",
}
INSTALL = "pip install transformers sentencepiece protobuf"
# What transformers reads a sentencepiece model with: packages and their modules.
_READERS = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}


def class_of(folder: Path, settings: Mapping[str, Any], model_type: str | None = None) -> str | None:
    """The tokenizer class of a folder as transformers finds it, without "Tokenizer" and "Fast"; None where nothing says it.

    Args:
        model_type: of the model; default: what `config.json` says.
    """
    config = optional_json(folder / "config.json")
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if isinstance(named, str):
        return named.removesuffix("Fast").removesuffix("Tokenizer")
    return _BY_MODEL_TYPE.get(str(model_type or config.get("model_type")))


def kind_of(name: str | None) -> Kind | None:
    """What is known of a class, or None."""
    return None if name is None else _KINDS.get(name)


def adjust(backend: tokenizers.Tokenizer, kind: Kind, settings: Mapping[str, Any]) -> None:
    """Changes what came of `tokenizer.json` as the classes of transformers do: their settings, and defaults, come first.

    So `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` hold over a normalizer of BERT's in the file, and
    `add_prefix_space` over the byte-level splitting in it.
    """
    normalizer, splitter = backend.normalizer, backend.pre_tokenizer
    if kind.model == "wordpiece" and isinstance(normalizer, normalizers.BertNormalizer):
        backend.normalizer = _normalizer(settings, clean_text=normalizer.clean_text)
    if kind.model == "bytes" and isinstance(splitter, pre_tokenizers.ByteLevel):
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(settings.get("add_prefix_space", False)),
            trim_offsets=splitter.trim_offsets,
            use_regex=splitter.use_regex,
        )


def _normalizer(settings: Mapping[str, Any], *, clean_text: bool = True) -> normalizers.BertNormalizer:
    accents = settings.get("strip_accents")
    return normalizers.BertNormalizer(
        clean_text=clean_text,
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=None if accents is None else bool(accents),  # None: as lower case goes
        lowercase=bool(settings.get("do_lower_case", True)),
    )


def lowered(backend: tokenizers.Tokenizer, name: str | None, settings: Mapping[str, Any]) -> str | None:
    """What to say where a class makes a text lower case unasked, and so reaches none of the capitals of a cased vocabulary.

    The ids stay those of transformers, whose classes do the same.
    """
    normalizer = backend.normalizer
    if not isinstance(normalizer, normalizers.BertNormalizer) or not normalizer.lowercase:
        return None
    if settings.get("do_lower_case") is not None or kind_of(name) is None:
        return None  # somebody has said it
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    words = [token for token in backend.get_vocab(with_added_tokens=False) if token not in added and token[:1] not in "[<"]
    lost = sorted(token for token in words if token != token.lower())
    # A stray one is in many an uncased vocabulary.
    if len(lost) * _CASED_SHARE < len(words) or not lost:
        return None
    return (
        f"a text is made lower case, because tokenizer_config.json does not say otherwise and {name}Tokenizer does so: "
        f"{len(lost)} tokens with capital letters ({', '.join(map(shown, lost[:3]))}) are never read; is the vocabulary cased, "
        'write {"do_lower_case": false} into tokenizer_config.json'
    )


class Built(NamedTuple):
    """A tokenizer, and the special tokens of its class by name."""

    backend: tokenizers.Tokenizer
    special: Mapping[str, str]


def build(folder: Path, name: str | None, settings: Mapping[str, Any]) -> Built | None:
    """A tokenizer from the vocabulary in a folder, or None where there is no such file.

    Args:
        name: its class, from `class_of`.
        settings: of `tokenizer_config.json`, over the defaults of the class.

    Raises:
        UnusableError: the files are there and make no tokenizer here.
    """
    kind = kind_of(name)
    try:
        with translated(lambda error: _none_of(f"the vocabulary in {folder}", "no tokenizer", error), UnusableError):
            if kind is not None and kind.model != "bytes" and present(folder / WORDS):
                return Built((_words if kind.model == "words" else _wordpiece)(folder / WORDS, kind, settings), kind.special)
            if kind is not None and kind.model == "bytes" and present(folder / PIECES) and present(folder / MERGES):
                return Built(_bytes(folder, kind, settings), kind.special)
    except CheckpointError as error:
        raise UnusableError(str(error)) from error
    if found := [file for file in SENTENCEPIECE if present(folder / file)]:
        try:
            return _through_transformers(folder, name, found[0], settings)
        except CheckpointError as error:
            raise UnusableError(str(error)) from error
    if found := [file for file in (WORDS, PIECES, MERGES) if present(folder / file)]:
        if kind is not None:
            wanted = WORDS if kind.model != "bytes" else f"{PIECES} and {MERGES}"
            raise UnusableError(f"{folder} must hold {wanted} for {name}Tokenizer, got {found[0]}; fetch the files again")
        if name is not None:
            raise UnusableError(
                f"{folder / found[0]} is of the class {name}Tokenizer, which is not built here; open it with transformers "
                "(AutoTokenizer) and pass tokenizer=, or pass ids"
            )
        raise UnusableError(
            f"{folder / found[0]} needs to be told the class of its tokenizer, got none; name one, such as "
            "BertTokenizer, as tokenizer_class in tokenizer_config.json, or save it with transformers as tokenizer.json"
        )
    return None


def _none_of(files: str, wanted: str, error: BaseException, readers: Mapping[str, str] | None = None) -> UnusableError:
    if lacking := [name for name, module in (readers or {}).items() if not _is_there(module)]:
        # What transformers says then may be about tiktoken, which reads other files.
        return UnusableError(f"{files} needs {' and '.join(lacking)}, not installed; {INSTALL}")
    return UnusableError(f"{files} makes {wanted}: {reason(error)}; fetch {'the file' if readers else 'the files'} again")


def refuse_words_cut_by_others(folder: Path, name: str | None) -> None:
    """Refuses a class whose words a program outside of `tokenizers` cuts; its tokenizer.json does not say so.

    Raises:
        UnusableError: it is RoFormer's, with any file of a vocabulary.
    """
    file = next((file for file in ("tokenizer.json", WORDS) if present(folder / file)), None)
    if name == "RoFormer" and file is not None:
        raise UnusableError(
            f"{folder / file} is of RoFormerTokenizer, which cuts Chinese words with rjieba; pip install rjieba transformers, "
            "open it with AutoTokenizer and pass tokenizer=, or pass ids"
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of a package around it
        return False


def _lines(path: Path) -> list[str]:
    return regular.text(path).removesuffix("\n").split("\n")  # no other sign ends a line than the one of the platforms


def _ids(path: Path, lines: list[str], special: Mapping[str, str]) -> dict[str, int]:
    ids = {token: i for i, token in enumerate(lines)}
    if special["unk_token"] not in ids:
        raise UnusableError(
            f"{path} must hold the token for what it does not know, got no {special['unk_token']}; "
            "name it as unk_token in tokenizer_config.json"
        )
    return ids


def _wordpiece(path: Path, kind: Kind, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's: words, then the longest pieces of each."""
    special = tokens_of(kind, settings)
    model = tokenizers.models.WordPiece(_ids(path, _lines(path), special), unk_token=special["unk_token"])
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = _normalizer(settings)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return _finish(backend, kind, settings)


def _words(path: Path, kind: Kind, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """ESM's: a text is cut wherever a token of the list stands, the longest first, and at spaces."""
    special = tokens_of(kind, settings)
    ids = _ids(path, [line.strip() for line in _lines(path)], special)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token=special["unk_token"]))
    if len(ids) > _LONGEST_LIST:
        raise UnusableError(
            f"{path} must hold at most {_LONGEST_LIST:,} tokens for a tokenizer of this class, got {len(ids):,}; "
            "name another tokenizer_class in tokenizer_config.json"
        )
    tokens = sorted((token for token in ids if token), key=lambda token: (-len(token), token))
    pattern = tokenizers.Regex("|".join(map(re.escape, tokens)))
    split = pre_tokenizers.Split(pattern, behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.WhitespaceSplit()])
    return _finish(backend, kind, settings)


def _bytes(folder: Path, kind: Kind, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """GPT-2's: bytes, joined by the list of merges."""
    backend = tokenizers.Tokenizer(byte_pairs(folder))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()
    return _finish(backend, kind, settings)


def byte_pairs(folder: Path) -> tokenizers.models.BPE:
    """The model of `vocab.json` and `merges.txt`.

    Raises:
        CheckpointError: one is missing, too large or no regular file.
        Exception: of tokenizers, which raises nothing more precise.
    """
    with regular.copies(folder, PIECES, MERGES) as copy:
        return tokenizers.models.BPE.from_file(str(copy / PIECES), str(copy / MERGES))


def tokens_of(kind: Kind, settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by name: what the settings say, over what the class does."""
    said = {name: content for name in kind.special if (content := content_of(settings.get(name))) is not None}
    return dict(kind.special) | said


def content_of(token: Any) -> str | None:
    """A token is written as a string or as an object with its flags."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) and text else None


def flags_of(token: Any) -> dict[str, bool]:
    """What an object says about how a token is found in a text."""
    names = ("lstrip", "rstrip", "single_word", "normalized")
    return {name: token[name] for name in names if isinstance(token.get(name), bool)} if isinstance(token, Mapping) else {}


def _finish(backend: tokenizers.Tokenizer, kind: Kind, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The special tokens, whole wherever they stand in a text, and those around every text."""
    special = {name: token for name, token in tokens_of(kind, settings).items() if backend.token_to_id(token) is not None}
    for name, token in special.items():
        usual = {"lstrip": True} if name == "mask_token" and kind.mask_takes_space else {}
        flags = {"normalized": False, **usual, **flags_of(settings.get(name))}
        backend.add_special_tokens([tokenizers.AddedToken(token, special=True, **flags)])
    around = [special[name] for name in kind.around if name in special]
    if len(around) == 2:
        template = [around[0], "$A", around[1]]
        ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys(around)]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return backend


def _through_transformers(folder: Path, name: str | None, file: str, settings: Mapping[str, Any]) -> Built:
    """What transformers makes of a sentencepiece model, in its own class: nothing of the folder is run."""
    if name not in _THROUGH_TRANSFORMERS:
        known = ", ".join(sorted(f"{known}Tokenizer" for known in _THROUGH_TRANSFORMERS))
        raise UnusableError(
            f"{folder / file} needs to be told the class of its tokenizer, got {shown(name)}; name one of {known} as "
            "tokenizer_class in tokenizer_config.json, or save it with transformers as tokenizer.json"
        )
    try:
        import transformers
    except ImportError as error:
        raise UnusableError(f"{folder / file} is opened through transformers, which is not installed; {INSTALL}") from error
    kind = getattr(transformers, f"{name}TokenizerFast", None) or getattr(transformers, f"{name}Tokenizer", None)
    if kind is None:
        raise UnusableError(f"{folder / file} needs {name}Tokenizer, which this version of transformers lacks; {INSTALL}")
    given = {name: settings[name] for name in _PASSED if name in settings}
    for token in (token for token in _ANGLES if content_of(settings.get(token)) is not None):
        given[token] = tokenizers.AddedToken(str(content_of(settings[token])), special=True, **flags_of(settings[token]))
    # A copy of this one file: no other file of the folder is seen, and no setting can name one somewhere else.
    none = functools.partial(_none_of, str(folder / file), f"no {name}Tokenizer", readers=_READERS)
    with regular.copies(folder, file) as copy, translated(none):
        theirs = kind.from_pretrained(str(copy), trust_remote_code=False, local_files_only=True, **given)
        backend = theirs.backend_tokenizer
    if not isinstance(backend, tokenizers.Tokenizer):
        raise UnusableError(f"{folder / file} makes no fast {name}Tokenizer; save it with transformers as tokenizer.json")
    backend.no_truncation()
    backend.no_padding()
    return Built(backend, {name: str(token) for name, token in theirs.special_tokens_map.items() if name in _ANGLES})
