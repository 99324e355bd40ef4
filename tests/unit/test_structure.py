"""The rooms of the package: imports go down, so that what lies below can be read and changed without what stands on it."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import dllm_fast
from bench import structure

_ROOT = Path(dllm_fast.__file__).parent
# From the bottom up. Rooms of one line do not know each other.
LAYERS = [
    ("_core",),
    ("cores", "nearest", "tensors"),
    ("errors",),
    ("arrays",),
    ("orders",),
    ("records", "switches", "confined"),
    ("kernels", "checkpoint", "modules"),
    ("text", "settings"),
    ("ops",),
    ("predict", "networks"),
    ("families", "events"),
    ("result",),
    ("runners",),
    ("loading",),
    ("transformers",),
    ("demo",),
    ("open_positions", "verifiers", "seeds", "special_ids", "lengths"),
    ("calls",),
    ("open", "prepare"),
    ("answer", "run_async"),
    ("run",),
    ("gaps",),
    ("sampling", "explanation"),
    ("distribution", "integrations"),
    ("__init__",),
    ("commands",),
    ("cli",),
    ("__main__",),
]
# Upwards, each with its reason.
EXCUSED = {
    ("confined.tasks", "text.sandbox"): "what the child process runs; the parent never imports it",
    ("confined.trial", "text.changes"): "likewise",
    ("confined.child", "__init__"): "the child makes the package importable",
}


# The same of imports for the sake of hints alone, which nobody carries out.
HINTS: dict[tuple[str, str], str] = {}


@functools.cache
def _imports() -> list[structure.Import]:
    known = structure.modules(_ROOT)
    return [each for name, path in known.items() for each in structure.imports(name, path, known)]


def _upwards(*whens: str) -> set[tuple[str, str]]:
    """Imports of some kinds that go up, or from a room to another of its line."""
    height = {room: height for height, layer in enumerate(LAYERS) for room in layer}
    return {
        (each.source, each.target)
        for each in _imports()
        if each.when in whens
        and structure.room(each.target) != structure.room(each.source)
        and height[structure.room(each.target)] >= height[structure.room(each.source)]
    }


def test_every_room_has_its_place():
    rooms = {structure.room(module) for module in structure.modules(_ROOT)}
    assert rooms | {"_core"} == {room for layer in LAYERS for room in layer}


def test_imports_go_down():
    assert _upwards(structure.NOW, structure.LATE) == EXCUSED.keys()
    assert _upwards(structure.HINT) == HINTS.keys()


def test_the_counts_of_the_structure_are_a_command(tmp_path):
    package = tmp_path / "other" / "python" / "dllm_fast"
    (package / "low").mkdir(parents=True)
    files = {
        "__init__": "",
        "high": "from dllm_fast.low import rule\nfrom dllm_fast.low.rule import seen\n",
        "low/__init__": "",
        "low/rule": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dllm_fast.high import Name\n"
        "def seen(name):\n    from dllm_fast.middle import x\n    return name == 'block_causal'  # not causal_context\n",
        "middle": "from dllm_fast.low import rule\nx = 'causal_reordered'\n",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "bench.structure", "--root", str(tmp_path / "other")]
    done = subprocess.run(command, cwd=Path(structure.__file__).parents[1], capture_output=True, text=True, check=True)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert head[1] == "other"
    assert {name: int(count) for name, count in rows} == {
        "rooms of the package": 5,  # with the compiled core
        "modules on its own floor": 3,
        "modules in its largest folder": 2,
        "modules": 5,
        "imports from module to module that no order lets go down": 2,
        "imports from room to room": 4,
        "upwards at run time": 1,
        "upwards for hints of types": 1,
        "circles of rooms at run time": 1,
        "circles of rooms with hints": 1,
        "files that name block_causal": 1,
        "files that name causal_context": 0,
        "files that name causal_reordered": 1,
        "files that name encoder_canvas": 0,
        "files that name an attention rule": 2,
        "files that spell the statistics record": 0,
        "files that list the settings": 0,
        "files over 400 lines": 0,
    }


def test_no_order_of_the_rooms_is_better():
    """What runs upwards in the order above is what would in any."""
    between = [each for each in _imports() if structure.room(each.source) != structure.room(each.target)]
    assert len(structure.upward(between)) == len(EXCUSED) + len(HINTS)


def test_nobody_but_the_canvas_compares_a_token_with_the_mask() -> None:
    """An open position may one day show something else."""
    compared = re.compile(r"[!=]= *(?:Some\()?&?(?:\w+\.)*mask\b(?!\()|\bmask\)? *[!=]=")
    assert compared.search("if canvas[p] == self.config.mask {")
    assert compared.search("rule.mask != token")
    rust = Path(__file__).parents[2] / "rust"
    assert (rust / "canvas" / "mod.rs").exists()
    found = [
        f"{path.relative_to(rust)}: {line.strip()}"
        for path in sorted(rust.rglob("*.rs"))
        if path.parent.name != "canvas" and path.name != "tests.rs"
        for line in path.read_text(encoding="utf-8").splitlines()
        if compared.search(line)
    ]
    # Of a rule that shows nothing but masks; what hybrid noise shows; which setting an id outside the vocabulary came from.
    assert found == [
        "python/asked.rs: Open::Mask(mask) => token == mask,",
        "rules/posterior.rs: if mask == Some(token) {",
        "sampler/question.rs: let name = if rows.iter().any(|&r| self.rule(r).mask == Some(id)) {",
    ]
