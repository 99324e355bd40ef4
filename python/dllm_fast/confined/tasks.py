"""What the child process can be asked to do: a function for each task, from plain data to plain data.

They run in the child alone. What they need is imported inside of them, when it is first asked for, and neither torch nor
numpy is. An exception comes back as `TaskError`, lack of memory as `LimitError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TASKS: dict[str, Callable[[Any], Any]] = {}


def task(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Makes a function a task, under its own name."""
    TASKS[function.__name__] = function
    return function


@task
def echo(payload: Any) -> Any:
    """The payload itself: shows that everything comes through."""
    return payload


@task
def render(payload: Any) -> Any:
    """What a chat template (its source) makes of values: see `sandbox.Outcome`."""
    from dllm_fast.text.sandbox import render

    return render(*payload)


@task
def tokenizer(payload: Any) -> None:
    """Tries a tokenizer: builds it, makes ids of texts and text of ids."""
    from dllm_fast.confined.trial import tried

    tried(payload)
