"""A checkpoint that has been opened, ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.networks.batch import Batch
from dllm_fast.runners.graphs import Engine
from dllm_fast.runners.ready import make_ready

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.networks.batch import Network
    from dllm_fast.text.tokenizer import Tokenizer


class LoadedModel:
    """A model opened by `dllm_fast.load`; `model(ids)` gives logits.

    Attributes:
        network: the transformer, a torch module.
        tokenizer: of the checkpoint, or None.
        info: every choice with its source.
        config: `config.json` as it is.
        engine: replays steps from CUDA graphs; None on a CPU.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer | None, info: ModelInfo, config: Mapping[str, Any]) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.info = info
        self.config = config
        self.engine = self._new_engine()
        make_ready(network, info.dtype, info.device)

    def __getstate__(self) -> dict[str, Any]:
        # A copy captures its own graphs: those here know the addresses of these weights.
        return {**vars(self), "engine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.engine = self._new_engine()

    def _new_engine(self) -> Engine | None:
        return Engine(self.network, dtype=self.info.dtype, where=self.info.device) if self.info.device.type == "cuda" else None

    @property
    def mask_token_id(self) -> int | None:
        """The mask, or None where nothing says it."""
        return self.info.mask_token_id

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self.info.eos_token_ids

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits `[B, L, V]` of ids `[B, L]` under the model's own attention rule, in its dtype, no shift applied.

        Raises:
            InvalidTypeError, InvalidValueError: no int64 ids of two dimensions, or a canvas longer than the context.
        """
        self._check(ids)
        rule = self.info.attention_rule
        ends = rule.whole(ids.shape[1])
        with torch.inference_mode():
            batch = Batch(
                ids=ids,
                positions=torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
                end=None if ends is None else torch.from_numpy(ends).to(ids.device).expand_as(ids),
                origin=ids.new_full((len(ids), 1), rule.last_block(ids.shape[1])) if rule.has_canvas else None,
            )
            return self.network.logits(self.network.hidden(batch))

    def _check(self, ids: object) -> None:
        if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64 or ids.dim() != 2:
            what = f"{ids.dtype} of shape {list(ids.shape)}" if isinstance(ids, torch.Tensor) else type(ids).__name__
            raise InvalidTypeError(f"ids must be an int64 tensor of shape [B, L], got {what}; use torch.tensor([...])")
        if ids.device.type != self.info.device.type:
            raise InvalidValueError(f"ids must be on {self.info.device} as the model is, got {ids.device}; move them")
        context = self.info.context
        if context is not None and ids.shape[1] > context:
            raise InvalidValueError(f"ids must fit the model's context of {context} tokens, got {ids.shape[1]}; shorten them")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.info.vocabulary:
            raise InvalidValueError(
                f"ids must lie in [0, {self.info.vocabulary}), got {int(ids.min())} to {int(ids.max())}; "
                "use the tokenizer of this model"
            )

    def __repr__(self) -> str:
        info = self.info
        return f"LoadedModel({info.family}, {info.vocabulary} tokens, attention {info.attention}, {info.dtype}, {info.device})"
