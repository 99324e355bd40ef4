"""What a model would write at each mask, with probabilities: no answer is chosen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from dllm_fast import prepare, records
from dllm_fast.arrays import integer_row
from dllm_fast.errors import DllmFastError, InvalidValueError
from dllm_fast.modules.hold import Settled
from dllm_fast.open import open_runner
from dllm_fast.predict import mask_predict
from dllm_fast.records import Record
from dllm_fast.run import Run
from dllm_fast.runners.predictor import Predictor, sites_of
from dllm_fast.settings.aliases import ALIASES
from dllm_fast.settings.config import SamplerConfig
from dllm_fast.settings.keywords import ModelSettings
from dllm_fast.settings.resolve import ARGUMENTS, NAMES, resolve, unknown
from dllm_fast.text import prompts as text
from dllm_fast.text import tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast._core import Prediction, Sampler
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.prepare import Plan
    from dllm_fast.sampling import Model, Prompt

    Ints = NDArray[np.int64]

# Rows of logits that are copied at a time.
_PART = 32
_SETTINGS = tuple(ModelSettings.__annotations__)
# What `sample` takes and this does not.
_LACKING = tuple(name for name in (*NAMES, *ARGUMENTS) if name not in (*_SETTINGS, "tokenizer", "attention_mask", "like"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Distribution(Record):
    """The most probable tokens of one mask.

    Attributes:
        row: of the canvases.
        position: from the start of the canvas.
        ids: the most probable first, on a tie the lower first, int64.
        probabilities: of these, float64: of the softmax at temperature 1, without the mask and the suppressed tokens.
        tokens: the ids as text, or None without a tokenizer, and where it failed.
        tokens_error: why it failed to make text of the ids, or None.
    """

    row: int
    position: int
    ids: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    tokens: list[str] | None
    tokens_error: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Distribution:
        """The distribution that `to_dict` wrote, equal to the one it was.

        Raises:
            InvalidValueError, InvalidTypeError: names or values that it does not write. `tokens_error` may be missing, as it
                was in older files.
        """
        names = [item.name for item in dataclasses.fields(cls) if item.name != "tokens_error"]
        found = records.checked(values, "Distribution", names, ["tokens_error"])
        spelled = records.strings(found["tokens"], "tokens")
        distribution = cls(
            row=records.whole(found["row"], "row"),
            position=records.whole(found["position"], "position"),
            ids=integer_row(found["ids"], "ids"),
            probabilities=np.array(
                [records.number(p, "probabilities") for p in records.rows(found["probabilities"], "probabilities")]
            ),
            tokens=spelled,
            tokens_error=records.reason(found.get("tokens_error"), "tokens_error", spelled),
        )
        counts = [len(one) for one in (distribution.ids, distribution.probabilities, spelled) if one is not None]
        if len(set(counts)) > 1:
            raise InvalidValueError(
                f"ids, probabilities and tokens must be as many, got {', '.join(map(str, counts))}; pass what to_dict gave"
            )
        return distribution


def distributions(
    model: Model | None,
    canvas: Prompt,
    *,
    top: int = 5,
    tokenizer: Any = None,
    attention_mask: Any = None,
    like: Model | None = None,
    **settings: Unpack[ModelSettings],
) -> list[Distribution]:
    """The most probable tokens of every mask of each canvas, from one forward of the canvases as they are.

    A model that is filled by blocks, or a `block_length`, takes one forward for each block: the blocks before it then hold
    their most probable tokens, those after it their masks.

    Args:
        model, canvas, tokenizer, attention_mask, like: as `infill` takes them.
        top: tokens for each mask.
        settings: `mask_token_id`, `shift`, `block_length`, `suppress_tokens`, `allow_special`, `cache`, `refresh_every` and
            `max_batch_rows`, as in `SamplerConfig`.

    Returns:
        One for each mask, in order of row and position.

    Raises:
        InvalidValueError, InvalidTypeError: what `infill` refuses, a setting that is about choosing tokens, or a `top` that
            is no number of tokens that are allowed.
    """
    top = records.count(top, "top", remedy="5 shows the five most probable tokens")
    for name, value in settings.items():
        if name not in NAMES and name not in ALIASES:
            raise InvalidValueError(unknown(name, value, lacking=_LACKING))
    meant = {name: ALIASES[name].ours if name in ALIASES else name for name in settings}
    if others := [name for name, ours in meant.items() if ours not in _SETTINGS]:
        raise InvalidValueError(
            f"a distribution is what the model says before anything is chosen, got {others[0]}; leave it out, or use infill "
            f"(settings that it takes: {', '.join(_SETTINGS)})"
        )
    found: list[Distribution] = []

    def rule(info: ModelInfo | None = None) -> Any:
        return resolve(None, SamplerConfig(steps_per_block=1), settings, info)

    def predictor(plan: Plan, sampler: Sampler) -> Predictor:
        asked = _Asked(plan, sampler, int(top), found)
        if runner.vocabulary is not None:
            asked.check_top(np.setdiff1d(np.arange(runner.vocabulary), asked.suppressed).size)
        return asked

    read = functools.partial(text.prompts, canvas, name="canvas", attention_mask=attention_mask)
    with Settled(), Settled():
        rule()  # what is wrong by itself is refused before a checkpoint is opened
        runner, tokenizer = open_runner(model, tokens.unlimited(tokenizer), like)
        plan = prepare.plan(runner, tokenizer, rule(runner.info), read, seed=0, num_samples=1, is_infilling=True)
        Run(plan, runner, predictor=predictor).result()
    return sorted(found, key=lambda one: (one.row, one.position))


class _Asked(Predictor):
    """Notes what the logits say before it predicts from them."""

    def __init__(self, plan: Plan, sampler: Sampler, top: int, found: list[Distribution]) -> None:
        super().__init__(sampler, plan.rule, plan.special)
        self._tokenizer = plan.tokenizer
        self._top = top
        self._found = found

    def check_top(self, allowed: int) -> None:
        """Refuses to name more tokens than are allowed: before the first forward where a model says how many ids it has."""
        if self._top > allowed:
            raise InvalidValueError(
                f"top must be at most the number of tokens that are allowed, got {self._top} for {allowed}; lower it"
            )

    def embedded(self, *_: Any) -> None:
        """The logits themselves are wanted."""

    def __call__(self, logits: Any, rows: Ints, lines: Ints | None) -> Prediction:
        prediction = super().__call__(logits, rows, lines)
        sites = sites_of(self._sampler, rows)
        lines = np.arange(len(logits)) if lines is None else lines
        places = list(zip(np.repeat(rows, sites.counts), sites.position, strict=True))
        for start in range(0, len(lines), _PART):
            part = lines[start : start + _PART]
            scored = logits[torch.from_numpy(part).to(logits.device) if isinstance(logits, torch.Tensor) else part]
            ids = self._best(scored)
            of_rank = [_current(scored, self.suppressed, ids[:, rank]) for rank in range(self._top)]
            for i, (row, position) in enumerate(places[start : start + _PART]):
                spelled, why = self._texts(ids[i])
                self._found.append(
                    Distribution(
                        row=int(row),
                        position=int(position),
                        ids=ids[i],
                        probabilities=np.array([probabilities[i] for probabilities in of_rank]),
                        tokens=spelled,
                        tokens_error=why,
                    )
                )
        return prediction

    def _best(self, logits: Any) -> Ints:
        """The ids of the largest logits of each row `[N, top]`, the largest first, on a tie the lower first."""
        host = logits.detach().float().cpu().numpy() if isinstance(logits, torch.Tensor) else logits.astype(np.float32)
        allowed = np.setdiff1d(np.arange(host.shape[1]), self.suppressed)
        self.check_top(len(allowed))
        best = np.empty((len(host), self._top), dtype=np.int64)
        for i, row in enumerate(host[:, allowed]):
            least = np.partition(row, -self._top)[-self._top]
            above, equal = np.flatnonzero(row > least), np.flatnonzero(row == least)
            above = above[np.argsort(-row[above], kind="stable")]
            best[i] = allowed[np.concatenate((above, equal))[: self._top]]
        return best

    def _texts(self, ids: Ints) -> tuple[list[str] | None, str | None]:
        """Each id as text, or why there is none: the numbers are worth having without it."""
        if self._tokenizer is None:
            return None, None
        try:
            return [tokens.decode(self._tokenizer, [token]) for token in ids.tolist()], None
        except DllmFastError as error:
            return None, str(error)


def _current(logits: Any, suppressed: tuple[int, ...], ids: Ints) -> NDArray[np.float64]:
    prediction = mask_predict(logits, suppress=suppressed, current=ids)
    current = prediction.current
    return current.cpu().numpy() if isinstance(current, torch.Tensor) else np.asarray(current)
