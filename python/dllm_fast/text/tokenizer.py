"""The tokenizer of a model folder: its vocabulary, with the special tokens and the chat template that stand beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import tokenizers

from dllm_fast.arrays import integer_array
from dllm_fast.checkpoint import regular
from dllm_fast.checkpoint.jsonfile import LISTS, optional_json
from dllm_fast.checkpoint.regular import LARGEST, present
from dllm_fast.errors import CheckpointError, DllmFastError, InvalidTypeError, InvalidValueError, shown
from dllm_fast.text import trial, vocabulary
from dllm_fast.text.changes import SPLITTING, Changes
from dllm_fast.text.chat import ChatTemplate
from dllm_fast.text.failures import is_panic, reason, translated
from dllm_fast.text.vocabulary import content_of, flags_of

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The longest that are published have 30,000 bytes.
_LARGEST_TEMPLATE = 1_000_000
# The library holds an id in 32 bits.
_IDS = 2**32
_LISTS = ("additional_special_tokens", "extra_special_tokens")
# Older folders of Qwen's descendants hold the parts of a tokenizer instead of `tokenizer.json`.
_QWEN_CLASSES = ("DreamTokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast")
# Its words: contractions, letters with what leads them, single digits, signs with line ends, and runs of space.
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to ids and back, as the checkpoint defines it.

    Attributes:
        special_tokens: the named ones, such as `eos_token`, that the vocabulary holds.
        vocabulary: number of ids, with the added tokens.
        chat_template: source of the template that `apply_chat_template` uses by default, or None.
        remark: what is likely wrong with its settings, or None.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str],
        templates: Mapping[str, ChatTemplate],
        remark: str | None = None,
        origin: str = "this tokenizer",
    ) -> None:
        self._backend = backend
        self._origin = origin
        self.remark = remark
        self.special_tokens = {name: token for name, token in special_tokens.items() if self.token_to_id(token) is not None}
        self._templates = dict(templates)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self | None:
        """The tokenizer of a folder, or None where it has none that can be used; `find` says why.

        Raises:
            CheckpointError: one of the files is broken, or they contradict each other.
        """
        return cls.find(folder)[0]

    @classmethod
    def find(cls, folder: str | Path, *, model_type: str | None = None) -> tuple[Self | None, str | None]:
        """The tokenizer of a folder, or what is wrong with the files of one; neither where there are no such files.

        `tokenizer.json` comes first, with what the tokenizer's class and its settings change of it as transformers does; else
        the vocabulary that the class reads.

        Args:
            model_type: of the model, which tells the class where no file names it; default: what `config.json` says.

        Raises:
            CheckpointError: one of the files is broken, or they contradict each other.
        """
        folder = Path(folder)
        with translated(lambda error: _failed(str(folder), "be made of its files", error)):
            return cls._found(folder, model_type)

    @classmethod
    def _found(cls, folder: Path, model_type: str | None) -> tuple[Self | None, str | None]:
        path = folder / "tokenizer.json"
        settings = _settings(folder)
        name = vocabulary.class_of(folder, settings, model_type)
        kind = vocabulary.kind_of(name)
        usual = {} if kind is None else kind.special
        backend: tokenizers.Tokenizer | None = None
        try:
            vocabulary.refuse_words_cut_by_others(folder, name)
            if present(path):
                written = regular.text(path)
            elif settings.get("tokenizer_class") in _QWEN_CLASSES and present(folder / "vocab.json"):
                path, backend = folder, _qwen_backend(folder)
            else:
                built = vocabulary.build(folder, name, settings)
                if built is None:
                    return None, None
                path, (backend, usual) = folder, built
            special = {name: token for name in _NAMES if (token := content_of(settings.get(name, usual.get(name)))) is not None}
            changes = Changes(
                kind=name if backend is None else None,
                settings={name: settings[name] for name in SPLITTING if name in settings},
                added=_added(folder, settings),
                special=[*special.values(), *_listed(settings)],
                file=str(folder / "tokenizer_config.json"),
            )
            trial.believe(written if backend is None else backend.to_str(), changes, str(path))
        except vocabulary.UnusableError as error:
            return None, str(error)
        if backend is None:
            with translated(lambda error: CheckpointError(f"cannot read {path}: {reason(error)}; fetch it again")):
                backend = tokenizers.Tokenizer.from_str(written)
        changes.apply(backend)
        remark = vocabulary.lowered(backend, name, settings)
        templates = _templates(folder, settings)
        return cls(backend, special_tokens=special, templates=templates, remark=remark, origin=str(folder)), None

    def _asked(self, what: str) -> translated:
        """A block in which the backend does something; what it raises is an error of the checkpoint."""
        return translated(lambda error: _failed(self._origin, what, error))

    @property
    def vocabulary(self) -> int:
        with self._asked("count its tokens"):
            return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def mask_token_id(self) -> int | None:
        """The id of `mask_token`, where the settings name one."""
        return self._special("mask_token")

    @property
    def eos_token_id(self) -> int | None:
        """The id of `eos_token`, where the settings name one."""
        return self._special("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The id of `bos_token`, where the settings name one."""
        return self._special("bos_token")

    @property
    def pad_token_id(self) -> int | None:
        """The id of `pad_token`, where the settings name one."""
        return self._special("pad_token")

    @property
    def unk_token_id(self) -> int | None:
        """The id of what stands for text that the vocabulary lacks: `unk_token` of the settings, or the model's own."""
        with self._asked("say its unknown token"):
            own = getattr(self._backend.model, "unk_token", None)
        return self._special("unk_token") if own is None else self.token_to_id(own)

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that no text is written with."""
        with self._asked("list its added tokens"):
            return frozenset(i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)

    @property
    def chat_template(self) -> str | None:
        template = self._templates.get("default")
        return None if template is None else template.source

    def _special(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.token_to_id(token)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, or None.

        Raises:
            InvalidTypeError: no text.
        """
        if not isinstance(token, str):
            raise InvalidTypeError(f"a token must be a string, got {type(token).__name__}; pass its spelling")
        with self._asked("look a token up"):
            return self._backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """The token of an id, or None.

        Raises:
            InvalidTypeError: no whole number.
        """
        if isinstance(token_id, bool) or not isinstance(token_id, int | np.integer):
            raise InvalidTypeError(f"an id must be a whole number, got {shown(token_id)}; pass one")
        if not 0 <= token_id < _IDS:
            return None
        with self._asked("look an id up"):
            return self._backend.id_to_token(int(token_id))

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        with self._asked("list its tokens"):
            return self._backend.get_vocab(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text, with the tokens that the tokenizer puts around every text (BOS, `[CLS]`) unless told not to.

        Raises:
            InvalidTypeError, InvalidValueError: no text, or one that the tokenizer does not know how to write.
            CheckpointError: the tokenizer itself is at fault.
        """
        if not isinstance(text, str):
            raise InvalidTypeError(f"a text must be a string, got {type(text).__name__}; convert it")
        try:
            text.encode()  # tokenizers 0.20 lets a lone surrogate pass
        except UnicodeEncodeError as error:
            raise InvalidValueError(f"a text must be valid Unicode, got {shown(text)}; replace the lone surrogate") from error
        with translated(lambda error: _unwritten(self._origin, text, error)):
            return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids.

        Raises:
            InvalidTypeError, InvalidValueError: something else than a sequence of ids.
            CheckpointError: the tokenizer is at fault.
        """
        array = integer_array(ids, "ids")
        if array.ndim != 1 or (array.size and not 0 <= array.min() <= array.max() < _IDS):
            raise InvalidValueError(f"ids must be a flat sequence of numbers from 0 below 2^32, got {shown(ids)}; pass one row")
        with self._asked("make text of ids"):
            return self._backend.decode(array.tolist(), skip_special_tokens=skip_special_tokens)

    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = ...,
        continue_final_message: bool = ...,
        tokenize: Literal[True] = ...,
        template: str = ...,
        **variables: Any,
    ) -> list[int]: ...
    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = ...,
        continue_final_message: bool = ...,
        tokenize: Literal[False],
        template: str = ...,
        **variables: Any,
    ) -> str: ...
    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tokenize: bool = True,
        template: str = "default",
        **variables: Any,
    ) -> list[int] | str:
        """A conversation as the checkpoint writes it, in ids or as text.

        The template writes the special tokens itself, so that none is added around it.

        Args:
            messages: each a mapping with `role` and `content`.
            add_generation_prompt: end with what opens an answer.
            continue_final_message: end with the last message, so that it goes on; then nothing opens an answer.
            tokenize: ids rather than text.
            template: name of the template, where the checkpoint has several.
            variables: further names that the template sees, such as `tools` or `enable_thinking`.

        Raises:
            InvalidValueError, InvalidTypeError: no such template, messages that do not fit it, or a last message that cannot
                go on because the template changes it.
            CheckpointError: the template is broken or unsafe.
        """
        chosen = self._templates.get(template)
        if chosen is None:
            have = ", ".join(self._templates) or "none"
            raise InvalidValueError(f"this tokenizer must have the chat template {template!r}, got {have}; pass text instead")
        known = (
            self.special_tokens | {"add_generation_prompt": add_generation_prompt and not continue_final_message} | variables
        )
        text = _open_ended(chosen, messages, known) if continue_final_message else chosen.render(messages, known)
        return self.encode(text, add_special_tokens=False) if tokenize else text


def _failed(origin: str, what: str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{origin}: the tokenizer must {what}, but {reason(error)}; fetch its files again, or pass ids and another tokenizer="
    )


def _unwritten(origin: str, text: str, error: BaseException) -> DllmFastError:
    if is_panic(error):
        return _failed(origin, f"make ids of a text such as {text[:40]!r}", error)
    return InvalidValueError(
        f"a text must be made of what the tokenizer knows, got {text[:40]!r}: {reason(error)}; use its words"
    )


# What is put behind the last message, to find again where that ends; the space shows whether the template trims.
_END = "\N{LOZENGE}the message goes on here\N{LOZENGE}"


def _open_ended(template: ChatTemplate, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """A conversation up to the end of its last message.

    Raises:
        InvalidValueError: the last message has no text, or the template does not write it as it is.
    """
    last = messages[-1] if messages else None
    content = last.get("content") if isinstance(last, Mapping) else None
    if not isinstance(last, Mapping) or not isinstance(content, str):
        raise InvalidValueError(
            f"a last message that goes on must have a text as its content, got {shown(content)}; pass "
            "{'role': 'assistant', 'content': '...'}"
        )
    text = template.render([*messages[:-1], {**last, "content": f"{content}{_END} "}], variables)
    if _END not in text or content.strip() not in text:
        raise InvalidValueError(
            f"this chat template does not write the last message as it is, so that it cannot go on, got {shown(content)}; "
            "end with a user's message, or pass the text that is to be continued"
        )
    before, _, behind = text.rpartition(_END)
    return before if behind.startswith(" ") else before.rstrip()


def _qwen_backend(folder: Path) -> tokenizers.Tokenizer:
    """Byte-level pairs (BPE) from `vocab.json` and `merges.txt`, as Qwen2 splits text: what Dream's folders hold."""
    names = f"{folder / 'vocab.json'} and merges.txt"
    with translated(lambda error: CheckpointError(f"cannot read {names}: {reason(error)}; fetch both again")):
        model = vocabulary.byte_pairs(folder)
    backend = tokenizers.Tokenizer(model)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_QWEN_WORDS), behavior="isolated")
    bytewise = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.normalizer = tokenizers.normalizers.NFC()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, bytewise])
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def _listed(settings: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for name in _LISTS:
        value = settings.get(name) or []
        items = list(value.values()) if isinstance(value, Mapping) else value
        found += [token for item in items if (token := content_of(item)) is not None] if isinstance(items, list) else []
    return found


def _settings(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`; what it leaves open of the special tokens stands in `special_tokens_map.json`."""
    return optional_json(folder / "special_tokens_map.json", LISTS) | optional_json(folder / "tokenizer_config.json", LISTS)


def _added(folder: Path, settings: Mapping[str, Any]) -> list[tuple[int, str, dict[str, bool]]]:
    """Ids, texts and flags of the tokens that the settings add, or the older `added_tokens.json`, by rising id."""
    path = folder / "tokenizer_config.json"
    listed = settings.get("added_tokens_decoder")
    if listed is None:
        path = folder / "added_tokens.json"
        ids = optional_json(path, LISTS)
        named = {content_of(settings.get(name)) for name in _NAMES} | set(_listed(settings))
        found: list[tuple[Any, Any]] = [
            (i, {"content": text, "special": text in named, "normalized": text not in named}) for text, i in ids.items()
        ]
        valid = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < LARGEST for i, _ in found)
    else:
        valid = isinstance(listed, Mapping) and all(number.isdecimal() and len(number) < 12 for number in listed)
        found = [(int(number), token) for number, token in listed.items()] if valid else []
    if not valid:
        raise CheckpointError(
            f"{path}: {'added_tokens_decoder must map ids to tokens' if listed is not None else 'it must map tokens to ids'}, "
            f"got {shown(listed if listed is not None else ids)}; fetch it again"
        )
    return [
        (number, text, {"special": isinstance(token, Mapping) and token.get("special") is True, **flags_of(token)})
        for number, token in sorted(found, key=lambda item: int(item[0]))
        if (text := content_of(token)) is not None
    ]


def _templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, ChatTemplate]:
    """The named templates; `chat_template.jinja` is the default one, whatever the settings say."""
    origin = folder / "tokenizer_config.json"
    value = settings.get("chat_template")
    sources: dict[str, str] = {}
    if isinstance(value, str):
        sources["default"] = value
    elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        sources = {item.get("name"): item.get("template") for item in value}
    elif value is not None:
        raise CheckpointError(
            f"{origin}: chat_template must be a string or a list of named ones, got {shown(value)}; fetch it again"
        )
    if not all(isinstance(text, str) for pair in sources.items() for text in pair):
        raise CheckpointError(
            f"{origin}: each chat_template must have a name and a template, got {shown(value)}; fetch it again"
        )
    templates = {name: ChatTemplate(source, f"chat_template {name!r} of {origin}") for name, source in sources.items()}
    file = folder / "chat_template.jinja"
    if present(file):
        templates["default"] = ChatTemplate(regular.text(file, _LARGEST_TEMPLATE), str(file))
    return templates
