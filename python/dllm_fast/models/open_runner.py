"""The way in which a model is run, from what the caller has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dllm_fast.models.adapter import ModelAdapter
from dllm_fast.models.loaded import LoadedModel, load
from dllm_fast.models.runner import NetworkRunner, Runner


def open_runner(model: Any, tokenizer: Any = None) -> tuple[Runner, Any]:
    """A runner for a folder or hub id, an opened checkpoint, a module or a callable, and the tokenizer that goes with it."""
    if model is None:
        from dllm_fast import demo

        model, own = demo.load()
        return ModelAdapter(model), own if tokenizer is None else tokenizer
    if isinstance(model, str | Path):
        model = load(model)
    if isinstance(model, LoadedModel):
        return NetworkRunner(model.network, model.info), model.tokenizer if tokenizer is None else tokenizer
    return ModelAdapter(model), tokenizer
