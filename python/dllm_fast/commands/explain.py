"""`dllm-fast explain`: how a checkpoint will be run, and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dllm_fast.commands import checkpoint

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `explain` to the command."""
    parser = commands.add_parser("explain", help="say how a checkpoint will be run, and why", description=_explain.__doc__)
    checkpoint.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    """Say how a checkpoint will be run: family, mask, shift, attention, blocks, end tokens, cache, and who decided each."""
    from dllm_fast import explain

    explanation = explain(checkpoint.opened(options))
    print(json.dumps(explanation.to_dict()) if options.json else explanation)
    return 0
