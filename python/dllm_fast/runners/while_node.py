"""A step of a graph as the body of a loop: a CUDA graph of one WHILE node (CUDA 12.4 or newer), through cuda-bindings.

Torch captures the step and keeps it as a graph; what is built around it here is

    graph: WHILE(handle) -> body: child graph (the step, whose last kernel sets the value of the handle)

and launching it runs the body until the value is 0.
"""

from __future__ import annotations

import importlib
import weakref
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable

_REMEDY = "leave `while` out of DLLM_FAST_TRY"


class WhileGraph:
    """The executable graph, on the current device.

    Attributes:
        body: whatever has to live as long as this.
    """

    def __init__(self, step: Callable[[int], int], device: torch.device, driver: Any = None) -> None:
        """Builds it.

        Args:
            step: captures the body, given the handle that its last kernel sets, and gives the address of the graph.
            device: that it runs on.
            driver: `cuda.bindings.driver`, or what stands in for it.

        Raises:
            KernelError: something of all that is missing or refused; says what.
        """
        self._driver = driver = _bindings() if driver is None else driver
        self._device = device
        self.body: Any = None
        graph = _made(driver.cuGraphCreate(0), "cuGraphCreate")
        weakref.finalize(self, driver.cuGraphDestroy, graph).atexit = False
        context = _made(driver.cuCtxGetCurrent(), "cuCtxGetCurrent")
        # 1 at each launch: the first turn is always made.
        every_launch = driver.CU_GRAPH_COND_ASSIGN_DEFAULT
        created = driver.cuGraphConditionalHandleCreate(graph, context, 1, every_launch)
        handle = _made(created, "cuGraphConditionalHandleCreate")
        parameters = driver.CUgraphNodeParams()
        parameters.type = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
        parameters.conditional.handle = handle
        parameters.conditional.type = driver.CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_WHILE
        parameters.conditional.size = 1
        parameters.conditional.ctx = context
        _made(driver.cuGraphAddNode(graph, None, None, 0, parameters), "cuGraphAddNode")
        (body,) = parameters.conditional.phGraph_out
        child = driver.CUgraph(step(int(handle)))
        _made(driver.cuGraphAddChildGraphNode(body, None, 0, child), "cuGraphAddChildGraphNode")
        self._executable = _made(driver.cuGraphInstantiate(graph, 0), "cuGraphInstantiate")
        weakref.finalize(self, driver.cuGraphExecDestroy, self._executable).atexit = False

    def launch(self) -> None:
        """Queues the loop on torch's current stream.

        Raises:
            KernelError: it was refused.
        """
        stream = torch.cuda.current_stream(self._device).cuda_stream
        _made(self._driver.cuGraphLaunch(self._executable, self._driver.CUstream(stream)), "cuGraphLaunch")


def _bindings() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise KernelError(
            f"a loop on the device is built by cuda-bindings, got {error}; pip install 'cuda-bindings>=13', or {_REMEDY}"
        ) from error


def _made(answer: tuple[Any, ...], name: str) -> Any:
    """What a call of the driver gave."""
    status, *values = answer
    if int(status) != 0:
        raise KernelError(f"{name} must succeed, got {getattr(status, 'name', status)}; {_REMEDY}, or report it")
    return values[0] if values else None
