"""Engines on a host, where a graph is the function that would be captured, and what is known of a network made by hand."""

from __future__ import annotations

from typing import Any

import torch

from dllm_fast.families.model_info import ModelInfo
from dllm_fast.runners.graphs import Engine


def itself(body):
    """A capture that captures nothing: what is replayed is the body."""
    body()
    return body


class Recorder:
    """The same, and counts: buffers must stay where they are for it, too."""

    def __init__(self):
        self.captured = self.replayed = 0

    def __call__(self, body):
        self.captured += 1
        body()

        def replay():
            self.replayed += 1
            body()

        return replay


def with_engine(model, capture=itself) -> Engine:
    """Gives a model an engine."""
    model.engine = Engine(model.network, dtype=model.info.dtype, where=model.info.device, capture=capture)
    return model.engine


def info(vocabulary: int, **more: Any) -> ModelInfo:
    """Of a network that sees both ways, on the host in bfloat16."""
    plain: dict[str, Any] = {
        "family": "llada",
        "mask_token_id": None,
        "eos_token_ids": (),
        "shift": 0,
        "attention": "full",
        "block_length": None,
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "vocabulary": vocabulary,
        "context": None,
        "preset": None,
        "defaults": {},
        "sources": {},
        "verified": "",
    }
    return ModelInfo(**plain | more)
