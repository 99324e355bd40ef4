"""What somebody else's code raises comes out as the object that it is, however odd, and leaves nothing behind.

`tests/property/test_sample.py` has ordinary ones. These are the ones that a generator, a truth test, a comparison or a text
of an error would change, swallow or replace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dllm_fast
from dllm_fast import Sampler, SamplerConfig
from dllm_fast.errors import DllmFastError, InvalidValueError
from toys import HashTable

MASK = 7
MODEL = HashTable(11, seed=3)
CANVAS = [[1, MASK, MASK, 2, MASK]]


class OddBase(BaseException):
    """No Exception."""


class WithoutText(Exception):  # noqa: N818
    """Whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class WithoutTruth(Exception):  # noqa: N818
    """That cannot be compared, hashed, or be true."""

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None


NO_EXCEPTIONS = [
    *(GeneratorExit(), KeyboardInterrupt(), SystemExit(2), asyncio.CancelledError(), OddBase()),
    BaseExceptionGroup("two", [KeyboardInterrupt(), ValueError(1)]),
]
EXCEPTIONS = [
    *(
        StopIteration(3),
        StopAsyncIteration(),
        WithoutText(),
        WithoutTruth(),
        ExceptionGroup("one", [OSError(5, "x")]),
    ),
    *(RecursionError(), MemoryError(), UserWarning("w"), InvalidValueError("ours"), RuntimeError("CUDA out of memory")),
    *(torch.OutOfMemoryError("x"), NotImplementedError(), AttributeError("shape"), TypeError("unexpected keyword argument")),
    *(IndexError(), KeyError("logits"), AssertionError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), ImportError("torch")),
]
ALL = pytest.mark.parametrize("error", NO_EXCEPTIONS + EXCEPTIONS, ids=lambda error: type(error).__name__)


def raises(error: BaseException, after: int = 0) -> Callable[..., Any]:
    """A model that raises an error in one of its forwards."""
    calls = iter(range(10**6))

    def model(ids: torch.Tensor) -> torch.Tensor:
        if next(calls) == after:
            raise error
        return MODEL(ids)

    return model


class Module(nn.Module):
    """A module that does."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error, self.weight = error, nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        raise self.error


class Output:
    """What a model returns, whose logits do."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    @property
    def logits(self) -> torch.Tensor:
        raise self._error


def raised_by(call: Callable[[BaseException], object], error: BaseException) -> BaseException | None:
    """What a call raises; `pytest.raises` would ask these errors for their text."""
    try:
        call(error)
    except BaseException as raised:
        return raised
    return None


RULE = {"mask_token_id": MASK, "seed": 5}
PLACES: dict[str, Callable[[BaseException], object]] = {
    "the first forward": lambda error: dllm_fast.infill(raises(error), CANVAS, **RULE),
    "a later forward": lambda error: dllm_fast.infill(raises(error, 2), CANVAS, **RULE),
    "one row of two": lambda error: dllm_fast.sample(raises(error, 1), [[1], [1, 2]], max_new_tokens=3, **RULE),
    "a module": lambda error: dllm_fast.infill(Module(error), CANVAS, **RULE),
    "a module in training": lambda error: dllm_fast.infill(Module(error).train(), CANVAS, **RULE),
    "on_step": lambda error: dllm_fast.infill(MODEL, CANVAS, **RULE, on_step=raises(error)),
    "distributions": lambda error: dllm_fast.distributions(raises(error), CANVAS, mask_token_id=MASK),
}


@pytest.mark.parametrize("place", PLACES)
@ALL
def test_the_same_object_comes_out(place: str, error: BaseException) -> None:
    before = error.__cause__, error.__suppress_context__
    expected = [row.tolist() for row in dllm_fast.infill(MODEL, CANVAS, **RULE).sequences]
    training = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    assert raised_by(PLACES[place], error) is error
    assert (error.__cause__, error.__suppress_context__) == before
    assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == training
    assert [row.tolist() for row in dllm_fast.infill(MODEL, CANVAS, **RULE).sequences] == expected


def value(error: BaseException, *names: str) -> Any:
    """An object whose methods of these names raise."""

    def method(*_: object) -> None:
        raise error

    return type("Value", (), dict.fromkeys(names, method))()


def asked() -> Sampler:
    sampler = Sampler(SamplerConfig(mask_token_id=MASK), CANVAS, seed=0)
    sampler.next()
    return sampler


CONVERSIONS: dict[str, Callable[[BaseException], object]] = {
    "steps": lambda error: SamplerConfig(steps=value(error, "__index__")),
    "temperature": lambda error: SamplerConfig(temperature=value(error, "__float__")),
    "ends": lambda error: SamplerConfig(eos_token_id=value(error, "__iter__")),
    "seed": lambda error: Sampler(SamplerConfig(mask_token_id=MASK), CANVAS, seed=value(error, "__index__")),
    "a seed of several": lambda error: Sampler(SamplerConfig(mask_token_id=MASK), CANVAS, seed=[value(error, "__index__")]),
    "seeds": lambda error: Sampler(SamplerConfig(mask_token_id=MASK), CANVAS, seed=value(error, "__iter__")),
    "canvases": lambda error: Sampler(SamplerConfig(mask_token_id=MASK), value(error, "__iter__"), seed=0),
    "a canvas": lambda error: Sampler(SamplerConfig(mask_token_id=MASK), [value(error, "__array__")], seed=0),
    "masks": lambda error: dllm_fast.schedule("even", value(error, "__index__"), 3),
    "tokens": lambda error: asked().feed(tokens=value(error, "__array__"), scores=[0.5] * 3),
    "positions": lambda error: asked().sites(value(error, "__array__")),
}


@pytest.mark.parametrize("place", CONVERSIONS)
@pytest.mark.parametrize("error", NO_EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_what_ends_a_program_is_no_wrong_type(place: str, error: BaseException) -> None:
    assert raised_by(CONVERSIONS[place], error) is error


@pytest.mark.parametrize("place", CONVERSIONS)
@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_an_object_that_cannot_be_converted(place: str, error: BaseException) -> None:
    raised = raised_by(CONVERSIONS[place], error)
    assert raised is error or isinstance(raised, DllmFastError)
