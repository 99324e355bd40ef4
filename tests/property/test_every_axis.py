"""Settings of every axis together: equal to the reference, however they are answered and whoever is beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import every_axis
import strategies
from driving import edits_of, lines, same, tables
from reference import sampler as reference

# Verified drafts have a reference of their own (`test_verify.py`).
ONE_BY_ONE = tuple(rule for rule in every_axis.RULES if rule != "verified")


def logits_of(model, config, request):
    return lines(model, request, config.get("shift", False))


def drive(config, starts, model, **arguments):
    sampler = dllm_fast.Sampler(
        dllm_fast.SamplerConfig(**config), [start.canvas for start in starts], **every_axis.together(starts), **arguments
    )
    while (request := sampler.next()) is not None:
        sampler.feed(np.concatenate(logits_of(model, config, request)))
    return sampler


@settings(max_examples=6 * settings().max_examples)
@given(every_axis.batches(ONE_BY_ONE, most=2), tables)
def test_equals_the_reference_token_for_token(batch, model):
    config, starts = batch
    sampler = drive(config, starts, model)
    for i, start in enumerate(starts):
        expected = reference.run(model.alone, start.canvas, config, **start.where)
        ours, theirs = edits_of(sampler.trajectory[i]), edits_of(expected.trajectory)
        assert same(ours, theirs), f"row {i}\nours      {ours}\nreference {theirs}"
        assert sampler.canvases[i].tolist() == expected.canvas.tolist()
        assert sampler.nfe_per_row[i] == expected.nfe
        windows = reference.windows(len(start.canvas), config.get("block_length"), start.block_start)
        blocks = sum(bool(start.is_open[window.start : window.stop].any()) for window in windows)
        waits = bool(start.more.get("eligible_after"))
        most = dllm_fast._core.most_forwards(dllm_fast.SamplerConfig(**config), int(start.is_open.sum()), blocks)
        assert expected.nfe <= most + waits * start.is_open.sum()


@settings(max_examples=3 * settings().max_examples)
@given(every_axis.batches(), tables, st.randoms(use_true_random=False))
def test_all_ways_to_answer_are_one(batch, model, random):
    """At once or in parts and in any order, as logits or as what `predict` made of them; all positions scored, or only some;
    alone, or in a batch of another order."""
    config, starts = batch
    base = drive(config, starts, model)
    order = random.sample(range(len(starts)), len(starts))
    others = [drive(config, starts, model, score_all=True), drive(config, [starts[i] for i in order], model)]
    canvases = [start.canvas for start in starts]
    parts = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **every_axis.together(starts))
    while (request := parts.next()) is not None:
        answers = list(zip(request.rows.tolist(), logits_of(model, config, request), strict=True))
        random.shuffle(answers)
        while answers:
            count = random.randint(1, len(answers))
            some, answers = answers[:count], answers[count:]
            rows = [row for row, _ in some]
            logits = np.concatenate([line for _, line in some])
            if random.random() < 0.5:
                parts.feed(logits, rows=rows)
            else:
                parts.feed(prediction=parts.predict(logits, rows=rows), rows=rows)
    others.append(parts)
    for other, places in zip(others, (range(len(starts)), order, range(len(starts))), strict=True):
        for place, i in enumerate(places):
            assert same(edits_of(base.trajectory[i]), edits_of(other.trajectory[place]))
    alone = drive(config, starts[:1], model)
    assert same(edits_of(base.trajectory[0]), edits_of(alone.trajectory[0]))


def test_every_setting_is_drawn():
    """Whoever adds a setting of the rules has it drawn, beside all others."""
    text = "".join(Path(module.__file__).read_text() for module in (every_axis, strategies))
    # The quirks of published loops are those of parity tests.
    assert [name for name in reference.DEFAULTS if f'"{name}"' not in text] == ["as_published"]
