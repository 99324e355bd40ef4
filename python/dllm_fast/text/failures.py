"""What a tokenizer raises, as errors of ours.

The `tokenizers` library is written in Rust: where it meets what its authors held impossible it panics, and a panic arrives as a
`PanicException`, which is no `Exception`. Whoever asks a tokenizer does so in a `translated` block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllm_fast.errors import DllmFastError, cut

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Of the sentence that says why.
_LONGEST = 300


def is_panic(error: BaseException) -> bool:
    """Is this a panic of an extension written in Rust? Each extension has a class of its own, which nobody can import."""
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"


def reason(error: BaseException) -> str:
    """What an exception says, in one line; its class where it says nothing."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # of a class that somebody else wrote
        text = ""
    return cut(f"{'it panicked: ' if is_panic(error) else ''}{text or type(error).__name__}", _LONGEST)


class translated:  # noqa: N801, a block of `with`, as `contextlib.suppress`
    """A block in which a tokenizer is asked: what it raises becomes an error of ours.

    Errors of ours pass, and so do `KeyboardInterrupt`, `SystemExit` and every other `BaseException` that is no panic.

    Args:
        made: the error, from what was raised.
        passing: other errors of ours that pass.
    """

    def __init__(self, made: Callable[[BaseException], Exception], *passing: type[Exception]) -> None:
        self._made = made
        self._passing: tuple[type[Exception], ...] = (DllmFastError, *passing)

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if error is None or isinstance(error, self._passing):
            return
        if isinstance(error, Exception) or is_panic(error):
            raise self._made(error) from error
