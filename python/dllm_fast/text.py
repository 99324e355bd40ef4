"""Prompts and answers as text: the only module that knows strings. Takes tokenizers of `tokenizers` and transformers."""

from __future__ import annotations

from collections.abc import Sequence
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
        InvalidValueError: no row, an empty row, or a string without a tokenizer.
        InvalidTypeError: something that is neither text nor ids.
    """
    single = _is_single(prompt, name)
    items: Sequence[Any] = [prompt] if single else list(prompt)  # type: ignore[call-overload]
    if not items:
        raise InvalidValueError(f"{name} must hold at least one row, got none; pass a string or a list of token ids")
    encoded = []
    for i, item in enumerate(items):
        ids = encode(item, tokenizer, name) if isinstance(item, str) else integer_array(item, name)
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
        f"{name} must be a string, a list of strings, a sequence of ids or a list of those, "
        f"got {type(prompt).__name__}; convert it first"
    )


def encode(text: str, tokenizer: Any, name: str) -> NDArray[np.int64]:
    """Ids of a string."""
    if tokenizer is None:
        raise InvalidValueError(
            f"a {name} of text needs a tokenizer, got {text[:40]!r} and none; pass tokenizer=, or token ids"
        )
    encoding = tokenizer.encode(text)
    return np.asarray(getattr(encoding, "ids", encoding), dtype=np.int64)


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
