"""A `Sampler` driven to its end by a toy, and what it wrote beside what the reference sampler writes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

import dllm_fast
import strategies
from reference import sampler as reference


def edits_of(trajectory):
    return [(e.step, e.position, e.token, e.probability, e.kind, e.time) for e in trajectory]


def same(a, b) -> bool:
    """Equality of edits, where nan is equal to nan."""
    return len(a) == len(b) and all(
        x == y or repr(x) == repr(y) == "nan" for e, f in zip(a, b, strict=True) for x, y in zip(e, f, strict=True)
    )


def lines(model, request, shift=False):
    """For each row of the request, the logits of its positions."""
    return [line(model, request, place, shift) for place in range(len(request.rows))]


def line(model, request, place, shift=False):
    """The logits of the positions of one row of the request. From behind a shadow the toys see a mask in place of a token."""
    canvas, positions, is_open = request.canvases[place], request.positions[place], request.open[place]
    made = model.alone(canvas)[np.maximum(positions - 1, 0) if shift else positions]
    if request.shadow[place]:
        for i, p in enumerate(positions.tolist()):
            if not is_open[p]:
                made[i] = reference.behind_mask(model.alone, canvas, p, strategies.MASK)[max(p - 1, 0) if shift else p]
    return made


def drive(config, canvases, model, **arguments):
    """Runs a `Sampler` to the end on logits."""
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **arguments)
    while (request := sampler.next()) is not None:
        sampler.feed(np.concatenate(lines(model, request, config.get("shift", False))))
    return sampler


def assert_equals_reference(sampler, config, batch, model):
    canvases, seeds, requests, starts = batch
    for i, canvas in enumerate(canvases):
        expected = reference.run(model.alone, canvas, config, seed=seeds[i], request=requests[i], block_start=starts[i])
        ours, theirs = edits_of(sampler.trajectory[i]), edits_of(expected.trajectory)
        assert same(ours, theirs), f"row {i}\nours      {ours}\nreference {theirs}"
        assert sampler.canvases[i].tolist() == expected.canvas.tolist()
        assert sampler.nfe_per_row[i] == expected.nfe


@st.composite
def batches(draw):
    """Canvases with a seed, a sample index and a block origin each."""
    canvases = draw(strategies.batches)
    each = {"min_size": len(canvases), "max_size": len(canvases)}
    seeds = draw(st.lists(strategies.seeds, **each))
    requests = draw(st.lists(st.integers(0, 2**32 - 1), **each))
    starts = draw(st.lists(st.integers(0, 10), **each))
    return canvases, seeds, requests, starts


@st.composite
def first_steps(draw):
    """Statistics for the first step of a canvas of masks, with many ties."""
    n = draw(st.integers(1, 12))
    levels = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    top1 = np.array(draw(st.lists(levels, min_size=n, max_size=n)))
    return {
        "token": np.zeros(n, dtype=np.int64),
        "probability": top1,
        "top1": top1,
        "top2": top1 / 2,
        "entropy": np.array(draw(st.lists(levels, min_size=n, max_size=n))),
    }


def first_commit(config, statistics):
    """Positions that the first step commits."""
    n = len(statistics["token"])
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(mask_token_id=strategies.MASK, **config), [np.full(n, strategies.MASK)])
    assert sampler.next().positions[0].tolist() == list(range(n))
    sampler.feed(prediction=dllm_fast.Prediction(**statistics))
    return {e.position for e in sampler.trajectory[0]}
