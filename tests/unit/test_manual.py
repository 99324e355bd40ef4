"""What is said of each setting, and that a setting is an option of the command."""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest

import dllm_fast
from dllm_fast.commands import rule
from dllm_fast.settings import manual

FIELDS = [field.name for field in dataclasses.fields(dllm_fast.SamplerConfig)]
# For each type of a field what is typed behind the option, and what comes of it.
TYPED: dict[str, list[tuple[list[str], Any]]] = {
    "int": [(["{}", "3"], 3)],
    "float": [(["{}", "0.5"], 0.5), (["{}", "inf"], float("inf"))],
    "str": [(["{}", "word"], "word")],
    "bool": [(["{}"], True), (["--no-{}"], False)],
    "int | tuple[int, ...]": [(["{}", "3", "{}", "4"], [3, 4])],
    "tuple[int | str, ...]": [(["{}", "3", "{}", "[UNK]"], [3, "[UNK]"])],
}


def kind(entry: manual.Entry) -> str:
    return entry.kind.removesuffix(" | None")


def test_every_field_is_described_in_its_place() -> None:
    said = manual.texts(dllm_fast.SamplerConfig.__doc__ or "")
    assert list(said) == FIELDS
    assert [entry.name for entry in manual.entries()] == FIELDS[:-1] == [name for name in FIELDS if name != "sources"]


@pytest.mark.parametrize("entry", manual.entries(), ids=lambda entry: entry.name)
def test_a_setting_has_a_line_that_says_something_by_itself(entry: manual.Entry) -> None:
    assert len(entry.line.split()) >= 3
    assert len(entry.line) <= 128
    assert entry.line.count("`") % 2 == 0
    assert entry.line.count("(") == entry.line.count(")")


@pytest.mark.parametrize("entry", manual.entries(), ids=lambda entry: entry.name)
def test_every_setting_is_an_option(entry: manual.Entry, capsys: pytest.CaptureFixture[str]) -> None:
    option = f"--{entry.name.replace('_', '-')}"
    parser = argparse.ArgumentParser()
    rule.add_arguments(parser)
    assert rule.given(parser.parse_args([])) == {}
    for typed, value in TYPED[kind(entry)]:
        words = [word.format(option if word == "{}" else option.removeprefix("--")) for word in typed]
        assert rule.given(parser.parse_args(words)) == {entry.name: value}
    parser.print_help()
    assert " ".join(entry.line.replace("`", "").split()) in " ".join(capsys.readouterr().out.split())
    without = argparse.ArgumentParser()
    rule.add_arguments(without, [entry.name])
    assert entry.name not in vars(without.parse_args([]))


def test_options_are_there_where_docstrings_are_left_out() -> None:
    command = [sys.executable, "-OO", "-m", "dllm_fast.cli", "generate", "--help"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
    assert "--entropy-bound" in told


def test_the_table_has_a_row_for_each() -> None:
    lines = manual.markdown().splitlines()
    assert len(lines) == len(FIELDS) + 1
    assert {line.count(" | ") for line in lines} == {2}
