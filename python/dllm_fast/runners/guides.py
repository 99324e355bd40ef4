"""What guidance needs of a row: its weight, and what stands in place of the prompt in the twin that rides beside it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dllm_fast._core import Twin
from dllm_fast.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.text.prompts import Prompt

#: Forwards that a guided pair counts.
PAIR = 2


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """How a row is guided.

    Attributes:
        weight: w of `u + (w + 1)(c - u)`, above 0.
        twin: what rides beside the row: its canvas with masks, or another prompt, in place of the prompt.
        as_published: each operation of the mix is rounded to the dtype of the logits.
        leads_posteriors: what is led are the posteriors of a reverse process over noise, which the core computes from both.
    """

    weight: float
    twin: Twin
    as_published: bool = False
    leads_posteriors: bool = False


def guides(
    config: SamplerConfig, open_: Sequence[NDArray[np.bool_]], starts: Sequence[int], negatives: Sequence[Prompt] | None
) -> list[Guide | None]:
    """The guide of each row, or None without guidance.

    The twin of a row of `sample` shows masks in place of its prompt (LLaDA), or a negative prompt; what closes a text behind
    the answer stays. That of a canvas that is filled in place shows masks at every given position, wherever it is.

    Args:
        config: settings, ids and all.
        open_: which positions are filled.
        starts: first position behind the prompt; 0 where nothing was appended.
        negatives: of each row, or None.

    Raises:
        InvalidValueError: a model without a mask to show.
    """
    if config.guidance == 0:
        return [None] * len(open_)
    guide = functools.partial(Guide, config.guidance, as_published=config.as_published, leads_posteriors=config.reverses_noise)
    if negatives is not None:
        pairs = zip(negatives, starts, strict=True)
        return [guide(Twin(prompt=other.ids, start=start)) for other, start in pairs]
    if config.mask_token_id is None:
        raise InvalidValueError("guidance shows masks in place of a prompt, got a model without a mask; pass negative_prompt=")
    hidden = (np.arange(start) if start else np.flatnonzero(~given) for given, start in zip(open_, starts, strict=True))
    return [guide(Twin(hidden=positions, mask=config.mask_token_id)) for positions in hidden]


def negatives_of(negatives: Sequence[Prompt], prompts: int) -> list[Prompt]:
    """The negative prompt of each prompt: one for all, or one for each.

    Raises:
        InvalidValueError: another number of them.
    """
    if len(negatives) not in (1, prompts):
        raise InvalidValueError(
            f"negative_prompt must be one, or one for each of {prompts} prompts, got {len(negatives)}; check its length"
        )
    return list(negatives) * prompts if len(negatives) == 1 else list(negatives)
