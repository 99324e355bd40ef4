"""The graph of a loop, built through a stub of cuda-bindings, and the names that the real one has."""

from __future__ import annotations

import enum
import gc
from types import SimpleNamespace

import pytest
import torch

from dllm_fast.errors import KernelError
from dllm_fast.runners import while_node
from dllm_fast.runners.while_node import WhileGraph

DEVICE = torch.device("cuda", 0)


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NOT_SUPPORTED = 801


class Driver:
    """Answers as `cuda.bindings.driver` does: a status, then what was made. Notes all calls."""

    CU_GRAPH_COND_ASSIGN_DEFAULT = 1
    CUgraphNodeType = SimpleNamespace(CU_GRAPH_NODE_TYPE_CONDITIONAL="conditional")
    CUgraphConditionalNodeType = SimpleNamespace(CU_GRAPH_COND_TYPE_WHILE="while")

    def __init__(self, refuses: str | None = None):
        self.calls: list[tuple] = []
        self.refuses = refuses

    def _answer(self, name, *given):
        self.calls.append((name, *given))
        if name == self.refuses:
            return Result.CUDA_ERROR_NOT_SUPPORTED, None
        return Result.CUDA_SUCCESS, {"cuGraphConditionalHandleCreate": 4711}.get(name, f"<{name}>")

    def __getattr__(self, name):
        return lambda *given: self._answer(name, *given)

    def CUgraphNodeParams(self):  # noqa: N802, the binding's name
        return SimpleNamespace(type=None, conditional=SimpleNamespace(phGraph_out=[]))

    def CUgraph(self, address):  # noqa: N802
        return "graph", address

    def CUstream(self, address):  # noqa: N802
        return "stream", address

    def cuGraphAddNode(self, graph, dependencies, data, count, parameters):  # noqa: N802
        parameters.conditional.phGraph_out.append("<body>")
        return self._answer("cuGraphAddNode", graph, dependencies, data, count, vars(parameters))

    def cuGraphDestroy(self, graph):  # noqa: N802
        return self._answer("cuGraphDestroy", graph)

    def cuGraphExecDestroy(self, executable):  # noqa: N802
        return self._answer("cuGraphExecDestroy", executable)


def test_the_plan_of_nodes(monkeypatch):
    driver, handles = Driver(), []

    def step(handle):
        driver.calls.append(("captured", handle))
        handles.append(handle)
        return 0xABC

    loop = WhileGraph(step, DEVICE, driver)
    names = [name for name, *_ in driver.calls]
    assert names == [
        *("cuGraphCreate", "cuCtxGetCurrent", "cuGraphConditionalHandleCreate", "cuGraphAddNode"),
        *("captured", "cuGraphAddChildGraphNode", "cuGraphInstantiate"),
    ]
    calls = {name: given for name, *given in driver.calls}
    assert calls["cuGraphConditionalHandleCreate"] == ["<cuGraphCreate>", "<cuCtxGetCurrent>", 1, 1], "1 at every launch"
    parameters = calls["cuGraphAddNode"][-1]
    assert parameters["type"] == "conditional"
    conditional = vars(parameters["conditional"])
    assert (conditional["handle"], conditional["type"], conditional["size"]) == (4711, "while", 1)
    assert handles == [4711], "the last kernel of the step is given the handle"
    assert calls["cuGraphAddChildGraphNode"] == ["<body>", None, 0, ("graph", 0xABC)]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=77))
    loop.launch()
    assert driver.calls[-1] == ("cuGraphLaunch", "<cuGraphInstantiate>", ("stream", 77))
    del loop
    gc.collect()
    assert {name for name, *_ in driver.calls[-2:]} == {"cuGraphExecDestroy", "cuGraphDestroy"}


@pytest.mark.parametrize(
    "name",
    ["cuGraphCreate", "cuGraphConditionalHandleCreate", "cuGraphAddNode", "cuGraphAddChildGraphNode", "cuGraphInstantiate"],
)
def test_what_is_refused_is_named_and_nothing_stays(name):
    driver = Driver(refuses=name)
    with pytest.raises(
        KernelError, match=f"{name} must succeed, got CUDA_ERROR_NOT_SUPPORTED; leave `while` out of DLLM_FAST_TRY"
    ):
        WhileGraph(lambda _: 1, DEVICE, driver)
    gc.collect()
    made = any(call[0] == "cuGraphCreate" for call in driver.calls) and name != "cuGraphCreate"
    assert any(call[0] == "cuGraphDestroy" for call in driver.calls) == made


def test_without_cuda_bindings_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(while_node.importlib, "import_module", missing)
    with pytest.raises(KernelError, match="pip install 'cuda-bindings>=13', or leave `while` out"):
        WhileGraph(lambda _: 1, DEVICE)


def test_the_bindings_have_these_names():
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed: it builds loops on a GPU only")
    for name in ("Create", "ConditionalHandleCreate", "AddNode", "AddChildGraphNode", "Instantiate", "Launch", "Destroy"):
        assert callable(getattr(driver, f"cuGraph{name}"))
    assert callable(driver.cuGraphExecDestroy)
    assert callable(driver.cuCtxGetCurrent)
    assert driver.CU_GRAPH_COND_ASSIGN_DEFAULT == 1
    parameters = driver.CUgraphNodeParams()
    parameters.type = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
    parameters.conditional.handle = driver.CUgraphConditionalHandle(5)
    parameters.conditional.type = driver.CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_WHILE
    parameters.conditional.size = 1
    parameters.conditional.ctx = driver.CUcontext(0)
    assert (int(parameters.conditional.handle), parameters.conditional.size) == (5, 1)
    assert int(driver.CUgraph(7)) == 7
    assert int(driver.CUstream(7)) == 7
