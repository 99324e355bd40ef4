"""Prompts and answers as text: the only module that knows strings.

A tokenizer is one of `models/tokenizer.py`, of `tokenizers` or of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.arrays import integer_array, is_tensor
from dllm_fast.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MASKS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>", "<|MASK|>")
_ENDS = ("[EOS]", "</s>", "<|endoftext|>", "<|im_end|>", "<eos>")


def rows(prompt: object, tokenizer: Any, name: str) -> tuple[list[NDArray[np.int64]], bool]:
    """The prompt as rows of ids, and whether it was a single one.

    Raises:
        InvalidValueError: no row, an empty row, a string without a tokenizer, or messages without a chat template.
        InvalidTypeError: something that is neither text nor messages nor ids.
    """
    single = _is_single(prompt, name)
    items: Sequence[Any] = [prompt] if single else list(prompt)  # type: ignore[call-overload]
    if not items:
        raise InvalidValueError(f"{name} must hold at least one row, got none; pass a string or a list of token ids")
    encoded = []
    for i, item in enumerate(items):
        if isinstance(item, str):
            ids = encode(item, tokenizer, name)
        else:
            ids = chat(item, tokenizer, name) if is_messages(item) else integer_array(item, name)
        if ids.ndim != 1:
            raise InvalidTypeError(
                f"each row of {name} must be a flat sequence of ids, got shape {list(ids.shape)}; pass a list of rows"
            )
        if ids.size == 0:
            raise InvalidValueError(f"{name} must not be empty, got no tokens in row {i}; pass at least one token (BOS, say)")
        encoded.append(ids)
    return encoded, single


def _is_single(prompt: object, name: str) -> bool:
    if isinstance(prompt, str):
        return True
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
    encoding = tokenizer.encode(text)
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
