"""The few tokens of a probe, and how two answers to them are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllm_fast.families.model_info import ModelInfo

TOKENS = 9


def ends(positions: Tensor, *, causal: bool) -> Tensor | None:
    """What a `Batch` needs for queries that see all, or only those before them."""
    return positions + 1 if causal else None


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in terms of the largest logit. Columns at -inf in both (padding of a vocabulary) agree."""
    found, expected = found.float(), expected.float()
    if found.shape != expected.shape:
        return float("inf")
    finite = expected.isfinite() & found.isfinite()
    if not bool((finite | (found == expected)).all()) or not bool(finite.any()):
        return float("inf")
    return float((found - expected)[finite].abs().max() / expected[finite].abs().max().clamp(min=1e-30))


def tokens(model: nn.Module, info: ModelInfo, length: int = TOKENS) -> Tensor:
    """Ids `[1, length]` that mean nothing special, as far as one can tell."""
    config = getattr(model, "config", None)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    special = {value for name in names if isinstance(value := getattr(config, name, None), int)}
    special |= {*info.eos_token_ids, -1 if info.mask_token_id is None else info.mask_token_id}
    top = min(info.vocabulary, getattr(config, "vocab_size", None) or info.vocabulary)
    plain = [token for token in range(min(top, 4096)) if token not in special] or [0]
    if info.context is not None:
        length = min(length, info.context)
    # Steps of a fixed size through them: no two neighbours alike.
    ids = [plain[(7 + 31 * i) % len(plain)] for i in range(length)]
    return torch.tensor([ids], device=info.device)


def changed(ids: Tensor, place: int, info: ModelInfo) -> Tensor:
    """The same with another token at one place."""
    changed = ids.clone()
    others = ids[ids != ids[0, place]]
    changed[0, place] = others[0] if others.numel() else (ids[0, place] + 1) % info.vocabulary
    return changed


def line(error: Exception) -> str:
    """The beginning of an error."""
    return (str(error).splitlines() or [""])[0][:120]
