"""A `Sampler` driven to its end by a toy, and what it wrote beside what the reference sampler writes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from reference import sampler as reference

_TABLE = {"seed": st.integers(0, 2**32), "grid": st.sampled_from([0.1, 1.0, 4.0])}  # a coarse grid has ties
#: Models that change their mind with every token: with infinite logits or without, and some of which settle from the left.
finite_tables = st.builds(toys.HashTable, st.just(strategies.VOCABULARY), **_TABLE)
tables = st.builds(toys.HashTable, st.just(strategies.VOCABULARY), **_TABLE, infinities=st.booleans())
settling = st.builds(
    lambda kind, **arguments: kind(strategies.VOCABULARY, **arguments),
    st.sampled_from([toys.HashTable, toys.Leftward]),
    **_TABLE,
    infinities=st.booleans(),
)


def edits_of(trajectory):
    return [(e.step, e.position, e.token, e.probability, e.kind, e.time) for e in trajectory]


def replayed(canvas, edits) -> list[int]:
    """A canvas behind some edits."""
    canvas = [int(token) for token in canvas]
    for edit in edits:
        if edit.kind == "insert":
            canvas.insert(edit.position, edit.token)
        elif edit.kind == "delete":
            assert canvas.pop(edit.position) == edit.token, "what goes is a mask"
        else:
            canvas[edit.position] = edit.token
    return canvas


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


def arguments_of(batch) -> dict:
    """Arguments of a `Sampler` over the rows of a batch."""
    _, seeds, requests, starts = batch
    return {"seed": seeds, "request": requests, "block_start": starts}


def assert_all_ways_are_one(config, batch, model, random) -> None:
    """All rows at once, one at a time, or in parts and in any order; all positions scored or only some; what `predict` said."""
    canvases, arguments, shift = batch[0], arguments_of(batch), config.get("shift", False)
    base = drive(config, canvases, model, **arguments)
    all_scored = drive(config, canvases, model, score_all=True, **arguments)
    few = drive(config, canvases, model, max_rows=1, **arguments)
    in_parts = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **arguments)
    while (request := in_parts.next()) is not None:
        parts = list(zip(request.rows.tolist(), lines(model, request, shift), strict=True))
        random.shuffle(parts)
        for row, logits in parts:
            backwards = np.arange(len(logits))[::-1]
            in_parts.feed(logits[backwards], rows=[row], index=backwards)
    predicted = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **arguments)
    while (request := predicted.next()) is not None:
        predicted.feed(prediction=predicted.predict(np.concatenate(lines(model, request, shift))))
    for other in (all_scored, few, in_parts, predicted):
        for a, b in zip(base.trajectory, other.trajectory, strict=True):
            assert same(edits_of(a), edits_of(b))
        assert other.nfe_per_row == base.nfe_per_row


def assert_neighbours_do_not_matter(config, batch, model, random) -> None:
    """A row alone, in a batch, and in another order of the batch."""
    together = drive(config, batch[0], model, **arguments_of(batch))
    order = list(range(len(batch[0])))
    random.shuffle(order)
    other = [[values[i] for i in order] for values in batch]
    shuffled = drive(config, other[0], model, **arguments_of(other))
    for place, i in enumerate(order):
        row = [[values[i]] for values in batch]
        alone = drive(config, row[0], model, **arguments_of(row))
        for found in (alone.trajectory[0], shuffled.trajectory[place]):
            assert same(edits_of(together.trajectory[i]), edits_of(found))


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
