"""The way in which a model is run, from what the caller has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_fast import switches
from dllm_fast.errors import InvalidValueError
from dllm_fast.loading.load import load
from dllm_fast.loading.model import LoadedModel
from dllm_fast.runners.callable import CallableRunner
from dllm_fast.runners.network import NetworkRunner
from dllm_fast.transformers import canvas
from dllm_fast.transformers.like import LikeRunner, known
from dllm_fast.transformers.marks import refuse_carried
from dllm_fast.transformers.native import NativeRunner
from dllm_fast.transformers.probe import study
from dllm_fast.transformers.study import ROWS
from dllm_fast.transformers.whole_canvas import HeadedRunner
from dllm_fast.transformers.wrappers import is_pretrained, unwrap

if TYPE_CHECKING:
    from dllm_fast.runners.runner import Runner
    from dllm_fast.transformers.study import Study
    from dllm_fast.transformers.wrappers import Unwrapped


def open_runner(model: Any, tokenizer: Any = None, like: Any = None) -> tuple[Runner, Any]:
    """A runner for a folder or hub id, an opened checkpoint, a model in memory or a callable, and the tokenizer for it.

    Args:
        model: what is run.
        tokenizer: of the caller, or None.
        like: for a callable of which nothing is known, the model that it is around.

    Raises:
        CheckpointError: a folder that cannot be used.
        InvalidValueError: a model of transformers that is causal, or fills no masks; `like` beside a model that is known; a
            callable that carries marks of a known model, from which nobody can tell what it is.
    """
    switches.check()
    inside = unwrap(model)
    if like is not None:
        if model is None or isinstance(inside.model, str | Path | LoadedModel) or is_pretrained(model):
            kind = "None" if model is None else type(model).__name__
            raise InvalidValueError(
                f"like= says what a plain function is around, got it beside {kind}, of which all is known; leave it out"
            )
        info, tokenizer = known(like, tokenizer)
        return LikeRunner(model, like, info), tokenizer
    if model is None:
        from dllm_fast import demo

        inside = unwrap(demo.load()[0])
    elif isinstance(model, str | Path):
        inside = unwrap(load(model))
    if isinstance(inside.model, LoadedModel):
        runner = _loaded(inside)
        return runner, inside.model.tokenizer if tokenizer is None else tokenizer
    if is_pretrained(model):
        if canvas.has_canvas(model):
            return NetworkRunner(*canvas.around(model, tokenizer)), tokenizer
        return runner_of(model, study(model, tokenizer)), tokenizer
    refuse_carried(model)
    return CallableRunner(model), tokenizer


def _loaded(inside: Unwrapped) -> Runner:
    """The runner of an opened checkpoint, or of the wrapper around it that must be called."""
    model = inside.model
    if inside.why is None:
        return NetworkRunner(model.network, model.info, model.engine)
    return LikeRunner(inside.called, model, model.info, probed=model)


def runner_of(model: Any, found: Study) -> Runner:
    """The runner that a study recommends."""
    inside = unwrap(model)
    if found.plan is not None:
        return NativeRunner(inside.model, found.plan, found.info, is_captured=found.not_captured is None)
    return HeadedRunner(
        inside.model,
        found.info,
        mask=found.mask,
        rows_only=found.tier == ROWS,
        call=inside.called,
        changes=found.changes,
    )
