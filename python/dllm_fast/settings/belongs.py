"""Settings that belong to another one: nothing else reads them, so beside another value of it they would do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import InvalidValueError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dllm_fast.settings.config import SamplerConfig


@dataclass(frozen=True, slots=True)
class Part:
    """Settings that are read under some values of another one alone.

    Attributes:
        names: those settings.
        owner: the other one.
        values: of it, under which they are read; empty for any that is not None.
    """

    names: tuple[str, ...]
    owner: str
    values: tuple[str | bool, ...] = ()

    def is_read(self, value: object) -> bool:
        """Are they read under this value of the owner?"""
        if not self.values:
            return value is not None
        return isinstance(value, str | bool) and value in self.values


#: Whoever owns stands before what he owns, where he belongs to somebody, too.
PARTS = (
    Part(("eps",), "schedule", ("dream",)),
    Part(("dilation",), "schedule", ("dilated",)),
    Part(("prior_sigma",), "order", ("certainty-prior",)),
    Part(("token_frequencies", "position_decay", "information_cap"), "order", ("calibrated",)),
    Part(("neighbour_distance",), "neighbour_threshold"),
    Part(("kl_steps",), "kl_threshold"),
    Part(("credit_power", "credit_decay"), "credit"),
    Part(("gap_start",), "gap_stop"),
    Part(("gap_length",), "gap_start"),
    Part(("activate_block_at",), "add_block_at"),
    Part(("max_post_steps",), "edit_threshold"),
    Part(("vocabulary",), "noise", ("uniform", "hybrid")),
    Part(("noise_share",), "noise", ("hybrid",)),
    Part(("stop_stable", "stop_entropy"), "drafts", (True,)),
    Part(("remask_eta",), "remask", ("planner", "cap", "rescale", "confidence", "loop")),
    Part(("remask_threshold",), "remask", ("verify",)),
    Part(("remask_budget",), "remask", ("low-confidence",)),
    Part(("eos_penalty",), "eos_policy", ("penalise",)),
    Part(("initial_length", "expansion_factor"), "length", ("daedal", "rho-eos")),
    Part(
        ("eos_check_tokens", "eos_confidence_threshold", "expand_eos_confidence_threshold", "low_confidence_threshold"),
        "length",
        ("daedal",),
    ),
    Part(("low_density_threshold", "high_density_threshold"), "length", ("rho-eos",)),
    Part(("refresh_every",), "cache", ("prefix", "dual")),
)


def check(config: SamplerConfig, defaults: Mapping[str, Any]) -> None:
    """Refuses a setting that nothing reads. One that has its default says nothing.

    Raises:
        InvalidValueError: a setting without the one that it belongs to.
    """
    for part in PARTS:
        if part.is_read(getattr(config, part.owner)):
            continue
        for name in part.names:
            if (value := getattr(config, name)) != defaults[name]:
                raise InvalidValueError(_refusal(part, name, value, getattr(config, part.owner)))


def left_over(config: SamplerConfig, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    """The settings of `config` that nothing reads any more once others have these `values`, and that those do not name."""
    dropped = set[str]()
    for part in PARTS:
        owner = part.owner
        if owner in values or owner in dropped:
            now = values.get(owner)
            if not part.is_read(defaults[owner] if now is None else now):
                gone = {name for name in part.names if name not in values and getattr(config, name) != defaults[name]}
                dropped |= gone
                yield from gone


def _refusal(part: Part, name: str, value: object, owner: object) -> str:
    if not part.values:
        return (
            f"{name} is read beside {part.owner} alone, got {shown(value)} without one; leave it out, or set {part.owner}, too"
        )
    listed = " or ".join(map(repr, part.values))
    return (
        f"{name} is read under {part.owner}={listed} alone, got {shown(value)} beside {part.owner}={owner!r}; leave it out, or "
        f"set {part.owner}={part.values[0]!r}"
    )
