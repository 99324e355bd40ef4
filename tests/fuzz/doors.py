"""Every public function and method with arguments that it takes, found by looking: what is new has to be named here.

`DOORS` says how a call is made, and of what kind each argument is. A parameter that a signature has and `KINDS` does not know
fails the test, and so does a public name without a door.
"""

# ruff: noqa: PLW0108, each is made when it is called

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, is_typeddict

import numpy as np
import torch

import dllm_fast
from dllm_fast import _core, demo
from dllm_fast.loading.arguments import OVERRIDES
from dllm_fast.settings.config import SamplerConfig

MASK = 4
VOCABULARY = 5


def model(ids: torch.Tensor) -> torch.Tensor:
    """A model of five tokens, of which nothing is known."""
    return torch.nn.functional.one_hot((ids + 1) % 4, VOCABULARY).float()


@dataclass(frozen=True)
class Door:
    """One way into the package.

    Attributes:
        call: the function, or a function that makes an object anew and calls its method.
        base: arguments that it takes, made anew.
        names: of its parameters.
    """

    call: Callable[..., Any]
    base: Callable[[], dict[str, Any]]
    names: tuple[str, ...]


def logits() -> Any:
    return np.arange(10, dtype=np.float32).reshape(2, 5)


def rule(**settings: Any) -> SamplerConfig:
    return SamplerConfig(mask_token_id=MASK, **settings)


def statistics() -> dict[str, Any]:
    halves = np.full(2, 0.5)
    return {"token": [1, 2], "probability": halves, "top1": halves, "top2": halves, "entropy": halves}


def written() -> _core.Sampler:
    """A sampler with a row of one token, which is written."""
    sampler = _core.Sampler(rule(), [[MASK]])
    sampler.next()
    sampler.feed(tokens=[1], scores=[1.0])
    return sampler


def waiting() -> tuple[_core.Sampler, _core.Request]:
    sampler = _core.Sampler(rule(), [[MASK, MASK]])
    request = sampler.next()
    assert request is not None
    return sampler, request


@functools.cache
def _result() -> dllm_fast.Result:
    return dllm_fast.sample(model, [1, 2], mask_token_id=MASK, max_new_tokens=2)


def _run() -> dllm_fast.Run:
    return dllm_fast.stream(model, [[1], [2]], **SAMPLED)


@functools.cache
def _event() -> dict[str, Any]:
    events: list[dllm_fast.StepEvent] = []
    dllm_fast.infill(model, [MASK, 1], mask_token_id=MASK, on_step=events.append, guesses=True)
    return events[0].to_dict()


@functools.cache
def _distribution() -> dict[str, Any]:
    return dllm_fast.distributions(model, [MASK, 1], mask_token_id=MASK, top=2)[0].to_dict()


@functools.cache
def _loaded() -> Any:
    return demo.load()[0]


EDIT = {"step": 0, "position": 1, "token": 2, "probability": 0.5, "kind": "commit", "time": None}
SAMPLED: dict[str, Any] = {"mask_token_id": MASK, "max_new_tokens": 2}


def _keyed(of: Callable[[dict[str, Any]], Any], whole: Callable[[], dict[str, Any]]) -> Door:
    """A door that takes a dictionary: each of its entries is an argument."""
    return Door(lambda **entries: of(entries), lambda: dict(whole()), tuple(whole()))


# How each is called with what it takes. A class stands for its constructor.
BASES: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "sample": (
        dllm_fast.sample,
        lambda: {"model": model, "prompt": [1, 2], "guidance": 0.5, "negative_prompt": [1], **SAMPLED},
    ),
    "infill": (dllm_fast.infill, lambda: {"model": model, "canvas": [1, MASK], "mask_token_id": MASK}),
    "distributions": (dllm_fast.distributions, lambda: {"model": model, "canvas": [1, MASK], "mask_token_id": MASK, "top": 2}),
    "stream": (dllm_fast.stream, lambda: {"model": model, "prompt": [1, 2], **SAMPLED}),
    "Run.step": (lambda: _run().step(), dict),
    "Run.result": (lambda: _run().result(), dict),
    "Run.cancel": (lambda **given: _run().cancel(**given), lambda: {"row": 0}),
    "Run.close": (lambda: _run().close(), dict),
    "generate": (
        dllm_fast.generate,
        lambda: {"model": model, "input_ids": torch.tensor([[1, 2]]), "max_new_tokens": 2, "mask_token_id": MASK},
    ),
    "load": (dllm_fast.load, lambda: {"folder_or_id": demo.FOLDER / "sudoku"}),
    "explain": (dllm_fast.explain, lambda: {"model": _loaded()}),
    "mask_predict": (dllm_fast.mask_predict, lambda: {"logits": logits()}),
    "schedule": (dllm_fast.schedule, lambda: {"name": "dream", "masks": 4, "steps": 3}),
    "presets": (dllm_fast.presets, dict),
    "SamplerConfig": (SamplerConfig, lambda: {"mask_token_id": MASK}),
    "SamplerConfig.from_dict": (SamplerConfig.from_dict, lambda: {"values": rule().to_dict()}),
    "SamplerConfig.to_dict": (lambda: rule().to_dict(), dict),
    "Sampler": (_core.Sampler, lambda: {"config": rule(), "canvases": [[MASK, 1], [MASK]]}),
    "Sampler.add": (lambda **given: waiting()[0].add(**given), lambda: {"canvas": [MASK, 1]}),
    "Sampler.cancel": (lambda **given: waiting()[0].cancel(**given), lambda: {"row": 0}),
    "Sampler.is_done": (lambda **given: waiting()[0].is_done(**given), lambda: {"row": 0}),
    "Sampler.end": (lambda **given: written().end(**given), lambda: {"row": 0, "position": 0}),
    "Sampler.endings": (lambda **given: waiting()[0].endings(**given), lambda: {"rows": [0]}),
    "Sampler.written": (lambda **given: waiting()[0].written(**given), lambda: {"rows": [0], "since": [0]}),
    "Sampler.stable": (lambda **given: waiting()[0].stable(**given), lambda: {"rows": [0]}),
    "Sampler.next": (lambda: waiting()[0].next(), dict),
    "Sampler.config": (lambda **given: waiting()[0].config(**given), lambda: {"row": 0}),
    "Sampler.sites": (lambda **given: waiting()[0].sites(**given), lambda: {"rows": [0]}),
    "Sampler.current": (lambda **given: waiting()[0].current(**given), lambda: {"rows": [0]}),
    "Sampler.pace": (lambda **given: waiting()[0].pace(**given), lambda: {"rows": [0]}),
    "Sampler.predict": (lambda **given: waiting()[0].predict(**given), lambda: {"logits": logits()}),
    "Sampler.feed": (lambda **given: waiting()[0].feed(**given), lambda: {"logits": logits()}),
    "Sampler.edits": (lambda **given: waiting()[0].edits(**given), lambda: {"rows": [0], "since": [0]}),
    "Request.batch": (lambda **given: waiting()[1].batch(**given), lambda: {"begin": [0], "end": [2]}),
    "Request.groups": (lambda **given: waiting()[1].groups(**given), dict),
    "Request.with_canvases": (lambda **given: waiting()[1].with_canvases(**given), lambda: {"canvases": [[MASK, 1]]}),
    "Request.with_rows": (
        lambda **given: waiting()[1].with_rows(**given),
        lambda: {"places": [0, 0], "rows": [0, 1], "twins": [None, _core.Twin(hidden=[0], mask=MASK)]},
    ),
    "Request.shadow_of": (lambda **given: waiting()[1].shadow_of(**given), lambda: {"rows": [0]}),
    "Twin": (_core.Twin, lambda: {"prompt": [1, 2], "start": 1}),
    "Twin.canvas": (lambda **given: _core.Twin(prompt=[1, 2], start=1).canvas(**given), lambda: {"canvas": [1, MASK]}),
    "Prediction": (_core.Prediction, statistics),
    "Prediction.rounded": (lambda **given: _core.Prediction(**statistics()).rounded(**given), lambda: {"dtype": "float32"}),
    "TokenFrequencies": (_core.TokenFrequencies, lambda: {"counts": [1, 0, 2, 1, 1], "vocabulary": 5}),
    "TokenFrequencies.of": (_core.TokenFrequencies.of, lambda: {"tokens": [1, 1, 4], "vocabulary": 5}),
    "TokenFrequencies.from_dict": (_core.TokenFrequencies.from_dict, lambda: {"values": {"counts": [1, 2]}}),
    "TokenFrequencies.to_dict": (lambda: _core.TokenFrequencies([1, 2]).to_dict(), dict),
    "Edit": (_core.Edit, lambda: dict(EDIT)),
    "Edit.from_dict": (_core.Edit.from_dict, lambda: {"values": dict(EDIT)}),
    "Edit.to_dict": (lambda: _core.Edit(**EDIT).to_dict(), dict),  # type: ignore[arg-type]
    "Stats.from_dict": (dllm_fast.Stats.from_dict, lambda: {"values": _result().stats.to_dict()}),
    "Stats.to_dict": (lambda: _result().stats.to_dict(), dict),
    "Result.from_dict": (dllm_fast.Result.from_dict, lambda: {"values": _result().to_dict()}),
    "Result.to_dict": (lambda: _result().to_dict(), dict),
    "StepEvent.from_dict": (dllm_fast.StepEvent.from_dict, lambda: {"values": dict(_event())}),
    "StepEvent.to_dict": (lambda: dllm_fast.StepEvent.from_dict(_event()).to_dict(), dict),
    "Distribution.from_dict": (dllm_fast.Distribution.from_dict, lambda: {"values": dict(_distribution())}),
    "Distribution.to_dict": (lambda: dllm_fast.Distribution.from_dict(_distribution()).to_dict(), dict),
    "Explanation.to_dict": (lambda: dllm_fast.explain(_loaded()).to_dict(), dict),
    "demo.check": (demo.check, lambda: {"canvas": [1] * 81}),
    "demo.load": (demo.load, dict),
    "demo.load_text": (demo.load_text, dict),
    "demo.problems": (demo.problems, lambda: {"n": 1}),
    "demo.text_problems": (demo.text_problems, lambda: {"n": 2}),
    "_core.asks_current": (_core.asks_current, lambda: {"config": rule()}),
    "_core.check_config": (_core.check_config, lambda: {"object": rule()}),
    "_core.mask_predict": (
        _core.mask_predict,
        lambda: {
            "logits": logits(),
            "temperature": 0.0,
            "top_k": None,
            "top_p": None,
            "min_p": None,
            "softcap": None,
            "suppress": np.array([4]),
            "current": None,
            "seed": 0,
            "request": 0,
            "positions": None,
            "step": 0,
        },
    ),
    "_core.most_forwards": (_core.most_forwards, lambda: {"object": rule(), "masks": 4, "blocks": 2}),
    "_core.names": (_core.names, dict),
    "_core.row_laws": (
        _core.row_laws,
        lambda: {"rows": 2, "temperature": 0.0, "top_k": None, "top_p": None, "min_p": None},
    ),
    "_core.schedule": (_core.schedule, lambda: {"name": "even", "masks": 4, "steps": 2, "eps": 0.1, "as_published": False}),
    "_core.set_threads": (_core.set_threads, lambda: {"threads": 1}),
    "_core.sudoku_puzzles": (_core.sudoku_puzzles, lambda: {"n": 1, "seed": 0}),
}
# The parameters of a method that is reached through an object of its own.
METHODS = {
    "Sampler.sites": _core.Sampler.sites, "Sampler.pace": _core.Sampler.pace, "Sampler.predict": _core.Sampler.predict,
    "Sampler.current": _core.Sampler.current,
    "Sampler.feed": _core.Sampler.feed, "Sampler.add": _core.Sampler.add, "Sampler.cancel": _core.Sampler.cancel,
    "Sampler.is_done": _core.Sampler.is_done, "Sampler.stable": _core.Sampler.stable, "Sampler.config": _core.Sampler.config,
    "Request.with_canvases": _core.Request.with_canvases, "Request.batch": _core.Request.batch,
    "Request.groups": _core.Request.groups, "Request.with_rows": _core.Request.with_rows,
    "Request.shadow_of": _core.Request.shadow_of, "Twin.canvas": _core.Twin.canvas,
    "Prediction.rounded": _core.Prediction.rounded, "Run.cancel": dllm_fast.Run.cancel,
    "Sampler.edits": _core.Sampler.edits, "Sampler.end": _core.Sampler.end, "Sampler.endings": _core.Sampler.endings,
    "Sampler.written": _core.Sampler.written,
}  # fmt: skip
# Records are made by us and hold what they are given; `from_dict` is how one comes from outside. Exceptions hold a text.
HOLDERS = ("Result", "Stats", "Run", "LoadedModel", "StepEvent", "Distribution", "Explanation", "DllmFastError", "Request")


def public() -> Iterator[str]:
    """Every public function, class and method, by name."""
    for prefix, module in (("", dllm_fast), ("demo.", demo), ("_core.", _core)):
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or (module is _core and inspect.isclass(value) and name not in ("Request", "Twin")):
                continue
            if is_typeddict(value):  # a dictionary, to Python
                continue
            home = "" if inspect.isclass(value) else prefix
            if name not in HOLDERS:
                yield home + name
            if inspect.isclass(value) and not issubclass(value, Exception):
                for method, _ in inspect.getmembers(value, callable):
                    if not method.startswith("_"):
                        yield f"{name}.{method}"


def doors() -> dict[str, Door]:
    """Every door by name, dictionaries that are read included."""
    found = {}
    for name, (call, base) in BASES.items():
        parameters = inspect.signature(METHODS.get(name, call)).parameters.values()
        names = [p.name for p in parameters if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if any(p.kind == p.VAR_KEYWORD for p in parameters):
            names += OVERRIDES if name == "load" else [field.name for field in dataclasses.fields(SamplerConfig)]
        if name == "generate":
            names += ["attention_mask", "position_ids", "token_type_ids", "max_new_tokens", "pad_token_id", "past_key_values"]
        found[name] = Door(call, base, tuple(dict.fromkeys(names)))
    for name in ("SamplerConfig", "Edit", "Result", "StepEvent", "Distribution"):
        of, whole = BASES[f"{name}.from_dict"]
        found[f"{name}.from_dict of"] = _keyed(of, lambda whole=whole: whole()["values"])
    stats = type(_result().stats)
    found["Stats.from_dict of"] = _keyed(stats.from_dict, lambda: _result().stats.to_dict())
    return found
