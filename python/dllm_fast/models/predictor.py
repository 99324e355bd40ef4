"""From logits to what the sampler takes: on the device that holds them where the kernels can run there, else in the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast import _core
from dllm_fast.ops import mask_predict as device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dllm_fast._core import Request, Sampler
    from dllm_fast.config import SamplerConfig
    from dllm_fast.models.loaded import ModelInfo

    Ints = NDArray[np.int64]


class Predictor:
    """Predictions for one run. Both ways give the same bits, so the tokens do not depend on the way.

    On a device the logits stay where they are; what comes to the host are 60 bytes a position, in one copy.
    """

    def __init__(self, config: SamplerConfig, seeds: Sequence[int], requests: Sequence[int]) -> None:
        mask = () if config.mask_token_id is None else (config.mask_token_id,)
        self.draw = device.Draw(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            suppressed=tuple(sorted({*config.suppress_tokens, *mask})),
        )
        # The published count loops take the softmax in the dtype of the logits, so that sure positions tie.
        self._rounds = config.as_published and config.commits_counts
        self._seeds = np.array(seeds, dtype=np.uint64)
        self._requests = np.array(requests, dtype=np.uint32)
        self._sampler: Sampler | None = None

    def attach(self, sampler: Sampler) -> None:
        """The sampler that is fed."""
        self._sampler = sampler

    def takes(self, logits: Any) -> bool:
        """Can the device that holds these logits predict from them?"""
        if not isinstance(logits, torch.Tensor) or not device.takes(logits):
            return False
        # The core has the words for ids that are not in the vocabulary.
        return not self.draw.suppressed or self.draw.suppressed[-1] < logits.shape[1]

    def embedded(self, vocabulary: int, info: ModelInfo) -> device.Draw | None:
        """How to draw within the forward of a network with logits of its own dtype; None where the logits are wanted."""
        is_fine = not self._rounds and self.takes(torch.empty((1, vocabulary), dtype=info.dtype, device=info.device))
        return self.draw if is_fine else None

    def sites(self, request: Request, rows: Ints, lines: Ints, *, room: int | None = None) -> NDArray[np.uint8]:
        """What a prediction of the requested positions of `rows` needs to know, as `device.pack_sites` lays it out."""
        assert self._sampler is not None
        wanted = dict(zip(request.rows.tolist(), request.positions, strict=True))
        positions = [wanted[row] for row in rows.tolist()]
        counts = [len(p) for p in positions]
        forwards = np.array(self._sampler.nfe_per_row)[rows]
        return device.pack_sites(
            sum(counts),
            seed=np.repeat(self._seeds[rows], counts),
            request=np.repeat(self._requests[rows], counts),
            position=np.concatenate(positions),
            step=np.repeat(forwards, counts),
            line=lines,
            room=room,
        )

    def __call__(self, logits: Any, request: Request, rows: Ints, lines: Ints | None) -> _core.Prediction:
        """The prediction for the requested positions of `rows`, on the host. `lines` as in `Sampler.predict`.

        Raises:
            InvalidValueError: logits without statistics; names row and position.
        """
        assert self._sampler is not None
        if isinstance(logits, device.TensorPrediction):
            return self.read(logits, request, rows)
        if not self.takes(logits):
            return self._sampler.predict(logits, rows=rows, index=lines)
        lines = np.arange(len(logits)) if lines is None else lines
        sites = self.sites(request, rows, lines)
        return self.read(device.predict(logits, sites, len(lines), self.draw), request, rows, logits.dtype)

    def read(
        self, made: device.TensorPrediction, request: Request, rows: Ints, dtype: torch.dtype = torch.float32
    ) -> _core.Prediction:
        """Brings to the host what the device made. The only wait of a step."""
        host = made.on_host()
        bad = np.flatnonzero(host.status.numpy())
        if bad.size:
            wanted = dict(zip(request.rows.tolist(), request.positions, strict=True))
            where = [(row, position) for row in rows.tolist() for position in wanted[row].tolist()]
            row, position = where[bad[0]]
            raise device.unusable(int(host.status[bad[0]]), int(host.token[bad[0]]), f"row {row}, position {position},")
        probability, top1, top2 = (x.numpy() for x in (host.probability, host.top1, host.top2))
        if self._rounds:
            probability, top1, top2 = (_rounded(x, dtype) for x in (probability, top1, top2))
            # Their margin is a difference in that dtype, rounded once more.
            top2 = top1 - _rounded(top1 - top2, dtype)
        return _core.Prediction(
            token=host.token.numpy(), probability=probability, top1=top1, top2=top2, entropy=host.entropy.numpy()
        )


def _rounded(x: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64]:
    """Probabilities as a dtype of logits holds them, as `Logits::round` of the core has it."""
    single = x.astype(np.float32)
    keep = {torch.bfloat16: 16, torch.float16: 13}.get(dtype, 0)
    if keep:
        bits = single.view(np.uint32)
        half = np.uint32((1 << (keep - 1)) - 1) + (bits >> np.uint32(keep) & np.uint32(1))
        single = (bits + half >> np.uint32(keep) << np.uint32(keep)).view(np.float32)
    return single.astype(np.float64)
