"""Where end tokens may be written: what each policy promises, after every step of every rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from dllm_fast import demo
from dllm_fast.errors import InvalidValueError
from driving import batches, drive, edits_of, lines, same
from driving import finite_tables as tables
from reference import sampler as reference
from strategies import END, MASK, OTHER_END, VOCABULARY

ends = st.sampled_from([END, (END, OTHER_END), (OTHER_END, END, 1)])


@st.composite
def with_ends(draw, rules):
    """Settings with end tokens that may be written."""
    config = draw(rules) | {"eos_token_id": draw(ends)}
    config["suppress_tokens"] = tuple(set(config.get("suppress_tokens", ())) - {END, OTHER_END, 1})
    return config


plain = with_ends(strategies.settings(annealed=False))
ranked = with_ends(
    strategies.settings(
        annealed=False, orders=tuple(order for order in strategies.ORDERS if order not in ("ancestral", "ranks"))
    )
)


def steps_of(config, batch, model):
    """For each row, its canvas before the first forward and after each."""
    canvases, seeds, requests, starts = batch
    where = {"seed": seeds, "request": requests, "block_start": starts}
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **where)
    seen = [[canvas.copy()] for canvas in canvases]
    while (request := sampler.next()) is not None:
        sampler.feed(np.concatenate(lines(model, request, config.get("shift", False))))
        for row in request.rows.tolist():
            seen[row].append(sampler.canvases[row].copy())
    return sampler, seen


@settings(max_examples=2 * settings().max_examples)
@given(st.one_of(ranked, with_ends(strategies.editing())), batches(), tables)
def test_under_delay_no_end_token_is_written_while_something_to_its_left_is_open(config, batch, model):
    _, seen = steps_of(config | {"eos_policy": "delay"}, batch, model)
    ends = np.atleast_1d(config["eos_token_id"])
    for canvas, row in zip(batch[0], seen, strict=True):
        for before, after in itertools.pairwise(row):
            for position in np.flatnonzero((before != after) & np.isin(after, ends)):
                assert MASK not in after[:position]
        masks = int((canvas == MASK).sum())
        assert not (row[-1] == MASK).any()
        assert masks or len(row) == 1


@settings(max_examples=2 * settings().max_examples)
@given(ranked, batches(), tables)
def test_delay_spends_no_forward_more_than_the_schedule(config, batch, model):
    """Counts are exact: each step commits as many as without it, also where all that is left are end tokens."""
    config = {name: value for name, value in config.items() if name in dllm_fast.SamplerConfig.__dataclass_fields__}
    for name in (*reference.CUTS, "gap_stop", "gap_start", "gap_length", "stop_at_eos"):
        config.pop(name, None)
    assume(config["schedule"] != "first-hitting")
    allowed, _ = steps_of(config, batch, model)
    delayed, _ = steps_of(config | {"eos_policy": "delay"}, batch, model)
    assert delayed.nfe_per_row == allowed.nfe_per_row
    for ours, theirs in zip(delayed.trajectory, allowed.trajectory, strict=True):
        assert [edit.step for edit in ours] == [edit.step for edit in theirs]


@settings(max_examples=2 * settings().max_examples)
@given(plain, batches(), tables)
def test_under_suffix_nothing_but_end_tokens_stands_behind_one(config, batch, model):
    """At any time, whether or not an end token ends the row; and every forward fills as many positions as its schedule says."""
    config |= {"eos_policy": "suffix"}
    sampler, seen = steps_of(config, batch, model)
    ends = np.atleast_1d(config["eos_token_id"])
    for i, (canvas, row) in enumerate(zip(batch[0], seen, strict=True)):
        own = canvas == MASK
        for after in row:
            written = np.flatnonzero(own & (after != MASK))
            first = next((p for p in written if after[p] in ends), None)
            if first is not None:
                assert np.isin(after[first:][own[first:]], ends).all(), "open positions are filled, others are none"
        assert not (row[-1] == MASK).any()
        if config["schedule"] not in ("dream", "maskgit", "cosine", "linear"):
            assert all((b == MASK).sum() > (a == MASK).sum() for b, a in itertools.pairwise(row) if (b == MASK).any())
        windows = reference.windows(len(canvas), config.get("block_length"), batch[3][i])
        blocks = sum(bool(own[window.start : window.stop].any()) for window in windows)
        steps = config.get("steps_per_block", int(own.sum())) * blocks
        is_idle = config["schedule"] == "dream" and "steps_per_block" in config
        assert sampler.nfe_per_row[i] <= (steps if is_idle else min(steps, int(own.sum())))


@given(st.one_of(plain, with_ends(strategies.editing())), batches(), tables)
def test_no_penalty_is_no_policy_and_an_endless_one_is_suppression(config, batch, model):
    canvases, seeds, requests, starts = batch
    where = {"seed": seeds, "request": requests, "block_start": starts}
    ends = np.atleast_1d(config["eos_token_id"]).tolist()
    pairs = [
        ({"eos_policy": "penalise", "eos_penalty": 0.0}, {}),
        (
            {"eos_policy": "penalise", "eos_penalty": np.inf},
            {"eos_token_id": None, "stop_at_eos": False, "suppress_tokens": (*config["suppress_tokens"], *ends)},
        ),
    ]
    for ours, theirs in pairs:
        a, b = (drive(config | more, canvases, model, **where) for more in (ours, theirs))
        for one, other in zip(a.trajectory, b.trajectory, strict=True):
            assert same(edits_of(one), edits_of(other))


class Endless:
    """A toy that never proposes an end token."""

    def __init__(self, model, ends):
        self.model, self.ends = model, ends

    def alone(self, canvas):
        logits = self.model.alone(canvas).copy()
        logits[:, self.ends] = -np.inf
        return logits


@given(ranked, batches(), tables, st.sampled_from(["suffix", "delay"]), st.integers(0, 9))
def test_where_no_end_token_is_proposed_no_policy_changes_anything(config, batch, model, policy, least):
    canvases, seeds, requests, starts = batch
    where = {"seed": seeds, "request": requests, "block_start": starts}
    model = Endless(model, np.atleast_1d(config["eos_token_id"]))
    found = [drive(config | more, canvases, model, **where) for more in ({}, {"eos_policy": policy, "min_new_tokens": least})]
    for one, other in zip(found[0].trajectory, found[1].trajectory, strict=True):
        assert same(edits_of(one), edits_of(other))


DRAFTS = {"drafts": True, "steps_per_block": 4, "entropy_bound": 0.1, "vocabulary": 9}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"eos_policy": "late"}, "eos_policy must be one of allow, suffix, delay, penalise, got 'late'"),
        ({"eos_policy": "penalise"}, "eos_policy 'penalise' needs an eos_penalty, got none"),
        ({"eos_policy": "penalise", "eos_penalty": -1.0}, "eos_penalty must be a number, at least 0, got -1"),
        ({"eos_policy": "penalise", "eos_penalty": float("nan")}, "eos_penalty must be a number, at least 0, got NaN"),
        ({"eos_penalty": 1.0}, "eos_penalty is read under eos_policy='penalise' alone, got 1.0 beside eos_policy='allow'"),
        ({"eos_policy": "delay", "order": "ancestral"}, "order 'ancestral' commits each mask by itself"),
        (
            {"eos_policy": "delay", "schedule": "dilated", "order": "left-to-right"},
            "schedule 'dilated' says which positions a step writes, got eos_policy",
        ),
        (
            {"eos_policy": "delay", "noise": "uniform", **DRAFTS},
            "got an eos_policy that looks at what is written",
        ),
        ({"eos_policy": "suffix", "noise": "uniform", **DRAFTS}, "got an eos_policy that looks at what is written"),
        ({"eos_policy": "suffix", "edit_threshold": 0.5}, "eos_policy 'suffix' fills what is behind an end token for good"),
    ],
)
def test_what_is_refused(more, says):
    with pytest.raises(InvalidValueError, match=says):
        dllm_fast.SamplerConfig(**more)
    if "must" in says or "needs" in says:
        return
    with pytest.raises(InvalidValueError, match=says):
        dllm_fast.SamplerConfig(eos_token_id=3, **more)


def test_a_policy_needs_end_tokens_and_infill_keeps_what_stands():
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, eos_policy="delay")  # a model may say them
    with pytest.raises(InvalidValueError, match="eos_policy needs an eos_token_id, got delay"):
        dllm_fast.Sampler(config, [[MASK]])
    with pytest.raises(InvalidValueError, match="got eos_policy='suffix', which fills it with end tokens; use 'delay'"):
        dllm_fast.infill(None, "sort:[MASK]", eos_policy="suffix")


def test_delay_does_not_go_with_positions_that_wait_for_others():
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, eos_token_id=END, eos_policy="delay")
    with pytest.raises(InvalidValueError, match="eos_policy 'delay' has end tokens wait for all that is open to their left"):
        dllm_fast.Sampler(config, [[MASK, MASK]], eligible_after={0: [1]})


class Hasty(toys.Toy):
    """Letters 0, 1, 2, ...; while the first is open, it takes one in the middle for the end."""

    vocabulary = VOCABULARY

    def __init__(self, sureness):
        self.sureness = sureness

    def row(self, canvas):
        places = np.arange(len(canvas))
        tokens = np.where(places == 3, END, places % 3) if canvas[0] == MASK else places % 3
        logits = np.zeros((len(canvas), VOCABULARY))
        logits[places, tokens] = self.sureness
        return logits


@pytest.mark.parametrize("ends", [{}, {"stop_at_eos": True}])
@pytest.mark.parametrize(
    ("policy", "sureness", "expected"),
    [
        # The end is the surest of all: without a policy, letters stand behind it, or are never written.
        ({}, [5, 5, 5, 9, 8, 7], [0, 1, 2, END, 1, 2]),
        ({"eos_policy": "delay"}, [5, 5, 5, 9, 8, 7], [0, 1, 2, 0, 1, 2]),
        ({"eos_policy": "penalise", "eos_penalty": 9.0}, [5, 5, 5, 9, 8, 7], [0, 1, 2, 0, 1, 2]),
        # Under `suffix` it is one; then nothing else is written behind it.
        ({"eos_policy": "suffix"}, [5, 5, 5, 9, 8, 7], [0, 1, 2, END, END, END]),
        # What stands behind it was written before: that is kept.
        ({}, [5, 5, 5, 7, 8, 9], [0, 1, 2, END, 1, 2]),
        ({"eos_policy": "suffix"}, [5, 5, 5, 7, 8, 9], [0, 1, 2, 0, 1, 2]),
        ({"eos_policy": "delay"}, [5, 5, 5, 7, 8, 9], [0, 1, 2, 0, 1, 2]),
    ],
)
def test_an_end_in_the_middle_cuts_no_answer(policy, sureness, expected, ends):
    config = {"mask_token_id": MASK, "eos_token_id": END, **ends, **policy}
    found = drive(config, [np.full(6, MASK)], Hasty(sureness)).canvases[0].tolist()
    if ends and END in expected:  # the row ends there, and what was written behind it is lost
        expected = [*expected[:3], END, END, END]
    assert found == expected


@pytest.mark.parametrize("policy", ["suffix", "delay"])
def test_the_text_model_keeps_to_it(policy):
    """In few forwards for many letters: steps leave nothing open, and every end token is where the policy says."""
    prompts = [prompt for prompt, _ in demo.text_problems(24, seed=5)]
    model, tokenizer = demo.load_text()
    result = dllm_fast.sample(
        model,
        prompts,
        tokenizer=tokenizer,
        max_new_tokens=32,
        steps=4,
        order="random",
        seed=1,
        eos_policy=policy,
        stop_at_eos=False,
    )
    end = result.config.eos_token_ids[0]
    assert max(result.stats.nfe_per_row) <= 4
    assert all((row == end).any() for row in result.new_tokens)
    for row, edits in zip(result.new_tokens, result.trajectory, strict=True):
        if policy == "suffix":
            assert (row[np.flatnonzero(row == end)[0] :] == end).all()
        written = dict(sorted((edit.position, edit.step) for edit in edits))
        latest = np.maximum.accumulate([*written.values()])
        ended = [edit.token == end and edit.kind == "commit" for edit in sorted(edits, key=lambda edit: edit.position)]
        assert policy == "suffix" or (np.array([*written.values()]) == latest)[ended].all(), "all that is left of it stands"
