"""Token editing: the published loop of LLaDA2.1, diffusers' own pipeline, the specification and our sampler, on one model.

Where the published code differs from the rule, and what is done about it here:

- It may propose the mask, and would write it: the models of these tests never do, and ours suppresses it.
- It commits and edits what is above a threshold; ours commits what is not below. Thresholds lie between confidences.
- `torch.topk` breaks ties as it likes: with the pipeline itself there are none.
- In a batch it edits a row as long as another one has masks, and an end token of one row stops all: prompts come alone.
- diffusers' pipeline runs one forward more behind a block than `max_post_steps`, and none where the masks fell in the last of
  its steps; its end token freezes a row at once, whatever would have become of the block; its editing threshold of 0 is none.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.llada2_pipeline import infill, pipeline
from parity.loops import token_editing
from parity.models import Model, Table
from reference import sampler as reference

EOS = 0
VOCABULARY = 16
M = VOCABULARY - 1
PRESETS = {"llada2.1-quality": (0.7, 0.5), "llada2.1-speed": (0.5, 0.0), "llada2.1-conservative": (0.95, 0.9)}
# What settles does so because it looks to its left, and `sample` says that it noticed.
LOOKS_LEFT = pytest.mark.filterwarnings("ignore:a diffusion model must see both ways:RuntimeWarning")


class Settling(Table):
    """A table whose proposals depend on the tokens to the left, so that they stay after as many forwards as a block is long.

    Args:
        arguments: those of `Table`.
        apart: no two positions of a block share a template; else they may.
    """

    def __init__(self, *arguments, apart: bool, **settings):
        super().__init__(*arguments, **settings)
        self.apart = apart

    def _rows(self, seen, count):
        start = len(seen) - count
        chosen = np.random.default_rng([self.seed, start]).permutation(len(self.templates))
        rows = []
        for p in range(start, len(seen)):
            rng = np.random.default_rng([self.seed, p, *seen[:p].tolist()])
            template = chosen[p - start] if self.apart else int(rng.integers(len(self.templates)))
            exchanged = 0 if self.leads_share[template] else int(rng.integers(0, self.exchanged)) & ~1
            ids = np.arange(self.vocabulary)
            ids[::2] ^= exchanged
            rows.append(self.templates[template][ids] + int(rng.integers(-16, 17)) / 4)
        return np.array(rows, dtype=np.float32)


def draw_model(draw, block: int, ties: bool):
    """Models that go on changing their minds, and such that settle; sure enough for all presets, now and then."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    settings = {"block": block, "mask_logit": -np.inf, "ahead": draw(st.sampled_from([0.0, 3.0, 6.0]))}
    if draw(st.booleans()):
        return Settling(rng, VOCABULARY, block + 4, apart=not ties, **settings)
    return Table(rng, VOCABULARY, 2 if ties else block, **settings)


def draw_thresholds(draw, model) -> tuple[float, float]:
    """Those of a preset, or such as commit and edit some of what the model proposes."""
    c = [1.2, *model.confidences().tolist(), 0.0]
    between = [(a + b) / 2 for a, b in itertools.pairwise(c)]
    pairs = st.one_of(st.sampled_from([*PRESETS.values()]), st.tuples(*[st.sampled_from([*between, 0.0])] * 2))
    tau, edit = draw(pairs)
    # What lies on the edge of a published threshold is nobody's.
    return tau, 0.0 if edit == 0 else edit + 1e-9 if edit in c else edit


@st.composite
def cases(draw, ties=None, longest=8):
    """A model, a prompt, and the settings of the published loop."""
    block = draw(st.integers(1, longest))
    model = draw_model(draw, block, draw(st.booleans()) if ties is None else ties)
    prompt = draw(st.lists(st.integers(0, model.mask - 1), min_size=1, max_size=2 * block))
    tau, edit = draw_thresholds(draw, model)
    settings = {
        "gen_length": draw(st.integers(1, 3 * block)),
        "block_length": block,
        "threshold": tau,
        "editing_threshold": edit,
        "max_post_steps": draw(st.sampled_from([16, 16, 0, 1, 2, 5])),
    }
    return model, prompt, settings


def ours_of(settings) -> dict:
    """The same by the names of `SamplerConfig`."""
    names = {"editing_threshold": "edit_threshold", "num_to_transfer": "min_commit", "gen_length": None}
    renamed = {names.get(name, name): value for name, value in settings.items()}
    return {name: value for name, value in renamed.items() if name is not None}


def by_reference(model, prompt, settings, **more):
    """The specification on a canvas of whole blocks, counted from position 0."""
    block = settings["block_length"]
    length = -(-(len(prompt) + settings["gen_length"]) // block) * block
    canvas = [*prompt, *[model.mask] * (length - len(prompt))]
    config = {"mask_token_id": model.mask, **ours_of(settings), **more}
    return reference.run(lambda tokens: model.alone(tokens).numpy(), canvas, config)


def edits_of(trajectory) -> list[tuple[int, int, int]]:
    return [(edit.step, edit.position, edit.token) for edit in trajectory]


@given(cases(), st.integers(1, 3))
def test_the_published_loop(case, least):
    """Token for token, forward for forward; blocks that never settle end with the last post-step."""
    model, prompt, settings = case
    settings["num_to_transfer"] = least
    canvas = token_editing.generate(model.alone, prompt, mask=model.mask, **settings)
    expected = by_reference(model, prompt, settings)
    assert edits_of(expected.trajectory) == canvas.edits
    assert expected.nfe == canvas.forwards


@given(cases())
def test_an_end_token_ends_its_block(case):
    """Up to the first end token, and after as many forwards; ours fills what follows with it."""
    model, prompt, settings = case
    canvas = token_editing.generate(model.alone, prompt, mask=model.mask, eos=EOS, **settings)
    expected = by_reference(model, prompt, settings, eos_token_id=EOS, stop_at_eos=True)
    assert edits_of(edit for edit in expected.trajectory if edit.kind != "pad") == canvas.edits
    assert expected.nfe == canvas.forwards
    new = canvas.tokens[len(prompt) :].tolist()
    end = new.index(EOS) + 1 if EOS in new else len(new)
    assert expected.canvas[len(prompt) :].tolist() == new[:end] + [EOS] * (len(new) - end)


@LOOKS_LEFT
@given(cases(), st.integers(1, 3), st.booleans())
def test_ours(case, least, stops):
    """`infill` on canvases of whole blocks, by their names for the settings; the same with end tokens."""
    model, prompt, settings = case
    canvas = token_editing.generate(
        model.alone, prompt, mask=model.mask, num_to_transfer=least, eos=EOS if stops else None, **settings
    )
    named = settings | {"num_to_transfer": least, "max_post_edit_steps": settings["max_post_steps"]}
    for name in ["max_post_steps"] if named["editing_threshold"] else ["max_post_steps", "editing_threshold"]:
        del named[name]
    zero = {} if "editing_threshold" in named else {"edit_threshold": 0.0}
    result = infill(model, [prompt], eos=EOS if stops else None, **named, **zero)
    assert edits_of(edit for edit in result.trajectory[0] if edit.kind != "pad") == canvas.edits
    assert result.stats.nfe == canvas.forwards
    assert {edit.kind for edit in result.trajectory[0]} <= {"commit", "edit", *(["pad"] if stops else [])}


@LOOKS_LEFT
@given(st.data(), st.sampled_from([*PRESETS]), st.integers(1, 4), st.integers(1, 3))
def test_our_presets(data, preset, block, rows):
    """`sample` by name, rows of several lengths beside each other, each as the published loop has it alone."""
    model = draw_model(data.draw, block, data.draw(st.booleans()))
    prompts = [data.draw(st.lists(st.integers(0, M - 1), min_size=1, max_size=3)) * block for _ in range(rows)]
    blocks = data.draw(st.integers(1, 3))
    more = {"block_length": block, "max_new_tokens": blocks * block, "mask_token_id": model.mask, "stop_at_eos": False}
    result = dllm_fast.sample(model, prompts, preset=preset, **more)
    tau, edit = PRESETS[preset]
    for row, prompt in enumerate(prompts):
        canvas = token_editing.generate(
            model.alone,
            prompt,
            mask=model.mask,
            gen_length=blocks * block,
            block_length=block,
            threshold=tau,
            editing_threshold=edit,
        )
        assert edits_of(result.trajectory[row]) == canvas.edits
        assert result.stats.nfe_per_row[row] == canvas.forwards


def test_the_presets_are_the_published_numbers():
    for name, (tau, edit) in PRESETS.items():
        config = dllm_fast.presets()[name]
        assert (config.threshold, config.edit_threshold, config.max_post_steps) == (tau, edit, 16)
        assert (config.order, config.block_length) == ("sampled-confidence", 32)


@given(cases(ties=False))
def test_the_pipeline_of_diffusers(case):
    """With one more forward behind each block, and an editing threshold of 0 written as a tiny number."""
    model, prompt, settings = case
    settings["gen_length"] += settings["block_length"]
    settings["editing_threshold"] = max(settings["editing_threshold"], 1e-12)
    # More steps than a block has masks, so that all of them are gone before the last.
    published, forwards = pipeline(model, [prompt], num_inference_steps=settings["block_length"] + 1, **settings)
    settings["max_post_steps"] += 1
    expected = by_reference(model, prompt, settings)
    assert published == [expected.canvas[len(prompt) :][: settings["gen_length"]].tolist()]
    assert forwards == expected.nfe


def sure(*tokens):
    """Logits of positions that are sure of these tokens."""
    logits = torch.full((len(tokens), VOCABULARY), 0.0)
    logits[range(len(tokens)), list(tokens)] = 9.0
    return logits


class Scripted(Model):
    """What is proposed for a block of two, given what stands in it; the mask is never."""

    vocabulary, mask = VOCABULARY, VOCABULARY - 1

    def __init__(self, script):
        self.script = script

    def alone(self, tokens):
        seen = tuple(int(t) for t in tokens[-2:])
        logits = torch.cat([torch.zeros(len(tokens) - 2, VOCABULARY), sure(*self.script(seen))])
        logits[:, self.mask] = -torch.inf
        return logits


SCRIPTED = {"gen_length": 2, "block_length": 2, "threshold": 0.5, "max_post_steps": 3}


def ask_pipeline(model, prompts, **settings):
    return pipeline(
        model, prompts, num_inference_steps=3, **{**SCRIPTED, "gen_length": 3, "editing_threshold": 0.5, **settings}
    )


def test_in_a_batch_the_pipeline_edits_a_row_for_the_sake_of_another():
    """A row that goes round in circles is left after its post-steps; beside one that takes longer it goes round once more."""

    def script(seen):
        return {(M, M): (1, 1), (1, 1): (2, 1), (2, 1): (1, 1)}.get(seen, (3, 3))

    class Slow(Scripted):
        """The second row fills its masks one by one."""

        def alone(self, tokens):
            logits = super().alone(tokens)
            if tokens[1] == 7 and tokens[-2] == M:
                logits[-2] /= 100
            return logits

    rows = [[5, 6], [5, 7]]
    (alone, _), (together, _) = ask_pipeline(Slow(script), rows[:1]), ask_pipeline(Slow(script), rows)
    assert alone[0] != together[0]
    ours = [by_reference(Slow(script), row, {**SCRIPTED, "editing_threshold": 0.5, "max_post_steps": 4}) for row in rows]
    assert ours[0].canvas[2:4].tolist() == alone[0][:2]


def test_an_end_token_of_the_pipeline_ends_a_row_before_it_is_edited_away():
    def script(seen):
        return {(M, M): (EOS, 4)}.get(seen, (5, 4))

    frozen, _ = ask_pipeline(Scripted(script), [[1, 2]], eos=EOS)
    assert frozen[0][0] == EOS
    settings = {**SCRIPTED, "editing_threshold": 0.5}
    published = token_editing.generate(Scripted(script).alone, [1, 2], mask=M, eos=EOS, **settings)
    expected = by_reference(Scripted(script), [1, 2], settings, eos_token_id=EOS, stop_at_eos=True)
    assert published.tokens.tolist() == expected.canvas.tolist() == [1, 2, 5, 4]


def test_a_threshold_of_zero_is_none_to_the_pipeline_and_always_to_the_model():
    def script(seen):
        return {(M, M): (1, 1)}.get(seen, (2, 3))

    off, _ = ask_pipeline(Scripted(script), [[1, 2]], editing_threshold=0.0)
    assert off[0][:2] == [1, 1]
    settings = {**SCRIPTED, "editing_threshold": 0.0}
    published = token_editing.generate(Scripted(script).alone, [1, 2], mask=M, **settings)
    assert published.tokens.tolist() == by_reference(Scripted(script), [1, 2], settings).canvas.tolist() == [1, 2, 2, 3]


def test_the_last_step_of_the_pipeline_leaves_no_time_for_edits():
    def script(seen):
        return {(M, M): (1, 1)}.get(seen, (2, 3))

    unedited, forwards = ask_pipeline(Scripted(script), [[1, 2]], gen_length=1)
    assert (unedited, forwards) == ([[1]], 1)
    assert by_reference(Scripted(script), [1, 2], {**SCRIPTED, "editing_threshold": 0.5}).canvas.tolist() == [1, 2, 2, 3]
