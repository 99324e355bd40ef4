"""What the arguments of a call alone say: refused before a checkpoint is opened, and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllm_fast.errors import InvalidValueError, shown
from dllm_fast.seeds import check_random

if TYPE_CHECKING:
    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.settings.resolve import Resolved


def check_call(
    resolved: Resolved,
    *,
    seed: object,
    num_samples: object,
    is_infilling: bool,
    has_ranks: bool,
    has_negative: bool,
    verifier: object,
) -> None:
    """Refuses what the arguments of a call alone say that cannot be, whatever the model.

    Args:
        resolved: the settings as far as they are known.
        seed, num_samples: as the caller gave them.
        is_infilling: nothing is appended.
        has_ranks: he gave an order of his own.
        has_negative: he gave a negative prompt.
        verifier: the second model that he gave, or None.

    Raises:
        InvalidValueError, InvalidTypeError: it cannot.
    """
    config = resolved.config
    check_random(seed, num_samples)
    _check_verifier(config, verifier)
    if is_infilling:
        _check_infilling(resolved)
    if config.order == "ranks" and not has_ranks:
        raise InvalidValueError(
            "order='ranks' goes by ranks of the caller's, got none; pass order= an array of them, or choose another order"
        )
    if config.order == "calibrated" and config.token_frequencies is None:
        raise InvalidValueError(
            "order 'calibrated' (PC-Sampler) needs to know how frequent each token is anywhere, got no token_frequencies; "
            "count them in some text of the model's language: token_frequencies=dllm_fast.TokenFrequencies.of(ids, vocabulary)"
        )
    if has_negative and config.guidance == 0 and "guidance" not in resolved.given:
        raise InvalidValueError(
            "negative_prompt is what guidance leads away from, got one without guidance; pass guidance=1.0, or leave it out"
        )


def _check_infilling(resolved: Resolved) -> None:
    """Refuses what ends an answer, or says how long it is, where nothing is appended."""
    config = resolved.config
    if "max_new_tokens" in resolved.given:
        raise InvalidValueError(
            f"infill appends nothing, got max_new_tokens={config.max_new_tokens}; leave it out, or use sample"
        )
    for name in ("stop", "min_new_tokens"):
        if value := getattr(config, name):
            raise InvalidValueError(
                f"infill keeps what stands behind a gap, so that nothing ends it, got {name}={shown(value)}; leave it out, or "
                "use sample"
            )
    if config.eos_policy == "suffix":
        raise InvalidValueError(
            "infill keeps what stands behind a gap, got eos_policy='suffix', which fills it with end tokens; use 'delay' or "
            "'penalise', or use sample"
        )
    if config.length != "fixed":
        raise InvalidValueError(
            f"infill keeps what stands behind a gap where it is, got length={config.length!r}; leave it out, write a gap of "
            "unknown length as [MASK:3-10] or with gaps=, or use sample"
        )


def _check_verifier(config: SamplerConfig, verifier: object) -> None:
    """Refuses a verifier that nobody asks, and a rule that has none to ask.

    Raises:
        InvalidValueError: one without the other.
    """
    if config.verifier_mixture is None and verifier is not None:
        raise InvalidValueError(
            f"a verifier is asked under verifier_mixture alone, got {type(verifier).__name__} without it; pass preset='apd', "
            "or leave verifier out"
        )
    if config.verifier_mixture is not None and verifier is None:
        raise InvalidValueError(
            f"verifier_mixture={config.verifier_mixture} mixes the logits of two models, got no second one; pass verifier=, a "
            "model that reads from left to right"
        )
