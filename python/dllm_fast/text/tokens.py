"""What a tokenizer says of its tokens: which ids have a role, which are special, and what it puts around a text.

A tokenizer is one of `text/tokenizer.py`, of `tokenizers` or of transformers (fast or slow), or anything with `encode` and
`decode`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.nearest import nearest
from dllm_fast.text.failures import is_panic, reason, translated

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    import tokenizers

    P = ParamSpec("P")
    R = TypeVar("R")

_MASKS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>", "<|MASK|>")
_ENDS = ("[EOS]", "</s>", "<|endoftext|>", "<|im_end|>", "<eos>")
_PADS = ("[PAD]", "<pad>", "<|pad|>")
_UNKNOWN = ("[UNK]", "<unk>")
# They end a turn of a conversation, whether or not a checkpoint lists them among its end tokens.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|role_end|>", "<|end|>", "<end_of_turn>")
_ROLES = ("bos", "eos", "unk", "sep", "cls")
# Where a text says nothing about what was put around it, one of these does.
_PROBES = ("a", "1", "the", "x y")


def _failed(tokenizer: Any, what: str, error: BaseException) -> InvalidValueError:
    kind = type(tokenizer)
    return InvalidValueError(
        f"a tokenizer must {what}, got a {kind.__module__}.{kind.__qualname__} that did not: {reason(error)}; pass another "
        "one, or ids without a tokenizer"
    )


def _asks(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For functions that ask a tokenizer, their first argument: what it raises is an error that names it."""

    def with_errors(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def asked(*arguments: P.args, **named: P.kwargs) -> R:
            with translated(lambda error: _failed(arguments[0], what, error)):
                return function(*arguments, **named)

        return asked

    return with_errors


@_asks("say whether it pads and cuts")
def unlimited(tokenizer: Any) -> Any:
    """The tokenizer, or one that neither pads nor cuts a text where it does.

    Many a `tokenizer.json` was saved with the padding and the truncation of its training, and `tokenizers` obeys: pads would
    stand before the masks, and of a long prompt little would be left. The caller's own stays as it is, because other code, in
    other threads, may count on it.

    Raises:
        InvalidTypeError: no tokenizer.
        InvalidValueError: it does, and cannot be copied.
    """
    if tokenizer is not None and not all(callable(getattr(tokenizer, name, None)) for name in ("encode", "decode")):
        raise InvalidTypeError(
            f"a tokenizer must have encode and decode, got {type(tokenizer).__name__}; pass one of `tokenizers` or transformers"
        )
    # Who has one has imported it; another thread may be importing it.
    library = sys.modules.get("tokenizers")
    own, wrapped = (
        getattr(library, "Tokenizer", None),
        getattr(getattr(library, "implementations", None), "BaseTokenizer", None),
    )
    if not any(kind is not None and isinstance(tokenizer, kind) for kind in (own, wrapped)):
        return tokenizer
    if tokenizer.padding is None and tokenizer.truncation is None:
        return tokenizer
    with translated(_not_copied):
        return _unlimited(tokenizer.to_str())


def _not_copied(error: BaseException) -> InvalidValueError:
    # Most often because a part of it is written in Python.
    return InvalidValueError(
        f"a tokenizer must neither pad nor cut a text, got one that does and cannot be copied ({reason(error)}); call "
        "no_padding() and no_truncation() on it"
    )


@functools.lru_cache(maxsize=2)  # a large one takes half a second to build; its text says whether it has changed
def _unlimited(written: str) -> tokenizers.Tokenizer:
    import tokenizers

    copy = tokenizers.Tokenizer.from_str(written)
    copy.no_padding()
    copy.no_truncation()
    return copy


def mask_token_id(tokenizer: Any, usual: tuple[str, ...] = _MASKS) -> int | None:
    """The mask of a tokenizer, where it names one, or has one of the usual names."""
    return _role(tokenizer, "mask_token_id", usual)


def eos_token_id(tokenizer: Any) -> int | None:
    """The end token of a tokenizer, where it has one of the usual names."""
    return _role(tokenizer, "eos_token_id", _ENDS)


def pad_token_id(tokenizer: Any) -> int | None:
    """The padding token of a tokenizer, where it has one of the usual names."""
    return _role(tokenizer, "pad_token_id", _PADS)


@_asks("say what stands for unknown text")
def unk_token_id(tokenizer: Any) -> int | None:
    """What a tokenizer writes for text that it does not know, where it has such a token."""
    named = getattr(getattr(tokenizer, "model", None), "unk_token", None)  # of `tokenizers`
    known = token_id(tokenizer, named) if isinstance(named, str) else None
    return _role(tokenizer, "unk_token_id", _UNKNOWN) if known is None else known


@_asks("say which roles its tokens have")
def has_other_role(tokenizer: Any, token: int) -> bool:
    """Is a token, the padding say, also the end, the beginning or another named one?"""
    return token in {eos_token_id(tokenizer), *(getattr(tokenizer, f"{role}_token_id", None) for role in _ROLES)}


@_asks("say which roles its tokens have")
def _role(tokenizer: Any, attribute: str, names: tuple[str, ...]) -> int | None:
    known = getattr(tokenizer, attribute, None)
    if known is not None:
        return int(known)
    if not hasattr(tokenizer, "token_to_id"):
        return None
    return next((found for name in names if (found := token_id(tokenizer, name)) is not None), None)


@_asks("say the id of a token")
def token_id(tokenizer: Any, name: str) -> int | None:
    """The id of a token as the vocabulary spells it, or None."""
    look_up = getattr(tokenizer, "token_to_id", None)
    found = look_up(name) if look_up is not None else vocabulary(tokenizer).get(name)
    # Some tokenizers of transformers answer a name that they do not know with their unknown token.
    return None if found is None or spelling(tokenizer, int(found)) not in {name, None} else int(found)


@_asks("say the token of an id")
def spelling(tokenizer: Any, token: int) -> str | None:
    """The token of an id as the vocabulary spells it, or None."""
    look_up = getattr(tokenizer, "id_to_token", None) or getattr(tokenizer, "convert_ids_to_tokens", None)
    try:
        found = None if look_up is None else look_up(token)
    except Exception:  # an id outside of the vocabulary: sentencepiece raises an IndexError, tokenizers an OverflowError
        return None
    return found if isinstance(found, str) else None


@_asks("list its tokens")
def vocabulary(tokenizer: Any) -> dict[str, int]:
    """Every token with its id, or nothing where a tokenizer does not tell."""
    listed = getattr(tokenizer, "get_vocab", None)
    return {} if listed is None else dict(listed())


@_asks("say how many tokens it has")
def size(tokenizer: Any) -> int | None:
    """How many ids a tokenizer has, where it tells."""
    found = getattr(tokenizer, "vocabulary", None)  # of ours
    if found is None and hasattr(tokenizer, "get_vocab_size"):
        found = tokenizer.get_vocab_size()
    if found is None and hasattr(tokenizer, "__len__"):
        found = len(tokenizer)
    return found if isinstance(found, int) else None


@_asks("say which of its tokens are special")
def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that a tokenizer marks as special: no text is written with them."""
    if tokenizer is None:
        return frozenset()
    own = getattr(tokenizer, "special_ids", None)
    if own is not None:
        return frozenset(own)
    listed = getattr(tokenizer, "get_added_tokens_decoder", None)  # of `tokenizers`
    added = listed() if listed is not None else getattr(tokenizer, "added_tokens_decoder", {})
    found = {int(token) for token, flags in added.items() if getattr(flags, "special", False)}
    found |= {int(token) for token in getattr(tokenizer, "all_special_ids", ()) if token is not None}
    return frozenset(found)


def not_written(tokenizer: Any, others: Collection[int | None], vocabulary: int | None) -> tuple[int, ...]:
    """The special tokens that no answer should hold, rising.

    Args:
        tokenizer: that marks them; without one none are known.
        others: those that may be written (ends), or never are (the mask). The tokenizer's own end, and the tokens that end a
            turn of a conversation, are among them anyway.
        vocabulary: of the model, where it is known; nothing behind it can be written.
    """
    special = special_ids(tokenizer)
    count = size(tokenizer)
    if not special or (count is not None and len(special) >= count):
        return ()  # where all tokens are special the mark says nothing
    left = special - {*others, eos_token_id(tokenizer), *(token_id(tokenizer, name) for name in _TURN_ENDS)}
    return tuple(sorted(token for token in left if vocabulary is None or token < vocabulary))


def shown(tokenizer: Any, ids: Sequence[int]) -> str:
    """The first tokens by name, and how many more."""
    names = [spelling(tokenizer, token) or str(token) for token in ids[:4]]
    return ", ".join(names) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")


@_asks("say what becomes of a text")
def remarks(tokenizer: Any, others: Collection[int | None], vocabulary: int | None) -> tuple[str, ...]:
    """What `sample` and `infill` do with text under this tokenizer, in sentences; the arguments are those of `not_written`."""
    if tokenizer is None:
        return ()
    chat = "no chat template: a string is taken as it is"
    if getattr(tokenizer, "chat_template", None):
        chat = (
            "a string is taken as it is in Python (chat=True makes it a user's message of the chat template) and is such a "
            "message on the command line (--no-chat takes it as it is)"
        )
    tail = around(tokenizer, "")[1] if hasattr(tokenizer, "encode") else []
    closed = f"a text ends with {shown(tokenizer, tail)}, which stands behind the masks" if tail else ""
    special = not_written(tokenizer, others, vocabulary)
    kept = f"never written, unless allow_special=True: {shown(tokenizer, special)}" if special else ""
    return tuple(filter(None, (chat, closed, kept)))


def ids_of(names: tuple[int | str, ...], tokenizer: Any, setting: str) -> tuple[int, ...]:
    """Ids, of which some may be given by name.

    Raises:
        InvalidValueError: a name without a tokenizer, or one that the vocabulary does not have.
    """
    found = []
    for name in names:
        if not isinstance(name, str):
            found.append(name)
            continue
        if tokenizer is None:
            raise InvalidValueError(
                f"names of tokens in {setting} need a tokenizer, got {name!r} and none; pass tokenizer=, or ids"
            )
        token = token_id(tokenizer, name)
        if token is None:
            special = [text for i in sorted(special_ids(tokenizer)) if (text := spelling(tokenizer, i)) is not None]
            close = nearest(name, special, 1) or nearest(name, vocabulary(tokenizer), 1)
            hint = f"did you mean {close[0]!r}?" if close else "pass its id"
            raise InvalidValueError(f"names in {setting} must be tokens of the vocabulary, got {name!r}; {hint}")
        found.append(token)
    return tuple(found)


def ids(encoding: Any) -> list[int]:
    """The ids of what `encode` gave."""
    return [int(token) for token in getattr(encoding, "ids", encoding)]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text, with what the tokenizer puts around every text.

    Raises:
        InvalidValueError: the tokenizer cannot write it.
    """
    with translated(lambda error: _unwritten(tokenizer, text, error)):
        return ids(tokenizer.encode(text))


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text with nothing put around it.

    Raises:
        InvalidValueError: the tokenizer cannot write it.
    """
    with translated(lambda error: _unwritten(tokenizer, text, error)):
        try:
            return ids(tokenizer.encode(text, add_special_tokens=False))
        except InvalidTypeError:
            raise
        except TypeError:  # one that knows no such argument puts nothing around a text
            return ids(tokenizer.encode(text))


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Text of ids, with special tokens.

    Raises:
        InvalidValueError: the tokenizer cannot read them.
    """
    with translated(lambda error: _failed(tokenizer, "make text of ids", error)):
        return str(tokenizer.decode(token_ids, skip_special_tokens=False))


def _unwritten(tokenizer: Any, text: str, error: BaseException) -> InvalidValueError:
    if is_panic(error):
        return _failed(tokenizer, f"make ids of a text such as {text[:40]!r}", error)
    return InvalidValueError(
        f"a text must be made of what the tokenizer knows, got {text[:40]!r}: {reason(error)}; use its words"
    )


def around(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """What a tokenizer puts before and behind a text: `[CLS]` and `[SEP]`, say.

    A special token that is written in the text is part of the text. Where the text says nothing about it, because it is empty
    or made of the same tokens, another text does.
    """
    if not encode(tokenizer, ""):
        return [], []
    for probe in (text, *_PROBES):
        try:
            whole, plain = encode(tokenizer, probe), encode_plain(tokenizer, probe)
        except InvalidValueError:  # a word that the tokenizer does not know
            if probe is text:
                raise
            continue
        most = len(whole) - len(plain)
        places = [at for at in range(most + 1) if whole[at : at + len(plain)] == plain]
        if len(places) == 1:
            return whole[: places[0]], whole[places[0] + len(plain) :]
    return [], []
