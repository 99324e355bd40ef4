"""The commit on the device: tokens go into the inputs of the next forward before the host knows them (`commit.cu`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_fast.kernels import launches
from dllm_fast.ops import launcher
from dllm_fast.settings.config import BESIDE_THRESHOLD

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast.settings.config import SamplerConfig

    Ints = NDArray[np.int64]
    # For each row, tokens to commit at least (int32), and the share of its block's steps that are done then (float64).
    Pace = tuple[NDArray[np.int32], NDArray[np.float64]]


#: What the kernel knows of the names of `_core.names()`. Where a row has another, the sampler decides; a schedule only says how
#: many there are at least, but for the one whose noise fades out.
KNOWN = {
    "order": ("confidence", "margin", "entropy", "random", "left-to-right", "sampled-confidence"),
    "cut": ("count", "threshold", "factor", "factor as published", "entropy_bound"),
    "schedule": ("even", "linear", "cosine", "dream", "maskgit", "first-hitting"),
    "revise": ("none",),
    "remask": (),
    "eos_policy": ("allow",),
    "length": ("fixed",),
}

# Settings that the kernel knows as they are where nobody sets them.
_OFF: dict[str, object] = {
    **dict.fromkeys(("gap_stop", "credit", "sub_block_length", "window_length", "add_block_at")),
    **{"inherit_token": False, "position_penalty": 0.0, "spacing": 1, "min_new_tokens": 0},
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a device cannot commit: the host decides then."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is committed, as `launches.commit` takes it; `ends` are tokens that end a row, which a loop of steps looks for."""

    mask_id: int
    order: str
    cut: str
    bound: float
    order_temperature: float
    is_annealed: bool
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: SamplerConfig, device: torch.device) -> Rule | Refusal:
        """The rule of rows whose statistics are as the device makes them, or why the kernel cannot decide as they do."""
        cuts = {name: getattr(config, name) for name in ("threshold", "factor", "entropy_bound", "entropy_threshold")}
        cut, bound = next(((name, bound) for name, bound in cuts.items() if bound is not None), ("count", 0.0))
        cut = "factor as published" if cut == "factor" and config.as_published else cut
        cut = next((name for name in BESIDE_THRESHOLD if getattr(config, name) is not None), cut)
        cut = "verify" if config.verify else cut
        cut = cut if config.verifier_mixture is None else "verifier_mixture"
        revise = "none" if config.edit_threshold is None else "edit"
        named = {"order": config.order, "cut": cut, "schedule": config.schedule, "revise": revise}
        named |= {"eos_policy": config.eos_policy, "length": config.length}
        if config.remask is not None:
            named = {"remask": config.remask}
        for kind, name in named.items():
            if name not in KNOWN[kind]:
                return Refusal(f"the commit kernel does not know the {kind} {name!r}")
        for name, off in _OFF.items():
            if getattr(config, name) != off:
                return Refusal(f"the commit kernel does not know {name}")
        if cut == "count" and config.order in {"random", "left-to-right"}:
            return Refusal(f"the order {config.order!r} with the cut {cut!r} chooses positions before the forward")
        if config.mask_token_id is None:
            return Refusal("the commit kernel needs a mask, by which it knows what is open")
        if not launcher.usable(device, "commit"):
            return Refusal(f"the commit kernel cannot be used on {device}")
        return cls(
            mask_id=config.mask_token_id,
            order=config.order,
            cut=cut,
            bound=bound,
            order_temperature=config.order_temperature,
            is_annealed=config.schedule == "maskgit",
            ends=tuple(config.eos_token_ids) if config.stop_at_eos else (),
        )


def fits(counts: Ints) -> bool:
    """Has no row more sites than the kernel ranks?"""
    return int(counts.max(initial=0)) <= launches.MAX_CANDIDATES


def pack_pace(pace: Pace, rows: int) -> NDArray[np.uint8]:
    """The pace of a step as bytes, with room for so many rows; those behind commit nothing."""
    packed = np.zeros(12 * rows, dtype=np.uint8)
    floors, progress = pace
    packed[: 8 * rows].view(np.float64)[: len(progress)] = progress
    packed[8 * rows :].view(np.int32)[: len(floors)] = floors
    return packed


def pack_places(counts: Ints, cell: Ints, rows: int, room: int) -> NDArray[np.uint8]:
    """Where the sites lie, as bytes: the first of each row, and the cell of each.

    Args:
        counts: sites of each row.
        cell: for each site, where its token is among the tokens that the commit writes.
        rows: room for rows; those behind have no sites.
        room: room for sites.
    """
    packed = np.zeros(4 * (rows + 1 + room), dtype=np.uint8)
    start = packed[: 4 * (rows + 1)].view(np.int32)
    start[1 : len(counts) + 1] = np.cumsum(counts)
    start[len(counts) + 1 :] = len(cell)
    packed[4 * (rows + 1) :].view(np.int32)[: len(cell)] = cell
    return packed


def place_bytes(rows: int, room: int) -> int:
    """Size of what `pack_pace` and `pack_places` make."""
    return 12 * rows + 4 * (rows + 1 + room)


class Place:
    """The buffers of the commits of one shape: rows, and at most `room` sites of all of them together.

    `given` uint8 holds what `pack_pace` and, behind it, `pack_places` made, at an address that 8 divides.
    """

    def __init__(self, rows: int, room: int, given: Tensor) -> None:
        self.rows, self._room = rows, room
        self._given = given
        # Who is chosen, and how many are: the sampler finds that out itself.
        self._made = torch.empty(room + 2 * rows, dtype=torch.int32, device=given.device)

    def set_pace(self, pace: Pace) -> None:
        """Makes it the place of the step after."""
        packed = pack_pace(pace, self.rows)
        launcher.fill(self._given[: len(packed)], packed)

    def addresses(self) -> dict[str, int]:
        """Where its arrays begin, by the names of `launches.CommitBuffers`."""
        rows, given, made = self.rows, self._given.data_ptr(), self._made.data_ptr()
        return {
            "progress": given,
            "floors": given + 8 * rows,
            "site_start": given + 12 * rows,
            "cell": given + 12 * rows + 4 * (rows + 1),
            "chosen": made,
            "committed": made + 4 * self._room,
            "masks_left": made + 4 * (self._room + rows),
        }

    def queue(self, cells: Tensor, sites: Tensor, results: Tensor, rule: Rule) -> None:
        """Queues the commit of the sites `[room]` of `mask_predict.queue` and its results, into `cells` int64."""
        room = self._room
        buffers = launches.CommitBuffers(
            sites=sites.data_ptr(), predictions=results.data_ptr(), cells=cells.data_ptr(), **self.addresses()
        )
        launch = launches.commit(
            buffers,
            sites=room,
            rows=self.rows,
            mask_id=rule.mask_id,
            order=rule.order,
            cut=rule.cut,
            bound=rule.bound,
            order_temperature=rule.order_temperature,
            is_annealed=rule.is_annealed,
        )
        launcher.launch([launch], cells.device)
