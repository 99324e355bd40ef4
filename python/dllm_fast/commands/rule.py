"""Options of the command that are settings of `sample`: one for each field of `SamplerConfig`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import secrets
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

#: What each does. Its kind is that of the field.
SETTINGS: dict[str, str] = {
    "max_new_tokens": "masks that are appended to the prompt",
    "steps": "forwards in total",
    "steps_per_block": "forwards in each block",
    "block_length": "positions that are finished before the next begin",
    "schedule": "masks that each step commits: even, linear, cosine, dream, maskgit or first-hitting",
    "eps": "last time of the dream schedule",
    "order": "of the commits: confidence, margin, entropy, random, left-to-right, sampled-confidence or ancestral",
    "order_temperature": "of the noise on the order",
    "threshold": "commit while the confidence is at least this",
    "factor": "commit n while (n + 1) * (1 - confidence) is below this",
    "entropy_bound": "commit while the entropies but the largest sum to at most this, in nats",
    "min_commit": "commit at least so many in each forward",
    "temperature": "of the draw of tokens; 0 takes the most probable",
    "top_k": "draw from so many tokens",
    "top_p": "draw from the most probable tokens that have this share",
    "min_p": "draw from tokens at least this probable, relative to the best",
    "mask_token_id": "the mask, where the checkpoint does not say it",
    "eos_token_id": "a token that ends an answer, where the checkpoint does not say it; may be repeated",
    "stop_at_eos": "finish an answer at an end token",
    "suppress_tokens": "a token that is never written, by id or by name; may be repeated",
    "allow_special": "special tokens of the tokenizer may be written",
    "shift": "row i - 1 of the logits predicts position i; the checkpoint's family says it",
    "as_published": "keep the quirks of the published loops",
    "cache": "auto, none, prefix, dual or exact_block",
    "refresh_every": "forwards between full ones under an approximate cache",
    "max_batch_rows": "rows in a forward at most",
}


def add_arguments(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Adds the settings, and the seed."""
    from dllm_fast.settings.config import SamplerConfig

    kinds = {setting.name: str(setting.type) for setting in dataclasses.fields(SamplerConfig)}
    for name, text in SETTINGS.items():
        option, kind = f"--{name.replace('_', '-')}", kinds[name]
        if name in without:
            continue
        if kind.startswith("bool"):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, help=text)
        elif "tuple" in kind:
            named = "str" in kind
            parser.add_argument(
                option,
                type=_id_or_name if named else int,
                action="append",
                metavar="TOKEN" if named else "INT",
                help=text,
            )
        else:
            plain = {"int": int, "float": float, "str": str}[kind.partition(" ")[0]]
            parser.add_argument(option, type=plain, metavar=plain.__name__.upper(), help=text)
    add_seed(parser, "of the draws")


def add_seed(parser: argparse.ArgumentParser, of: str) -> None:
    """Adds the seed, which may be left to chance."""
    text = f"{of}, from 0, or random: one is drawn and printed (default: 0)"
    parser.add_argument("--seed", type=_seed, default=0, metavar="INT", help=text)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed."""
    found = {name: getattr(options, name, None) for name in SETTINGS}
    return {name: value for name, value in found.items() if value is not None}


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


def _id_or_name(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
