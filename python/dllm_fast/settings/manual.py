"""A line on each setting, for the command line and for README: from the fields and the docstring of `SamplerConfig`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass

from dllm_fast.settings.config import SamplerConfig


@dataclass(frozen=True, slots=True)
class Entry:
    """A setting, to those who read of it.

    Attributes:
        name: of the field.
        kind: its type, as it is written there.
        default: None where the model, the tokenizer or other settings decide.
        line: what it does; empty where Python was told to leave docstrings out (`-OO`).
    """

    name: str
    kind: str
    default: object
    line: str


def entries() -> list[Entry]:
    """Every setting, in the order of the fields."""
    said = texts(SamplerConfig.__doc__ or "")
    fields = [field for field in dataclasses.fields(SamplerConfig) if field.name != "sources"]
    return [Entry(field.name, str(field.type), field.default, _line(said.get(field.name, ""))) for field in fields]


def texts(docstring: str) -> dict[str, str]:
    """What a docstring says of each argument."""
    section = re.search(r"^Args:\n((?: .*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def markdown() -> str:
    """The table of settings as Markdown."""
    lines = ["| setting | says | default |", "| --- | --- | --- |"]
    for entry in entries():
        default = "" if entry.default in (None, ()) else f"`{entry.default}`"
        lines.append(f"| `{entry.name}` | {entry.line} | {default} |")
    return "\n".join(lines)


def _line(text: str) -> str:
    """Up to the first full stop or semicolon."""
    return re.split(r"[;.](?=\s|$)", text, maxsplit=1)[0]
