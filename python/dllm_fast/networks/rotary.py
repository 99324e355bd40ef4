"""Rotary positions (RoFormer, 2104.09864) with the ways in which checkpoints stretch them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from dllm_fast.checkpoint.fields import flag, mapping, positive, whole
from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Which part of a head turns, and how fast.

    Attributes:
        width: numbers at the front of a head that turn, in two halves; the rest passes.
        theta: base of the wavelengths.
        kind: `default`, `linear`, `llama3`, `yarn` or `proportional`, in which only the first `turned` pairs of a whole head
            turn, as fast as they would if all did.
        factor: how far the context is stretched.
        original: context before that.
        low, high: `llama3`: where it begins and ends to stretch; `yarn`: its slow and fast turns.
        magnitude: factor on cosine and sine.
    """

    width: int
    theta: float
    kind: str = "default"
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    truncate: bool = True
    magnitude: float = 1.0
    turned: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], head_dim: int, *, theta: float = 10000.0) -> Self:
        """From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4).

        Raises:
            CheckpointError: a kind of scaling that is not computed here.
        """
        scaling = {**mapping(config, "rope_scaling"), **mapping(config, "rope_parameters")}
        theta = positive(scaling, "rope_theta", positive(config, "rope_theta", theta))
        share = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor"))
        kind = scaling.get("rope_type", scaling.get("type")) or "default"
        # 0 means no share of its own in some configs.
        width = int(head_dim * (positive({"partial_rotary_factor": share}, "partial_rotary_factor", 1.0) if share else 1.0))
        if width > head_dim or (head_dim if kind == "proportional" else width) % 2:
            raise CheckpointError(
                f"partial_rotary_factor in config.json must turn an even part of a head of {head_dim}, got {shown(share)}; "
                "fetch the file again"
            )
        factor = positive(scaling, "factor", 1.0)
        longest = whole(config, "max_position_embeddings", 0, least=0)
        original = whole(scaling, "original_max_position_embeddings", longest, least=0)
        plain = cls(width=width, theta=theta)
        if kind == "default":
            return plain
        if kind == "linear":
            return replace(plain, kind=kind, factor=factor)
        if kind == "proportional":
            return replace(plain, width=head_dim, kind=kind, factor=factor, turned=width // 2)
        if kind == "llama3":
            low, high = positive(scaling, "low_freq_factor", 1.0), positive(scaling, "high_freq_factor", 4.0)
            return replace(plain, kind=kind, factor=factor, original=original, low=low, high=high)
        if kind == "yarn":
            slow, fast = positive(scaling, "beta_slow", 1.0), positive(scaling, "beta_fast", 32.0)
            truncate = flag(scaling, "truncate", default=True)
            return replace(
                plain,
                kind=kind,
                factor=factor,
                original=original,
                low=slow,
                high=fast,
                truncate=truncate,
                magnitude=_yarn_magnitude(scaling, factor),
            )
        raise CheckpointError(
            f"rope_scaling in config.json must be default, linear, llama3, yarn or proportional, got {kind!r}; this kind is "
            "not computed here"
        )

    def frequencies(self, device: torch.device) -> Tensor:
        """Radians a position, float32 `[width / 2]`."""
        steps = torch.arange(0, self.width, 2, dtype=torch.int64, device=device).float() / self.width
        plain = 1.0 / (self.theta**steps)
        if self.kind == "default":
            return plain
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "proportional":
            return torch.where(torch.arange(self.width // 2, device=device) < self.turned, plain / self.factor, 0.0)
        if self.kind == "llama3":
            turns = self.original * plain / (2 * math.pi)
            smooth = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
            return plain / self.factor * (1 - smooth) + plain * smooth
        low, high = self._turning_point(self.high), self._turning_point(self.low)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.width - 1)
        ramp = torch.arange(self.width // 2, dtype=torch.float32, device=device)
        stretched = ((ramp - low) / max(high - low, 0.001)).clamp(0, 1)
        return plain / self.factor * stretched + plain * (1 - stretched)

    def written(self) -> tuple[Tensor, ...]:
        """What checkpoints have as `inv_freq`: these frequencies, or, where they are evenly stretched, those before that."""
        here = torch.device("cpu")
        own = self.frequencies(here)
        return (own, replace(self, kind="default").frequencies(here)) if self.kind == "linear" else (own,)

    def _turning_point(self, turns: float) -> float:
        """The pair of numbers that turns so many times over the original context."""
        return self.width * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the front of every head of `[B, heads, Q, D]`, in the dtype of the angles `[B, 1, Q, half of the front]`."""
    half = cos.shape[-1]
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)  # type: ignore[no-untyped-call]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns neighbours of every head of `[B, heads, Q, D]` as pairs, by cosine and sine `[B, 1, Q, D / 2]`."""
    first, second = x[..., ::2], x[..., 1::2]
    turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def _yarn_magnitude(scaling: Mapping[str, Any], factor: float) -> float:
    """YaRN (2309.00071), section 3.4, with the split into two magnitudes that DeepSeek introduced."""

    def grown(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return grown(float(scaling["mscale"])) / grown(float(scaling["mscale_all_dim"]))
    return grown(1.0)
