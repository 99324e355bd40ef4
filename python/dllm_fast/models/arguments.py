"""Arguments of `load` and of `dllm-fast convert`: understood, or answered with the cause and the way."""

from __future__ import annotations

import torch

from dllm_fast.errors import InvalidValueError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def known_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that weights may have, from itself or its name.

    Raises:
        InvalidValueError: another one.
    """
    known = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if known is None or known not in DTYPES.values():
        raise InvalidValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}; leave it out for that of the files")
    return known
