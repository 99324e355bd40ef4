"""The settings as keyword arguments, for type checkers and editors, which read no more than what stands in a file.

A test holds every name and type to the fields of `SamplerConfig`. Where a configuration keeps a tuple, any collection is taken.
Names of other libraries (`gen_length`) are understood at run time and are not here: one name for a setting is what an editor
shows, and what is misspelled is refused. Who has others passes `**theirs`, a `dict[str, Any]`; `result.aliases` tells ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

from dllm_fast._core import TokenFrequencies

# The caller's own order of positions, which is no setting: a rank for each, the lowest first; for all rows, or for each row.
Ranks = Collection[float] | Collection[Collection[float]]
# Positions, and for each those that must be written before it.
After = Mapping[int, Sequence[int]]


class ModelSettings(TypedDict, total=False):
    """What says how a model is asked, and nothing of what is written: the settings of `distributions`."""

    mask_token_id: int | None
    shift: bool | None
    block_length: int | None
    suppress_tokens: Collection[int | str] | int | None
    allow_special: bool | None
    guidance: float | None
    cache: str | None
    refresh_every: int | None
    max_batch_rows: int | None


class InfillSettings(ModelSettings, total=False):
    """The settings of `infill`, which appends nothing."""

    steps: int | None
    steps_per_block: int | None
    sub_block_length: int | None
    inherit_token: bool | None
    window_length: int | None
    add_block_at: float | None
    activate_block_at: float | None
    schedule: str | None
    eps: float | None
    dilation: int | None
    order: str | Ranks | None  # ranks are the caller's own, beside the settings
    order_temperature: float | None
    position_penalty: float | None
    spacing: int | None
    prior_sigma: float | None
    token_frequencies: TokenFrequencies | None
    position_decay: float | None
    information_cap: float | None
    threshold: float | None
    factor: float | None
    entropy_bound: float | None
    entropy_threshold: float | None
    neighbour_threshold: float | None
    neighbour_distance: int | None
    run_threshold: float | None
    kl_threshold: float | None
    kl_steps: int | None
    credit: float | None
    credit_power: float | None
    credit_decay: float | None
    verify: bool | None
    verifier_mixture: float | None
    gap_stop: float | None
    gap_start: int | None
    gap_length: int | None
    min_commit: int | None
    edit_threshold: float | None
    max_post_steps: int | None
    noise: str | None
    vocabulary: int | None
    noise_share: float | None
    drafts: bool | None
    stop_stable: int | None
    stop_entropy: float | None
    remask: str | None
    remask_eta: float | None
    remask_threshold: float | None
    remask_budget: int | None
    temperature: float | None
    temperature_end: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    eos_token_id: Collection[int] | int | None
    stop_at_eos: bool | None
    eos_policy: str | None
    eos_penalty: float | None
    as_published: bool | None


class SamplerSettings(InfillSettings, total=False):
    """The settings of `sample`: what `**settings: Unpack[SamplerSettings]` takes in a function of yours that passes them on."""

    max_new_tokens: int | None
    min_new_tokens: int | None
    length: str | None
    initial_length: int | None
    expansion_factor: int | None
    eos_check_tokens: int | None
    eos_confidence_threshold: float | None
    expand_eos_confidence_threshold: float | None
    low_confidence_threshold: float | None
    low_density_threshold: float | None
    high_density_threshold: float | None
    stop: Collection[int | str | tuple[int, ...]] | str | int | None
