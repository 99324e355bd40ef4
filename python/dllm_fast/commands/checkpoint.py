"""What the commands that open a checkpoint have in common: which one, and what it does not say of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from dllm_fast.loading.model import LoadedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder, and what `load` takes where the folder does not say it."""
    parser.add_argument("model", metavar="FOLDER", help="checkpoint in Hugging Face format, or an id of the hub")
    parser.add_argument("--family", metavar="NAME", help="row of README's table, where config.json does not tell it")
    parser.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter of peft, or an id of the hub, to be merged")
    parser.add_argument(
        "--ignore-keys", metavar="PATTERN", action="append", default=[], help="weights of further heads, such as 'cls.other.*'"
    )
    parser.add_argument("--quantise", metavar="KIND", help="fp8: weights of the blocks in 8 bits (default: as in the files)")


def opened(options: argparse.Namespace, **more: Any) -> LoadedModel:
    """The checkpoint."""
    # Imported late: bad input and --help need not wait for torch.
    from dllm_fast.loading.load import load

    told = {} if options.family is None else {"family": options.family}
    return load(
        options.model, adapter=options.adapter, ignore_keys=options.ignore_keys, quantise=options.quantise, **told, **more
    )
