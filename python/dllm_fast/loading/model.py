"""A checkpoint that has been opened: `load` and what it returns."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.checkpoint import head
from dllm_fast.checkpoint.checkpoint import Checkpoint
from dllm_fast.checkpoint.fields import LARGEST_SIZE
from dllm_fast.errors import CheckpointError, DllmFastError, InvalidTypeError, InvalidValueError, LoweredTextWarning, shown
from dllm_fast.families import layouts
from dllm_fast.families import table as families
from dllm_fast.families.choices import Choices, token_ids
from dllm_fast.families.form import settle
from dllm_fast.families.layouts import Layout
from dllm_fast.families.model_info import ModelInfo
from dllm_fast.families.recognise import recognise
from dllm_fast.loading import prefix, weights
from dllm_fast.loading.arguments import DTYPES, Arguments, understand
from dllm_fast.loading.folder import open_folder
from dllm_fast.modules.hold import Settled
from dllm_fast.networks import quantise as eight_bits
from dllm_fast.networks.batch import Batch, Network
from dllm_fast.networks.decoder import Decoder
from dllm_fast.runners.graphs import Engine
from dllm_fast.runners.ready import make_ready
from dllm_fast.runners.runner import EXACT
from dllm_fast.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from dllm_fast.families.table import Family


class LoadedModel:
    """A model opened by `dllm_fast.load`; `model(ids)` gives logits.

    Attributes:
        network: the transformer, a torch module.
        tokenizer: of the checkpoint, or None.
        info: every choice with its source.
        config: `config.json` as it is.
        engine: replays steps from CUDA graphs; None on a CPU.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer | None, info: ModelInfo, config: Mapping[str, Any]) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.info = info
        self.config = config
        self.engine = self._new_engine()
        make_ready(network, info.dtype, info.device)

    def __getstate__(self) -> dict[str, Any]:
        # A copy captures its own graphs: those here know the addresses of these weights.
        return {**vars(self), "engine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.engine = self._new_engine()

    def _new_engine(self) -> Engine | None:
        return Engine(self.network, dtype=self.info.dtype, where=self.info.device) if self.info.device.type == "cuda" else None

    @property
    def mask_token_id(self) -> int | None:
        """The mask, or None where nothing says it."""
        return self.info.mask_token_id

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self.info.eos_token_ids

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits `[B, L, V]` of ids `[B, L]` under the model's own attention rule, in its dtype, no shift applied.

        Raises:
            InvalidTypeError, InvalidValueError: no int64 ids of two dimensions, or a canvas longer than the context.
        """
        self._check(ids)
        length = ids.shape[1]
        positions = torch.arange(length, device=ids.device).expand_as(ids)
        with torch.inference_mode():
            batch = Batch(ids=ids, positions=positions, end=self.visible_end(positions, length))
            return self.network.logits(self.network.hidden(batch))

    def visible_end(self, positions: Tensor, length: int | Tensor) -> Tensor | None:
        """For positions `[B, Q]` of rows of `length`, the first position that each does not see; None where all see all."""
        match self.info.attention:
            case "block_causal":
                assert self.info.block_length is not None
                ends = (positions // self.info.block_length + 1) * self.info.block_length
                return ends.clamp(max=length)
            case "causal_context":
                assert self.info.block_length is not None
                # The last block is the one that is being filled; all before it is context.
                block = (length - 1) // self.info.block_length * self.info.block_length
                return torch.where(positions < block, positions + 1, length)
            case "causal_reordered":
                return positions + 1
            case _:
                return None if isinstance(length, int) else length.expand_as(positions)

    def _check(self, ids: object) -> None:
        if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64 or ids.dim() != 2:
            what = f"{ids.dtype} of shape {list(ids.shape)}" if isinstance(ids, torch.Tensor) else type(ids).__name__
            raise InvalidTypeError(f"ids must be an int64 tensor of shape [B, L], got {what}; use torch.tensor([...])")
        if ids.device.type != self.info.device.type:
            raise InvalidValueError(f"ids must be on {self.info.device} as the model is, got {ids.device}; move them")
        context = self.info.context
        if context is not None and ids.shape[1] > context:
            raise InvalidValueError(f"ids must fit the model's context of {context} tokens, got {ids.shape[1]}; shorten them")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.info.vocabulary:
            raise InvalidValueError(
                f"ids must lie in [0, {self.info.vocabulary}), got {int(ids.min())} to {int(ids.max())}; "
                "use the tokenizer of this model"
            )

    def __repr__(self) -> str:
        info = self.info
        return f"LoadedModel({info.family}, {info.vocabulary} tokens, attention {info.attention}, {info.dtype}, {info.device})"


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
    info = _info(family, checkpoint, network, tokenizer, named, source=source, place=place)  # type: ignore[arg-type]
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


def _check_counts(checkpoint: Checkpoint) -> None:
    """Refuses more layers or experts than any model has, or than there are tensors, before that many are built."""
    there = len(checkpoint.tensors)
    shared = checkpoint.config.get("num_hidden_groups") is not None  # ALBERT's layers share their weights
    for name in ("num_hidden_layers", "n_layers", "n_layer", "num_experts", "num_local_experts"):
        value = checkpoint.config.get(name)
        most = _MOST_EXPERTS if "experts" in name else _MOST_LAYERS
        most = most if shared else min(most, there)
        if isinstance(value, int) and value > most:
            raise CheckpointError(
                f"{name} in config.json must be at most {most} for the {there} tensors in "
                f"{checkpoint.folder}, got {shown(value)}; is config.json the one of these weights?"
            )


def _info(
    family: Family,
    checkpoint: Checkpoint,
    network: Network,
    tokenizer: Tokenizer | None,
    overrides: Mapping[str, Any],
    *,
    source: str,
    place: tuple[torch.dtype, torch.device],
) -> ModelInfo:
    table = f"family {family.name}"
    choices = Choices(family=source)
    sources = choices.sources

    def choose(name: str, *candidates: tuple[Any, str]) -> Any:
        """The caller comes first."""
        return choices.first(name, (overrides.get(name), "caller"), *candidates)

    attention = choose("attention", (family.attention, table))
    _check_blocks(family, checkpoint, overrides)
    keys = [(checkpoint.config.get(key), f"config.json: {key}") for key in family.block_keys]
    block = choose("block_length", *keys, (family.block_length, table))
    if attention not in EXACT:
        if overrides.get("block_length") is not None:
            raise InvalidValueError(
                f"block_length of load is that of attention by blocks, got {overrides['block_length']} for attention "
                f"{attention!r} ({sources['attention']}); pass block_length= to sample or infill, or "
                "attention='block_causal' with it"
            )
        sources.pop("block_length", None)
        block = None
    elif isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= LARGEST_SIZE:
        raise CheckpointError(f"attention by blocks needs a block length, got {block!r}; pass block_length=")
    mask = choose("mask_token_id", *_masks(family, checkpoint, tokenizer, network.vocabulary))
    ends = token_ids(choose("eos_token_ids", *_ends(checkpoint, tokenizer))) or ()
    if tokenizer is not None and sources["eos_token_ids"] != "caller":
        more = [tokenizer.token_to_id(token) for token in family.end_tokens]
        ends = tuple(dict.fromkeys([*ends, *(token for token in more if token is not None)]))
    for name, ids in (("mask_token_id", () if mask is None else (mask,)), ("eos_token_ids", ends)):
        if outside := [i for i in ids if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < network.vocabulary]:
            raise CheckpointError(
                f"{name} must lie in [0, {network.vocabulary}), got {shown(outside[0])} from {sources[name]}; pass {name}="
            )
    return ModelInfo(
        family=family.name,
        mask_token_id=mask,
        eos_token_ids=ends,
        shift=int(choose("shift", (family.shift, table))),
        attention=attention,
        block_length=block,
        dtype=place[0],
        device=place[1],
        vocabulary=network.vocabulary,
        context=network.context,
        preset=family.preset,
        defaults=family.defaults,
        sources=sources,
        verified=family.verified,
        notes=(*getattr(network, "notes", ()), *_ignored(checkpoint)),
    )


def _check_blocks(family: Family, checkpoint: Checkpoint, overrides: Mapping[str, Any]) -> None:
    """Refuses a block size in the config of a family that sees everything: one of the two is wrong about this checkpoint."""
    said = [key for key in families.BLOCK_SIZES if checkpoint.config.get(key) is not None]
    sees_all = family.attention == "full" and isinstance(family.layout, Layout)
    if said and sees_all and overrides.get("attention") is None:
        raise CheckpointError(
            f"{said[0]} in config.json is {shown(checkpoint.config[said[0]])}, but models of the family {family.name} attend "
            "without blocks; pass attention='block_causal' with block_length=, or attention='full' to go by the family"
        )


def _ignored(checkpoint: Checkpoint) -> list[str]:
    ignored = sorted(checkpoint.ignored)
    return [f"left out by ignore_keys: {', '.join(ignored[:5])}{', ...' if len(ignored) > 5 else ''}"] if ignored else []


def _masks(family: Family, checkpoint: Checkpoint, tokenizer: Tokenizer | None, vocabulary: int) -> list[tuple[Any, str]]:
    """Candidates for the mask, the best first."""
    written = (checkpoint.config.get("mask_token_id"), "config.json: mask_token_id")
    spoken = (None if tokenizer is None else tokenizer.mask_token_id, "tokenizer: mask token")
    if spoken[0] is None and tokenizer is not None and family.mask_token is not None:
        spoken = (tokenizer.token_to_id(family.mask_token), f"tokenizer: {family.mask_token}")
    return families.masks(family, written, spoken, vocabulary)


def _ends(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> list[tuple[Any, str]]:
    found = [
        (checkpoint.generation_config.get("eos_token_id"), "generation_config.json: eos_token_id"),
        (checkpoint.config.get("eos_token_id"), "config.json: eos_token_id"),
        (None if tokenizer is None else tokenizer.eos_token_id, "tokenizer: end token"),
    ]
    return [(token_ids(value), source) for value, source in found]


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the files, or what the config says of files of several."""
    found = {info.dtype for info in checkpoint.tensors.values() if info.dtype in DTYPES.values()}
    named = DTYPES.get(str(checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")))
    return found.pop() if len(found) == 1 else named or torch.float32
