"""What is said of each setting, and that a setting is an option of the command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
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
    "tuple[int | str | tuple[int, ...], ...]": [(["{}", "3", "{}", "END"], ["3", "END"])],
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
    # A list of all names is as long as it is.
    assert len(re.sub("(?<=`, )`[^`]+`(, | or )|`[^`]+` or (?=`)", "", entry.line)) <= 128
    assert entry.line.count("`") % 2 == 0
    assert entry.line.count("(") == entry.line.count(")")


@pytest.mark.parametrize("entry", manual.entries(), ids=lambda entry: entry.name)
def test_every_setting_is_an_option(entry: manual.Entry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    option = f"--{entry.name.replace('_', '-')}"
    parser = argparse.ArgumentParser()
    rule.add_arguments(parser)
    assert rule.given(parser.parse_args([])) == {}
    table = tmp_path / "counts.json"
    table.write_text('{"counts": [1, 2]}')
    numpy.save(tmp_path / "counts", [1, 2])
    files = [str(table), str(tmp_path / "counts.npy")]
    typed_of = TYPED | {"TokenFrequencies": [(["{}", file], dllm_fast.TokenFrequencies([1, 2])) for file in files]}
    for typed, value in typed_of[kind(entry)]:
        words = [word.format(option if word == "{}" else option.removeprefix("--")) for word in typed]
        assert rule.given(parser.parse_args(words)) == {entry.name: value}
    parser.print_help()
    assert " ".join(entry.line.replace("`", "").split()) in " ".join(capsys.readouterr().out.split())
    without = argparse.ArgumentParser()
    rule.add_arguments(without, [entry.name])
    assert entry.name not in vars(without.parse_args([]))


def test_files_of_counts_are_read_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numpy.save(tmp_path / "halves", [0.5])
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
    with (tmp_path / "vast.npy").open("wb") as file:
        numpy.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (10**15,)})
    parser = argparse.ArgumentParser()
    rule.add_arguments(parser)
    for name in ("halves.npy", "list.json", "zip.npy", "vast.npy", "absent.npy", "absent.json"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--token-frequencies", str(tmp_path / name)])
        assert "argument --token-frequencies: must be a file of counts, got" in capsys.readouterr().err


def test_options_are_there_where_docstrings_are_left_out() -> None:
    command = [sys.executable, "-OO", "-m", "dllm_fast.cli", "generate", "--help"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
    assert "--entropy-bound" in told


def test_the_table_has_a_row_for_each() -> None:
    lines = manual.markdown().splitlines()
    assert len(lines) == len(FIELDS) + 1
    assert {line.count(" | ") for line in lines} == {2}


# Lines of a setting that there is not, and behind which line of which file they go.
NEW = {
    "config.py": {
        "    Args:\n": "        dwell: forwards that a token must wait for; it never does.\n",
        "    max_new_tokens: int | None = None\n": "    dwell: float | None = None\n",
    },
    "keywords.py": {"    steps: int | None\n": "    dwell: float | None\n"},
}
SEEN = """
import inspect, json, sys
import dllm_fast
from dllm_fast.settings import manual
from dllm_fast.settings.resolve import resolve
said = {"file": dllm_fast.__file__}
said["arguments of generate"] = "dwell" in inspect.signature(dllm_fast.generate).parameters
said["table"] = "| `dwell` | forwards that a token must wait for |  |" in manual.markdown().splitlines()
said["taken"] = resolve(None, None, {"dwell": 0.5}).config.dwell
try:
    resolve(None, None, {"dwel": 0.5})
except dllm_fast.DllmFastError as error:
    said["error"] = str(error)
print(json.dumps(said))
"""


def test_a_new_setting_is_three_lines_and_everything_else_follows(tmp_path: Path) -> None:
    """A field, its entry in the docstring, and a keyword for type checkers: in a copy of the package."""
    package = Path(dllm_fast.__file__).parent
    shutil.copytree(package, tmp_path / "dllm_fast", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "cubins"))
    for name, lines in NEW.items():
        file = tmp_path / "dllm_fast" / "settings" / name
        text = file.read_text()
        for line, more in lines.items():
            assert text.count(line) == 1
            text = text.replace(line, line + more)
        file.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    told = subprocess.run(
        [sys.executable, "-c", SEEN], check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert json.loads(told.stdout) == {
        "file": str(tmp_path / "dllm_fast" / "__init__.py"),
        "arguments of generate": True,
        "table": True,
        "taken": 0.5,
        "error": "dwel is not a setting, got 0.5; did you mean 'dwell'? help(dllm_fast.SamplerConfig) describes all of them",
    }
    command = [sys.executable, "-m", "dllm_fast.cli", "generate", "--help"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert re.search(r"--dwell FLOAT\|none\s+forwards that a token must wait for\n", told.stdout)
