"""`load`: from a folder or a hub id to a model that runs, without running any code that comes with it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.checkpoint import head
from dllm_fast.errors import CheckpointError, DllmFastError, InvalidTypeError, LoweredTextWarning, shown
from dllm_fast.families import layouts
from dllm_fast.families.config_keys import CONTEXT_KEYS, Settings, with_text
from dllm_fast.families.form import settle
from dllm_fast.families.layouts import Layout
from dllm_fast.families.model_info import Built, Sources, resolve
from dllm_fast.families.recognise import recognise
from dllm_fast.loading import prefix, weights
from dllm_fast.loading.arguments import DTYPES, understand
from dllm_fast.loading.folder import open_folder
from dllm_fast.loading.model import LoadedModel
from dllm_fast.modules.hold import Settled
from dllm_fast.networks import quantise as eight_bits
from dllm_fast.networks.decoder import Decoder
from dllm_fast.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from dllm_fast.checkpoint.checkpoint import Checkpoint
    from dllm_fast.families.family import Family
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.loading.arguments import Arguments
    from dllm_fast.networks.batch import Network


def load(
    folder_or_id: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | int | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    ignore_keys: Sequence[str] = (),
    quantise: str | None = None,
    **overrides: Any,
) -> LoadedModel:
    """Opens a checkpoint in Hugging Face format without running any code that comes with it.

    Args:
        folder_or_id: a folder with `config.json`, `model*.safetensors` and, for text, a tokenizer; or the id of a model on the
            hub, where `huggingface_hub` is installed. A folder of a LoRA adapter opens its base with the adapter merged.
        dtype: of the weights: a torch dtype or its name; default: as in the files.
        device: where the weights go; default: the CPU.
        revision: branch, tag or commit of a hub id.
        adapter: a folder or hub id of a LoRA adapter that peft wrote, to be merged into the weights.
        ignore_keys: patterns such as `cls.other.*` of weights that this model does not need, for instance of further heads.
        quantise: `fp8` for weights of the blocks in E4M3 with a scale for each output channel, and rows quantised as they
            come: half of their memory, and half of the reading in a step. On a GPU of compute capability 8.9 or more, in
            bfloat16; on a CPU it is emulated, slowly. Everything else keeps `dtype`.
        overrides: `mask_token_id`, `shift`, `block_length`, `attention` (`full`, `block_causal`, `causal_context`,
            `causal_reordered`), `eos_token_ids` and `family` (a row of the table), over what the checkpoint and the table of
            families say. Arguments of `from_pretrained` are understood (`torch_dtype`, `device_map` of one device, `token`,
            `cache_dir`, `local_files_only`, `subfolder`) or answered.

    Raises:
        CheckpointError: the folder cannot be used; names the file, the key and a remedy.
        InvalidValueError, InvalidTypeError: an argument.
    """
    with Settled(), Settled():
        asked = understand(dtype, device, overrides, quantise)
        opened = _open(folder_or_id, asked, revision, adapter, ignore_keys)
        info = opened.info
        if opened.tokenizer is not None and opened.tokenizer.remark is not None:
            warnings.warn(opened.tokenizer.remark, LoweredTextWarning, stacklevel=2)
        weights.fill(opened.network, opened.checkpoint, opened.pieces, opened.harmless, dtype=info.dtype, device=info.device)
        return LoadedModel(opened.network, opened.tokenizer, info, opened.config)  # type: ignore[arg-type]


def inspect_folder(folder_or_id: str | Path) -> tuple[ModelInfo, Tokenizer | None]:
    """What `load` would say about a folder or hub id, and its tokenizer; no weight is read.

    Raises:
        CheckpointError, InvalidValueError, InvalidTypeError: as `load`, as far as the weights play no part.
    """
    opened = _open(folder_or_id, understand(None, None, {}), None, None, ())
    return opened.info, opened.tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A checkpoint before its weights are read: the network without values, what goes where, and what was chosen."""

    checkpoint: Checkpoint
    config: Mapping[str, Any]
    network: nn.Module
    pieces: Mapping[str, Sequence[str]]
    harmless: Sequence[str]
    tokenizer: Tokenizer | None
    info: ModelInfo


def _open(
    folder_or_id: str | Path, asked: Arguments, revision: str | None, adapter: str | Path | None, ignore_keys: Sequence[str]
) -> _Opened:
    if revision is not None and not isinstance(revision, str):
        raise InvalidTypeError(f"revision must be a name, got {shown(revision)}; leave it out for the newest")
    named = asked.overrides
    checkpoint, texts = open_folder(folder_or_id, revision, adapter, asked.hub)
    checkpoint = checkpoint.without(ignore_keys)
    if checkpoint.adapter is None:
        checkpoint = prefix.unwrapped(checkpoint)  # once more: what had no prefix may be left out now
    family, source = recognise(
        checkpoint.config, checkpoint.tensors, attention=named.get("attention"), name=named.get("family")
    )
    prefix.check(family, checkpoint, source)
    config = checkpoint.config
    types = (*family.model_types, *family.shared_types)
    if config.get("model_type") not in types:
        checkpoint = replace(checkpoint, config={**config, "model_type": types[0]})
    place = asked.dtype or _dtype(checkpoint), asked.device
    if asked.quantise is not None:
        eight_bits.check(*place)
    with torch.device("meta"):
        network, pieces, harmless = _build(family, checkpoint)
        quantised = () if asked.quantise is None else (eight_bits.prepare(network, asked.device),)
    if checkpoint.adapter is not None:
        checkpoint.adapter.check_held(checkpoint.tensors, checkpoint.folder)
    tokenizer, missing = Tokenizer.find(texts, model_type=str(checkpoint.config["model_type"]))
    info = _resolved(family, checkpoint, network, tokenizer, asked, source=source, place=place)  # type: ignore[arg-type]
    notes = [*info.notes, *quantised, *asked.notes]
    if checkpoint.prefix:
        notes.append(f"every key of the weights begins with {shown(checkpoint.prefix)}, which is passed over")
    if checkpoint.adapter is not None:
        notes.append(checkpoint.adapter.note)
    if missing is not None:
        notes.append(f"no tokenizer for text: {missing}")
    if tokenizer is not None and tokenizer.remark is not None:
        notes.append(tokenizer.remark)
    return _Opened(
        checkpoint=checkpoint,
        config=config,
        network=network,
        pieces=pieces,
        harmless=harmless,
        tokenizer=tokenizer,
        info=replace(info, notes=tuple(notes), quantise=asked.quantise),
    )


def _build(family: Family, checkpoint: Checkpoint) -> tuple[nn.Module, Mapping[str, Sequence[str]], Sequence[str]]:
    """The network without values, where its values are, and which keys are none of them.

    Raises:
        CheckpointError: what the config says makes no network.
    """
    _check_counts(checkpoint)
    try:
        if not isinstance(family.layout, Layout):
            return family.layout.build(checkpoint)
        keys = family.layout.found(checkpoint.tensors)
        config, notes = settle(family.layout.read(checkpoint.config), keys, checkpoint)
        output = head.decide(
            checkpoint,
            table=keys["embed.weight"],
            head=keys["head.weight"],
            tied=config.tied,
            setting=family.layout.tied_setting,
        )
        config = replace(config, tied=output.tied)
        decoder = Decoder(config)
        decoder.notes = output.notes + notes
    except DllmFastError:
        raise
    except Exception as error:  # of any class, from a setting that nobody foresaw
        raise CheckpointError(
            f"config.json in {checkpoint.folder} must describe a {family.name} model, got settings that do not: "
            f"{type(error).__name__}: {error}; fetch the file again"
        ) from error
    pieces = layouts.pieces(keys, config, [name for name, _ in decoder.named_parameters()], len(checkpoint.tensors))
    pieces["embed.weight"] = (output.table,)
    return decoder, pieces, tuple(map(re.escape, keys["head.weight"] if output.tied else ()))


# Each takes a millisecond to build, empty or not; the deepest that are published have 126 and 512.
_MOST_LAYERS, _MOST_EXPERTS = 1024, 4096
# All experts of a layer in one tensor.
_STACK = ".experts.gate_up_proj"


def _check_counts(checkpoint: Checkpoint) -> None:
    """Refuses more layers or experts than any model has, or than there are tensors, before that many are built."""
    there, config = len(checkpoint.tensors), with_text(checkpoint.config)
    shared = checkpoint.config.get("num_hidden_groups") is not None  # ALBERT's layers share their weights
    for name in ("num_hidden_layers", "n_layers", "n_layer", "num_experts", "num_local_experts"):
        value = config.get(name)
        most = _MOST_EXPERTS if "experts" in name else _MOST_LAYERS
        is_stacked = "experts" in name and any(key.endswith(_STACK) for key in checkpoint.tensors)
        most = most if shared or is_stacked else min(most, there)
        if isinstance(value, int) and value > most:
            raise CheckpointError(
                f"{name} in config.json must be at most {most} for the {there} tensors in "
                f"{checkpoint.folder}, got {shown(value)}; is config.json the one of these weights?"
            )


def _resolved(
    family: Family,
    checkpoint: Checkpoint,
    network: Network,
    tokenizer: Tokenizer | None,
    asked: Arguments,
    *,
    source: str,
    place: tuple[torch.dtype, torch.device],
) -> ModelInfo:
    config = with_text(checkpoint.config)
    context = next((f"config.json: {key}" for key in CONTEXT_KEYS if config.get(key) is not None), f"family {family.name}")
    dtype, device = place
    return resolve(
        Sources(
            family=family,
            by=source,
            built=Built(
                vocabulary=network.vocabulary,
                context=(network.context, context),
                dtype=dtype,
                device=device,
                verified=family.verified,
                notes=(*getattr(network, "notes", ()), *_ignored(checkpoint)),
            ),
            config=Settings("config.json", config),
            generation_config=Settings("generation_config.json", checkpoint.generation_config),
            tokenizer=tokenizer,
            caller=asked.overrides,
        )
    )


def _ignored(checkpoint: Checkpoint) -> list[str]:
    ignored = sorted(checkpoint.ignored)
    return [f"left out by ignore_keys: {', '.join(ignored[:5])}{', ...' if len(ignored) > 5 else ''}"] if ignored else []


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the files, or what the config says of files of several."""
    found = {info.dtype for info in checkpoint.tensors.values() if info.dtype in DTYPES.values()}
    named = DTYPES.get(str(checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")))
    return found.pop() if len(found) == 1 else named or torch.float32
