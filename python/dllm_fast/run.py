"""A run: the one loop between a model and the sampler."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dllm_fast import _core
from dllm_fast.answer import answer
from dllm_fast.errors import warn
from dllm_fast.modules.keep import stepping
from dllm_fast.result import StepEvent
from dllm_fast.runners.predictor import Predictor
from dllm_fast.runners.runner import Task
from dllm_fast.settings.config import changed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.prepare import Plan
    from dllm_fast.result import Result
    from dllm_fast.settings.config import SamplerConfig

    Ints = NDArray[np.int64]
    OnStep = Callable[[StepEvent], object]
    # What a step asked, and what the model said of the positions of some of its rows.
    Step = tuple[_core.Request, list[tuple[Ints, _core.Prediction]]]


class Run:
    """A plan that is carried out.

    Args:
        plan: what it starts from.
        on_step: called with a `StepEvent` after every step.
        predictor: makes what reads the logits of a plan.
    """

    def __init__(
        self, plan: Plan, *, on_step: OnStep | None = None, predictor: Callable[[Plan, _core.Sampler], Predictor] | None = None
    ) -> None:
        self._plan = plan
        self._on_step = on_step
        config = plan.config
        assert config.mask_token_id is not None
        self._sampler = _core.Sampler(
            plan.rule,
            plan.canvases,
            seed=plan.seeds,
            request=plan.requests,
            block_start=plan.block_starts,
            score_all=on_step is not None,
            max_rows=config.max_batch_rows,
        )
        self._predict = (
            Predictor(self._sampler, plan.rule, plan.special) if predictor is None else predictor(plan, self._sampler)
        )
        self._session = plan.runner.begin(
            Task(
                lengths=[len(canvas) for canvas in plan.canvases],
                starts=plan.starts,
                prompts=plan.prompts,
                mask_token_id=config.mask_token_id,
                eos_token_ids=config.eos_token_ids,
                shift=config.shift,
                cache=config.cache,
                refresh_every=config.refresh_every,
                max_rows=config.max_batch_rows,
                predictor=self._predict,
            )
        )
        self._session.is_watched = on_step is not None
        self._config = changed(config, cache=self._session.policy)
        self._seconds = 0.0

    def result(self) -> Result:
        """Drives the run to its end."""
        with stepping(self._session.hold):
            while (step := self._step()) is not None:
                if self._on_step is not None:
                    self._on_step(_event(*step, self._sampler.canvases, self._config))
            remark = self._session.end()
        if remark is not None:
            warn(remark, RuntimeWarning)
        return answer(self._plan, self._config, self._sampler, self._session, self._seconds)

    def _step(self) -> Step | None:
        """The forwards of one request, each followed by what it decides; None when every row is finished."""
        began = time.perf_counter()
        request = self._sampler.next()
        if request is None:
            return None
        predictions = []
        for rows, forward in self._session.parts(request):
            logits, lines = forward()
            prediction = self._predict(logits, rows, lines)
            self._sampler.feed(prediction=prediction, rows=rows)
            predictions.append((rows, prediction))
            # They would live on while the next forward makes new ones.
            del logits
        self._seconds += time.perf_counter() - began
        return request, predictions


def _event(
    request: _core.Request,
    predictions: list[tuple[Ints, _core.Prediction]],
    canvases: list[Ints],
    config: SamplerConfig,
) -> StepEvent:
    guesses: dict[int, Ints] = {}
    rows = request.rows.tolist()
    scored = dict(zip(rows, request.positions, strict=True))
    for group, prediction in predictions:
        ends = np.cumsum([len(scored[row]) for row in group.tolist()])
        guesses.update(zip(group.tolist(), np.split(prediction.token, ends[:-1]), strict=True))
    written = {row: np.flatnonzero(old != canvases[row]) for row, old in zip(rows, request.canvases, strict=True)}
    masked = {row: canvases[row][scored[row]] == config.mask_token_id for row in rows}
    return StepEvent(
        step=request.step,
        rows=request.rows,
        positions=[written[row] for row in rows],
        tokens=[canvases[row][written[row]] for row in rows],
        guess_positions=[scored[row][masked[row]] for row in rows],
        guess_tokens=[guesses[row][masked[row]] for row in rows],
        canvases=[canvases[row] for row in rows],
    )
