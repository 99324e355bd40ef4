"""The forwards of a run: counted, timed, and each named in what it raises."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Forwards:
    """What the forwards of a run took.

    Attributes:
        count: how many there were.
        replayed: those of them that were replayed from CUDA graphs.
        seconds: time spent in them.
    """

    def __init__(self) -> None:
        self.count = self.replayed = 0
        self.seconds = 0.0

    def run(self, forward: Callable[[], T], rows: int, width: int) -> T:
        """What a forward of so many rows of so many tokens gives; None says that there was none.

        Raises:
            Exception: what it raises, the same object with a note that says which forward it was.
        """
        began = time.perf_counter()
        try:
            found = forward()
        except Exception as error:
            error.add_note(f"dllm_fast: raised by forward {self.count} (from 0), {rows} rows of {width} tokens")
            raise
        finally:
            self.seconds += time.perf_counter() - began
        self.count += found is not None
        return found
