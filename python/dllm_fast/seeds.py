"""Random streams of the rows of a run: the seed of the caller, the samples of a prompt."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from dllm_fast.arrays import as_array, check_many
from dllm_fast.errors import EqualSamplesWarning, InvalidTypeError, InvalidValueError, shown, warn
from dllm_fast.records import count, scalar
from dllm_fast.tensors import is_tensor

if TYPE_CHECKING:
    from dllm_fast.settings.config import SamplerConfig

# Rows of one call: little enough to allocate, whatever else they hold.
_MOST_ROWS = 2**20


def plain_seed(seed: int | Sequence[int] | None) -> int | list[int]:
    """The seed in Python's own numbers: one for all prompts, or one for each; one that nobody knows in place of None."""
    if seed is None:
        return secrets.randbits(64)
    seed = scalar(seed)
    if _is_whole(seed):
        return int(seed)
    if is_tensor(seed) or isinstance(seed, np.ndarray):
        array = as_array(seed, "seed")
        seed = array.tolist() if array.ndim == 1 and array.dtype.kind in "iu" else seed
    if isinstance(seed, Sequence) and not isinstance(seed, str | bytes | bytearray | memoryview):
        check_many(len(seed), "seed")
        if all(map(_is_whole, seed)):
            return [int(s) for s in seed]
    raise InvalidTypeError(
        f"seed must be a whole number, or one for each prompt, got {shown(seed)}; pass an int, or None to draw one"
    )


def _is_whole(value: object) -> TypeGuard[int | np.integer[Any]]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_random(seed: object, num_samples: object) -> None:
    """Refuses seeds and samples that cannot be, whatever the prompts.

    Raises:
        InvalidTypeError, InvalidValueError: no seed, or no number of samples.
    """
    if seed is not None:
        found = plain_seed(seed)  # type: ignore[arg-type]
        _check_seeds([found] if isinstance(found, int) else found)
    _samples(num_samples)


def _samples(num_samples: object) -> int:
    return count(num_samples, "num_samples", most=_MOST_ROWS, remedy="use 1 for one answer a prompt")


def _check_seeds(seeds: list[int]) -> None:
    for value in seeds:
        if not 0 <= value < 2**64:
            raise InvalidValueError(f"seed must lie in [0, 2^64), got {shown(value)}; use a number from 0")


def streams(seed: int | list[int], num_samples: int, prompts: int) -> tuple[list[int], list[int]]:
    """Seed and sample index of every row."""
    num_samples = _samples(num_samples)
    if num_samples * prompts > _MOST_ROWS:
        raise InvalidValueError(
            f"there must be at most 2^20 rows, got {num_samples} samples for each of {prompts} prompts; sample in several calls"
        )
    seeds = [seed] * prompts if isinstance(seed, int) else seed
    if len(seeds) != prompts:
        raise InvalidValueError(
            f"seed must be one number, or one for each of {prompts} prompts, got {len(seeds)}; check its length"
        )
    _check_seeds(seeds)
    return [s for s in seeds for _ in range(num_samples)], list(range(num_samples)) * prompts


def check_samples(num_samples: int, config: SamplerConfig) -> None:
    """Warns where several samples are asked of a rule that certainly draws nothing that could tell them apart."""
    if num_samples == 1:
        return
    if config.noise != "mask":
        return  # each sees noise of its own
    picks = config.temperature > 0 and config.top_k != 1
    ranks = config.order_temperature > 0 or config.order in {"random", "ancestral"}
    if picks or (ranks and not _at_once(config)):
        return
    if config.temperature > 0:
        why = "a draw from one token draws nothing; leave top_k=1 out"
    elif ranks:
        why = "every block is filled in one step, where the order decides nothing; pass temperature=1.0 or more steps"
    else:
        why = "this rule draws nothing; pass temperature=1.0, order_temperature= or order='random'"
    warn(f"all {num_samples} samples of a prompt will be equal, because {why}, or num_samples=1", EqualSamplesWarning)


def _at_once(config: SamplerConfig) -> bool:
    """Is every block certainly filled in one step?"""
    if 1 in (config.steps, config.steps_per_block, config.block_length, config.max_new_tokens):
        return True
    all_ = config.threshold is not None and config.threshold <= 0
    return all_ or math.inf in (config.factor, config.entropy_bound)
