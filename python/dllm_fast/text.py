"""Prompts and answers as text: the only module that knows strings.

A tokenizer is one of `models/tokenizer.py`, of `tokenizers` or of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.arrays import integer_array, is_tensor
from dllm_fast.errors import DllmFastError, InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What stands for a mask in a text, however the tokenizer spells its own.
MASK = "[MASK]"
_MASKS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>", "<|MASK|>")
_ENDS = ("[EOS]", "</s>", "<|endoftext|>", "<|im_end|>", "<eos>")


def rows(prompt: object, tokenizer: Any, name: str, *, mask: int | None = None) -> list[NDArray[np.int64]]:
    """The prompt as rows of ids.

    Args:
        prompt: text, messages or ids, or a list of those.
        tokenizer: for text and messages.
        name: of the prompt in errors.
        mask: for canvases, in whose text each [MASK] is one of these.

    Raises:
        InvalidValueError: no row, an empty row, a string without a tokenizer, messages without a chat template, or canvases
            of text without a mask.
        InvalidTypeError: something that is neither text nor messages nor ids.
    """
    items: Sequence[Any] = [prompt] if _is_single(prompt, name) else list(prompt)  # type: ignore[call-overload]
    if not items:
        raise InvalidValueError(f"{name} must hold at least one row, got none; pass a string or a list of token ids")
    encoded = []
    for i, item in enumerate(items):
        if isinstance(item, str):
            ids = encode(item, tokenizer, name) if mask is None else canvas(item, tokenizer, name, mask)
        else:
            ids = chat(item, tokenizer, name) if is_messages(item) else integer_array(item, name)
        if ids.ndim != 1:
            raise InvalidTypeError(
                f"each row of {name} must be a flat sequence of ids, got shape {list(ids.shape)}; pass a list of rows"
            )
        if ids.size == 0:
            raise InvalidValueError(f"{name} must not be empty, got no tokens in row {i}; pass at least one token (BOS, say)")
        encoded.append(ids)
    if mask is not None and all(isinstance(item, str) for item in items) and not any((ids == mask).any() for ids in encoded):
        raise InvalidValueError(
            f"a {name} of text must hold a mask, got {items[0][:60]!r}, in which nothing is the mask {mask}; write {MASK} "
            "where a token is to be filled in"
        )
    return encoded


def _is_single(prompt: object, name: str) -> bool:
    if isinstance(prompt, str):
        return True
    if isinstance(prompt, Mapping) and "input_ids" in prompt:  # what a tokenizer of transformers gives
        raise InvalidTypeError(
            f'{name} must be text or ids, got {type(prompt).__name__}; pass its "input_ids" (rows of any length need no '
            "padding and no attention mask), or the text itself"
        )
    if isinstance(prompt, np.ndarray) or is_tensor(prompt):
        return len(prompt.shape) <= 1  # type: ignore[attr-defined]
    if isinstance(prompt, Sequence):
        return bool(prompt) and not isinstance(prompt[0], str | list | tuple | np.ndarray) and not is_tensor(prompt[0])
    raise InvalidTypeError(
        f"{name} must be a string, a list of strings, messages, a sequence of ids or a list of those, "
        f"got {type(prompt).__name__}; convert it first"
    )


def encode(text: str, tokenizer: Any, name: str) -> NDArray[np.int64]:
    """Ids of a string."""
    if tokenizer is None:
        raise InvalidValueError(
            f"a {name} of text needs a tokenizer, got {text[:40]!r} and none; "
            "pass tokenizer=, put tokenizer.json into the model's folder, or pass token ids"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"a {name} of text must be valid Unicode, got {text[:40]!r}; replace the lone surrogate"
        ) from error
    try:
        return _ids(tokenizer.encode(text))
    except DllmFastError:
        raise
    except Exception as error:  # tokenizers raises nothing more precise
        raise InvalidValueError(
            f"a {name} of text must be made of what the tokenizer knows, got {text[:40]!r}: {error}; use its words"
        ) from error


def canvas(text: str, tokenizer: Any, name: str, mask: int) -> NDArray[np.int64]:
    """Ids of a string in which each [MASK] is the mask, and so is the mask as the tokenizer spells it."""
    look_up = getattr(tokenizer, "id_to_token", None) or getattr(tokenizer, "convert_ids_to_tokens", None)
    token = None if look_up is None else look_up(mask)
    if MASK not in text or look_up is None or token == MASK:
        return encode(text, tokenizer, name)
    if token is not None and mask in encode(token, tokenizer, name):
        return encode(text.replace(MASK, token), tokenizer, name)
    # The mask has an id and no text: the pieces between the masks are encoded one by one.
    found: list[int] = []
    for i, piece in enumerate(text.split(MASK)):
        found += ([mask] if i else []) + (_ids(tokenizer.encode(piece, add_special_tokens=False)).tolist() if piece else [])
    return np.array(found, dtype=np.int64)


def _ids(encoding: Any) -> NDArray[np.int64]:
    return np.asarray(getattr(encoding, "ids", encoding), dtype=np.int64)


def is_messages(item: object) -> bool:
    """Is this one conversation: a list of mappings?"""
    return isinstance(item, list | tuple) and bool(item) and isinstance(item[0], Mapping)


def chat(messages: Any, tokenizer: Any, name: str) -> NDArray[np.int64]:
    """Ids of a conversation, with what opens the answer, as the tokenizer's chat template writes it."""
    if name != "prompt":
        raise InvalidTypeError(f"a {name} is filled in place, got messages; pass text with masks, or give messages to sample")
    if not getattr(tokenizer, "chat_template", None):
        have = "none" if tokenizer is None else f"{type(tokenizer).__name__} without one"
        raise InvalidValueError(
            f"messages need a tokenizer with a chat template, got {have}; pass text, or the tokenizer of a chat model"
        )
    # transformers 4 gives a list, 5 a mapping.
    written = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    return integer_array(written["input_ids"] if isinstance(written, Mapping) else written, name)


def decode(tokenizer: Any, ids: NDArray[np.int64]) -> str:
    """Text of ids, without special tokens."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))


def mask_token_id(tokenizer: Any) -> int | None:
    """The mask of a tokenizer, where it has one of the usual names."""
    return _special(tokenizer, "mask_token_id", _MASKS)


def eos_token_id(tokenizer: Any) -> int | None:
    """The end token of a tokenizer, where it has one of the usual names."""
    return _special(tokenizer, "eos_token_id", _ENDS)


def _special(tokenizer: Any, attribute: str, names: tuple[str, ...]) -> int | None:
    known = getattr(tokenizer, attribute, None)
    if known is not None:
        return int(known)
    look_up = getattr(tokenizer, "token_to_id", None)
    if look_up is None:
        return None
    return next((int(found) for n in names if (found := look_up(n)) is not None), None)
