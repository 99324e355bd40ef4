"""Drafts that a causal look verifies, on an oracle: `linear-spec` and `apd` in the bench of all presets.

`linear-spec` asks a model that can be read causally, and is deterministic. Here the oracle answers both ways, and each row adds
Gumbel noise of its own to all of its logits, the same in both: the most probable token is then a draw at temperature 1.

`apd` asks a second model, which reads from left to right: here the oracle's causal look, at temperature 1.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from bench.oracle import Oracle
from bench.quality import Point, Setting
from dllm_fast import Sampler, SamplerConfig, infill
from dllm_fast.settings.config import changed


def measure(oracle: Oracle, settings: SamplerConfig, rows: int, setting: Setting) -> Point:
    """Rows of masks behind one token that means nothing, filled one after the other.

    Args:
        oracle: both ways.
        settings: a rule that verifies.
        rows: row i has noise of seed i.
        setting: what the point is called.
    """
    began = time.process_time()
    if settings.verifier_mixture is not None:
        filled, forwards = mixed(oracle, settings, rows)
    else:
        filled, forwards = zip(*(fill(oracle, settings, seed) for seed in range(rows)), strict=True)
    return Point(
        setting=setting,
        solved=np.array([oracle.check(canvas) for canvas in filled], dtype=bool),
        forwards=np.array(forwards, dtype=np.int64),
        cpu_s=time.process_time() - began,
    )


def fill(oracle: Oracle, settings: SamplerConfig, seed: int) -> tuple[NDArray[np.int64], int]:
    """A filled row, without the token before it, and the forwards that it took."""
    length = oracle.answers.shape[1]
    noise = gumbel(oracle, seed)
    config = changed(settings, mask_token_id=oracle.mask, stop_at_eos=False)
    # A causal model predicts from the token before: the first open position needs one.
    sampler = Sampler(config, [[0, *[oracle.mask] * length]], block_start=[1])
    while (request := sampler.next()) is not None:
        canvas, positions = request.canvases[0].copy(), request.positions[0]
        if request.causal[0]:
            if len(request.proposed[0]):
                canvas[positions] = request.proposed[0]
            logits = oracle.causal(canvas[1:])
        else:
            logits = oracle(torch.from_numpy(canvas[None, 1:]))[0].numpy()
        sampler.feed((logits + noise)[positions - 1])
    return sampler.canvases[0][1:], int(sampler.nfe_per_row[0])


def mixed(oracle: Oracle, settings: SamplerConfig, rows: int) -> tuple[list[NDArray[np.int64]], list[int]]:
    """The same of a rule that asks a second model: filled rows, and the forwards that each took."""
    length = oracle.answers.shape[1]

    def drafts(ids: torch.Tensor) -> torch.Tensor:
        logits = oracle(ids[:, 1:])
        return torch.cat((logits[:, :1], logits), 1)

    def verifier(ids: torch.Tensor) -> torch.Tensor:
        # A line tells the token behind it, by what comes before: the mask that follows the last one changes nothing.
        masks = torch.full((len(ids), length + 1 - ids.shape[1]), oracle.mask)
        canvases = torch.cat((ids[:, 1:], masks), 1).numpy()
        logits = torch.from_numpy(np.stack([oracle.causal(canvas) for canvas in canvases]))
        return torch.cat((logits, logits[:, -1:]), 1)[:, : ids.shape[1]]

    canvases = [[0, *[oracle.mask] * length]] * rows
    common = {"mask_token_id": oracle.mask, "stop_at_eos": False, "temperature": 1.0}
    found = infill(drafts, canvases, config=settings, verifier=verifier, seed=list(range(rows)), **common)
    return [np.asarray(row[1:]) for row in found.sequences], found.stats.nfe_per_row


def gumbel(oracle: Oracle, seed: int) -> NDArray[np.float32]:
    """What a row adds to its logits."""
    shape = oracle.answers.shape[1], oracle.mask + 1
    return np.random.default_rng(seed).gumbel(size=shape).astype(np.float32)
