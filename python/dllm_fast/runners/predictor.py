"""From logits to what the sampler takes: on the device that holds them where the kernels can run there, else in the core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast import _core
from dllm_fast.errors import InvalidValueError
from dllm_fast.kernels import layout
from dllm_fast.kernels.laws import Law
from dllm_fast.ops import commit, guide
from dllm_fast.ops import mask_predict as device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast._core import Sampler
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.ops.commit import Pace
    from dllm_fast.settings.config import SamplerConfig

    Ints = NDArray[np.int64]

# What the sampler decides from.
_FED = tuple(name for name in layout.PREDICTIONS.fields if name not in {"logsumexp", "status"})
# Sets of rows of which it is kept how they are predicted.
_MOST_MIXTURES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """The requested positions of some rows, in order, and what a draw at each depends on.

    Attributes:
        seed: uint64 `[N]`, as `request`, `position` and `step`, which are uint32.
        counts: positions of each row, int64.
        current: tokens whose probability is wanted, int64 `[N]`, -1 where none is; None where none is anywhere.
    """

    seed: NDArray[np.uint64]
    request: NDArray[np.uint32]
    position: NDArray[np.uint32]
    step: NDArray[np.uint32]
    counts: Ints
    current: Ints | None = None

    def __len__(self) -> int:
        return len(self.position)

    def packed(self, lines: Ints, laws: device.Laws, *, room: int | None = None, laws_room: int = 0) -> NDArray[np.uint8]:
        """As the kernels read them, with the line of the logits for each, and the laws: of each row, or one for all."""
        fields = {"seed": self.seed, "request": self.request, "position": self.position, "step": self.step, "line": lines}
        law = np.repeat(np.arange(len(self.counts)), self.counts) if laws.kind.is_mixed else 0
        current = 0 if self.current is None else np.maximum(self.current, 0)
        return device.pack(len(self), laws, fields | {"law": law, "current": current}, room=room, laws_room=laws_room)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What a step predicts and commits within its forward.

    Attributes:
        laws: by which tokens are drawn, of each row or one for all.
        rule: what is committed; None where only the sampler can decide that.
        sampler: which knows the waiting step.
        rows: of the step.
    """

    laws: device.Laws
    rule: commit.Rule | None
    sampler: Sampler
    rows: Ints

    def sites(self) -> Sites:
        """The positions to predict."""
        return sites_of(self.sampler, self.rows)

    def paces(self) -> tuple[Pace, Pace | None]:
        """Of this step, and of the one after it where that is as good as sure to come."""
        return self.sampler.pace(self.rows)


def sites_of(sampler: Sampler, rows: Ints, *, asks_current: bool = False) -> Sites:
    """The requested positions of `rows`."""
    seed, request, position, step, counts = sampler.sites(rows)
    current = sampler.current(rows) if asks_current else None
    return Sites(seed=seed, request=request, position=position, step=step, counts=counts, current=current)


class _Configured:
    """What a configuration, whose tokens are ids by now, says of predictions.

    Attributes:
        config: itself.
        law: how tokens are drawn.
        is_plain: all positions are drawn by that law, and the statistics are those at temperature 1. Where end tokens are
            penalised, or barred at some positions, the temperature changes, or the most probable token is asked whatever is
            drawn, the core alone predicts.
        is_rounded: probabilities are those of a softmax in the dtype of the logits, so that sure positions tie, as in the
            published count loops.
        asks_current: the probability of written tokens is wanted, too.
        remembers: more is wanted than the device tells; the core looks at the logits then.
    """

    def __init__(self, config: SamplerConfig) -> None:
        self.config = config
        changes_law = config.temperature_end is not None or config.min_new_tokens or config.eos_policy not in {"allow", "delay"}
        is_tempered = config.drafts or config.reverses_noise
        asks_argmax = config.length != "fixed" or (config.inherit_token and config.temperature > 0)
        shares_noise = config.verifier_mixture is not None and config.temperature > 0
        self.is_plain = not (changes_law or is_tempered or asks_argmax or shares_noise)
        self.is_rounded = config.as_published and config.commits_counts
        self.asks_current = _core.asks_current(config)
        self.remembers = config.remembers
        mask = () if config.mask_token_id is None else (config.mask_token_id,)
        suppressed = {*(token for token in config.suppress_tokens if isinstance(token, int)), *mask}
        self.law = Law(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            suppressed=tuple(sorted(suppressed)),
        )


class Predictor:
    """Predictions for one run. Both ways give the same bits, so the tokens do not depend on the way.

    On a device the logits stay where they are; what comes to the host are 60 bytes a position, in one copy.
    """

    def __init__(self, sampler: Sampler, config: SamplerConfig, special: tuple[int, ...] = (), *, waits: bool = False) -> None:
        """`sampler` is fed, and knows the settings of each row; `config` are those that it was made with.

        `special` are those of the suppressed tokens that the tokenizer says, not the caller. `waits` says that positions wait
        for others, of which a device knows nothing.
        """
        self._sampler = sampler
        self._waits = waits
        self._last_special = max(special, default=-1)
        self._configs: list[_Configured] = [_Configured(config)]
        self._indices: dict[bytes, tuple[int, ...]] = {}
        self._laws: dict[tuple[tuple[int, ...], int, torch.device], device.Laws] = {}
        # What forwards predict, too, by the configurations of their rows; the same for all of a run.
        self._within: dict[tuple[int, ...], tuple[device.Laws, commit.Rule | None] | None] = {}

    @property
    def suppressed(self) -> tuple[int, ...]:
        """Rising ids that rows of the first configuration may not get."""
        return self._configs[0].law.suppressed

    def _index(self, rows: Ints) -> tuple[int, ...]:
        """Which configuration each row has, which it keeps; one for all where it is the same."""
        key = rows.tobytes()
        if key not in self._indices:
            if len(self._indices) == _MOST_MIXTURES:
                self._indices.clear()
            index = tuple(map(self._config_of, rows.tolist()))
            self._indices[key] = index[:1] if len(set(index)) == 1 else index
        return self._indices[key]

    def _config_of(self, row: int) -> int:
        config = self._sampler.config(row)
        for i, known in enumerate(self._configs):
            if config is known.config or config == known.config:
                return i
        self._configs.append(_Configured(config))
        return len(self._configs) - 1

    def _laws_of(self, index: tuple[int, ...], vocabulary: int, where: torch.device) -> device.Laws:
        """By which tokens are drawn from logits of so many ids: for each row, or one for all."""
        key = index, vocabulary, where
        if key not in self._laws:
            if len(self._laws) == _MOST_MIXTURES:
                self._laws.clear()
            self._laws[key] = device.Laws.of([self._configs[i].law for i in index], vocabulary, where)
        return self._laws[key]

    def _fits(self, index: tuple[int, ...], vocabulary: int) -> bool:
        """Are the ids that are left out in such a vocabulary? The core has the words for those that are not."""
        laws = (self._configs[i].law for i in index)
        return all(law.suppressed[-1] < vocabulary for law in laws if law.suppressed)

    def embedded(self, rows: Ints, vocabulary: int, info: ModelInfo) -> Scoring | None:
        """What to predict within the forward of a network with logits of its own dtype; None where the logits are wanted."""
        index = self._index(rows)
        if index not in self._within:
            if len(self._within) == _MOST_MIXTURES:
                self._within.clear()
            self._within[index] = self._embedded(index, vocabulary, info)
        within = self._within[index]
        return None if within is None else Scoring(laws=within[0], rule=within[1], sampler=self._sampler, rows=rows)

    def _embedded(
        self, index: tuple[int, ...], vocabulary: int, info: ModelInfo
    ) -> tuple[device.Laws, commit.Rule | None] | None:
        takes = device.takes(torch.empty((1, vocabulary), dtype=info.dtype, device=info.device))
        if not takes or not self._fits(index, vocabulary) or not all(self._configs[i].is_plain for i in index):
            return None
        configs = [self._configs[i] for i in index]
        if any(config.is_rounded or config.asks_current or config.remembers for config in configs):
            return None  # no graph rounds, or knows what stands where or stood there
        rules = {commit.Rule.of(self._configs[i].config, info.device) for i in set(index)}
        only = rules.pop() if len(rules) == 1 else commit.Refusal("rows of a step commit by different rules")
        if self._waits:
            only = commit.Refusal("positions wait for others, which the host knows")
        return self._laws_of(index, vocabulary, info.device), None if isinstance(only, commit.Refusal) else only

    def __call__(self, logits: Any, rows: Ints, lines: Ints | None) -> _core.Prediction:  # noqa: PLR0911
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
        if isinstance(logits, guide.Pair):
            return self._sampler.predict(logits.own.cpu(), rows=rows, index=lines, unguided=logits.unguided.cpu())
        if not isinstance(logits, torch.Tensor) or not device.takes(logits):
            return self._sampler.predict(logits, rows=rows, index=lines)
        index = self._index(rows)
        configs = [self._configs[i] for i in index]
        if any(config.remembers or not config.is_plain for config in configs):
            return self._sampler.predict(logits.cpu(), rows=rows, index=lines)
        if not self._fits(index, logits.shape[1]):
            return self._sampler.predict(logits, rows=rows, index=lines)
        lines = np.arange(len(logits)) if lines is None else lines
        laws = self._laws_of(index, logits.shape[1], logits.device)
        sites = sites_of(self._sampler, rows, asks_current=any(self._configs[i].asks_current for i in index))
        if sites.current is not None and sites.current.max() >= logits.shape[1]:
            return self._sampler.predict(logits, rows=rows, index=lines)  # which has the words for it
        packed, has_current = sites.packed(lines, laws), sites.current is not None
        made = device.predict(logits, packed, len(lines), laws.kind, has_current=has_current)
        return self.read(made, rows, logits.dtype, sites.current)

    def read(
        self,
        made: device.TensorPrediction | device.AwaitedPrediction,
        rows: Ints,
        dtype: torch.dtype = torch.float32,
        current: Ints | None = None,
    ) -> _core.Prediction:
        """Brings to the host what the device made. The only wait of a step. `current` as in `Sites`."""
        host = made.on_host()
        bad = np.flatnonzero(host.status.numpy())
        if bad.size:
            sites = sites_of(self._sampler, rows)
            place = f"row {np.repeat(rows, sites.counts)[bad[0]]}, position {sites.position[bad[0]]},"
            raise device.unusable(int(host.status[bad[0]]), int(host.token[bad[0]]), place)
        found = {name: getattr(host, name) for name in _FED}
        arrays: dict[str, Any] = {name: None if field is None else field.numpy() for name, field in found.items()}
        if current is not None:
            arrays["current"] = np.where(current < 0, np.nan, arrays["current"])
        prediction = _core.Prediction(**arrays)
        rounds = [self._configs[i].is_rounded for i in self._index(rows)]
        if not any(rounds):
            return prediction
        rounded = prediction.rounded(str(dtype).removeprefix("torch."))
        if all(rounds):
            return rounded
        of_site = np.repeat(rounds, sites_of(self._sampler, rows).counts)
        pairs = {name: (getattr(rounded, name), getattr(prediction, name)) for name in _FED}
        mixed: dict[str, Any] = {name: None if a is None else np.where(of_site, a, b) for name, (a, b) in pairs.items()}
        return _core.Prediction(**mixed)
