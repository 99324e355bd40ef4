"""The one place that knows CUDA graphs: runs a function once, then captures it, and gives the call that replays it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast._core import Lock
from dllm_fast.ops import launcher
from dllm_fast.runners.while_node import WhileGraph

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# One at a time in a process: what another thread queues meanwhile, another capture's warm-up say, can break a capture.
# In a handler that runs inside one, another is an error of CUDA's, not a wait for ever.
_CAPTURES = Lock()


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
        with _CAPTURES.held(), torch.cuda.device(self._where):
            current = torch.cuda.current_stream()
            if self._stream is None:
                self._stream = own_stream(self, current.device)
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

    def loop(self, body: Callable[[int], None]) -> Callable[[], None]:
        """The call that runs a step again and again, until its last kernel sets the handle that it is given to 0.

        The step without that kernel has been captured before, so that all is loaded.

        Raises:
            KernelError, RuntimeError: it cannot be built.
        """
        with _CAPTURES.held(), torch.cuda.device(self._where):
            current = torch.cuda.current_stream()
            graph = torch.cuda.CUDAGraph(keep_graph=True)

            launches: Counter[str] = Counter()

            def step(handle: int) -> int:
                with launcher.recorded() as recorded:
                    self._captured(functools.partial(body, handle), graph)
                launches.update(recorded)
                return int(graph.raw_cuda_graph())

            try:
                made = WhileGraph(step, current.device)
            finally:
                torch.cuda.set_stream(current)
        made.body = graph  # which holds the memory of the step

        def turn() -> None:
            made.launch()
            # The first turn is always made. How many follow it, the host reads later, and nobody counts them.
            launcher.count(launches)

        return turn

    def _captured(self, body: Callable[[], None], graph: Any = None) -> Any:
        graph = torch.cuda.CUDAGraph() if graph is None else graph
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                body()
        except BaseException:
            clean_up(torch.cuda.current_device(), self._pool)
            raise
        return graph


def clean_up(device: int, pool: Any) -> None:
    """Ends what torch leaves open where a capture fails, which would otherwise concern the whole process.

    Memory of the allocator that several streams have used would not be used again as long as a capture is thought to be under
    way, and the generator of random numbers would refuse every draw outside of a graph.
    """
    with contextlib.suppress(Exception):  # it was ended
        torch._C._cuda_endAllocateToPool(device, pool)
    with contextlib.suppress(Exception):  # a version of torch without states of generators, or a device that is broken
        generator = torch.cuda.default_generators[device]
        offset = generator.get_offset()
        try:
            draw(device)
        except RuntimeError:
            # Only then: graphs of others that draw know the state by its address.
            generator.graphsafe_set_state(generator.clone_state())
        generator.set_offset(offset)


def draw(device: int) -> None:
    """One random number, to see whether there are any."""
    torch.empty(1, device=torch.device("cuda", device)).uniform_()


# --- streams

# Those that were made and are free again, by device.
_FREE: dict[int, list[int]] = {}
_STREAMS = Lock()  # an owner may go while another one comes
_NON_BLOCKING = 1


def own_stream(owner: object, device: torch.device) -> torch.cuda.Stream:
    """A stream that nobody else has until its owner is gone.

    Torch deals out thirty-two in turn. Who got the same one would share the work memory of cuBLAS with graphs that are
    replayed on another stream.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    with _STREAMS.held():
        free = _FREE.setdefault(index, [])
        handle = free.pop() if free else _made()
    if handle is None:
        # Of a pool of its own, which few have asked for.
        return torch.cuda.Stream(priority=-1)  # type: ignore[no-untyped-call]
    weakref.finalize(owner, _give_back, index, handle).atexit = False
    return torch.cuda.ExternalStream(handle, device=torch.device("cuda", index))  # type: ignore[no-untyped-call]


def _made() -> int | None:
    """A new stream of the current context, or None where the driver gives none."""
    try:
        create = ctypes.CDLL("libcuda.so.1").cuStreamCreate
    except (OSError, AttributeError):
        return None
    handle = ctypes.c_void_p()
    create.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint)
    return handle.value if create(ctypes.byref(handle), _NON_BLOCKING) == 0 else None


def _give_back(index: int, handle: int) -> None:
    with _STREAMS.held():
        _FREE[index].append(handle)
