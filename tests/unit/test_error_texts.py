"""Every text that an error of ours is raised with states a remedy behind a semicolon, as far as the source shows it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import dllm_fast
from dllm_fast import errors

PACKAGE = Path(dllm_fast.__file__).parent
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.DllmFastError)}


def text_of(node: ast.expr) -> str | None:
    """A text as it is written, with ... for what is put in; None where it comes from elsewhere."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.IfExp):
        both = [text_of(node.body), text_of(node.orelse)]
        return None if None in both else min(both, key=lambda text: ";" in str(text))
    return None


def raised(path: Path) -> list[tuple[int, str]]:
    """Line and text of what a file raises of ours."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            text = text_of(node.exc.args[0]) if node.exc.func.id in OURS and node.exc.args else None
            if text is not None:
                found.append((node.lineno, text))
    return found


def without_remedy(path: Path) -> list[tuple[int, str]]:
    """Where a text ends with something else than the value, that may hold it."""
    missing = re.compile(r"[^;]*([^.]|(got|and|of|for|from|to) \.\.\.)")
    return [(line, text) for line, text in raised(path) if missing.fullmatch(text)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_remedy_follows(path: Path) -> None:
    assert without_remedy(path) == []


def test_what_has_none_is_found(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        'raise InvalidValueError(f"steps must be at least 1, got {steps}")\n'
        'raise InvalidValueError(f"steps must be at least 1, got {steps}; use 1")\n'
        'raise CheckpointError(f"{name} must be one of {known}, got {value}{near}")\n'
        'raise CheckpointError("a" if x else "b; c")\n'
        'raise ValueError("of another kind")\n'
    )
    assert [line for line, _ in raised(source)] == [1, 2, 3, 4]
    assert [line for line, _ in without_remedy(source)] == [1, 4]


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": 1e300},
        {"noise_share": 1e300},
        {"eos_penalty": 1e300},
        {"prior_sigma": 1e300},
        {"factor": -1e300},
        {"top_p": 1e300},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_long_numbers_show_their_exponent(settings: dict[str, Any]) -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=r"got -?1e\+300\b"):
        dllm_fast.SamplerConfig(mask_token_id=1, **settings)
