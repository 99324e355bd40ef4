"""Dream, Ye et al., 2508.15487: the `_sample` of its `diffusion_generate`."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import torch

from parity.loops.canvas import Canvas, best


def sample(
    model, tokens, *, mask, steps, alg, eps="0.001", shift=True, uniform=None, gumbel=None, alg_temp=0, masks=None, dtype=None
):
    """One window over all masks, wherever they are. Times fall from 1 to eps in equal steps; from time t to s the share
    1 - s/t of the masks is committed, truncated to whole masks, and the last step takes what is left.

    `origin` lets every mask decide for itself with that probability. The other algorithms rank: `maskgit_plus` by the
    largest probability, `topk_margin` by its distance to the second, `entropy` by the negative entropy.

    The schedule's quirk: with as many steps as masks, the first share is 0.999 of a mask, so the first step commits nothing
    (and still costs a forward) and the last commits two.

    Deviations: positions are drawn by Gumbel noise where `alg_temp` is set, which has the law of the published
    multinomial draw without replacement; times are fractions (published, float32 numbers, whose rounding decides where the
    share is a whole number of masks or all but, as 0.333 of 1000); the share is of the row's own masks. Published, it is of
    the mean over the batch, so that rows with fewer masks overwrite tokens and rows with more keep masks in the end: `masks`
    may hold those means, but no row commits more than it has, and the last step takes all.

    Args:
        uniform: for `origin`, a function of position and step.
        gumbel: for `alg_temp` above 0, a function of position and step.
        masks: for every step but the last, the number that the share is taken of; see `mean_masks`.
    """
    canvas = Canvas(model, tokens, mask, shift=shift)
    for step, share in enumerate(shares(steps, eps)):
        masked = canvas.masked()
        if not masked:
            break  # published, it goes on asking
        n = masks[step] if masks is not None and step < steps - 1 else len(masked)
        count = min(int(n * share), len(masked))
        p = canvas.predict(dtype)
        token = p.argmax(axis=-1)
        if alg == "origin":
            picks = [i for i in masked if uniform(i, step) < share]
        else:
            score = _score(p, alg, dtype)
            if alg_temp:
                picks = best({i: score[i] / alg_temp + gumbel(i, step) for i in masked}, count)
            else:
                picks = best({i: score[i] for i in masked}, count)
        for i in picks:
            canvas.write(i, token[i])
    return canvas


def shares(steps: int, eps="0.001") -> list[Fraction]:
    """The share of the masks that each step commits."""
    times = [1 + (Fraction(eps) - 1) * j / steps for j in range(steps + 1)]
    return [*[1 - s / t for t, s in itertools.pairwise(times[:-1])], Fraction(1)]


def mean_masks(rows: list[int], steps: int) -> list[Fraction]:
    """The mean number of masks before each step, in a batch of rows with so many masks that move together."""
    means = []
    for share in shares(steps):
        means.append(Fraction(sum(rows), len(rows)))
        rows = [n - min(int(means[-1] * share), n) for n in rows]
    return means


def _score(p: np.ndarray, alg: str, dtype: torch.dtype | None) -> np.ndarray:
    if alg == "maskgit_plus":
        return p.max(axis=-1)
    ordered = np.sort(p, axis=-1)
    if alg == "topk_margin":
        margin = ordered[:, -1] - ordered[:, -2]
        # Published, the subtraction happens in the dtype of the probabilities.
        return margin if dtype is None else torch.from_numpy(margin).to(dtype).double().numpy()
    assert alg == "entropy"
    return (ordered * np.log(ordered + 1e-10)).sum(axis=-1)
