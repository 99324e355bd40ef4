"""Names of orders, cuts, schedules and kinds of edits stand once, in Rust; what repeats them for people repeats all of them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dllm_fast
import strategies
from dllm_fast import _core
from dllm_fast.kernels import launches
from dllm_fast.settings import manual
from dllm_fast.settings.config import CACHES

NAMES = _core.names()


def test_the_names_are_those_that_settings_take() -> None:
    assert sorted(NAMES) == ["cut", "eos_policy", "kind", "length", "order", "remask", "schedule"]
    for setting in ("order", "schedule", "eos_policy", "length", "remask"):
        for name in NAMES[setting]:
            more = {
                "penalise": {"eos_penalty": 1.0},
                "dilated": {"order": "left-to-right"},
                "cumulative": {"noise": "uniform"},
                "verify": {"threshold": 0.6},
            }.get(name, {})
            more = {"order": "ancestral"} if setting == "remask" and name in strategies.REMASKS[:4] else more
            assert getattr(dllm_fast.SamplerConfig(**{setting: name, **more}), setting) == name  # type: ignore[arg-type]
        with pytest.raises(dllm_fast.DllmFastError, match=f"{setting} must be one of {', '.join(NAMES[setting])}, got"):
            dllm_fast.SamplerConfig(**{setting: "nonsense"})  # type: ignore[arg-type]
    for kind in NAMES["kind"]:
        assert _core.Edit(step=0, position=0, token=0, probability=1.0, kind=kind).kind == kind


@pytest.mark.parametrize("setting", ["order", "schedule", "eos_policy", "length", "remask"])
def test_what_people_read_names_all_of_them_and_no_other(setting: str) -> None:
    (line,) = (entry.line for entry in manual.entries() if entry.name == setting)
    assert re.findall(r"`([a-z-]+)`", line) == NAMES[setting]
    drawn = {
        "order": strategies.ORDERS,
        "schedule": (*strategies.SCHEDULES, "dilated", "cumulative"),
        "remask": strategies.REMASKS,
    }
    if setting in drawn:  # others are drawn where end tokens are
        assert list(drawn[setting]) == NAMES[setting]


def test_what_people_read_names_every_cache() -> None:
    (line,) = (entry.line for entry in manual.entries() if entry.name == "cache")
    assert re.findall(r"`([a-z_]+)`", line) == list(CACHES)


def test_the_kernel_numbers_them_as_the_core_does() -> None:
    for ours, theirs in ((launches.ORDERS, NAMES["order"]), (launches.CUTS, NAMES["cut"])):
        assert list(ours.items()) == [(name, i) for i, name in enumerate(theirs)]


def _described(
    tree: ast.Module | ast.ClassDef, thing: object, prefix: str = ""
) -> Iterator[tuple[str, str | None, str | None]]:
    """Of everything public in a stub: its name, and what an editor and `help()` show."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            found = getattr(thing, node.name)
            yield prefix + node.name, ast.get_docstring(node), inspect.getdoc(found)
            if isinstance(node, ast.ClassDef):
                yield from _described(node, found, f"{node.name}.")


def test_editors_and_help_describe_everything_public_of_the_core() -> None:
    stub = Path(dllm_fast.__file__).with_name("_core.pyi").read_text(encoding="utf-8")
    described = list(_described(ast.parse(stub), _core))
    assert {name for name, _, _ in described} >= {
        "mask_predict",
        "Edit",
        "Request.with_canvases",
        "Request.with_rows",
        "Sampler.add",
        "Sampler.stable",
    }
    assert [name for name, shown, told in described if not shown or not told] == []
