"""A run: the one loop between a model and the sampler."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

import numpy as np

from dllm_fast import _core
from dllm_fast.answer import Cost, Written, answer, grown
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown, warn
from dllm_fast.events import Source, StepEvent, event_after
from dllm_fast.modules.hold import Hold, Settled
from dllm_fast.modules.keep import stepping
from dllm_fast.records import scalar
from dllm_fast.run_async import AsyncSteps
from dllm_fast.runners import guided, verified
from dllm_fast.runners.predictor import Predictor
from dllm_fast.runners.runner import Task
from dllm_fast.settings.config import changed
from dllm_fast.text.stops import Reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.prepare import Plan
    from dllm_fast.result import Result
    from dllm_fast.runners.runner import Runner, Session

    Ints = NDArray[np.int64]
    OnStep = Callable[[StepEvent], object]
    MakePredictor = Callable[[Plan, _core.Sampler], Predictor]

_T = TypeVar("_T")


class Run:
    """A run that is carried out step by step, by whoever asks for the next one: `dllm_fast.stream` begins it.

    `for event in run` (or `async for`) takes a `StepEvent` after each step, and leaving the loop, however that happens, ends
    the run. `next(run)` takes one event, and the run stands still until it is asked again. `result()` drives it to its end.

    Between two steps nothing of the calling thread is changed, and other runs may take theirs, also of the same model. The
    model is in evaluation mode from the first step to the end of the run, which may go from thread to thread, but is in one at
    a time. What torch keeps for each thread (autocast, a default device) is that of the thread that takes the step; `async
    for` takes each in a thread of its own.

    It ends with its last step, with `cancel()`, `close()` or the end of a `with` block, with whatever is raised in a step, and
    when nobody has it any more; then everything is as it was. `len(run)` is the number of its rows.
    """

    def __init__(
        self,
        plan: Plan,
        runner: Runner,
        *,
        on_step: OnStep | None = None,
        guesses: bool = False,
        predictor: MakePredictor | None = None,
    ) -> None:
        """Begins a run; no forward is made yet.

        Args:
            plan: what it starts from.
            runner: of the model.
            on_step: called with a `StepEvent` after every step; ends the run where it returns False.
            guesses: score every mask in every step, so that events tell what the model would write.
            predictor: makes what reads the logits.

        Raises:
            InvalidValueError: the model cannot do what the plan says.
        """
        self._plan = plan
        # What belongs to the model is changed from the first step to the end. It may be put back from any thread.
        self._session: Session | None = None
        self._process = os.getpid()
        self._hold, self._is_held = Hold(lasting=True), False
        self._seconds = 0.0
        self._spent = Cost(0, 0, 0.0, 0.0)
        # Who is in it. What comes meanwhile from elsewhere is noted, and he does it when he leaves.
        self._lock = _core.Lock()
        self._user: Hold | None = None
        self._is_over = False
        self._is_whole = True  # nothing was raised in it
        self._to_cancel: list[int] = []
        self._on_step, self._guesses = on_step, guesses
        config = plan.config
        self._sampler = _core.Sampler(
            plan.rule,
            plan.canvases,
            seed=plan.seeds,
            request=plan.requests,
            block_start=plan.block_starts,
            open=plan.open if config.mask_token_id is None else None,
            order=plan.ranks,
            eligible_after=plan.waits,
            score_all=guesses,
            max_rows=plan.max_rows,
        )
        if predictor is None:
            made = Predictor(self._sampler, plan.rule, plan.special, waits=plan.waits is not None)
        else:
            made = predictor(plan, self._sampler)
        self._predict: Predictor | None = made
        task = Task(
            lengths=plan.longest,
            starts=plan.starts,
            prompts=plan.prompts,
            mask_token_id=config.mask_token_id,
            eos_token_ids=config.eos_token_ids,
            shift=config.shift,
            cache=config.cache,
            refresh_every=config.refresh_every,
            max_rows=config.max_batch_rows,
            predictor=made,
            verifies=config.verify,
            shadows=config.remask == "verify",
            suppressed=tuple(token for token in plan.rule.suppress_tokens if isinstance(token, int)),
        )
        second = plan.second
        session = guided.begin(runner, task, plan.guides) if second is None else verified.begin(runner, task, second)
        self._session = session
        self._config = changed(config, cache=session.policy)
        self._told = np.zeros(len(plan.canvases), dtype=np.int64)  # edits of each row that events have shown
        self._cancelled: frozenset[int] = frozenset()
        # Of rows that texts may end: who reads them, and those that one has ended.
        least = config.min_new_tokens
        self._readers = [Reader(plan.tokenizer, plan.stops, least) for _ in plan.canvases] if plan.stops else []
        self._stopped: set[int] = set()
        self._result: Result | None = None

    # What people call.

    def step(self) -> StepEvent | None:
        """The next step: what it tells, or None once every row is finished.

        Raises:
            InvalidValueError: another thread, or its own `on_step`, is in the run, or it belongs to another process.
            Exception: what the model raises; the run is over then.
        """
        return self._alone(self._watched)

    def result(self) -> Result:
        """Drives the run to its end. Of a run that was ended before, what there is; asked again, the same object.

        Raises:
            InvalidValueError, Exception: as `step`.
        """
        if self._result is None:
            self._alone(self._finish)
        assert self._result is not None
        return self._result

    def cancel(self, row: int | None = None) -> None:
        """Ends one row, or all of them: its canvas stays as it is, and it takes no further part.

        A step that another thread is in goes on to its end before. A row that is done stays as it is.

        Args:
            row: its index, from 0; None for all rows, which ends the run.

        Raises:
            InvalidValueError, InvalidTypeError: no row of this run.
        """
        self._check_process()
        if row is None:
            self.close()
            return
        place = scalar(row)
        if isinstance(place, bool) or not isinstance(place, int):
            raise InvalidTypeError(f"a row must be a whole number, got {shown(row)}; rows are counted from 0")
        if not 0 <= place < len(self):
            raise InvalidValueError(f"a row must be one of {len(self)}, got {shown(place)}; rows are counted from 0")
        self._later(lambda: self._to_cancel.append(place))

    def close(self) -> None:
        """Ends the run: rows that are not done are cancelled, and everything is as it was. May be called again.

        Where another thread is in a step, the run ends with that step.
        """

        def end() -> None:
            self._is_over = True

        if os.getpid() == self._process:
            self._later(end)

    def __len__(self) -> int:
        return len(self._plan.canvases)

    def __next__(self) -> StepEvent:
        try:
            event = self.step()
        except StopIteration as error:
            # It would look like the end. A loop of Python says the same of it.
            raise RuntimeError("the model raised StopIteration in a step of a run") from error
        if event is None:
            raise StopIteration
        return event

    def __iter__(self) -> Iterator[StepEvent]:
        try:
            while (event := self.step()) is not None:
                yield event
        finally:
            self.__exit__()

    def __aiter__(self) -> AsyncSteps:
        return AsyncSteps(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self.close()  # an interrupt comes between any two instructions

    def __repr__(self) -> str:
        state = "over" if self._is_over else "not begun" if not self._is_held else "running"
        return f"Run of {len(self)} rows: {state}, {self._cost().forwards} forwards"

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise InvalidTypeError(
            "a run must stay where it is, got a copy or a pickle of one; begin another with its arguments, or keep result()"
        )

    # One step.

    def _watched(self) -> StepEvent | None:
        """A step that somebody looks at."""
        self._begin(is_watched=True)
        with stepping():
            step = self._advance()
        if step is None:
            return None
        request, predictions = step
        event = self._event(request, predictions)
        if self._on_step is not None and scalar(self._on_step(event)) is False:
            self._is_over = True
        return event

    def _finish(self) -> None:
        """All steps that are left, and the result."""
        if self._on_step is not None:
            while self._watched() is not None:
                pass
        else:
            self._begin(is_watched=False)
            with stepping():
                while self._advance() is not None:
                    pass
        for row in range(len(self)):
            self._cancel_row(row)  # of a run that was ended
        self._result = answer(
            self._plan, self._config, self._sampler, self._cost(), cancelled=self._cancelled, stopped=self._stopped
        )

    def _begin(self, *, is_watched: bool) -> None:
        """Before the next step, and before anything of the thread is changed: the model is as the run needs it."""
        session = self._session
        if self._is_over or session is None:
            return
        session.is_watched = is_watched
        if not self._is_held:
            began = time.perf_counter()
            session.hold(self._hold)
            self._is_held = True
            self._seconds += time.perf_counter() - began

    def _advance(self) -> tuple[_core.Request, list[tuple[Ints, _core.Prediction]]] | None:
        """The forwards of one request, each followed by what it decides; None when every row is finished."""
        session, predict = self._session, self._predict
        if self._is_over or session is None or predict is None:
            return None
        self._cancel_noted()  # since the last step
        began, predictions = time.perf_counter(), []
        try:
            request = self._sampler.next()
            if request is not None:
                for rows, forward in session.parts(request):
                    logits, lines = forward()
                    prediction = predict(logits, rows, lines)
                    self._sampler.feed(prediction=prediction, rows=rows)
                    predictions.append((rows, prediction))
                    # They would live on while the next forward makes new ones.
                    del logits
                if self._readers:
                    self._end_at_texts(request.rows)
        finally:
            self._seconds += time.perf_counter() - began
        self._cancel_noted()
        if request is None:
            self._is_over = True
            remark = session.end()
            if remark is not None:
                warn(remark, RuntimeWarning)
            return None
        return request, predictions

    def _end_at_texts(self, rows: Ints) -> None:
        """Ends rows whose final tokens hold a text that ends them, at the token that completes it."""
        sampler, readers = self._sampler, self._readers
        since = [readers[row].count for row in rows.tolist()]
        new = sampler.written(rows, since)
        for row, written, ending in zip(rows.tolist(), new, sampler.endings(rows)[:, 1].tolist(), strict=True):
            start = self._plan.starts[row]
            # What was filled behind an end is no part of the answer.
            room = len(written) if ending < 0 else ending + 1 - start - readers[row].count
            index = readers[row].read(written[: max(room, 0)].tolist())
            if index is not None:
                sampler.end(row, start + index)
                self._stopped.add(row)

    def _event(self, request: _core.Request, predictions: list[tuple[Ints, _core.Prediction]]) -> StepEvent:
        rows, sampler = request.rows, self._sampler
        edits = sampler.edits(rows, self._told[rows])
        self._told[rows] += [len(written) for written in edits]
        canvases = sampler.canvases if self._config.noise != "mask" else []
        plan, config, cancelled = self._plan, self._config, self._cancelled
        done = [sampler.is_done(row) for row in rows.tolist()]
        endings = dict(zip(rows.tolist(), sampler.endings(rows), strict=True)) if any(done) else {}

        def reason_of(row: int, canvas: Ints, is_open: NDArray[np.bool_]) -> str:
            written = Written.between(grown(plan.open[row], len(canvas)), is_open, canvas, config, endings[row])
            return written.reason(is_cancelled=row in cancelled)

        source = Source(
            request=request,
            # Only guesses are made of them.
            predictions=predictions if self._guesses else (),
            reason_of=reason_of,
            # Where noise is shown it changes with every step.
            canvases=None if config.noise == "mask" else [canvases[row] for row in rows.tolist()],
            has_drafts=config.drafts,
            has_guesses=self._guesses,
        )
        return event_after(source, edits, stable=sampler.stable(rows).tolist(), done=done)

    def _cost(self) -> Cost:
        took = None if self._session is None else self._session.forwards
        return self._spent if took is None else Cost(took.count, took.replayed, took.seconds, self._seconds)

    # Who is in it, and how he leaves.

    def _alone(self, work: Callable[[], _T]) -> _T:
        """Does some work in the run, where nobody else is in it. Whatever is raised ends the run."""
        self._check_process()
        with Settled(), Settled():
            turn = self._turn()
            with self._lock.held():
                if self._user is None:
                    self._user = turn
            if self._user is not turn:
                raise InvalidValueError(
                    "a run is in one step at a time, got a call while another thread, or its own on_step, is in one; call it "
                    "between two steps"
                )
            with Settled(self._hold), Settled(self._hold):
                self._is_whole = False
                done = work()
                self._is_whole = True
                return done

    def _later(self, note: Callable[[], object]) -> None:
        """Notes what is done at once where nobody is in the run, and else by him who is, when he leaves."""
        with Settled(), Settled():
            turn = self._turn()
            with self._lock.held():
                note()
                if self._user is None:
                    self._user = turn

    def _turn(self) -> Hold:
        """What is given back with the call that it is made in, so that nobody stays in a run whatever happens."""
        turn = Hold()
        turn.afterwards(functools.partial(self._leave, turn))
        return turn

    def _leave(self, turn: Hold) -> None:
        if self._user is not turn:
            return
        failure: Exception | None = None
        while True:
            self._is_over = self._is_over or not self._is_whole
            self._cancel_noted()
            if self._is_over:
                try:
                    self._end()
                except Exception as error:  # of a broken device; the rest is given back nevertheless
                    failure = failure or error
            with self._lock.held():
                # Something may have been noted meanwhile.
                if not self._to_cancel and (self._session is None or not self._is_over):
                    self._user = None
                    break
        if failure is not None:
            raise failure

    def _cancel_noted(self) -> None:
        while self._to_cancel:
            self._cancel_row(self._to_cancel[-1])
            self._to_cancel.pop()

    def _cancel_row(self, row: int) -> None:
        if not self._sampler.is_done(row):
            self._cancelled |= {row}
            self._sampler.cancel(row)

    def _end(self) -> None:
        """Lets everything go that is not the answer."""
        for row in range(len(self)):
            self._cancel_row(row)
        self._spent = self._cost()
        self._session = self._predict = None
        self._hold.give_back()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise InvalidValueError(
                "a run belongs to the process that began it, got a call in a child of fork; begin another one there"
            )

    def __del__(self) -> None:
        hold = self.__dict__.get("_hold")
        if hold is not None:
            try:
                _give_back(hold, self._process)
            finally:
                _give_back(hold, self._process)


def _give_back(hold: Hold, process: int) -> None:
    if os.getpid() == process:
        hold.give_back()
    else:
        with contextlib.suppress(Exception):  # a device is not the child's
            hold.give_back()
