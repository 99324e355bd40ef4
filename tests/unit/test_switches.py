"""Switches that are off until they are asked for."""

from __future__ import annotations

import pytest

import dllm_fast
from dllm_fast import switches
from dllm_fast.errors import InvalidValueError


@pytest.mark.parametrize(
    ("text", "on"),
    [(None, set()), ("", set()), ("pdl", {"pdl"}), (" while , pdl,", {"pdl", "while"}), (",", set())],
)
def test_what_the_variable_names_is_on(monkeypatch, text, on):
    monkeypatch.delenv("DLLM_FAST_TRY", raising=False)
    if text is not None:
        monkeypatch.setenv("DLLM_FAST_TRY", text)
    assert {name for name in switches.SWITCHES if switches.is_on(name)} == on


def test_a_switch_that_there_is_not_is_an_error(monkeypatch):
    monkeypatch.setenv("DLLM_FAST_TRY", "pdl,PDL")
    with pytest.raises(InvalidValueError) as caught:
        switches.is_on("while")
    assert str(caught.value) == "DLLM_FAST_TRY must name some of pdl, while, got 'PDL'; correct or unset it"


def test_it_is_an_error_before_a_model_runs(monkeypatch):
    monkeypatch.setenv("DLLM_FAST_TRY", "cuda")
    with pytest.raises(InvalidValueError, match="must name some of pdl, while, got 'cuda'"):
        dllm_fast.infill(lambda ids: ids, [1, 2], mask_token_id=2)
