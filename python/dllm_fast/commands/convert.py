"""`dllm-fast convert`: pickled weights become safetensors, which `load` opens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `convert` to the command."""
    parser = commands.add_parser(
        "convert", help="write pickled weights (.bin, .pt) as safetensors", description=_convert.__doc__
    )
    parser.add_argument(
        "source", metavar="FOLDER", help="with config.json and pytorch_model.bin or its shards; or the file of weights"
    )
    parser.add_argument("out", metavar="OUT", help="a new folder")
    parser.add_argument("--dtype", metavar="NAME", help="float32, bfloat16 or float16 (default: as in the files)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    """Write a checkpoint of pickled weights anew as safetensors. Reads tensors and nothing else; runs nothing of the folder."""
    from dllm_fast.loading.convert import convert

    done = convert(options.source, options.out, dtype=options.dtype)
    if options.json:
        said = {"folder": str(done.folder), "tensors": done.tensors, "bytes": done.bytes}
        print(json.dumps(said | {"read": done.read, "copied": done.copied, "left_out": done.left_out}))
        return 0
    print(f"{done.folder}: {done.tensors} tensors, {done.bytes:,} bytes, from {', '.join(done.read)}")
    print(f"copied: {', '.join(done.copied)}")
    if done.left_out:
        print(f"left out, no tensors of the model: {', '.join(done.left_out)}")
    print(f"how it will be run: dllm-fast explain {done.folder}")
    return 0
