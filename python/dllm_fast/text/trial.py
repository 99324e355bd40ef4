"""A tokenizer of a folder is tried in a child process before this one believes it; `confined/trial.py` says what is tried."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from dllm_fast import confined
from dllm_fast.errors import CheckpointError
from dllm_fast.text import bounded
from dllm_fast.text.vocabulary import UnusableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllm_fast.text.changes import Changes

# The largest that are published take 2 seconds and 1 GB; a busy machine takes many times as long.
_SECONDS, _SECONDS_PER_MB = 30, 3
_GIGABYTES, _GIGABYTES_PER_MB = 2, 0.1
# Who opens a folder again has its tokenizer at once. Digests of so many that were believed.
_MOST = 256
# Without a lock: a signal handler may load, too, and a fork would inherit it locked.
_believed: dict[bytes, None] = {}


def believe(text: str, changes: Changes, origin: str) -> None:
    """Returns where a tokenizer can be used in this process.

    Args:
        text: as `tokenizer.json` has it; the very text that is going to be used.
        changes: that are going to be made.
        origin: file or folder, for errors.

    Raises:
        CheckpointError: it crashed, panicked, took too long or too much memory in the child, or is none.
        UnusableError: no child can be had, and it is not of parts that are known to be bounded.
    """
    data: dict[str, Any] = {"text": text, "changes": dataclasses.asdict(changes)}
    digest = hashlib.sha256(json.dumps({**data["changes"], "file": ""}).encode())
    digest.update(text.encode("utf-8", "surrogatepass"))  # behind an object of JSON, which says where it ends
    if digest.digest() in _believed:
        return
    _try(text, data, origin)
    if len(_believed) >= _MOST:
        _believed.clear()
    _believed[digest.digest()] = None


def _try(text: str, data: Mapping[str, object], origin: str) -> None:
    again = "fetch it again, or do not use this folder"
    size = len(text) / 1e6
    seconds, gigabytes = _SECONDS + _SECONDS_PER_MB * size, _GIGABYTES + _GIGABYTES_PER_MB * size
    try:
        confined.ask("tokenizer", data, seconds=seconds, gigabytes=gigabytes)
    except confined.TaskError as error:
        if error.kind == "CheckpointError":
            raise CheckpointError(error.text) from error
        if error.kind == "PanicException":
            raise CheckpointError(f"{origin}: the tokenizers library panicked on it ({error.text}); {again}") from error
        if error.kind == "GrowthError":
            raise CheckpointError(f"{origin} must keep a text as long as it is, but {error.text}; {again}") from error
        raise CheckpointError(f"cannot read {origin}: {error.text or error.kind}; {again}") from error
    except confined.LimitError as error:
        raise CheckpointError(
            f"{origin} must keep within {seconds:.0f} seconds and {gigabytes:.1f} GiB in a trial, as every published tokenizer "
            f"does, but {error}; {again}"
        ) from error
    except confined.DiedError as error:
        raise CheckpointError(f"{origin}: the tokenizers library crashed on it ({error}); {again}") from error
    except confined.UnavailableError as error:
        if (part := bounded.beyond(text)) is not None:
            raise UnusableError(
                f"{origin} must be tried in a child process before it is used, because {part}, and no child can be had "
                f"({error}); if you trust it, open it with `tokenizers` and pass tokenizer="
            ) from error
