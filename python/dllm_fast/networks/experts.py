"""Mixtures of experts: which experts a token goes to, and what they make of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.errors import CheckpointError
from dllm_fast.networks import grouped_fp8
from dllm_fast.networks.activations import ACTIVATIONS
from dllm_fast.networks.grouped import Sorted, products, tokens_without_host
from dllm_fast.networks.layers import Linear
from dllm_fast.ops import fused
from dllm_fast.ops.quantise import E4M3

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """Sizes and routing of a mixture.

    Attributes:
        count, chosen: experts, and how many a token goes to.
        inner: width inside an expert.
        shared: width inside the expert that every token goes to; 0 for none.
        sigmoid: scores are sigmoids, chosen by groups (DeepSeek-V3, 2412.19437); else a softmax.
        groups, chosen_groups: of experts; 1 for no groups.
        normalize: weights of the chosen add up to 1.
        scale: factor on the weights.
        bias: a bias on the scores: with sigmoids it only chooses, with a softmax it stays in the weight.
    """

    count: int
    chosen: int
    inner: int
    shared: int = 0
    sigmoid: bool = False
    groups: int = 1
    chosen_groups: int = 1
    normalize: bool = True
    scale: float = 1.0
    bias: bool = False

    def __post_init__(self) -> None:
        inside = self.count // self.groups
        if self.count % self.groups or self.chosen_groups > self.groups or (self.groups > 1 and inside < 2):
            raise CheckpointError(
                f"experts must lie in groups of at least two, got {self.count} in {self.groups} groups of which "
                f"{self.chosen_groups} are chosen; is config.json the one of these weights?"
            )
        if self.chosen > self.count:
            raise CheckpointError(
                f"a token must go to at most {self.count} experts, which are all, got {self.chosen}; "
                "is config.json the one of these weights?"
            )


def gated(gate_up: Tensor, act: str) -> Tensor:
    """`act(gate) * up` (2002.05202) for the halves of the last dimension."""
    if act in ("silu", "swish"):
        return fused.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[act](gate) * up


class Feedforward(nn.Module):
    """A gated feedforward, the two projections in as one matrix."""

    def __init__(self, width: int, inner: int, act: str) -> None:
        super().__init__()
        self.act = act
        self.gate_up = Linear(width, 2 * inner, bias=False)
        self.down = Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.down(gated(self.gate_up(x), self.act)))


class Router(nn.Module):
    """Weights and experts of every token, both `[N, chosen]`; computed in float32."""

    def __init__(self, width: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.count, width))
        self.bias = nn.Parameter(torch.zeros(config.count)) if config.bias else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        if config.sigmoid:
            scores = F.linear(x.float(), self.weight.float()).sigmoid()
            keys = scores if self.bias is None else scores + self.bias.float()
            if config.groups > 1:
                keys = self._best_groups(keys)
            experts = keys.topk(config.chosen, dim=-1).indices
            weights = scores.gather(1, experts)
        else:
            scores = F.linear(x, self.weight).softmax(dim=-1, dtype=torch.float32)
            if self.bias is not None:
                scores = scores + self.bias.float()
            weights, experts = scores.topk(config.chosen, dim=-1)
        if config.normalize:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + (1e-20 if config.sigmoid else 0.0))
        return weights * config.scale, experts

    def _best_groups(self, keys: Tensor) -> Tensor:
        """Keys with -inf outside the groups whose two best experts are best."""
        grouped = keys.view(len(keys), self.config.groups, -1)
        best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(self.config.chosen_groups, dim=-1).indices
        kept = torch.zeros(grouped.shape[:2], dtype=torch.bool, device=keys.device).scatter_(1, best, True)
        return grouped.masked_fill(~kept[..., None], float("-inf")).view_as(keys)


class Experts(nn.Module):
    """The weighted sum of what the chosen experts say, and of the shared one."""

    def __init__(self, width: int, config: ExpertsConfig, act: str) -> None:
        super().__init__()
        self.act = act
        self.router = Router(width, config)
        self.gate_up = nn.Parameter(torch.empty(config.count, 2 * config.inner, width))
        self.down = nn.Parameter(torch.empty(config.count, width, config.inner))
        # Of stacks in 8 bits.
        self.register_buffer("gate_up_scale", None)
        self.register_buffer("down_scale", None)
        self.shared = Feedforward(width, config.shared, act) if config.shared else None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        mixed = self.mixed(flat, *self.router(flat)).view_as(x)
        return mixed if self.shared is None else mixed + cast("Tensor", self.shared(x))

    def mixed(self, flat: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """Of tokens `[N, width]` the weighted sum of what their experts say, both `[N, chosen]`."""
        chosen = experts.shape[1]
        rows = Sorted.by_expert(experts, len(self.gate_up))
        inner = gated(self._products(flat[rows.pairs // chosen], "gate_up", rows), self.act)
        # Back in the order of the tokens, then summed over the experts of each: no row depends on another's place.
        said = flat.new_empty(len(inner), flat.shape[1]).index_copy_(0, rows.pairs, self._products(inner, "down", rows))
        return (said.view(len(flat), chosen, flat.shape[1]) * weights[..., None].to(flat.dtype)).sum(dim=1)

    def _products(self, x: Tensor, name: str, rows: Sorted) -> Tensor:
        stack, scale = self.get_parameter(name), getattr(self, f"{name}_scale")
        return products(x, stack, rows) if scale is None else grouped_fp8.products(x, stack, scale, rows)

    def hold_8_bits(self) -> None:
        """Makes room, without values, for stacks in E4M3 and the scales of their rows."""
        for name in ("gate_up", "down"):
            stack = torch.empty_like(self.get_parameter(name), dtype=E4M3)
            self.register_parameter(name, nn.Parameter(stack, requires_grad=False))
            self.register_buffer(f"{name}_scale", torch.empty(stack.shape[:-1], device=stack.device))

    def tokens_without_host(self) -> int | None:
        """For how many tokens a forward reads no value on the host; None for any number."""
        if self.gate_up.dtype == E4M3:
            return None if self.gate_up.is_cuda else 0
        limits = [tokens_without_host(stack) for stack in (self.gate_up, self.down)]
        return min((most for most in limits if most is not None), default=None)
