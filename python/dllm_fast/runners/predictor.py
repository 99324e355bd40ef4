"""From logits to what the sampler takes: on the device that holds them where the kernels can run there, else in the core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast import _core
from dllm_fast.errors import InvalidValueError
from dllm_fast.ops import commit
from dllm_fast.ops import mask_predict as device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast._core import Sampler
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.ops.commit import Pace
    from dllm_fast.settings.config import SamplerConfig

    Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """The requested positions of some rows, in order, and what a draw at each depends on.

    Attributes:
        seed: uint64 `[N]`, as `request`, `position` and `step`, which are uint32.
        counts: positions of each row, int64.
    """

    seed: NDArray[np.uint64]
    request: NDArray[np.uint32]
    position: NDArray[np.uint32]
    step: NDArray[np.uint32]
    counts: Ints

    def __len__(self) -> int:
        return len(self.position)

    def packed(self, lines: Ints, *, room: int | None = None) -> NDArray[np.uint8]:
        """As the kernels read them, with the line of the logits for each."""
        return device.pack_sites(
            len(self), seed=self.seed, request=self.request, position=self.position, step=self.step, line=lines, room=room
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What a step predicts and commits within its forward.

    Attributes:
        draw: how tokens are drawn.
        rule: what is committed; None where only the sampler can decide that.
        sampler: which knows the waiting step.
        rows: of the step.
    """

    draw: device.Draw
    rule: commit.Rule | None
    sampler: Sampler
    rows: Ints

    def sites(self) -> Sites:
        """The positions to predict."""
        return sites_of(self.sampler, self.rows)

    def paces(self) -> tuple[Pace, Pace | None]:
        """Of this step, and of the one after it where that is as good as sure to come."""
        return self.sampler.pace(self.rows)


def sites_of(sampler: Sampler, rows: Ints) -> Sites:
    """The requested positions of `rows`."""
    seed, request, position, step, counts = sampler.sites(rows)
    return Sites(seed=seed, request=request, position=position, step=step, counts=counts)


class Predictor:
    """Predictions for one run. Both ways give the same bits, so the tokens do not depend on the way.

    On a device the logits stay where they are; what comes to the host are 60 bytes a position, in one copy.
    """

    def __init__(self, sampler: Sampler, config: SamplerConfig, special: tuple[int, ...] = ()) -> None:
        """`sampler` is fed; `special` are those of the suppressed tokens that the tokenizer says, not the caller."""
        self._sampler = sampler
        mask = () if config.mask_token_id is None else (config.mask_token_id,)
        self._last_special = max(special, default=-1)
        self.draw = device.Draw(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            suppressed=tuple(sorted({*(token for token in config.suppress_tokens if isinstance(token, int)), *mask})),
        )
        self._config = config
        # The published count loops take the softmax in the dtype of the logits, so that sure positions tie. No graph does.
        self._rounds = config.as_published and config.commits_counts
        # Whether forwards predict, too, and by which rule they commit; the same for all of a run.
        self._within: tuple[bool, commit.Rule | None] | None = None

    def takes(self, logits: Any) -> bool:
        """Can the device that holds these logits predict from them?"""
        if not isinstance(logits, torch.Tensor) or not device.takes(logits):
            return False
        # The core has the words for ids that are not in the vocabulary.
        return not self.draw.suppressed or self.draw.suppressed[-1] < logits.shape[1]

    def embedded(self, rows: Ints, vocabulary: int, info: ModelInfo) -> Scoring | None:
        """What to predict within the forward of a network with logits of its own dtype; None where the logits are wanted."""
        if self._within is None:
            takes = self.takes(torch.empty((1, vocabulary), dtype=info.dtype, device=info.device))
            self._within = takes and not self._rounds, commit.Rule.of(self._config, info.device)
        is_fine, rule = self._within
        if not is_fine:
            return None
        return Scoring(draw=self.draw, rule=rule, sampler=self._sampler, rows=rows)

    def __call__(self, logits: Any, rows: Ints, lines: Ints | None) -> _core.Prediction:
        """The prediction for the requested positions of `rows`, on the host. `lines` as in `Sampler.predict`.

        Raises:
            InvalidValueError: logits without statistics; names row and position.
        """
        if isinstance(logits, device.AwaitedPrediction):
            return self.read(logits, rows)
        if self._last_special >= logits.shape[-1]:
            raise InvalidValueError(
                f"special tokens of the tokenizer must be ids of the model's vocabulary, got {self._last_special} for "
                f"logits with {logits.shape[-1]} columns; use the tokenizer of this model, or pass allow_special=True"
            )
        if not self.takes(logits):
            return self._sampler.predict(logits, rows=rows, index=lines)
        lines = np.arange(len(logits)) if lines is None else lines
        packed = sites_of(self._sampler, rows).packed(lines)
        return self.read(device.predict(logits, packed, len(lines), self.draw), rows, logits.dtype)

    def read(
        self,
        made: device.TensorPrediction | device.AwaitedPrediction,
        rows: Ints,
        dtype: torch.dtype = torch.float32,
    ) -> _core.Prediction:
        """Brings to the host what the device made. The only wait of a step."""
        host = made.on_host()
        bad = np.flatnonzero(host.status.numpy())
        if bad.size:
            sites = sites_of(self._sampler, rows)
            place = f"row {np.repeat(rows, sites.counts)[bad[0]]}, position {sites.position[bad[0]]},"
            raise device.unusable(int(host.status[bad[0]]), int(host.token[bad[0]]), place)
        statistics = {name: getattr(host, name).numpy() for name in ("token", "probability", "top1", "top2", "entropy")}
        prediction = _core.Prediction(**statistics)
        return prediction.rounded(str(dtype).removeprefix("torch.")) if self._rounds else prediction
