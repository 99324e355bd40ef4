"""From a folder or a hub id to a checkpoint, with the adapter that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllm_fast.checkpoint import lora, regular
from dllm_fast.checkpoint.checkpoint import Checkpoint, locate
from dllm_fast.errors import CheckpointError, DllmFastError, shown
from dllm_fast.families.encoder_keys import old_name
from dllm_fast.loading.prefix import unwrapped
from dllm_fast.text.tokenizer import Tokenizer


def open_folder(
    folder_or_id: str | Path, revision: str | None, adapter: str | Path | None, hub: Mapping[str, Any]
) -> tuple[Checkpoint, Path]:
    """The checkpoint with its adapter, if there is one, and the folder of the tokenizer.

    Args:
        folder_or_id, revision: of the model, or of an adapter that names its model.
        adapter: a folder or hub id of an adapter of the model.
        hub: further arguments of `locate`.

    Raises:
        CheckpointError: a folder cannot be used, or the base of an adapter is not there.
        InvalidValueError, InvalidTypeError: neither a folder nor an id.
    """
    elsewhere = {name: value for name, value in hub.items() if name != "subfolder"}
    folder = locate(folder_or_id, revision, **hub)
    above = None if adapter is None else locate(adapter, **elsewhere)
    if above is None and regular.is_folder(folder) and lora.is_adapter(folder):
        above = folder
    if above is None:
        return unwrapped(Checkpoint.open(folder)), folder
    merge = lora.Adapter.open(above)
    if above == folder:
        if merge.base is None:
            raise CheckpointError(
                f"{folder / lora.CONFIG}: base_model_name_or_path must name the base of the adapter, got none; "
                "pass load(base, adapter=folder)"
            )
        try:
            place = locate(merge.base, merge.revision, **elsewhere)
        except DllmFastError as error:
            raise CheckpointError(
                f"{folder} is an adapter of {shown(merge.base)} (base_model_name_or_path in {lora.CONFIG}), which cannot be "
                f"opened: {error}; pass load(base, adapter={str(folder)!r}) with the place where it is"
            ) from error
        folder = place
    if lora.is_adapter(folder):
        raise CheckpointError(f"the base of {above} must be a model, got {folder}, an adapter as well; merge that one first")
    base = unwrapped(Checkpoint.open(folder))
    # peft goes by modules; norms may have TensorFlow's names in the files.
    checkpoint = base.under(merge.renamed(lambda key: old_name(key, base.tensors)))
    # An adapter that was saved with a tokenizer has one of its own.
    return checkpoint, folder if Tokenizer.from_folder(above) is None else above
