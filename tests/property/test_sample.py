"""`sample` and `infill` from end to end, with toy models: what comes back, what it depends on, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from dllm_fast import _core
from reference import sampler as reference
from strategies import END, MASK, OTHER_END, VOCABULARY

# Samples of rules that draw nothing are compared on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")

PRESETS = toys.presets_of_any_model()
TABLE = toys.HashTable(VOCABULARY, seed=1)
PROMPTS = [[1, 2, 3], [4], [5, 6, 8, 10], [1, 2, 0]]
fewer = settings(max_examples=max(5, settings().max_examples // 2))


class Watched:
    """A model that remembers what it was asked."""

    def __init__(self, model, **config):
        self.model, self.calls = model, []
        if config:
            self.config = SimpleNamespace(**config)

    def __call__(self, ids):
        assert isinstance(ids, torch.Tensor)
        assert ids.dtype == torch.int64
        assert ids.ndim == 2
        self.calls.append(ids.clone())
        return self.model(ids)


def rows_of(edits):
    return [(e.step, e.position, e.token, repr(e.probability), e.kind, repr(e.time)) for e in edits]


def same_runs(a, b):
    """The same tokens and the same trajectories."""
    return [s.tolist() for s in a.sequences] == [s.tolist() for s in b.sequences] and [rows_of(t) for t in a.trajectory] == [
        rows_of(t) for t in b.trajectory
    ]


def assert_equals_reference(result, model, canvases, config, seeds, requests, starts):  # noqa: PLR0917
    for i, canvas in enumerate(canvases):
        row = reference.run(model.alone, canvas, config, seed=seeds[i], request=requests[i], block_start=starts[i])
        assert rows_of(result.trajectory[i]) == rows_of(row.trajectory), f"row {i}"
        assert result.sequences[i].tolist() == row.canvas.tolist()
        assert result.stats.nfe_per_row[i] == row.nfe


def known(config: dllm_fast.SamplerConfig, **changes) -> dict:
    """A configuration as the reference takes it."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name in reference.DEFAULTS}
    return values | changes


# --- every preset is what the specification says


@pytest.mark.parametrize("temperature", [None, 1.3])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_equal_the_reference(name, temperature):
    preset = PRESETS[name]
    changes = {} if temperature is None else {"temperature": temperature}
    n, seeds = 8, [5, 6, 7, 8]
    for model in (TABLE, toys.SmallTransformer(VOCABULARY)):
        result = dllm_fast.sample(
            model, PROMPTS, preset=name, max_new_tokens=n, mask_token_id=MASK, seed=seeds, num_samples=2, **changes
        )
        canvases = [np.array(prompt + [MASK] * n) for prompt in PROMPTS for _ in range(2)]
        block = None if preset.block_length is None else min(n, preset.block_length)
        config = known(preset, mask_token_id=MASK, block_length=block, stop_at_eos=False, **changes)
        starts = [len(prompt) for prompt in PROMPTS for _ in range(2)]
        each_twice = [s for s in seeds for _ in range(2)]
        assert_equals_reference(result, model, canvases, config, each_twice, [0, 1] * 4, starts)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_over_several_blocks_and_with_an_end(name):
    changes = {"block_length": 4, "steps": 6, "eos_token_id": (END, OTHER_END), "temperature": 1.0}
    if name in toys.PACED_BY_THEMSELVES:
        del changes["steps"]
    result = dllm_fast.sample(TABLE, PROMPTS, preset=name, max_new_tokens=12, mask_token_id=MASK, **changes)
    canvases = [np.array(prompt + [MASK] * 12) for prompt in PROMPTS]
    config = known(PRESETS[name], mask_token_id=MASK, stop_at_eos=True, **changes)
    starts = [len(prompt) for prompt in PROMPTS]
    assert_equals_reference(result, TABLE, canvases, config, [0] * 4, [0] * 4, starts)
    assert result.config.stop_at_eos is True, "the default of sample, where an end token is known"
    for prompt, sequence, new in zip(PROMPTS, result.sequences, result.new_tokens, strict=True):
        written = sequence[len(prompt) :].tolist()
        ends = [i for i, token in enumerate(written) if token in (END, OTHER_END)]
        length = ends[0] + 1 if ends else 12
        assert new.tolist() == written[:length]
        assert set(written[length:]) <= {END}


@pytest.mark.parametrize("name", toys.PACED_BY_THEMSELVES)
def test_presets_that_set_their_own_pace_refuse_steps(name):
    with pytest.raises(dllm_fast.errors.InvalidValueError, match="steps"):
        dllm_fast.sample(TABLE, PROMPTS, preset=name, max_new_tokens=12, mask_token_id=MASK, steps=6)


def test_presets_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["llada"].threshold = 0.5
    dllm_fast.presets()["mine"] = None
    assert "mine" not in dllm_fast.presets()
    assert (PRESETS["fast-dllm"].threshold, PRESETS["fast-dllm"].block_length) == (0.9, 32)
    assert PRESETS["llada-semi-ar"].block_length == 32
    assert not any(preset.shift for preset in PRESETS.values())


def test_a_preset_as_config_is_the_preset():
    """Its blocks are then not the caller's: they are clipped to what is generated, not refused."""
    table = torch.randn(12, 12, generator=torch.Generator().manual_seed(3))
    common = {"mask_token_id": 11, "max_new_tokens": 8}
    ours = dllm_fast.sample(lambda ids: table[ids], [1, 2], config=dllm_fast.presets()["llada-semi-ar"], **common)
    named = dllm_fast.sample(lambda ids: table[ids], [1, 2], preset="llada-semi-ar", **common)
    assert ours.config == named.config
    assert ours.sequences[0].tolist() == named.sequences[0].tolist()


def test_without_a_preset():
    """Whole canvas, even schedule, confidence order, one token a forward, temperature 0."""
    result = dllm_fast.sample(TABLE, [1, 2], max_new_tokens=6, mask_token_id=MASK)
    canvas = np.array([1, 2] + [MASK] * 6)
    assert_equals_reference(result, TABLE, [canvas], {"mask_token_id": MASK}, [0], [0], [2])
    assert result.stats.nfe == 6
    c = result.config
    assert (c.steps, c.schedule, c.order, c.temperature, c.max_new_tokens) == (6, "even", "confidence", 0.0, 6)


# --- what a row depends on


@fewer
@given(
    strategies.settings(annealed=False),
    st.lists(strategies.canvases().filter(len), min_size=1, max_size=4),
    strategies.seeds,
    st.data(),
)
def test_infill_equals_the_reference_and_rows_are_alone(config, canvases, seed, data):
    """I1, I8, I9: any settings, any batch, any order of the batch, any number of threads."""
    seeds = [(seed + i) % 2**64 for i in range(len(canvases))]
    result = dllm_fast.infill(TABLE, canvases, seed=seeds, **config)
    n = len(canvases)
    assert_equals_reference(result, TABLE, canvases, config, seeds, [0] * n, [0] * n)
    order = data.draw(st.permutations(range(n)))
    try:
        _core.set_threads(data.draw(st.integers(1, 3)))
        other = dllm_fast.infill(TABLE, [canvases[i] for i in order], seed=[seeds[i] for i in order], **config)
    finally:
        _core.set_threads(None)
    assert [rows_of(result.trajectory[i]) for i in order] == [rows_of(t) for t in other.trajectory]
    for before, after, new in zip(canvases, result.sequences, result.new_tokens, strict=True):
        if not config.get("stop_at_eos"):
            assert new.tolist() == after[before == MASK].tolist()


@fewer
@given(strategies.settings(annealed=False), st.integers(1, 3), strategies.seeds)
def test_samples_are_prompt_major_and_numbered_by_request(config, num_samples, seed):
    config.pop("block_length", None)
    config = {"stop_at_eos": False, **config}
    result = dllm_fast.sample(TABLE, PROMPTS[:2], max_new_tokens=4, seed=seed, num_samples=num_samples, **config)
    canvases = [np.array(prompt + [MASK] * 4) for prompt in PROMPTS[:2] for _ in range(num_samples)]
    starts = [len(prompt) for prompt in PROMPTS[:2] for _ in range(num_samples)]
    requests = list(range(num_samples)) * 2
    assert_equals_reference(result, TABLE, canvases, config, [seed] * 2 * num_samples, requests, starts)
    assert result.seed == seed


def test_samples_differ_and_seeds_repeat():
    arguments = {"max_new_tokens": 20, "mask_token_id": MASK, "temperature": 1.0}
    model = toys.Constant(np.zeros(VOCABULARY))
    several = dllm_fast.sample(model, [1], num_samples=4, seed=3, **arguments)
    assert len({tuple(s.tolist()) for s in several.sequences}) == 4
    assert same_runs(several, dllm_fast.sample(model, [1], num_samples=4, seed=3, **arguments))
    first = dllm_fast.sample(model, [1], seed=3, **arguments)
    assert first.sequences[0].tolist() == several.sequences[0].tolist()
    assert first.sequences[0].tolist() != dllm_fast.sample(model, [1], seed=4, **arguments).sequences[0].tolist()


def test_the_default_seed_is_0():
    arguments = {"max_new_tokens": 8, "mask_token_id": MASK, "temperature": 1.0}
    assert same_runs(dllm_fast.sample(TABLE, [1], **arguments), dllm_fast.sample(TABLE, [1], seed=0, **arguments))


# --- what goes in


def test_prompts_of_every_kind():
    arguments = {"max_new_tokens": 5, "mask_token_id": MASK, "temperature": 0.7, "seed": 2}
    base = dllm_fast.sample(TABLE, [[1, 2, 3]], **arguments)
    singles = [
        [1, 2, 3],
        (1, 2, 3),
        np.array([1, 2, 3]),
        np.array([1, 2, 3], dtype=np.int32),
        np.array([1, 2, 3], dtype=np.uint8),
        torch.tensor([1, 2, 3]),
        torch.tensor([1, 2, 3], dtype=torch.int32),
    ]
    for prompt in [*singles, *([p] for p in singles), np.array([[1, 2, 3]]), torch.tensor([[1, 2, 3]])]:
        assert same_runs(base, dllm_fast.sample(TABLE, prompt, **arguments)), repr(prompt)
    ragged = dllm_fast.sample(TABLE, [[1, 2, 3], np.array([4]), torch.tensor([5, 6]), (1, 2, 3)], **arguments)
    assert [len(s) for s in ragged.sequences] == [8, 6, 7, 8]
    assert rows_of(ragged.trajectory[0]) == rows_of(ragged.trajectory[3]) == rows_of(base.trajectory[0])
    rows = dllm_fast.sample(TABLE, torch.tensor([[1, 2, 3], [4, 5, 6]]), **arguments)
    assert same_runs(rows, dllm_fast.sample(TABLE, [[1, 2, 3], [4, 5, 6]], **arguments))


def test_what_the_caller_holds_is_not_changed():
    canvas = np.array([1, MASK, 2, MASK])
    tensor = torch.tensor(canvas)
    prompt = [3, 1]
    dllm_fast.infill(TABLE, canvas, mask_token_id=MASK)
    dllm_fast.infill(TABLE, tensor, mask_token_id=MASK)
    dllm_fast.sample(TABLE, prompt, mask_token_id=MASK, max_new_tokens=3)
    assert canvas.tolist() == tensor.tolist() == [1, MASK, 2, MASK]
    assert prompt == [3, 1]


def test_rows_of_equal_length_share_a_forward_and_nothing_is_padded():
    model = Watched(TABLE)
    result = dllm_fast.sample(model, PROMPTS, max_new_tokens=4, mask_token_id=MASK)
    shapes = [tuple(ids.shape) for ids in model.calls]
    assert sorted(set(shapes)) == [(1, 5), (1, 8), (2, 7)]
    assert result.stats.nfe == len(model.calls) == 12
    assert result.stats.nfe_per_row == [4] * 4
    assert result.stats.tokens_per_forward == pytest.approx(16 / 12)
    assert result.stats.model_ms >= 0
    assert result.stats.sampler_ms >= 0


class Output:
    def __init__(self, logits):
        self.logits = logits


def test_logits_of_every_kind():
    arguments = {"max_new_tokens": 6, "mask_token_id": MASK, "temperature": 0.7}
    base = dllm_fast.sample(TABLE, PROMPTS, **arguments)
    variants = {
        "numpy": lambda ids: TABLE(ids).numpy(),
        "object": lambda ids: Output(TABLE(ids)),
        "object with numpy": lambda ids: Output(TABLE(ids).numpy()),
        "bfloat16, exact on this grid": lambda ids: TABLE(ids).bfloat16(),
        "float16": lambda ids: TABLE(ids).half(),
        "numpy float16": lambda ids: TABLE(ids).half().numpy(),
        "transposed in memory": lambda ids: TABLE(ids).transpose(1, 2).contiguous().transpose(1, 2),
        "needs a gradient": lambda ids: TABLE(ids).requires_grad_(),
        "part of a larger tensor": lambda ids: torch.cat([TABLE(ids), TABLE(ids)], dim=2)[:, :, :VOCABULARY],
    }
    for name, model in variants.items():
        assert same_runs(base, dllm_fast.sample(model, PROMPTS, **arguments)), name


def test_rounded_logits_equal_the_reference_on_the_rounded_values():
    fine = toys.HashTable(VOCABULARY, seed=2, grid=1e-3)
    for dtype in (torch.bfloat16, torch.float16):

        class Rounded(toys.Toy):
            def row(self, canvas, dtype=dtype):
                return torch.from_numpy(fine.row(canvas)).to(dtype).float().numpy()

        result = dllm_fast.sample(lambda ids, dtype=dtype: fine(ids).to(dtype), [1, 2], max_new_tokens=8, mask_token_id=MASK)
        canvas = np.array([1, 2] + [MASK] * 8)
        assert_equals_reference(result, Rounded(), [canvas], {"mask_token_id": MASK}, [0], [0], [2])


def test_a_module_is_run_in_evaluation_mode_without_gradients_and_left_as_it_was():
    model = toys.SmallTransformer(VOCABULARY)
    model.train()
    model.head.eval()
    seen = []
    model.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    dllm_fast.sample(model, [1, 2], max_new_tokens=3, mask_token_id=MASK)
    assert set(seen) == {(False, False)}
    assert model.training
    assert model.layer.training
    assert not model.head.training


def test_logits_of_positions_that_are_not_eligible_are_never_read():
    """Of the prompt, of what is committed (where the rule does not judge it anew), of later blocks (where none may have
    joined): there may stand anything, NaN too."""
    start, block = 3, 4

    def only_this_block(ids, judges_written, blocks_ahead):
        logits = TABLE(ids)
        for canvas, row in zip(ids, logits, strict=True):
            masks = torch.nonzero(canvas == MASK)
            first = int(masks[0]) if len(masks) else len(canvas) - 1
            end = start + ((first - start) // block + 1) * block
            where = torch.arange(len(canvas))
            # A block without masks may still be edited: it is the last one that has none.
            eligible = (where >= max(start, end - 2 * block)) if judges_written else canvas == MASK
            row[~(eligible & (where < end + blocks_ahead * block))] = np.nan
        return logits

    arguments = {"max_new_tokens": 8, "block_length": block, "mask_token_id": MASK, "temperature": 0.9}
    for name in PRESETS:
        base = dllm_fast.sample(TABLE, [[1, 2, 3], [4, 5, 6]], preset=name, **arguments)
        rule = PRESETS[name]
        judges_written = rule.edit_threshold is not None or rule.remask in {"planner", "confidence-drop", "verify"}
        blocks_ahead = 0 if rule.add_block_at is None else 1
        model = functools.partial(only_this_block, judges_written=judges_written, blocks_ahead=blocks_ahead)
        poisoned = dllm_fast.sample(model, [[1, 2, 3], [4, 5, 6]], preset=name, **arguments)
        assert same_runs(base, poisoned), name


def test_shifted_logits():
    """`shift`: row i - 1 predicts position i. A model whose rows are shifted, read so, is the model itself."""

    def shifted(ids):
        logits = TABLE(ids)
        return torch.cat([logits[:, 1:], torch.full_like(logits[:, :1], np.nan)], dim=1)

    arguments = {"max_new_tokens": 6, "mask_token_id": MASK, "temperature": 0.9, "seed": 4}
    base = dllm_fast.sample(TABLE, PROMPTS, **arguments)
    assert same_runs(base, dllm_fast.sample(shifted, PROMPTS, shift=True, **arguments))


def test_ids_of_the_model_are_taken():
    model = Watched(TABLE, mask_token_id=MASK, eos_token_id=END, vocab_size=VOCABULARY, max_position_embeddings=16)
    result = dllm_fast.sample(model, [1, 2])
    assert result.config.mask_token_id == MASK
    assert result.config.eos_token_id == END
    assert result.config.stop_at_eos is True
    assert len(result.sequences[0]) == 16, "no more than the context has room for"
    assert dllm_fast.infill(model, [1, MASK]).config.stop_at_eos is False


# --- what comes out


def test_infill_fills_exactly_the_masks():
    canvases = [[1, MASK, 2], [3, 4], [MASK], [5, 6, 8]]
    model = Watched(TABLE)
    result = dllm_fast.infill(model, canvases, mask_token_id=MASK)
    assert [len(s) for s in result.sequences] == [3, 2, 1, 3]
    assert result.sequences[1].tolist() == [3, 4]
    assert result.sequences[3].tolist() == [5, 6, 8]
    assert result.stats.nfe_per_row == [1, 0, 1, 0]
    assert [len(new) for new in result.new_tokens] == [1, 0, 1, 0]
    assert all(s.dtype == np.int64 for s in [*result.sequences, *result.new_tokens])
    nothing = dllm_fast.infill(model, [3, 4], mask_token_id=MASK)
    assert (nothing.stats.nfe, nothing.stats.tokens_per_forward, nothing.trajectory) == (0, 0.0, [[]])


def test_blocks_of_infill_are_counted_from_0_and_those_of_sample_from_the_end_of_the_prompt():
    left_last = toys.ByPosition(np.eye(5)[[1, 1, 1, 1, 1, 1]] * np.arange(1, 7)[:, None])
    infilled = dllm_fast.infill(left_last, [0, 4, 4, 4, 4], mask_token_id=4, block_length=2)
    assert [e.position for e in infilled.trajectory[0]] == [1, 3, 2, 4], "blocks 0-1, 2-3, and a short one"
    sampled = dllm_fast.sample(left_last, [0], max_new_tokens=4, mask_token_id=4, block_length=2)
    assert [e.position for e in sampled.trajectory[0]] == [2, 1, 4, 3]


def test_events_tell_every_step():
    events = []
    arguments = {"max_new_tokens": 6, "mask_token_id": MASK, "temperature": 0.7, "order": "random", "seed": [1, 2, 3, 4]}
    silent = dllm_fast.sample(TABLE, PROMPTS, **arguments)
    result = dllm_fast.sample(TABLE, PROMPTS, on_step=events.append, guesses=True, **arguments)
    assert same_runs(silent, result), "watching changes nothing"
    assert [event.step for event in events] == list(range(6))
    written = {row: {} for row in range(4)}
    for event in events:
        for i, row in enumerate(event.rows.tolist()):
            step = dict(zip(event.positions[i].tolist(), event.tokens[i].tolist(), strict=True))
            assert step == {e.position: e.token for e in result.trajectory[row] if e.step == event.step}
            written[row] |= step
            guessed = event.guess_positions[i].tolist()
            start = len(PROMPTS[row])
            assert guessed == [p for p in range(start, start + 6) if p not in written[row]]
            assert MASK not in event.guess_tokens[i]
    assert [list(w.values()) for w in map(dict, map(sorted, map(dict.items, written.values())))] == [
        new.tolist() for new in result.new_tokens
    ]


class Letters:
    """A tokenizer of one letter a token: a = 0, b = 1, ..."""

    mask_token_id = MASK
    eos_token_id = None

    def encode(self, text):
        return [ord(c) - ord("a") for c in text]

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(ord("a") + i) for i in ids)


def test_strings():
    result = dllm_fast.sample(TABLE, "bcd", tokenizer=Letters(), max_new_tokens=4)
    ids = dllm_fast.sample(TABLE, [1, 2, 3], max_new_tokens=4, mask_token_id=MASK)
    assert same_runs(result, ids)
    assert result.text == result.texts[0] == Letters().decode(ids.new_tokens[0].tolist())
    several = dllm_fast.sample(TABLE, ["bcd", "b"], tokenizer=Letters(), max_new_tokens=4)
    assert several.texts[0] == result.text
    assert ids.texts is None
    infilled = dllm_fast.infill(TABLE, "bhd", tokenizer=Letters())
    assert infilled.text[0] + infilled.text[2] == "bd", "the whole canvas"


# --- a model without errors of its own


ORACLE = toys.SudokuOracle()


def test_the_grids_are_the_288_of_order_two():
    assert len(ORACLE.grids) == 288


@pytest.mark.parametrize("preset", ["llada", "left-to-right", "llada-random", "entropy-bound", "fast-dllm", "maskgit", "mdlm"])
def test_one_a_step_never_leaves_what_can_be_completed(preset):
    """The oracle gives no mass to what nothing completes, so whatever the order, cell by cell the grid is right."""
    puzzles = np.zeros((12, 16), dtype=np.int64)
    rng = np.random.default_rng(0)
    for puzzle, grid in zip(puzzles, rng.integers(0, 288, 12), strict=True):
        keep = rng.random(16) < 0.3
        puzzle[keep] = ORACLE.grids[grid][keep]
    one_a_step = {"schedule": "even", "threshold": 2.0, "order": "random" if preset == "mdlm" else PRESETS[preset].order}
    result = dllm_fast.infill(ORACLE, puzzles, preset=preset, mask_token_id=0, temperature=1.0, **one_a_step)
    grids = {tuple(grid) for grid in ORACLE.grids.tolist()}
    assert all(tuple(s.tolist()) in grids for s in result.sequences)


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy", "random", "left-to-right"])
def test_orders_by_the_distribution_keep_the_law(order):
    """Exact conditionals, one cell a step, temperature 1: every grid is equally likely, whatever the order looks at."""
    assert chi_square_over_grids(order) < 287 + 4 * np.sqrt(2 * 287)


def test_order_by_the_sampled_token_does_not():
    """The published form prefers positions that happened to draw a likely token; it is there by name, and it is biased."""
    assert chi_square_over_grids("sampled-confidence") > 287 + 4 * np.sqrt(2 * 287)


def chi_square_over_grids(order):
    n = 1440
    result = dllm_fast.infill(ORACLE, [0] * 16, mask_token_id=0, order=order, temperature=1.0, num_samples=n, seed=9)
    index = {tuple(grid): i for i, grid in enumerate(ORACLE.grids.tolist())}
    counts = np.bincount([index[tuple(s.tolist())] for s in result.sequences], minlength=288)
    return ((counts - n / 288) ** 2 / (n / 288)).sum()


# --- what is refused, and how


def explained(error, words):
    message = str(error)
    missing = [word for word in [*words, "; "] if word not in message]
    assert not missing, f"{missing} not in: {message}"


VALUE_ERRORS = {
    "empty prompt": (dllm_fast.sample, [], {}, ["prompt", "at least one", "got none"]),
    "empty row": (dllm_fast.sample, [[1], []], {}, ["prompt", "not be empty", "row 1"]),
    "empty canvas": (dllm_fast.infill, [[]], {}, ["canvas", "not be empty", "row 0"]),
    "empty array": (dllm_fast.sample, np.array([], dtype=np.int64), {}, ["prompt", "empty"]),
    "prompt and answer beyond the context": (
        dllm_fast.sample,
        [1] * 10,
        {"max_new_tokens": 10},
        ["context of 16", "10 + 10", "max_new_tokens"],
    ),
    "prompt beyond the context": (dllm_fast.sample, [1] * 17, {}, ["context of 16", "17"]),
    "canvas beyond the context": (dllm_fast.infill, [MASK] * 17, {}, ["context of 16", "17"]),
    "mask outside the vocabulary": (dllm_fast.sample, [1], {"mask_token_id": 11}, ["mask_token_id", "11"]),
    "end outside the vocabulary": (dllm_fast.sample, [1], {"eos_token_id": 99}, ["eos_token_id", "99", "11"]),
    "suppressed outside the vocabulary": (dllm_fast.sample, [1], {"suppress_tokens": [12]}, ["suppress_tokens", "12", "11"]),
    "id outside the vocabulary": (dllm_fast.sample, [[1], [2, 11]], {}, ["prompt", "[0, 11)", "got 11", "row 1"]),
    "negative id": (dllm_fast.infill, [1, -2], {}, ["canvas", "got -2", "row 0"]),
    "mask in the prompt": (dllm_fast.sample, [[1], [2, MASK]], {}, ["mask", "position 1", "row 1", "infill"]),
    "zero new tokens": (dllm_fast.sample, [1], {"max_new_tokens": 0}, ["max_new_tokens", "at least 1", "got 0"]),
    "negative new tokens": (dllm_fast.sample, [1], {"max_new_tokens": -1}, ["max_new_tokens", "-1"]),
    "new tokens for infill": (dllm_fast.infill, [1, MASK], {"max_new_tokens": 4}, ["infill", "max_new_tokens", "sample"]),
    "block does not divide": (
        dllm_fast.sample,
        [1],
        {"max_new_tokens": 10, "block_length": 4},
        ["block_length", "divide max_new_tokens", "got 4 and 10", "block_length=5", "max_new_tokens=8 or 12"],
    ),
    "more blocks than steps": (
        dllm_fast.sample,
        [1],
        {"max_new_tokens": 12, "block_length": 3, "steps": 2},
        ["steps", "at least", "2 steps for the 4 blocks of row 0", "steps=4 or more", "steps_per_block"],
    ),
    "more blocks than steps in one row": (
        dllm_fast.infill,
        [[1, MASK], [MASK, MASK, MASK, MASK, MASK], [MASK, 1, MASK]],
        {"block_length": 2, "steps": 2},
        ["steps", "2 steps for the 3 blocks of row 1", "steps=3 or more"],
    ),
    "total and per block": (
        dllm_fast.sample,
        [1],
        {"steps": 8, "num_inference_steps": 8},
        ["steps", "num_inference_steps", "total", "one of them"],
    ),
    "two names": (dllm_fast.sample, [1], {"max_new_tokens": 4, "gen_length": 8}, ["max_new_tokens", "gen_length", "4", "8"]),
    "unknown name": (dllm_fast.sample, [1], {"temprature": 1.0}, ["temprature", "'temperature'"]),
    "negative temperature": (dllm_fast.sample, [1], {"temperature": -1.0}, ["temperature", "at least 0", "-1"]),
    "top_p 0": (dllm_fast.sample, [1], {"top_p": 0.0}, ["top_p", "(0, 1]", "got 0"]),
    "top_p above 1": (dllm_fast.sample, [1], {"top_p": 1.01}, ["top_p", "(0, 1]", "1.01"]),
    "string without tokenizer": (dllm_fast.sample, "hello", {}, ["tokenizer", "hello"]),
    "strings without tokenizer": (dllm_fast.infill, ["hello"], {}, ["tokenizer", "hello"]),
    "preset unknown": (dllm_fast.sample, [1], {"preset": "lada"}, ["preset", "llada", "'lada'"]),
    "preset and config": (
        dllm_fast.sample,
        [1],
        {"preset": "llada", "config": dllm_fast.SamplerConfig()},
        ["preset", "config", "one of them"],
    ),
    "num_samples 0": (dllm_fast.sample, [1], {"num_samples": 0}, ["num_samples", "at least 1", "got 0"]),
    "seed negative": (dllm_fast.sample, [1], {"seed": -1}, ["seed", "[0, 2^64)", "-1"]),
    "seeds too few": (dllm_fast.sample, [[1], [2], [3]], {"seed": [1, 2]}, ["seed", "3 prompts", "got 2"]),
    "stop without an end": (dllm_fast.sample, [1], {"stop_at_eos": True}, ["stop_at_eos", "eos_token_id"]),
}


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_bad_values_are_refused_before_any_forward(case):
    run, prompt, arguments, words = VALUE_ERRORS[case]
    model = Watched(TABLE, vocab_size=VOCABULARY, max_position_embeddings=16)
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        run(model, prompt, **{"mask_token_id": MASK, **arguments})
    assert isinstance(caught.value, ValueError)
    explained(caught.value, words)
    assert model.calls == []


TYPE_ERRORS = {
    "model": (lambda: dllm_fast.sample(3, [1], mask_token_id=MASK), ["model", "callable", "int"]),
    "prompt": (lambda: dllm_fast.sample(TABLE, 3.5, mask_token_id=MASK), ["prompt", "float"]),
    "prompt none": (lambda: dllm_fast.sample(TABLE, None, mask_token_id=MASK), ["prompt", "NoneType"]),
    "prompt of fractions": (lambda: dllm_fast.sample(TABLE, [0.5, 1.5], mask_token_id=MASK), ["prompt", "integers", "0.5"]),
    "3-D": (lambda: dllm_fast.sample(TABLE, np.zeros((1, 2, 3), dtype=np.int64), mask_token_id=MASK), ["prompt", "[2, 3]"]),
    "config": (lambda: dllm_fast.sample(TABLE, [1], config={"steps": 3}), ["config", "SamplerConfig", "dict"]),
    "steps": (lambda: dllm_fast.sample(TABLE, [1], steps="many", mask_token_id=MASK), ["steps", "many"]),
    "seed": (lambda: dllm_fast.sample(TABLE, [1], seed="lucky", mask_token_id=MASK), ["seed", "lucky"]),
    "seed fraction": (lambda: dllm_fast.sample(TABLE, [1], seed=1.5, mask_token_id=MASK), ["seed", "1.5"]),
    "seeds of fractions": (lambda: dllm_fast.sample(TABLE, [[1], [2]], seed=[1.5, 2], mask_token_id=MASK), ["seed", "1.5"]),
    "seeds of text": (lambda: dllm_fast.sample(TABLE, [[1]], seed=["a"], mask_token_id=MASK), ["seed", "a"]),
    "num_samples": (lambda: dllm_fast.sample(TABLE, [1], num_samples=1.5, mask_token_id=MASK), ["num_samples", "1.5"]),
}


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_wrong_types_are_refused(case):
    call, words = TYPE_ERRORS[case]
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        call()
    assert isinstance(caught.value, TypeError)
    explained(caught.value, words)


def test_without_a_mask_id():
    model = Watched(TABLE)
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.sample(model, [1])
    assert isinstance(caught.value, ValueError)
    explained(caught.value, ["mask", "mask_token_id", "126336", "151666"])
    assert model.calls == []


def in_row_one(ids, value):
    logits = TABLE(ids)
    if len(logits) > 1:
        logits[1, 2] = value
    return logits


OUTPUTS = {
    "no sequence": (lambda ids: TABLE(ids)[:, 0], ValueError, ["[B, L, V]", "[2, 11]"]),
    "one short": (lambda ids: TABLE(ids)[:, 1:], ValueError, ["[B, L, V]", "[2, 5]", "[2, 4, 11]"]),
    "one row": (lambda ids: TABLE(ids)[:1], ValueError, ["[B, L, V]", "[2, 5]", "[1, 5, 11]"]),
    "float64": (lambda ids: TABLE(ids).double(), TypeError, ["float32", "float64", "logits.float()"]),
    "numpy float64": (lambda ids: TABLE(ids).double().numpy(), TypeError, ["float32", "float64"]),
    "int64": (lambda ids: TABLE(ids).long(), TypeError, ["float32", "int64"]),
    "a list": (lambda ids: TABLE(ids).tolist(), TypeError, ["logits", "list"]),
    "nothing": (lambda ids: None, TypeError, ["logits", "NoneType"]),
    "few ids": (lambda ids: TABLE(ids)[:, :, :5], ValueError, ["mask_token_id", "got 7", "5 columns"]),
    "nan": (lambda ids: in_row_one(ids, np.nan), ValueError, ["NaN", "row 1", "position 2", "id 0"]),
    "all -inf": (lambda ids: in_row_one(ids, -np.inf), ValueError, ["-inf", "row 1", "position 2"]),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_what_is_no_logits_is_refused(case):
    model, kind, words = OUTPUTS[case]
    prompts = np.array([[1, 2], [3, 4]])
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.sample(model, prompts, max_new_tokens=3, mask_token_id=MASK)
    assert isinstance(caught.value, kind)
    explained(caught.value, words)
    assert prompts.tolist() == [[1, 2], [3, 4]]


class OwnError(RuntimeError):
    """What a model raises."""


@pytest.mark.parametrize("error", [OwnError("out of memory"), KeyError(3), StopIteration()])
def test_an_exception_of_the_model_is_passed_on_with_a_note(error):
    model = Watched(TABLE)

    def fails_at_the_third(ids):
        if len(model.calls) == 2:
            raise error
        return model(ids)

    canvas = np.array([1, MASK, MASK, MASK, MASK])
    with pytest.raises(type(error)) as caught:
        dllm_fast.infill(fails_at_the_third, canvas, mask_token_id=MASK)
    assert caught.value is error
    assert len(error.__notes__) == 1
    assert "forward 2" in error.__notes__[0]
    assert canvas.tolist() == [1, MASK, MASK, MASK, MASK]


def test_text_needs_a_single_row_and_a_tokenizer():
    arguments = {"max_new_tokens": 2, "mask_token_id": MASK}
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        _ = dllm_fast.sample(TABLE, [1], **arguments).text
    explained(caught.value, ["text", "tokenizer"])
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        _ = dllm_fast.sample(TABLE, ["a", "b"], tokenizer=Letters(), **arguments).text
    explained(caught.value, ["text", "2 rows", "texts"])


# --- names of peers


def test_aliases_are_translated_and_recorded():
    ours = dllm_fast.sample(
        TABLE, [1], max_new_tokens=8, steps=4, block_length=4, mask_token_id=MASK, order="sampled-confidence"
    )
    llada = dllm_fast.sample(TABLE, [1], gen_length=8, steps=4, block_length=4, mask_id=MASK, remasking="low_confidence")
    diffusers = dllm_fast.sample(
        TABLE, [1], max_new_tokens=8, num_inference_steps=2, block_size=4, mask_token_id=MASK, preset="llada"
    )
    assert same_runs(ours, llada)
    assert same_runs(ours, diffusers)
    assert llada.aliases == {"gen_length": "max_new_tokens", "mask_id": "mask_token_id", "remasking": "order"}
    assert diffusers.aliases == {"num_inference_steps": "steps_per_block", "block_size": "block_length"}
    assert ours.aliases == {}
    assert diffusers.config.steps_per_block == 2
    assert ours.config.steps == 4
