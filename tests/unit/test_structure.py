"""The rooms of the package: imports go down, so that what lies below can be read and changed without what stands on it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dllm_fast

_ROOT = Path(dllm_fast.__file__).parent
# From the bottom up. Rooms of one line do not know each other.
LAYERS = [
    ("_core",),
    ("cores", "nearest", "errors"),
    ("arrays",),
    ("records", "switches", "confined"),
    ("kernels", "checkpoint", "modules"),
    ("text", "settings"),
    ("ops",),
    ("predict", "networks"),
    ("families", "result"),
    ("runners",),
    ("loading",),
    ("transformers",),
    ("demo",),
    ("open", "prepare"),
    ("answer",),
    ("run",),
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
    ("errors", "arrays"): "late: only an error that shows an array needs it",
}


def _modules() -> dict[str, Path]:
    names = {path: ".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in _ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Modules of ours that a file imports, and whether that is for the sake of types alone."""
    tree = ast.parse(path.read_text())
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    hints = {id(inside) for guard in guards for inside in ast.walk(guard)}
    for node in ast.walk(tree):
        named = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [name if name.removeprefix("dllm_fast.") in {*modules, "_core"} else node.module for name in whole]
        for name in named:
            if name == "dllm_fast" or name.startswith("dllm_fast."):
                yield name.removeprefix("dllm_fast.") if name != "dllm_fast" else "__init__", id(node) in hints


def _room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_its_place():
    rooms = {_room(module) for module in _modules()}
    assert rooms | {"_core"} == {room for layer in LAYERS for room in layer}


def test_imports_go_down():
    modules = _modules()
    height = {room: height for height, layer in enumerate(LAYERS) for room in layer}
    upwards = {
        (module, name)
        for module, path in modules.items()
        for name, is_hint in _imports(path, modules)
        if not is_hint and _room(name) != _room(module) and height[_room(name)] >= height[_room(module)]
    }
    assert upwards == EXCUSED.keys()
