"""docs/rules.md and README's list of presets, from their rows: `python -m bench --write`."""

from __future__ import annotations

from dllm_fast.settings.presets import PRESETS, Paper


def names() -> str:
    """README's table: a line for each paper, with its presets."""
    by_paper: dict[Paper | None, list[str]] = {}
    for name, preset in PRESETS.items():
        by_paper.setdefault(preset.paper, []).append(f"`{name}`")
    rows = [f"| {_paper(paper)} | {', '.join(found)} |" for paper, found in by_paper.items()]
    return "\n".join(["| paper | presets |", "| --- | --- |", *rows])


def table() -> str:
    """Every preset: what it does, and where it is from."""
    rows = [f"| `{name}` | {preset.does} | {_paper(preset.paper)} |" for name, preset in PRESETS.items()]
    return "\n".join(["| preset | rule | paper |", "| --- | --- | --- |", *rows])


def _paper(paper: Paper | None) -> str:
    return "" if paper is None else f"{paper.name}, {paper.authors}, [{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
