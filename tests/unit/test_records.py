"""Results, settings and errors outside of the process that made them: pickled, copied, as JSON, shown in a line."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast import _core
from dllm_fast.distribution import Distribution
from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError, KernelError
from dllm_fast.result import Stats

MASK, EOS, VOCABULARY = 9, 8, 10
LONGEST = 2000
WORDS, TOKENIZER = dllm_fast.demo.load_text()


def flat(ids: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*ids.shape, VOCABULARY)


def run(seed: int = 3, rows: int = 2, **settings: Any) -> dllm_fast.Result:
    given: dict[str, Any] = {"mask_token_id": MASK, "max_new_tokens": 6, "temperature": 1.0, "eos_token_id": (EOS, 7)}
    return dllm_fast.sample(flat, [[1]] * rows, seed=seed, **given | settings)


def events(**settings: Any) -> list[dllm_fast.StepEvent]:
    seen: list[dllm_fast.StepEvent] = []
    run(on_step=seen.append, **settings)
    return seen


def distribution() -> Distribution:
    return dllm_fast.distributions(WORDS, "sort:cab=[MASK]", tokenizer=TOKENIZER)[0]


def edits() -> list[dllm_fast.Edit]:
    """With a time and without, of each kind that runs make, and with what only callers give."""
    found = run(schedule="first-hitting", order="random").trajectory[0] + run(stop_at_eos=True).trajectory[0]
    first = {"step": 0, "position": 2**32 - 1, "token": 0, "kind": "remask"}
    return [*found, *(dllm_fast.Edit(**first, probability=p, time=-p) for p in (math.inf, -math.inf, 0.1, 5e-324))]


CONFIGS = {
    "plain": dllm_fast.SamplerConfig(),
    "many": dllm_fast.SamplerConfig(
        steps=8,
        threshold=math.inf,
        order_temperature=0.1,
        suppress_tokens=(1, 2),
        eos_token_id=(3, 4),
        top_k=5,
        stop_at_eos=True,
    ),
    "numbers of NumPy and torch": dllm_fast.SamplerConfig(
        steps=np.int64(8),
        temperature=np.float32(0.5),
        suppress_tokens=np.array([1, 2]),
        eos_token_id=np.int32(3),
        shift=np.bool_(True),
        min_commit=torch.tensor(2),
    ),
    "of a run": run().config,
    **{f"preset {name}": preset for name, preset in dllm_fast.presets().items()},
}
VALUES = {
    **{f"settings, {name}": config for name, config in CONFIGS.items()},
    "result": run(),
    "result with text and names": dllm_fast.sample(WORDS, "sort:cab=", tokenizer=TOKENIZER, gen_length=16),
    "result with seeds": dllm_fast.infill(flat, [[MASK], [1, MASK]], mask_token_id=MASK, seed=[1, 2**64 - 1]),
    "result without forwards": dllm_fast.infill(flat, [[1]], mask_token_id=MASK),
    "costs": run().stats,
    "distribution": distribution(),
    "distribution of ids": dataclasses.replace(distribution(), tokens=None),
    "event": events()[0],
    "last event": events()[-1],
    **{f"edit {i}": edit for i, edit in enumerate(edits())},
}


def twin(value: Any) -> Any:
    """Of another value and the same class."""
    if isinstance(value, dllm_fast.Edit):
        return dllm_fast.Edit(step=99, position=0, token=0, probability=0.5, kind="commit")
    if isinstance(value, dllm_fast.SamplerConfig):
        return dataclasses.replace(value, max_batch_rows=123)  # which no rule refuses
    if isinstance(value, Distribution):
        return dataclasses.replace(value, row=77)
    name = "nfe" if isinstance(value, Stats) else "step" if isinstance(value, dllm_fast.StepEvent) else "seed"
    return dataclasses.replace(value, **{name: 77})


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_pickle_is_the_same_value(value: Any, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(value, protocol=protocol))
    assert again == value
    assert again != twin(value)
    assert type(again) is type(value)
    assert repr(again) == repr(value)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_copies_and_json_are_the_same_value(value: Any) -> None:
    text = json.dumps(value.to_dict(), allow_nan=False)
    for again in (copy.copy(value), copy.deepcopy(value), type(value).from_dict(json.loads(text))):
        assert again == value
        assert again != twin(value)
        assert json.dumps(again.to_dict(), allow_nan=False) == text
    assert value != "another kind of value"


def test_what_json_has_no_number_for() -> None:
    edit = dllm_fast.Edit(step=1, position=2, token=3, probability=math.inf, kind="pad")
    assert edit.to_dict() == {"step": 1, "position": 2, "token": 3, "probability": "inf", "kind": "pad", "time": None}
    assert math.isnan(dllm_fast.Edit.from_dict(edit.to_dict()).time)
    assert dllm_fast.SamplerConfig(factor=math.inf).to_dict()["factor"] == "inf"


def test_a_file_from_before_graphs_were_counted_is_read() -> None:
    written = run().to_dict()
    assert written["stats"].pop("replayed") == 0
    assert dllm_fast.Result.from_dict(written) == run_as(written)
    with pytest.raises(TypeError, match="replayed must be"):
        dllm_fast.Result.from_dict(written | {"stats": written["stats"] | {"replayed": "all"}})


def run_as(written: dict) -> dllm_fast.Result:
    """The result that these values are of, with the count that they lack."""
    return dllm_fast.Result.from_dict(written | {"stats": written["stats"] | {"replayed": 0}})


def test_the_sources_of_settings_go_with_a_result_and_not_into_a_file() -> None:
    result = run()
    assert result.to_dict()["config"]["sources"]["temperature"] == "caller"
    assert dllm_fast.Result.from_dict(result.to_dict()).config.sources == result.config.sources
    assert "sources" not in dllm_fast.SamplerConfig(steps=4).to_dict()


def test_settings_of_a_file_may_leave_out_what_is_at_its_default() -> None:
    written = json.loads('{"steps": 8, "threshold": 0.9, "suppress_tokens": [4]}')
    assert dllm_fast.SamplerConfig.from_dict(written) == dllm_fast.SamplerConfig(steps=8, threshold=0.9, suppress_tokens=(4,))
    result = dllm_fast.sample(
        flat, [1], mask_token_id=MASK, max_new_tokens=8, config=dllm_fast.SamplerConfig.from_dict(written)
    )
    assert (result.config.threshold, result.config.sources["threshold"]) == (0.9, "caller")


def test_edits_are_values() -> None:
    made = {"step": 0, "position": 1, "token": 2, "probability": 0.5, "kind": "commit"}
    edit = dllm_fast.Edit(**made)
    assert {edit, dllm_fast.Edit(**made), dllm_fast.Edit(**made | {"token": 3})} == {
        edit,
        dllm_fast.Edit(**made | {"token": 3}),
    }
    assert len({dllm_fast.Edit(**made | {"probability": p}) for p in (0.0, -0.0, math.nan, -math.nan)}) == 2
    for name, other in {
        **dict.fromkeys(("step", "position", "token"), 7),
        "probability": 0.1,
        "kind": "pad",
        "time": 0.5,
    }.items():
        assert dllm_fast.Edit(**made | {name: other}) != edit
        with pytest.raises(AttributeError):
            setattr(edit, name, other)


def test_settings_keep_plain_numbers() -> None:
    config = CONFIGS["numbers of NumPy and torch"]
    values = [config.steps, config.temperature, *config.suppress_tokens, config.eos_token_id, config.shift, config.min_commit]
    assert [type(value) for value in values] == [int, float, int, int, int, bool, int]


BROKEN = {
    "no dictionary": (lambda: dllm_fast.Result.from_dict([1]), TypeError, "Result.from_dict takes a dictionary, got .1.; pass"),  # type: ignore[arg-type]
    "a name too many": (
        lambda: dllm_fast.Result.from_dict(run().to_dict() | {"tokens": []}),
        ValueError,
        "the names that to_dict gives .*got 'tokens'; pass what",
    ),
    "a name too few": (lambda: Stats.from_dict({"nfe": 1}), ValueError, "got no 'nfe_per_row' and no"),
    "an edit's name": (lambda: dllm_fast.Edit.from_dict({"step": 1}), ValueError, "Edit.from_dict .*got no 'position'"),
    "an event's name": (lambda: dllm_fast.StepEvent.from_dict({}), ValueError, "StepEvent.from_dict .*got no 'step'"),
    "no setting": (
        lambda: dllm_fast.SamplerConfig.from_dict({"step": 1}),
        ValueError,
        "^step is not a setting, got 1; did you mean 'steps'",
    ),
    "no name": (lambda: dllm_fast.SamplerConfig.from_dict({3: 1}), ValueError, "^3 is not a setting, got 1; help"),  # type: ignore[dict-item]
    "no settings": (lambda: dllm_fast.SamplerConfig.from_dict([3]), TypeError, "takes a dictionary, got .3.; pass"),  # type: ignore[arg-type]
    "a bad setting": (lambda: dllm_fast.SamplerConfig.from_dict({"steps": 0}), ValueError, "steps must be at least 1, got 0"),
    "no list of rows": (
        lambda: dllm_fast.Result.from_dict(run().to_dict() | {"sequences": 3}),
        TypeError,
        "sequences must be a list, got 3",
    ),
    "no ids": (
        lambda: dllm_fast.Result.from_dict(run().to_dict() | {"sequences": [["a"]]}),
        TypeError,
        "sequences must hold integers",
    ),
    **{
        f"{name}={value!r}": (
            functools.partial(lambda name, value: dllm_fast.Result.from_dict(run().to_dict() | {name: value}), name, value),
            TypeError,
            says,
        )
        for name, value, says in (
            ("seed", "x", "seed must be a whole number from 0, got 'x'; pass what to_dict gave"),
            ("seed", -1, "seed must be a whole number from 0, got -1"),
            ("seed", [1, None], "seed must be a whole number from 0, got None"),
            ("texts", 5, "texts must be a list, got 5"),
            ("texts", [5, "a"], "texts must be a text, got 5"),
            ("aliases", [], "aliases must be a dictionary of texts, got .."),
            ("aliases", {"n": 1}, "aliases must be a text, got 1"),
        )
    },
    "no number of forwards": (
        lambda: dllm_fast.Result.from_dict(run().to_dict() | {"stats": run().stats.to_dict() | {"nfe": "x"}}),
        TypeError,
        "nfe must be a whole number from 0, got 'x'",
    ),
    "no numbers of forwards": (
        lambda: Stats.from_dict(run().stats.to_dict() | {"nfe_per_row": [1.5]}),
        TypeError,
        "nfe_per_row must be a whole number from 0, got 1.5",
    ),
    "a row too few": (
        lambda: dllm_fast.Result.from_dict(run().to_dict() | {"texts": ["one"]}),
        ValueError,
        "an entry for each row, got 2, 2, 2, 2, 1, 2; pass",
    ),
    "no step": (
        lambda: dllm_fast.StepEvent.from_dict(events()[0].to_dict() | {"step": True}),
        TypeError,
        "step must be a whole number from 0, got True",
    ),
    "no text of a token": (
        lambda: Distribution.from_dict(distribution().to_dict() | {"tokens": [1]}),
        TypeError,
        "tokens must be a text, got 1",
    ),
    "a token too few": (
        lambda: Distribution.from_dict(distribution().to_dict() | {"tokens": ["a"]}),
        ValueError,
        "ids, probabilities and tokens must be as many, got 5, 5, 1",
    ),
    "no kind": (
        lambda: dllm_fast.Edit.from_dict(edits()[0].to_dict() | {"kind": "erase"}),
        ValueError,
        "kind must be one of commit, edit, remask, renoise, pad, insert, delete, got 'erase'",
    ),
    "no number": (
        lambda: dllm_fast.Edit.from_dict(edits()[0].to_dict() | {"time": "soon"}),
        TypeError,
        'time must be a number, None, "inf" or "-inf", got \'soon\'',
    ),
    "no token": (
        lambda: dllm_fast.Edit.from_dict(edits()[0].to_dict() | {"token": -1}),
        ValueError,
        "token must be a whole number from 0 below 2.32, got -1",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_to_dict_does_not_write_is_refused(case: str) -> None:
    make, kind, words = BROKEN[case]
    with pytest.raises(dllm_fast.DllmFastError, match=words) as caught:
        make()
    assert isinstance(caught.value, kind)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons warn where this one must work
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_answers_arrive_from_other_processes(start: str) -> None:
    with multiprocessing.get_context(start).Pool(1) as pool:
        for seed, result in enumerate(pool.map_async(run, range(3)).get(120)):
            here = run(seed)
            assert result.trajectory == here.trajectory
            assert dataclasses.replace(result, stats=here.stats) == here
            assert result.stats.nfe == here.stats.nfe


def test_errors_arrive_from_other_processes() -> None:
    for kind in (dllm_fast.DllmFastError, InvalidValueError, InvalidTypeError, CheckpointError, KernelError):
        again = pickle.loads(pickle.dumps(kind("steps must be at least 1, got 0")))
        assert (type(again), str(again)) == (kind, "steps must be at least 1, got 0")


def test_predictions_and_explanations_pickle() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    for current in (None, [1, 2, 3, 4, 5]):
        prediction = dllm_fast.mask_predict(logits, current=current)
        for again in (pickle.loads(pickle.dumps(prediction)), copy.deepcopy(prediction)):
            for name in ("token", "probability", "top1", "top2", "entropy", "logsumexp", "current"):
                np.testing.assert_array_equal(getattr(again, name), getattr(prediction, name))
    model, _ = dllm_fast.demo.load()
    for value in (dllm_fast.explain(model), model.info):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value


def many() -> list[Any]:
    long = dllm_fast.sample(flat, [[1]] * 300, mask_token_id=MASK, max_new_tokens=200, steps=1, eos_token_id=tuple(range(8)))
    event = events(rows=1000)[0]
    model, _ = dllm_fast.demo.load()
    ids = tuple(range(100_000))
    return [
        dataclasses.replace(long, texts=["a\n" * 10_000] * 300, seed=list(range(300)), aliases={"x" * 999: "y" * 999}),
        long.stats,
        event,
        dllm_fast.SamplerConfig(suppress_tokens=ids, eos_token_id=ids),
        dllm_fast.mask_predict(np.zeros((5000, 4), dtype=np.float32)),
        dataclasses.replace(
            dllm_fast.explain(model), notes=("n" * 500,) * 50, eos_token_ids=ids, sources={"s" * 99: "t" * 9999}
        ),
        dataclasses.replace(model.info, notes=("n" * 500,) * 50, eos_token_ids=ids, verified="v" * 9999),
        dllm_fast.Edit(step=0, position=0, token=0, probability=1e300, kind="commit"),
    ]


def test_representations_are_short_whatever_the_size() -> None:
    for value in many():
        assert 20 < len(repr(value)) < LONGEST, type(value)
        assert type(value).__name__ in repr(value)


def test_a_representation_shows_the_first_of_many() -> None:
    assert "suppress_tokens=(0, 1, 2, 3, 4, 5, 6, 7, ... 100000 in all)" in repr(
        dllm_fast.SamplerConfig(suppress_tokens=tuple(range(100_000)))
    )
    assert "eos_token_id=(3,)" in repr(dllm_fast.SamplerConfig(eos_token_id=(3,)))
    assert repr(dllm_fast.SamplerConfig(steps=4, top_k=None)) == "SamplerConfig(steps=4)", "what is usual is left out"
    assert "sequences=[[1, 0, 0], [1, 0, 0]]" in repr(run(max_new_tokens=2, temperature=0.0))


HUGE = {
    "many suppressed": lambda: dllm_fast.SamplerConfig(suppress_tokens=[*range(100_000), -1]),
    "a long name": lambda: dllm_fast.SamplerConfig(order="x" * 100_000),
    "a long cache": lambda: dllm_fast.SamplerConfig(cache="x" * 100_000),
    "a long preset": lambda: run(preset="x" * 100_000),
    "a long setting": lambda: run(**{"x" * 100_000: 1}),
    "a long value": lambda: run(remasking="x" * 100_000),
    "a long temperature": lambda: run(temperature="x" * 100_000),
    "two long names": lambda: run(gen_length=["x"] * 100_000, max_tokens=["y"] * 100_000),
    "a long number": lambda: dllm_fast.SamplerConfig(steps=-(10**5000)),
    "a long seed": lambda: run(seed=10**5000),
    "long seeds": lambda: run(seed=["x"] * 100_000),
    "long samples": lambda: run(num_samples="x" * 100_000),
    "a long number of samples": lambda: run(num_samples=-(10**5000)),
    "long batches": lambda: run(max_batch_rows=-(10**5000)),
    "a long prompt": lambda: dllm_fast.sample(flat, ["x" * 100_000], mask_token_id=MASK),
    "a long prompt of words": lambda: dllm_fast.sample(flat, [["x"] * 100_000], mask_token_id=MASK),
    "many rows": lambda: _core.Sampler(dllm_fast.SamplerConfig(mask_token_id=MASK), [[MASK]], seed=["x"] * 100_000),
    "a long schedule": lambda: dllm_fast.schedule("x" * 100_000, 1, 1),
    "long steps": lambda: dllm_fast.schedule("even", 1, -(10**5000)),
}


@pytest.mark.parametrize("case", HUGE)
def test_errors_are_short_whatever_they_show(case: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        HUGE[case]()
    assert len(str(caught.value)) < LONGEST
    said = " is not a setting" if case == "a long setting" else ", got "
    assert said in str(caught.value)


def test_the_middle_of_a_long_error_is_left_out() -> None:
    text = str(InvalidValueError(f"steps must be at least 1, got {'x' * 9999}; use 1"))
    assert text.startswith("steps must be at least 1, got xxx")
    assert text.endswith("xxx; use 1")
    assert " ... " in text
