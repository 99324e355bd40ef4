"""Prompts and answers as text: with `tokens.py` and `masks.py` the only module that knows strings.

A tokenizer is one of `text/tokenizer.py`, of `tokenizers` or of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.arrays import as_array, integer_array
from dllm_fast.errors import InvalidTypeError, InvalidValueError, UnknownTextWarning, shown, warn
from dllm_fast.tensors import is_tensor
from dllm_fast.text import masks, padding, tokens
from dllm_fast.text.failures import reason, translated
from dllm_fast.text.masks import MASK

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Gap:
    """Tokens of unknown number.

    Attributes:
        position: of the token before which they stand.
        least, most: how many they are.
    """

    position: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, or one canvas.

    Attributes:
        ids: int64 `[L]`.
        tail: what the tokenizer adds at the end of a text, int64: it stands behind the masks of an answer.
        text: what was written, or None for ids.
        gaps: where a canvas has tokens of unknown number, rising; nothing stands in `ids` for them.
    """

    ids: NDArray[np.int64]
    tail: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    text: str | None = None
    gaps: tuple[Gap, ...] = ()


def prompts(
    prompt: object,
    tokenizer: Any,
    name: str,
    *,
    mask: int | None = None,
    attention_mask: object = None,
    chat: bool | None = None,
) -> list[Prompt]:
    """The prompts, or canvases, that the caller gave.

    Args:
        prompt: text, messages or ids, or a list of those, or what a tokenizer of transformers gives.
        tokenizer: for text and messages.
        name: of the prompt in errors.
        mask: for canvases, in whose text each [MASK] is one of these.
        attention_mask: for padded ids: 0 where there is padding.
        chat: True makes a user's message of a text, False refuses messages; None takes both as they are.

    Raises:
        InvalidValueError: no row, an empty row, a string without a tokenizer, messages without a chat template, canvases of
            text without a mask, or ids that are padded without a mask that says so.
        InvalidTypeError: something that is neither text nor messages nor ids.
    """
    if chat is not None and not isinstance(chat, bool):
        raise InvalidTypeError(f"chat must be True, False or None, got {shown(chat)}; leave it out for text as it is")
    if padding.is_encoding(prompt):
        prompt, found = padding.opened(prompt, name)  # type: ignore[arg-type]
        if found is not None and attention_mask is not None:
            raise InvalidValueError(
                f"a {name} with an attention_mask of its own takes no other, got attention_mask=; leave it out"
            )
        attention_mask = attention_mask if found is None else found
    if is_tensor(prompt) or isinstance(prompt, np.ndarray):
        prompt = as_array(prompt, name)
    items: Sequence[Any] = [prompt] if _is_single(prompt, name) else list(prompt)  # type: ignore[call-overload]
    if not items:
        raise InvalidValueError(f"{name} must hold at least one row, got none; pass a string or a list of token ids")
    has_text = any(isinstance(item, str) or is_messages(item) for item in items)
    if attention_mask is not None:
        if has_text:
            raise InvalidValueError(f"attention_mask is for ids, got a {name} of text, which has no padding; leave it out")
        items = padding.unpadded(prompt, attention_mask, name)
    encoded = [_prompt(item, tokenizer, name, mask, chat) for item in items]
    for i, row in enumerate(encoded):
        if row.ids.ndim != 1:
            raise InvalidTypeError(
                f"each row of {name} must be a flat sequence of ids, got shape {list(row.ids.shape)}; pass a list of rows"
            )
        if row.ids.size == 0:
            raise InvalidValueError(f"{name} must not be empty, got no tokens in row {i}; pass at least one token (BOS, say)")
    if (
        mask is not None
        and all(isinstance(item, str) for item in items)
        and not any((row.ids == mask).any() or row.gaps for row in encoded)
    ):
        raise InvalidValueError(
            f"a {name} of text must hold a mask, got {items[0][:60]!r}, in which nothing is the mask {mask}; write {MASK} "
            "where a token is to be filled in"
        )
    bare = attention_mask is None and not has_text and not any(map(padding.is_encoding, items))
    if bare and (pad := tokens.pad_token_id(tokenizer)) not in (None, mask):
        padding.check_pads(prompt, pad, shared=tokens.has_other_role(tokenizer, pad), name=name)
    warn_unknown(encoded, tokenizer)
    return encoded


def _prompt(item: Any, tokenizer: Any, name: str, mask: int | None, chat: bool | None) -> Prompt:
    if isinstance(item, str):
        return _of_text(item, tokenizer, name, mask, chat)
    if is_messages(item):
        if chat is False:
            raise InvalidValueError("messages are written by a chat template, got chat=False; pass text, or leave chat out")
        return _of_messages(item, tokenizer, name)
    if chat:
        raise InvalidValueError(f"chat=True is for text, got a {name} of ids, which are taken as they are; leave it out")
    if padding.is_encoding(item):
        ids, attention = padding.opened(item, name)
        rows = padding.flat_rows(ids, name) if attention is None else padding.unpadded(ids, attention, name)
        if len(rows) != 1:
            raise InvalidValueError(f"each of several {name}s must be one row, got {len(rows)} in one; pass it alone")
        return Prompt(rows[0])
    return Prompt(integer_array(item, name))


def _is_single(prompt: object, name: str) -> bool:
    if isinstance(prompt, str):
        return True
    if isinstance(prompt, np.ndarray) or is_tensor(prompt):
        return len(prompt.shape) <= 1  # type: ignore[attr-defined]
    if isinstance(prompt, Sequence):
        if not prompt or padding.is_encoding(prompt[0]):
            return False
        return not isinstance(prompt[0], str | list | tuple | np.ndarray) and not is_tensor(prompt[0])
    raise InvalidTypeError(
        f"{name} must be a string, a list of strings, messages, a sequence of ids or a list of those, "
        f"got {type(prompt).__name__}; convert it first"
    )


def _of_text(text: str, tokenizer: Any, name: str, mask: int | None, chat: bool | None) -> Prompt:
    if tokenizer is None:
        raise InvalidValueError(
            f"a {name} of text needs a tokenizer, got {text[:40]!r} and none; "
            "pass tokenizer=, put tokenizer.json into the model's folder (explain(model) says what is wrong with its files), "
            "or pass token ids"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"a {name} of text must be valid Unicode, got {text[:40]!r}; replace the lone surrogate"
        ) from error
    if chat:
        return _of_messages([{"role": "user", "content": text}], tokenizer, name)
    if mask is not None:
        plain, lengths = masks.gaps(text, tokenizer, mask)
        ids = _array(masks.canvas(plain, tokenizer, mask))
        places = np.flatnonzero(ids == mask)[list(lengths)]
        # Each stands where its mask was, of which nothing is left.
        gaps = (Gap(int(place) - i, *lengths[number]) for i, (place, number) in enumerate(zip(places, lengths, strict=True)))
        return Prompt(np.delete(ids, places), text=plain.replace(MASK, " "), gaps=tuple(gaps))
    whole, tail = tokens.encode(tokenizer, text), tokens.around(tokenizer, text)[1]
    if not tail or whole[-len(tail) :] != tail:
        return Prompt(_array(whole), text=text)
    return Prompt(_array(whole[: -len(tail)]), _array(tail), text)


def _array(ids: list[int]) -> NDArray[np.int64]:
    return np.array(ids, dtype=np.int64)


def is_text(prompt: object) -> bool:
    """Is this a text, or a list with one?"""
    return isinstance(prompt, str) or (isinstance(prompt, list | tuple) and any(isinstance(item, str) for item in prompt))


def is_messages(item: object) -> bool:
    """Is this one conversation: a list of mappings?"""
    return isinstance(item, list | tuple) and bool(item) and isinstance(item[0], Mapping)


def _of_messages(messages: Any, tokenizer: Any, name: str) -> Prompt:
    """A conversation as the tokenizer's chat template writes it.

    With what opens an answer behind it, or, where the last message is the assistant's, cut behind that, so that it goes on.
    """
    if name == "canvas":
        raise InvalidTypeError(f"a {name} is filled in place, got messages; pass text with masks, or give messages to sample")
    if not getattr(tokenizer, "chat_template", None):
        have = "none" if tokenizer is None else f"{type(tokenizer).__name__} without one"
        raise InvalidValueError(
            f"messages need a tokenizer with a chat template, got {have}; pass text, or the tokenizer of a chat model"
        )
    last = messages[-1]
    goes_on = isinstance(last, Mapping) and last.get("role") == "assistant"
    how = {"add_generation_prompt": False, "continue_final_message": True} if goes_on else {"add_generation_prompt": True}
    with translated(lambda error: _not_templated(error, goes_on=goes_on)):
        written = tokenizer.apply_chat_template(messages, **how)
        # transformers 4 gives a list, 5 a mapping.
        ids = integer_array(written["input_ids"] if isinstance(written, Mapping) else written, name)
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    return Prompt(ids, text=" ".join(text for text in contents if isinstance(text, str)))


def _not_templated(error: BaseException, *, goes_on: bool) -> InvalidValueError:
    if goes_on and isinstance(error, ValueError):  # the words of `text/tokenizer.py`, for tokenizers of transformers
        return InvalidValueError(
            "this chat template does not write the last message as it is, so that it cannot go on; end with a user's message, "
            f"or pass the text that is to be continued ({reason(error)})"
        )
    return InvalidValueError(
        f"messages must be what the chat template of this tokenizer writes: {reason(error)}; change them, or pass text"
    )


def decode(tokenizer: Any, ids: NDArray[np.int64], written: NDArray[np.bool_], special: list[int]) -> str:
    """Text of ids. What was written is shown, whatever it is; of the others the special tokens are not."""
    shown = ids[written | ~np.isin(ids, special)]
    return tokens.decode(tokenizer, shown.tolist())


def warn_unknown(prompts: list[Prompt], tokenizer: Any) -> None:
    """Says once which text the tokenizer does not know: the model reads one and the same token for all of it.

    Who writes that token out means it.
    """
    unknown = None if tokenizer is None else tokens.unk_token_id(tokenizer)
    if unknown is None:
        return
    name = tokens.spelling(tokenizer, unknown) or str(unknown)
    count, pieces = 0, dict[str, None]()
    for prompt in prompts:
        if prompt.text is None:
            continue
        text = prompt.text.replace(name, " ")
        lost = int((prompt.ids == unknown).sum()) - prompt.text.count(name)
        if lost > 0 and (found := _unknown_pieces(text, tokenizer, unknown)):
            count += lost
            pieces |= dict.fromkeys(found)
    if count:
        shown = ", ".join(map(repr, list(pieces)[:3])) + (", ..." if len(pieces) > 3 else "")
        warn(
            f"the tokenizer does not know {shown}: {count} token{'s are' if count > 1 else ' is'} {name} in what the model "
            "reads; write it in other words, or use the tokenizer of this model",
            UnknownTextWarning,
        )


def _unknown_pieces(text: str, tokenizer: Any, unknown: int) -> list[str]:
    """Up to four words that become the unknown token, or the characters of long ones."""
    found: list[str] = []
    for word in dict.fromkeys(text.split()):
        if unknown in tokens.encode_plain(tokenizer, word):
            letters = [letter for letter in word if unknown in tokens.encode_plain(tokenizer, letter)] if len(word) > 20 else []
            found += letters or [word[:20]]
        if len(found) > 3:
            break
    return found[:4]
