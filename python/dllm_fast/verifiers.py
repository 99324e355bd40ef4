"""The second model of a run: what the caller may give as `verifier=`, and whether it goes with the first one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.loading.load import load
from dllm_fast.loading.model import LoadedModel
from dllm_fast.runners.causal import CausalRunner
from dllm_fast.runners.network import NetworkRunner
from dllm_fast.runners.verified import Second
from dllm_fast.text import tokens
from dllm_fast.transformers.wrappers import unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dllm_fast.runners.runner import Runner
    from dllm_fast.settings.config import SamplerConfig

# Ids of which two tokenizers may disagree before they are called different, in an error.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Verifier:
    """A model that reads causally, and its tokenizer, where that is known."""

    runner: Runner
    tokenizer: Any

    @property
    def name(self) -> str:
        """What errors call it."""
        return str(getattr(self.runner, "name", "the verifier"))


def open_verifier(verifier: Any) -> Verifier | None:
    """What runs it: a folder or hub id of a causal language model, one that `load` opened to be read causally, or a callable.

    Raises:
        CheckpointError: a folder that cannot be used.
        InvalidTypeError, InvalidValueError: none of these, or a model that sees both ways.
    """
    if verifier is None:
        return None
    if isinstance(verifier, str | Path):
        verifier = _opened(verifier)
    inside = unwrap(verifier)
    model = inside.model
    if isinstance(model, LoadedModel):
        if inside.why is not None:
            raise InvalidValueError(f"a verifier that dllm_fast opened runs as it is, got one of which {inside.why}; unwrap it")
        info = model.info
        if not info.attention_rule.is_autoregressive or info.shift:
            raise InvalidValueError(
                f"a verifier reads from left to right, got {info.family} with attention {info.attention!r}; open a causal "
                "language model with attention='causal_context' and block_length=1"
            )
        return Verifier(NetworkRunner(model.network, info, model.engine), model.tokenizer)
    if not callable(verifier):
        raise InvalidTypeError(
            f"verifier must be a model or a callable from ids [B, L] to logits [B, L, V], got {shown(verifier)}; load it first"
        )
    return Verifier(CausalRunner(verifier), None)


def _opened(folder: str | Path) -> LoadedModel:
    """A causal language model in a folder. What fills masks is none, though it can be read causally."""
    model = load(folder, attention="causal_context", block_length=1)
    if model.info.mask_token_id is not None:
        raise InvalidValueError(
            f"a verifier reads from left to right, got {model.info.family} with the mask {model.info.mask_token_id}, which "
            "fills masks; use a causal language model, or, if this one was trained to read causally, too, what dllm_fast.load "
            "makes of it with that attention"
        )
    return model


def second(
    verifier: Verifier | None, config: SamplerConfig, model: Runner, tokenizer: Any, canvases: Sequence[NDArray[Any]]
) -> tuple[Second | None, tuple[int, ...]]:
    """What the run needs of a verifier, and the ids that one of the two models alone has, which nobody writes.

    Raises:
        InvalidValueError: another vocabulary, a canvas that it cannot read.
    """
    if verifier is None or config.verifier_mixture is None:
        return None, ()
    runner = verifier.runner
    longest = max(map(len, canvases), default=0)
    if runner.context is not None and longest > runner.context:
        raise InvalidValueError(
            f"a verifier must read the whole canvas, got one of {longest} tokens for a context of {runner.context}; shorten it"
        )
    _check_tokenizers(tokenizer, verifier.tokenizer)
    own, others = model.vocabulary, runner.vocabulary
    if own is None or others is None or own == others:
        return Second(runner=runner, weight=config.verifier_mixture), ()
    known, least = tokens.size(tokenizer), min(own, others)
    given = max((int(canvas[canvas != config.mask_token_id].max(initial=0)) for canvas in canvases), default=0)
    if known is None or max(tokens.vocabulary(tokenizer).values(), default=known - 1) >= least or given >= least:
        raise InvalidValueError(
            f"a verifier must know the tokens of the model, got {others} ids for {own}; use one with the same vocabulary"
            + ("" if known is not None else ", or pass tokenizer=, by which ids that nobody uses are known")
        )
    only = tuple(range(least, own))
    return Second(runner=runner, weight=config.verifier_mixture, may_differ=True), only


def _check_tokenizers(own: Any, other: Any) -> None:
    """Refuses two tokenizers that are known and call an id by different names."""
    if own is None or other is None or own is other:
        return
    names = {token: name for name, token in tokens.vocabulary(own).items()}
    differ = [
        f"{token} is {shown(names[token])} and {shown(name)}"
        for name, token in tokens.vocabulary(other).items()
        if names.get(token, name) != name
    ]
    if differ:
        raise InvalidValueError(
            f"a verifier must know the tokens of the model, got tokenizers that differ in {len(differ)} ids (id "
            f"{', '.join(differ[:_SHOWN])}); use one with the same vocabulary"
        )
