"""The one place that knows CUDA graphs: runs a function once, then captures it, and gives the call that replays it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.ops import launcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# One at a time in a process: what another thread queues meanwhile, another capture's warm-up say, can break a capture.
_CAPTURES = threading.Lock()


class CudaCapture:
    """Runs a function once, so that what it needs is loaded, then captures it. All graphs share their work memory.

    Both are on a stream of its own, to which cuBLAS ties its work memory; replays are on the caller's.
    """

    def __init__(self, where: torch.device) -> None:
        self._where = where
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self._anchor: tuple[Any, Tensor] | None = None

    def __call__(self, body: Callable[[], None]) -> Callable[[], None]:
        with _CAPTURES, torch.cuda.device(self._where):
            current = torch.cuda.current_stream()
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                self._pool = torch.cuda.graph_pool_handle()
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    body()
            finally:
                current.wait_stream(self._stream)
            try:
                if self._anchor is None:
                    # A pool is gone for good with the last of its graphs, and a longer cache drops all of the others.
                    kept: list[Tensor] = []
                    self._anchor = self._captured(lambda: kept.append(torch.zeros(1, device=self._where))), kept[0]
                with launcher.recorded() as launches:
                    graph = self._captured(body)
            finally:
                torch.cuda.set_stream(current)

        def replay() -> None:
            graph.replay()
            launcher.count(launches)

        return replay

    def _captured(self, body: Callable[[], None]) -> Any:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            body()
        return graph
