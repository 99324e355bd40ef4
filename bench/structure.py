"""How the code hangs together, counted: `python -m bench.structure`, and `--root PATH` for another checkout beside this one.

Nothing is run or imported: the files are read. An import is one file that names another of another room, counted once.
"""

from __future__ import annotations

import argparse
import ast
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parents[1]
PACKAGE = "dllm_fast"
# When an import is carried out: with the file, later inside a function, or never, because it is for hints of types.
NOW, LATE, HINT = "at once", "late", "hint"

ATTENTION = ("block_causal", "causal_context", "causal_reordered", "encoder_canvas")
# Of a position, as `Prediction` calls them. A file that names five of them knows the record.
STATISTICS = ("token", "probability", "top1", "top2", "entropy", "logsumexp", "current")
# Of the settings of a rule. A file that names more than half of them is a list in which a new one must be written.
SETTINGS = (
    *("max_new_tokens", "steps", "steps_per_block", "block_length", "schedule", "eps", "order", "order_temperature"),
    *("threshold", "factor", "entropy_bound", "min_commit", "temperature", "top_k", "top_p", "min_p", "mask_token_id"),
    *("eos_token_id", "stop_at_eos", "suppress_tokens", "allow_special", "shift", "as_published", "cache"),
    *("refresh_every", "max_batch_rows"),
)


class Import(NamedTuple):
    """One import of ours.

    Attributes:
        source, target: names of modules below the package; the package itself is `__init__`.
        when: `NOW`, `LATE` or `HINT`.
    """

    source: str
    target: str
    when: str


def modules(package: Path) -> dict[str, Path]:
    """The modules of a package by their names below it; a folder goes by its own."""
    names = {path: ".".join(path.relative_to(package).with_suffix("").parts) for path in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in sorted(names.items())}


def imports(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """Modules of the package that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whens = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            whens |= {id(inside): HINT for statement in node.body for inside in ast.walk(statement)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            whens |= {id(inside): LATE for inside in ast.walk(node) if whens.get(id(inside)) != HINT}
    for node in ast.walk(tree):
        named: list[str] = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [each if each.removeprefix(f"{PACKAGE}.") in {*known, "_core"} else node.module for each in whole]
        for each in named:
            if each == PACKAGE or each.startswith(f"{PACKAGE}."):
                target = "__init__" if each == PACKAGE else each.removeprefix(f"{PACKAGE}.")
                when = whens.get(id(node), NOW)
                # What the package itself lists for hints, it imports once somebody asks for it.
                yield Import(name, target, LATE if name == "__init__" and when == HINT else when)


def room(module: str) -> str:
    """The folder of the package in which a module lies, or the module itself."""
    return module.partition(".")[0]


def upward(found: Sequence[Import], place: Callable[[str], str] = room) -> set[Import]:
    """Imports that no order of the rooms lets go down; or of the modules, if `place` leaves those as they are.

    They are put in order by the imports that are carried out at once, then by the late ones, then by hints, of each kind
    those of most files first. What would close a circle by then runs upwards.
    """
    pairs = Counter((place(each.source), place(each.target), each.when) for each in found)
    below: dict[str, set[str]] = {}
    closing = set()
    for (source, target, when), _ in sorted(pairs.items(), key=lambda pair: (_WHENS.index(pair[0][2]), -pair[1], pair[0])):
        if source == target or source in _reached(below, target):
            closing.add((source, target, when))
        else:
            below.setdefault(source, set()).add(target)
    return {each for each in found if (place(each.source), place(each.target), each.when) in closing}


_WHENS = (NOW, LATE, HINT)


def _reached(below: Mapping[str, set[str]], start: str) -> set[str]:
    found, left = {start}, [start]
    while left:
        more = below.get(left.pop(), set()) - found
        found |= more
        left += more
    return found


def circles(found: Sequence[Import], whens: Sequence[str]) -> list[list[str]]:
    """Rooms that reach each other by imports of some kinds."""
    below: dict[str, set[str]] = {}
    for each in found:
        if each.when in whens:
            below.setdefault(room(each.source), set()).add(room(each.target))
    reached = {name: _reached(below, name) for name in below}
    rings = {frozenset(other for other in reached[name] if name in reached.get(other, ())) for name in below}
    return sorted(sorted(ring) for ring in rings if len(ring) > 1)


def _sources(root: Path) -> dict[Path, str]:
    """The code of all three languages by file, without its comments and without tests."""
    folders = {f"python/{PACKAGE}": (".py", ".pyi"), "rust": (".rs",), "cuda": (".cu", ".cuh")}
    paths = [path for folder, ends in folders.items() for path in sorted((root / folder).rglob("*")) if path.suffix in ends]
    return {path.relative_to(root): _code(path) for path in paths if path.name != "tests.rs"}


def _code(path: Path) -> str:
    if not path.suffix.startswith(".py"):
        return re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    kept = []
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            is_text = token.type == tokenize.STRING and token.string.lstrip("rbfRBF").startswith('"""')
            if token.type != tokenize.COMMENT and not is_text:
                kept.append(token.string)
    return " ".join(kept)


def naming(sources: Mapping[Path, str], names: Sequence[str], least: int) -> list[Path]:
    """Files whose code has at least so many of some names."""
    patterns = [re.compile(rf"\b{name}\b") for name in names]
    return [path for path, code in sources.items() if sum(bool(pattern.search(code)) for pattern in patterns) >= least]


def measured(root: Path) -> dict[str, tuple[int, list[str]]]:
    """Every count of a checkout, with what was counted where that can be listed.

    Raises:
        FileNotFoundError: there is no package.
    """
    package = root / "python" / PACKAGE
    if not package.is_dir():
        raise FileNotFoundError(f"--root must be a checkout with python/{PACKAGE}, got {root}")
    known = modules(package)
    found = sorted({each for name, path in known.items() for each in imports(name, path, known)})
    between = [each for each in found if room(each.source) != room(each.target)]
    up = sorted(upward(between))
    alone = sorted(upward([each for each in found if each.source != each.target], str))
    sources = _sources(root)
    longest = [str(path) for path in sources if len((root / path).read_text(encoding="utf-8").splitlines()) > 400]
    rooms = sorted({room(name) for name in known} | {"_core"})
    floor = [name for name in rooms if f"{name}.py" in {path.name for path in package.glob("*.py")}]
    listed = {
        "rooms of the package": rooms,
        "modules on its own floor": floor,
        "modules in its largest folder": _largest(known),
        "modules": list(known),
        "imports from module to module that no order lets go down": [
            f"{each.source} -> {each.target} ({each.when})" for each in alone
        ],
        "imports from room to room": [f"{each.source} -> {each.target}" for each in between],
        "upwards at run time": [f"{each.source} -> {each.target} ({each.when})" for each in up if each.when != HINT],
        "upwards for hints of types": [f"{each.source} -> {each.target}" for each in up if each.when == HINT],
        "circles of rooms at run time": [", ".join(ring) for ring in circles(between, (NOW, LATE))],
        "circles of rooms with hints": [", ".join(ring) for ring in circles(between, _WHENS)],
    }
    listed |= {f"files that name {name}": list(map(str, naming(sources, (name,), 1))) for name in ATTENTION}
    listed |= {
        "files that name an attention rule": list(map(str, naming(sources, ATTENTION, 1))),
        "files that spell the statistics record": list(map(str, naming(sources, STATISTICS, 5))),
        "files that list the settings": list(map(str, naming(sources, SETTINGS, len(SETTINGS) // 2 + 1))),
        "files over 400 lines": longest,
    }
    return {name: (len(items), items) for name, items in listed.items()}


def _largest(known: Mapping[str, Path]) -> list[str]:
    folders: dict[Path, list[str]] = {}
    for name, path in known.items():
        folders.setdefault(path.parent, []).append(name)
    return max((names for folder, names in folders.items() if folder.name != PACKAGE), key=len, default=[])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.structure", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--root", type=Path, action="append", help="a checkout; several stand beside each other (default: this)"
    )
    parser.add_argument("--list", action="store_true", help="name what was counted, but for plain imports")
    options = parser.parse_args(argv)
    roots = [root.resolve() for root in options.root or [HERE]]
    columns = [measured(root) for root in roots]
    print(
        "\n".join(
            _table(
                [["", *(root.name for root in roots)]]
                + [[name, *(str(column[name][0]) for column in columns)] for name in columns[0]]
            )
        )
    )
    for root, column in zip(roots, columns, strict=True) if options.list else ():
        for name, (count, items) in column.items():
            if count and not name.startswith("imports"):
                print(f"\n{root.name}: {name}", *items, sep="\n  ")
    return 0


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return [f"| {line} |" for line in lines]


if __name__ == "__main__":
    raise SystemExit(main())
