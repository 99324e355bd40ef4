"""Models that only take whole canvases, with what is known of their family, and their head on the scored rows only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.modules.hold import Hold
from dllm_fast.modules.keep import ALONE, put_back
from dllm_fast.runners.callable import CallableRunner
from dllm_fast.transformers.call import Forward

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.runners.callable import Ints, Logits


class HeadedRunner(CallableRunner):
    """Rows of equal length share a forward; nothing is kept from one to the next.

    Args:
        model: a class of transformers, or remote code.
        info: what is known of it.
        mask: the form of the mask that it is given; see `Forward`.
        rows_only: compute logits of the scored rows only; otherwise of all.
        call: a wrapper around the model, where that must be called.
        changes: put the model back after every forward, so that none depends on those before it.
    """

    def __init__(
        self, model: nn.Module, info: ModelInfo, *, mask: str, rows_only: bool, call: Any = None, changes: bool = False
    ) -> None:
        super().__init__(model)
        self._device = info.device
        self.shows_shadow = False
        self._module = model
        self.info: ModelInfo | None = info
        self.vocabulary = info.vocabulary
        self.context = info.context
        self._forward = Forward(model, mask, info.attention_rule, call=call)
        self._changes = changes
        self._rows_only = rows_only

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        assert self.info is not None
        return self.info.token_id(name)

    def call(self, canvases: Ints, lines: Ints) -> Tensor:
        ids = torch.from_numpy(canvases).to(self._device)
        scored = torch.from_numpy(lines).to(self._device) if self._rows_only else None
        return self._alone(ids, scored) if self._changes else self._run(ids, scored)

    def read(self, output: Tensor, canvases: Ints, lines: Ints) -> Logits:
        return output.detach().contiguous(), None if self._rows_only else lines

    def _run(self, ids: Tensor, lines: Tensor | None) -> Tensor:
        return self._forward(ids).flatten(0, 1) if lines is None else self._forward.rows(ids, lines)

    def _alone(self, ids: Tensor, lines: Tensor | None) -> Tensor:
        with ALONE.held():
            hold = Hold()
            try:
                put_back(hold, self._module)
                return self._run(ids, lines)
            finally:
                hold.give_back()
