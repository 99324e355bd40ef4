"""Models that only take whole canvases, with what is known of their family, and their head on the scored rows only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.modules.hold import Hold
from dllm_fast.modules.keep import ALONE, put_back
from dllm_fast.runners.adapter import ModelAdapter
from dllm_fast.transformers.call import Forward

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.runners.runner import Scored


class HeadedRunner(ModelAdapter):
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
        self._module = model
        self.info: ModelInfo | None = info
        self.vocabulary = info.vocabulary
        self.context = info.context
        self._forward = Forward(model, mask, block_length=info.block_length, call=call)
        self._changes = changes
        self._rows_only = rows_only

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        assert self.info is not None
        return self.info.token_id(name)

    def _scored(self, canvases: NDArray[np.int64], lines: NDArray[np.int64]) -> Scored:
        ids = torch.from_numpy(canvases).to(self._device)
        if self._rows_only:
            return self._logits(ids, torch.from_numpy(lines).to(self._device)), None
        return self._logits(ids, None), lines

    def _logits(self, ids: Tensor, lines: Tensor | None) -> Tensor:
        began = time.perf_counter()
        try:
            logits = self._alone(ids, lines) if self._changes else self._run(ids, lines)
        except Exception as error:
            batch, length = ids.shape
            error.add_note(f"dllm_fast: raised by forward {self.forwards} (from 0), {batch} rows of {length} tokens")
            raise
        finally:
            self.seconds += time.perf_counter() - began
        self.forwards += 1
        return logits.detach().contiguous()

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
