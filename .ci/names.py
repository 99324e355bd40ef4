"""Every name of another library that the package uses is there, with the arguments it is given: python .ci/names.py [FOLDER]

With the oldest versions that pyproject.toml declares it finds what came later, also in branches that no test reaches. Prints
what is missing, or how many uses it saw.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parents[1] / "python" / "dllm_fast"
LIBRARIES = ("huggingface_hub", "jinja2", "numpy", "safetensors", "tokenizers", "torch", *sys.stdlib_module_names)
# What may be missing, with the reason.
LATER = {
    "torch.ops.dllm_fast.attention": "our own operation",
    "torch._scaled_grouped_mm": "tried before it is used (grouped_fp8.refusal)",
    "torch._C._cuda_endAllocateToPool": "torch 2.5 has another name for it; what a failed capture leaves open stays open there",
    "torch.cuda.CUDAGraph(keep_graph)": "loops on the device are off, and what they lack is said",
    "tokenizers.pre_tokenizers.ByteLevel(trim_offsets)": "it is taken, and missing in the signature of 0.20",
}


def dotted(node: ast.expr) -> list[str]:
    """`a.b.c` as its names; none for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return [*left, node.attr]
    return []


def imported(tree: ast.AST) -> dict[str, str]:
    """What names of a file stand for, of the libraries, as dotted paths."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                found[name.asname or name.name.split(".")[0]] = name.name if name.asname else name.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    return {name: path for name, path in found.items() if path.split(".")[0] in LIBRARIES}


def uses(tree: ast.AST) -> Iterator[tuple[int, str, ast.Call | None]]:
    """Line, dotted path and call of every use of a library."""
    known = imported(tree)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and (names := dotted(node)) and names[0] in known:
            yield node.lineno, ".".join([known[names[0]], *names[1:]]), calls.get(id(node))
    for path in known.values():
        yield 0, path, None


def resolved(path: str) -> object:
    """What a dotted path leads to.

    Raises:
        AttributeError: nothing is there.
        ImportError: the library is not there.
    """
    first, *rest = path.split(".")
    value: object = importlib.import_module(first)
    for i, name in enumerate(rest):
        if not hasattr(value, name):
            try:
                value = importlib.import_module(".".join([first, *rest[: i + 1]]))
                continue
            except ImportError:
                raise AttributeError(f"{path}: no {name}") from None
        value = getattr(value, name)
    return value


def refused(function: object, call: ast.Call) -> list[str]:
    """Names of arguments that a function does not take, as far as it says what it takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return []
    known = {parameter.name for parameter in parameters}
    return [argument.arg for argument in call.keywords if argument.arg and argument.arg not in known]


def main() -> None:
    missing, seen = [], 0
    for file in sorted(PACKAGE.rglob("*.py")):
        for line, path, call in uses(ast.parse(file.read_text(encoding="utf-8"))):
            seen += 1
            where = f"{file.relative_to(PACKAGE)}:{line}"
            try:
                found = resolved(path)
            except (AttributeError, ImportError) as error:
                if path not in LATER:
                    missing.append(f"{where}: {error}")
                continue
            arguments = refused(found, call) if call else []
            missing += [f"{where}: {path} takes no {name}" for name in arguments if f"{path}({name})" not in LATER]
    if missing:
        sys.exit("\n".join(dict.fromkeys([*missing, "raise the bound in pyproject.toml, or do without"])))
    print(f"names: {seen} uses of other libraries are there")


if __name__ == "__main__":
    main()
