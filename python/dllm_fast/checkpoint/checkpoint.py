"""Opens a model folder in Hugging Face format: JSON is read, headers are checked, and nothing in the folder is run.

Whoever publishes a folder chooses every byte of it, so each file is checked before anything relies on it. Links are
followed, because the cache of the Hugging Face hub is made of them; a name that the folder itself gives (the shards of
an index) must be a plain file name.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dllm_fast.checkpoint import foreign, reading, regular
from dllm_fast.checkpoint.header import TensorInfo, check_count, read_header
from dllm_fast.checkpoint.jsonfile import LISTS, optional_json, read_json
from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError, shown

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.checkpoint.lora import Adapter

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)

# What is fetched of a hub id: no code, no pickles, no weights of other frameworks.
_FETCHED = (
    "config.json",
    "generation_config.json",
    INDEX,
    "model*.safetensors",
    *TOKENIZER_FILES,
    "adapter_config.json",
    "adapter_model.safetensors",
    # Small, and what says that weights are quantised.
    *foreign.QUANTISED_FILES,
)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}\.safetensors")
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
# The largest models that are published have 200. No shard is free: each header may be large.
_MOST_SHARDS = 2_000
# A key of one of many layers, experts or the like: no further head.
IN_LAYER = re.compile(r"\.\d+\.")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder whose files are known to be sound; the weights are still on disk.

    Attributes:
        folder: where it lies.
        config: `config.json`.
        generation_config, tokenizer_config: the files of these names, or {}.
        tensors: what the headers of the weights say, by key.
        ignored: keys that the caller leaves out; they are not among `tensors`.
        adapter: what is merged into the weights, or None.
        base: the checkpoint without its adapter, or None where there is none.
        prefix: what stands in the files before each of these keys.
    """

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    ignored: frozenset[str] = frozenset()
    adapter: Adapter | None = None
    base: Checkpoint | None = None
    prefix: str = ""

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Reads the JSON files and the headers of the weights.

        Raises:
            CheckpointError: a file is missing, broken, or of a kind that is not opened; the text names file, key and remedy.
        """
        folder = Path(folder)
        if not regular.is_folder(folder):
            raise CheckpointError(
                f"a checkpoint is a folder, got {str(folder)!r}, which is none; pass the folder of config.json"
            )
        if not regular.present(folder / "config.json"):
            raise CheckpointError(foreign.no_config(folder, regular.names(folder)))
        config = read_json(folder / "config.json")
        foreign.refuse_quantised_settings(folder, config)
        tensors = _tensors(folder)
        foreign.refuse_quantised_tensors(folder, tensors)
        return cls(
            folder=folder,
            config=config,
            generation_config=optional_json(folder / "generation_config.json"),
            tokenizer_config=optional_json(folder / "tokenizer_config.json", LISTS),
            tensors=tensors,
        )

    def without(self, patterns: Sequence[str]) -> Self:
        """The checkpoint as if it did not hold some keys.

        Args:
            patterns: of these keys, as a shell writes them: `cls.other.*`; with the prefix or without it.

        Raises:
            InvalidTypeError: a single string, or patterns that are none.
            InvalidValueError: a pattern that no key fits.
        """
        if not isinstance(patterns, list | tuple | set | frozenset) or not all(isinstance(p, str) for p in patterns):
            raise InvalidTypeError(f"ignore_keys must be a list of patterns, got {shown(patterns)}; use ['cls.other.*']")

        def fits(key: str, pattern: str) -> bool:
            return fnmatch.fnmatchcase(key, pattern) or fnmatch.fnmatchcase(self.prefix + key, pattern)

        found = {pattern: [key for key in self.tensors if fits(key, pattern)] for pattern in patterns}
        if idle := [pattern for pattern, keys in found.items() if not keys]:
            outside = [key for key in self.tensors if len(key) < 200 and not IN_LAYER.search(key)]
            near = difflib.get_close_matches(idle[0], outside[:1000], n=3, cutoff=0.0)
            raise InvalidValueError(
                f"a pattern of ignore_keys must fit a key of the weights, got {shown(idle[0])}, which fits none; "
                f"nearest outside of the layers are {', '.join(map(shown, near)) or 'none'}"
            )
        ignored = frozenset(key for keys in found.values() for key in keys)
        return replace(self, tensors={k: v for k, v in self.tensors.items() if k not in ignored}, ignored=ignored)

    def read(self, key: str, *, integers: bool = False) -> Tensor:
        """One weight in the dtype of the file, in memory of its own; `copy` and `pieces` do without that.

        Args:
            key: its name.
            integers: it may hold whole numbers as well.

        Raises:
            CheckpointError: there is no such key, it holds no floating-point numbers, or the file has changed.
        """
        info = self._info(key, integers=integers)
        if self.adapter is None:
            return reading.read_tensor(info)
        replaced = self.adapter.replaces(key)
        return self.adapter.merged(key, self.adapter.replacement(key) if replaced else reading.read_tensor(info))

    def copy(self, key: str, target: Tensor, weights: reading.Weights | None = None) -> None:
        """Copies a weight to where it stays, of any dtype and device: contiguous memory of its shape.

        Args:
            key: its name.
            target: where it stays.
            weights: the files, for as long as several of them are read.

        Raises:
            CheckpointError: as `read`.
        """
        info = self._info(key)
        if self.adapter is None or not self.adapter.changes(key):
            weights.copy(info, target) if weights is not None else reading.copy(info, target)
        else:
            target.copy_(self.read(key))

    def pieces(self, key: str, unit: int = 1, weights: reading.Weights | None = None) -> Iterator[tuple[int, Tensor]]:
        """The numbers of a weight in order, a few at a time: where they begin, and the piece, which is good until the next.

        Args:
            key: its name.
            unit: each piece has a multiple of so many numbers, such as those of a row.
            weights: the files, for as long as several of them are read; one that is read beside others has its own.

        Raises:
            CheckpointError: as `read`.
        """
        info = self._info(key)
        if self.adapter is None or not self.adapter.changes(key):
            yield from weights.pieces(info, unit) if weights is not None else reading.pieces(info, unit)
        else:
            yield from reading.cut(self.read(key), unit)

    def _info(self, key: str, *, integers: bool = False) -> TensorInfo:
        info = self.tensors.get(key)
        if info is None:
            raise CheckpointError(f"{self.folder} must hold {shown(key)}, which no file of weights has; fetch it again")
        if not (integers or info.dtype.is_floating_point):
            raise CheckpointError(
                f"{info.file}: {shown(key)} must hold floating-point numbers, got {info.dtype}; use an unquantised checkpoint"
            )
        return info

    def inside(self, prefix: str) -> Self:
        """The checkpoint by what its keys are behind a prefix that all of them have."""
        tensors = {key.removeprefix(prefix): info for key, info in self.tensors.items()}
        ignored = frozenset(key.removeprefix(prefix) for key in self.ignored)
        return replace(self, tensors=tensors, ignored=ignored, prefix=self.prefix + prefix)

    def under(self, adapter: Adapter) -> Self:
        """The checkpoint with an adapter merged into its weights; they are read from both folders when they are needed.

        Raises:
            CheckpointError: the adapter does not fit.
        """
        return replace(self, tensors=adapter.over(self.tensors, self.folder), adapter=adapter, base=self)


def _tensors(folder: Path) -> dict[str, TensorInfo]:
    """The weights of a folder, from the one file, the index, or the shards, whichever there is first."""
    if regular.present(folder / SINGLE):
        return read_header(folder / SINGLE)
    if regular.present(folder / INDEX):
        return _from_index(folder)
    names = regular.names(folder)
    shards = [folder / name for name in names if _SHARD.fullmatch(name)]
    if shards:
        _check_complete(folder, shards)
        return _joined(folder, shards)
    raise CheckpointError(foreign.no_weights(folder, names, f"{SINGLE}, or {INDEX} and its shards"))


def _check_complete(folder: Path, shards: list[Path]) -> None:
    """Without an index the names are all there is: they must say the same total and be all there."""
    numbers = [match.groups() for path in shards if (match := _SHARD.fullmatch(path.name))]
    total = int(numbers[0][1])
    if len({of for _, of in numbers}) != 1 or [int(number) for number, _ in numbers] != list(range(1, total + 1)):
        raise CheckpointError(
            f"{folder} must hold every shard once, got {len(shards)} files from {shards[0].name} to {shards[-1].name}; "
            f"fetch the missing ones, and {INDEX}"
        )


def read_index(path: Path, name_of_shard: re.Pattern[str], kind: str) -> dict[str, str]:
    """The file of each key by an index of shards.

    Args:
        path: of the index.
        name_of_shard: what a plain file name of the same folder looks like.
        kind: of these files, for errors: `.safetensors`.

    Raises:
        CheckpointError: it is broken, leads out of the folder, or names a file that is missing.
    """
    weight_map = read_json(path, LISTS, unique=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path}: weight_map must be an object from key to file name, got {shown(weight_map)}; fetch it again"
        )
    for key, name in weight_map.items():
        if not isinstance(name, str) or not name_of_shard.fullmatch(name):
            raise CheckpointError(
                f"{path}: {shown(key)} must name a {kind} file of the same folder, got {shown(name)}; "
                "do not use this checkpoint, or correct the index"
            )
    for name, key in {name: key for key, name in reversed(weight_map.items())}.items():
        if not regular.is_file(path.parent / name):
            raise CheckpointError(f"{path}: {shown(key)} lies in {shown(name)}, which is missing or no file; fetch the shard")
    return weight_map


def _from_index(folder: Path) -> dict[str, TensorInfo]:
    path = folder / INDEX
    weight_map = read_index(path, _PLAIN_NAME, ".safetensors")
    tensors = _joined(folder, [folder / name for name in dict.fromkeys(weight_map.values())])
    for key, name in weight_map.items():
        if key not in tensors or tensors[key].file.name != name:
            raise CheckpointError(
                f"{path}: {shown(key)} must lie in {shown(name)}, whose header does not hold it; fetch both again"
            )
    if extra := sorted(tensors.keys() - weight_map.keys()):
        file = tensors[extra[0]].file.name
        raise CheckpointError(
            f"{path}: weight_map must name every tensor, got none for {shown(extra[0])} of {file}; fetch both again"
        )
    return tensors


def _joined(folder: Path, shards: Sequence[Path]) -> dict[str, TensorInfo]:
    if len(shards) > _MOST_SHARDS:
        raise CheckpointError(
            f"{folder} must not hold more than {_MOST_SHARDS:,} shards, got {len(shards):,}; join them with transformers"
        )
    tensors: dict[str, TensorInfo] = {}
    for path in shards:
        header = read_header(path)
        if twice := sorted(tensors.keys() & header.keys()):
            raise CheckpointError(
                f"a tensor must lie in one shard, got {shown(twice[0])} in {tensors[twice[0]].file} and {path.name}; fetch both"
            )
        tensors |= header
        check_count(folder, len(tensors))
    return tensors


def locate(
    folder_or_id: str | Path,
    revision: str | None = None,
    *,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder of a checkpoint: a folder as it is, or a hub id such as `org/name` through `huggingface_hub`.

    Of a hub id only configuration, safetensors, tokenizer and template are fetched, never code. What is in the cache
    of `huggingface_hub` is used, offline too.

    Args:
        folder_or_id: a folder, or an id of the hub.
        revision: branch, tag or commit of a hub id.
        subfolder: the part of it that holds the checkpoint.
        token, cache_dir, local_files_only, force_download: of `huggingface_hub`, for a hub id.

    Raises:
        InvalidValueError: neither a folder nor an id, or a revision of a folder.
        CheckpointError: the id cannot be fetched, or `huggingface_hub` is missing.
    """
    if not isinstance(folder_or_id, str | Path):
        raise InvalidTypeError(f"a model is opened from a folder or a hub id, got {type(folder_or_id).__name__}; pass a string")
    parts = () if subfolder in (None, "") else Path(str(subfolder)).parts
    if any(part in ("..", "/") for part in parts) or Path(*parts).is_absolute():
        raise InvalidValueError(f"subfolder must lie in the model's folder, got {subfolder!r}; name a folder below it")
    try:
        folder = Path(folder_or_id).expanduser()
        is_folder = str(folder_or_id) != "" and regular.is_folder(folder)  # an empty path would be the working directory
        is_file = regular.is_file(folder)
    except RuntimeError:  # an unknown user
        is_folder = is_file = False
    if is_folder:
        if revision is not None:
            raise InvalidValueError(f"revision is for hub ids, got {revision!r} for the folder {folder}; leave it out")
        return folder.joinpath(*parts)
    if is_file:
        raise InvalidValueError(f"a model is opened from its folder, got the file {folder}; pass {folder.parent}")
    name = str(folder_or_id)
    if isinstance(folder_or_id, Path) or len(name) > 96 or not _HUB_ID.fullmatch(name) or ".." in name or "--" in name:
        raise InvalidValueError(f"a model is opened from a folder or a hub id like org/name, got {shown(name)}; check the path")
    how: dict[str, Any] = {"token": token, "cache_dir": cache_dir}
    how |= {"local_files_only": local_files_only or None, "force_download": force_download or None}
    patterns = ["/".join((*parts, pattern)) for pattern in _FETCHED]
    return _fetch(name, revision, patterns, {key: value for key, value in how.items() if value is not None}).joinpath(*parts)


def _fetch(name: str, revision: str | None, patterns: list[str], how: Mapping[str, Any]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{shown(name)} is no folder here, and a hub id needs huggingface_hub, which is not installed; "
            "check the path, or pip install huggingface_hub (the extra `hf`)"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, **how))
    except (OSError, ValueError) as error:  # every error of the hub, of the network and of the cache is one of these
        at = "" if revision is None else f" at revision {revision!r}"
        why = next(iter(str(error).splitlines()), type(error).__name__)  # the hub goes on for paragraphs
        raise CheckpointError(
            f"{shown(name)} is no folder here, and cannot be fetched from the hub{at}: {why}; "
            "check name, revision and network, or pass a folder"
        ) from error
