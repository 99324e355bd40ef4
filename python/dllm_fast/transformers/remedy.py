"""What to do about a class that does not see both ways: only settings that were tried and work are named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from dllm_fast.families.config_keys import entry
from dllm_fast.families.recognise import is_opened
from dllm_fast.transformers.call import FORMS
from dllm_fast.transformers.describe import says_bidirectional

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllm_fast.modules.keep import Snapshot
    from dllm_fast.transformers.sight import Sight

# The setting of transformers for attention that sees both ways, and what some classes call theirs.
_IS_CAUSAL = "is_causal"
_SETTINGS = (_IS_CAUSAL, "causal")


def heeded(model: nn.Module, look: Callable[[str], tuple[Tensor, Sight]], snapshot: Snapshot) -> str | None:
    """The setting that makes a causal class see both ways, tried in its config and in the modules that copied it; or None.

    Args:
        model: a class of transformers.
        look: runs it under a form of the mask.
        snapshot: puts it back.
    """
    config = getattr(model, "config", None)
    for name in _SETTINGS:
        if name != _IS_CAUSAL and entry(config, name) is not True:
            continue
        copies = [] if name == _IS_CAUSAL else [module for module in model.modules() if vars(module).get(name) is True]
        for holder in (config, *copies):
            setattr(holder, name, False)
        try:
            for mask in FORMS:
                with contextlib.suppress(Exception):  # of any class, from a mask that it does not take
                    if look(mask)[1] in ("all", "both sides"):
                        return name
        finally:
            snapshot.restore()
    return None


def one_sided(model: nn.Module, sees: Sight | None, heeds: str | None) -> str:
    """Why a model that does not see both ways is refused, and what to do.

    Args:
        model: which.
        sees: what its rows depend on.
        heeds: a setting of its config that was tried and made it see both ways.
    """
    name = type(model).__name__
    if sees == "itself":
        return (
            f"a diffusion model must see other tokens, got {name}, in which every row of logits depends on its own "
            "token alone; load trained weights, or what its attention needs on this machine (MRA: its kernels and a GPU)"
        )
    config = getattr(model, "config", None)
    remedies = []
    if entry(config, "is_decoder") is True:
        remedies.append(
            'load it with from_pretrained(folder, is_decoder=False), or write "is_decoder": false into its config.json'
        )
    elif heeds == _IS_CAUSAL:
        remedies.append("set model.config.is_causal = False")
    elif heeds is not None:
        remedies.append(f"load it with from_pretrained(folder, {heeds}=False)")
    if entry(config, "is_decoder") is not True and is_opened(str(entry(config, "model_type") or "")):
        remedies.append("open the folder with dllm_fast.load(folder, attention='full')")
    rule = f"a diffusion model must see both ways, got {name}, which is causal: its last token changes no row before it; "
    if not remedies:
        return f"{rule}no setting that was tried lets its class see both ways, so use a model of another class"
    ignores = "its class ignores what the config says; " if heeds is None and says_bidirectional(model) else ""
    return f"{rule}if it was trained bidirectionally, {ignores}{', or '.join(remedies)}"
