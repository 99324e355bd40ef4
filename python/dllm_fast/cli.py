"""The command `dllm-fast`."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import DllmFastError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from dllm_fast.result import Result

_EPILOG = """\
examples:
  dllm-fast demo                    fill a fresh Sudoku with the embedded model, all cells that are sure in each step
  dllm-fast demo --preset llada     one cell a step: as often right, with many more forwards
  dllm-fast demo --puzzle 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79
"""
_CELLS = 81
# Of medium difficulty: the hardest ones (26 to 30 givens) are where the small model still fails now and then.
_GIVENS = (32, 40)
# The setting to take of `python -m bench.quality`: as often right as one cell a forward, in a seventh of the forwards.
DEFAULT_PRESET = "fast-dllm-factor"
DEFAULT_SETTINGS: dict[str, Any] = {"block_length": None, "factor": 0.01}


# 128 and the number of the signal, as a shell reports a command that SIGINT or SIGPIPE ended.
_INTERRUPTED, _NOBODY_READS = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Status 0: done and, for the demo, solved; 1: not solved, or ids without text; 2: bad input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An answer may hold what the encoding of a terminal or a file cannot.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except DllmFastError as error:
        print(f"dllm-fast: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dllm-fast: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # `| head` has read enough. Python flushes once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    try:
        return int(options.run(options))
    except DllmFastError as error:
        from dllm_fast.commands.answers import remedy_in_options
        from dllm_fast.commands.rule import names

        raise DllmFastError(remedy_in_options(str(error), names(options))) from error


def _parser() -> argparse.ArgumentParser:
    from dllm_fast import __version__
    from dllm_fast.commands import convert, doctor, explain, generate, kernels, rule
    from dllm_fast.commands.parser import Parser

    parser: argparse.ArgumentParser = Parser(
        prog="dllm-fast",
        description="Sample from diffusion language models.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dllm-fast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo = commands.add_parser("demo", help="solve a Sudoku with the embedded model", description=_demo.__doc__)
    demo.set_defaults(run=_demo)
    demo.add_argument("--puzzle", metavar="STRING", help="81 characters in row order, . or 0 for blanks")
    demo.add_argument("--preset", help=f"a name of dllm_fast.presets() (default: {_rule(DEFAULT_PRESET, DEFAULT_SETTINGS)})")
    rule.add_seed(demo, "of the puzzle and of the sampler")
    demo.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    generate.add_parsers(commands)
    explain.add_parser(commands)
    convert.add_parser(commands)
    kernels.add_parser(commands)
    doctor.add_parser(commands)
    return parser


def _demo(options: argparse.Namespace) -> int:
    """Solve a Sudoku with the embedded masked-diffusion model and check the answer. Exit status 0 exactly when solved."""
    given = None if options.puzzle is None else _digits(options.puzzle)
    # Imported late: bad input and --help need not wait for torch.
    import numpy as np
    import torch

    from dllm_fast import demo, stream
    from dllm_fast.settings.resolve import resolve

    # A preset that is asked for is taken as it is.
    preset, settings = (DEFAULT_PRESET, DEFAULT_SETTINGS) if options.preset is None else (options.preset, {})
    resolve(preset, None, settings)
    if given is None:
        if not 0 <= options.seed < 2**64:
            raise InvalidValueError(f"--seed must lie in [0, 2^64), got {options.seed}; use a number from 0")
        canvas = demo.problems(1, options.seed, givens=_GIVENS)[0]
    else:
        canvas = np.array([digit or demo.MASK_ID for digit in given], dtype=np.int64)
    model, tokenizer = demo.load()
    # One thread is fastest for a model this small, and the only one that stays fast on a busy machine.
    torch.set_num_threads(1)

    view = None
    if not options.json and (canvas == demo.MASK_ID).any():
        from dllm_fast.commands.terminal import GridView

        view = GridView(canvas, demo.MASK_ID, sys.stdout)
    run = stream(
        model,
        canvas=canvas,
        tokenizer=tokenizer,
        preset=preset,
        seed=options.seed,
        guesses=view is not None and view.shows_guesses,
        suppress_tokens=[token for token in range(model.info.vocabulary) if not 1 <= token <= 9],
        **settings,
    )
    if not options.json:
        print(f"puzzle  {_line(canvas)}\n")
        if view is None:
            print("nothing to fill: the puzzle has no blanks")
        else:
            view.begin(canvas)
    if view is not None:
        for event in run:
            view(event)
    result = run.result()
    solved = demo.check(result.sequences[0])
    if options.json:
        said = _summary(canvas, result, solved)
        print(json.dumps(said | {"preset": preset, "settings": settings, "seed": options.seed}))
    else:
        _report(result, solved, f"preset {_rule(preset, settings)}, seed {options.seed}")
    return 0 if solved else 1


def _digits(puzzle: str) -> list[int]:
    """The cells of a puzzle, 0 for blanks.

    Raises:
        InvalidValueError: not 81 cells, another character, or a digit twice in a row, column or box.
    """
    text = "".join(puzzle.split())
    if len(text) != _CELLS:
        raise InvalidValueError(
            f"--puzzle must have 81 characters, got {len(text)}; write the rows one after the other, . for blanks"
        )
    if bad := sorted(set(text) - set(".0123456789")):
        raise InvalidValueError(f"--puzzle must hold digits and . or 0 for blanks, got {bad[0]!r}; replace it")
    cells = [0 if c == "." else int(c) for c in text]
    for p, digit in enumerate(cells):
        for q in range(p):
            if digit and cells[q] == digit and _see_each_other(p, q):
                raise InvalidValueError(
                    f"--puzzle must be solvable, got {digit} twice: row {q // 9 + 1} column {q % 9 + 1} and "
                    f"row {p // 9 + 1} column {p % 9 + 1}; correct one of them"
                )
    return cells


def _see_each_other(p: int, q: int) -> bool:
    same_box = p // 27 == q // 27 and p % 9 // 3 == q % 9 // 3
    return p // 9 == q // 9 or p % 9 == q % 9 or same_box


def _line(canvas: NDArray[np.int64]) -> str:
    return "".join(str(token) if 1 <= token <= 9 else "." for token in canvas.tolist())


def _rule(preset: str, settings: Mapping[str, object]) -> str:
    """A preset and what is laid over it, as one types it."""
    over = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{preset} with {over}" if over else preset


def _summary(canvas: NDArray[np.int64], result: Result, solved: bool) -> dict[str, object]:
    return {
        "puzzle": _line(canvas),
        "answer": _line(result.sequences[0]),
        "solved": solved,
        "nfe": result.stats.nfe,
        "tokens_per_forward": round(result.stats.tokens_per_forward, 3),
        "model_ms": round(result.stats.model_ms, 3),
        "sampler_ms": round(result.stats.sampler_ms, 3),
    }


def _report(result: Result, solved: bool, rule: str) -> None:
    stats = result.stats
    print(f"\nanswer  {_line(result.sequences[0])}")
    print(
        "solved: every row, column and box holds 1 to 9"
        if solved
        else "not solved: some row, column or box is wrong (fewer forwards cost accuracy; --preset llada takes one at a time)"
    )
    print(
        f"{stats.nfe} forwards, {stats.tokens_per_forward:.2f} tokens per forward, {stats.model_ms:.0f} ms in the model, "
        f"{stats.sampler_ms:.1f} ms in the sampler, {rule}"
    )


if __name__ == "__main__":
    sys.exit(main())
