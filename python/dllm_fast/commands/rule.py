"""Options of the command that are settings of `sample`: one for each field of `SamplerConfig`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import secrets
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dllm_fast._core import TokenFrequencies


# What is typed as none; argparse has None for what is not typed.
_NONE = object()


def add_arguments(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Adds the settings, and the seed."""
    from dllm_fast.settings.manual import entries

    for entry in entries():
        if entry.name in without:
            continue
        option, text = f"--{entry.name.replace('_', '-')}", entry.line.replace("`", "").replace("%", "%%")
        kind = entry.kind.partition(" ")[0]
        if kind == "bool":
            parser.add_argument(option, action=argparse.BooleanOptionalAction, help=text)
        elif entry.name == "order":
            parser.add_argument(option, type=_order, metavar="NAME|RANKS", help=f"{text}; ranks are typed as --order 3,1,2")
        elif entry.name == "stop":
            parser.add_argument(option, action="append", metavar="TEXT", help=f"{text}; here texts, may be repeated")
        elif entry.name == "token_frequencies":
            parser.add_argument(
                option, type=_counts, metavar="FILE", help=f"{text}; counts in .npy, or {{counts: [...]}} in JSON"
            )
        elif "tuple" in entry.kind:
            named = "str" in entry.kind
            parser.add_argument(
                option,
                type=_id_or_name if named else int,
                action="append",
                metavar="TOKEN" if named else "INT",
                help=f"{text}; may be repeated",
            )
        else:
            plain: type[int] | type[float] | type[str] = {"int": int, "float": float, "str": str}[kind]
            may_be_none = "None" in entry.kind
            parser.add_argument(
                option,
                type=functools.partial(_or_none, plain) if may_be_none else plain,
                metavar=f"{kind.upper()}|none" if may_be_none else kind.upper(),
                help=text,
            )
    add_seed(parser, "of the draws")


def add_seed(parser: argparse.ArgumentParser, of: str) -> None:
    """Adds the seed, which may be left to chance."""
    text = f"{of}, from 0, or random: one is drawn and printed (default: 0)"
    parser.add_argument("--seed", type=_seed, default=0, metavar="INT", help=text)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed."""
    from dllm_fast.settings.resolve import NAMES

    found = {name: getattr(options, name, None) for name in NAMES}
    return {name: None if value is _NONE else value for name, value in found.items() if value is not None}


def names(options: argparse.Namespace) -> list[str]:
    """The options of a command, with their dashes."""
    return [f"--{name.replace('_', '-')}" for name in vars(options) if name not in {"command", "run", "model"}]


@contextlib.contextmanager
def said_plainly(options: argparse.Namespace) -> Iterator[None]:
    """Warnings of ours as one line in the words of the command, without the place in our code."""
    from dllm_fast.commands.answers import remedy_in_options
    from dllm_fast.errors import DllmFastWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DllmFastWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, DllmFastWarning):
            print(f"dllm-fast: warning: {remedy_in_options(str(warning.message), names(options))}", file=sys.stderr)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _seed(text: str) -> int:
    if text == "random":
        return secrets.randbits(64)
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number or random, got {text!r}") from None


def _or_none(plain: type[int] | type[float] | type[str], text: str) -> object:
    """A value, or none, which takes a setting of a preset away."""
    if text.lower() == "none":
        return _NONE
    try:
        return plain(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid {plain.__name__} value: {text!r}") from None


def _order(text: str) -> str | list[float]:
    """A name, or a rank for each new position (by `infill` for each of the canvas)."""
    if text == "ranks":
        raise argparse.ArgumentTypeError("ranks are typed as numbers, a rank for each position: --order 3,1,2")
    if "," not in text:
        return text
    try:
        return [float(rank) for rank in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a name, or ranks as 3,1,2, got {text!r}") from None


def _counts(path: str) -> TokenFrequencies:
    """The counts of a file: as `numpy.save` writes them, or in JSON what `TokenFrequencies.to_dict` gave."""
    from zipfile import BadZipFile  # late: the help needs none

    import numpy as np

    from dllm_fast import _core
    from dllm_fast.checkpoint.jsonfile import LISTS, read_json
    from dllm_fast.errors import DllmFastError

    try:
        if path.endswith(".npy"):
            with Path(path).open("rb") as file:  # which NumPy leaves open where it fails
                return _core.TokenFrequencies(np.load(file, allow_pickle=False))
        return _core.TokenFrequencies.from_dict(read_json(Path(path), LISTS))
    except (OSError, EOFError, ValueError, MemoryError, BadZipFile, DllmFastError) as error:
        raise argparse.ArgumentTypeError(f"must be a file of counts, got {path!r}: {error}") from None


def _id_or_name(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
