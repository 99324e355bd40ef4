"""Which positions of a canvas are written: those that show the mask, or what the caller says where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.arrays import as_array, flag_array
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.text.prompts import Prompt


def open_of(
    canvas: NDArray[np.int64], prompt: Prompt, config: SamplerConfig, given: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Which positions of a canvas are written.

    Args:
        canvas: what is filled.
        prompt: of which it was made.
        config: with the mask, or none.
        given: what the caller says, for `infill`.
    """
    if given is not None:
        return given
    if config.mask_token_id is not None:
        shows_mask: NDArray[np.bool_] = canvas == config.mask_token_id
        return shows_mask
    places = np.arange(len(canvas))
    return (places >= len(prompt.ids)) & (places < len(canvas) - len(prompt.tail))


def opened(given: object, prompts: list[Prompt], config: SamplerConfig, *, infilling: bool) -> list[NDArray[np.bool_] | None]:
    """For each prompt, the positions that the caller says are written, where no mask says it.

    Raises:
        InvalidValueError, InvalidTypeError: none where they are needed, some where a mask says it, or others than flags.
    """
    if given is None:
        if infilling and config.mask_token_id is None:
            raise InvalidValueError(
                "infill must know what is written, got a canvas without masks; pass open=, True for each position to be written"
            )
        return [None] * len(prompts)
    if config.mask_token_id is not None:
        raise InvalidValueError(
            f"the mask says what is written, got open= beside mask_token_id={config.mask_token_id}; leave open out"
        )
    whole: Any = given if isinstance(given, list | tuple) else as_array(given, "open")
    if isinstance(whole, np.ndarray) and whole.ndim == 0:
        raise InvalidTypeError(
            f"open must have a flag for each position of a canvas, got {shown(given)}; pass a list of True and False"
        )
    rows: list[Any] = [whole] if _is_flat(whole) else list(whole)
    if len(rows) != len(prompts):
        raise InvalidValueError(
            f"open must be one array for each of {len(prompts)} canvases, got {len(rows)}; check its length"
        )
    found: list[NDArray[np.bool_] | None] = []
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        flags = flag_array(row, "open")
        if len(flags) != len(prompt.ids):
            raise InvalidValueError(
                f"open must have a flag for each of the {len(prompt.ids)} positions of row {i}, got {len(flags)}; "
                "check its length"
            )
        found.append(flags)
    return found


def _is_flat(value: Any) -> bool:
    """Are these flags of one canvas?"""
    if isinstance(value, np.ndarray):
        return bool(value.ndim == 1)
    return isinstance(next(iter(value), True), bool | np.bool_)
