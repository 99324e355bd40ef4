"""The steps of a run for `async for`."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Protocol

from dllm_fast.errors import InvalidValueError, called_at, place_of_caller

if TYPE_CHECKING:
    from dllm_fast.events import StepEvent


class Steps(Protocol):
    """What is iterated."""

    def step(self) -> StepEvent | None:
        """The next event, or None at the end."""
        ...

    def close(self) -> None:
        """Ends it, at the latest behind the step that a thread is in."""
        ...


class AsyncSteps:
    """Takes each step in a thread of the loop's executor, when the event is asked for: never more than one ahead of its reader.

    Leaving the loop ends the run: by `break`, by whatever is raised, or where the task is cancelled. A thread cannot be
    interrupted, so a task that is cancelled in a step waits for its end.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __aiter__(self) -> AsyncSteps:
        return self

    async def __anext__(self) -> StepEvent:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise InvalidValueError(
                "async for needs a running loop of asyncio, got another or none; there, call step() of the run in a thread"
            ) from None
        outcome: list[tuple[StepEvent | None, BaseException | None]] = []
        made = loop.run_in_executor(
            None, contextvars.copy_context().run, called_at, place_of_caller(), _note, self._steps, outcome
        )
        try:
            await asyncio.shield(made)
        except BaseException as left:
            self._steps.close()
            if isinstance(left, asyncio.CancelledError):
                await asyncio.wait([made])
            raise
        # Taken out, for the frames that an error holds hold the list.
        event, error = outcome.pop()
        if isinstance(error, StopIteration | StopAsyncIteration):
            # It would look like the end.
            raise RuntimeError(f"the model raised {type(error).__name__} in a step of a run") from error
        if error is not None:
            try:
                raise error
            finally:
                del error  # whose frames would hold it
        if event is None:
            raise StopAsyncIteration
        return event

    def __del__(self) -> None:
        try:
            self._steps.close()
        finally:
            self._steps.close()  # an interrupt comes between any two instructions


def _note(steps: Steps, outcome: list[tuple[StepEvent | None, BaseException | None]]) -> None:
    """Notes a step, or what it raised: not every exception can be the result of a future."""
    try:
        outcome.append((steps.step(), None))
    except BaseException as error:
        outcome.append((None, error))
