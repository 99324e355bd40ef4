"""The operations on a machine without a GPU: their meaning in torch, what they refuse, and what they cost to import."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings

import pytest
import torch

import dllm_fast.ops  # noqa: F401, registers the operations
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.kernels import launches
from dllm_fast.ops import launcher


def inputs():
    random = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 3, 8, generator=random)
    k, v = torch.randn(2, 2, 2, 7, 8, generator=random)
    begin = torch.tensor([[0, 2, 6], [0, 0, 5]], dtype=torch.int32)
    end = torch.tensor([[7, 3, 99], [1, 0, 2]], dtype=torch.int32)
    return {"q": q, "k": k, "v": v, "begin": begin, "end": end, "scale": 0.3}


def attention(**given):
    return torch.ops.dllm_fast.attention(*(given[name] for name in ("q", "k", "v", "begin", "end", "scale")))


def test_a_query_sees_its_range_and_nothing_else():
    given = inputs()
    # What nobody sees may be anything.
    given["k"][1, :, 1:], given["v"][1, :, 1:] = torch.nan, torch.inf
    out = attention(**given)
    for b in range(2):
        for h in range(4):
            for i in range(3):
                seen = slice(int(given["begin"][b, i]), min(int(given["end"][b, i]), 7))
                k, v = (given[name][b, h // 2, seen].double() for name in ("k", "v"))
                weights = (k @ given["q"][b, h, i].double() * 0.3).softmax(0)
                torch.testing.assert_close(out[b, h, i].double(), weights @ v, rtol=1e-5, atol=1e-6)
    assert not out[1, :, 1:].any(), "a query that sees nothing gets zeros"


def test_attention_follows_the_rules_of_torch():
    given = inputs()
    arguments = tuple(given[name] for name in ("q", "k", "v", "begin", "end", "scale"))
    torch.library.opcheck(torch.ops.dllm_fast.attention, arguments)
    strided = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in given.items() if name in "qkv"}
    torch.testing.assert_close(attention(**given | strided), attention(**given))
    meta = {name: x.to("meta") if isinstance(x, torch.Tensor) else x for name, x in given.items()}
    assert attention(**meta).shape == given["q"].shape


def test_no_queries_and_no_keys():
    given = inputs()
    none = {"q": given["q"][:, :, :0], "begin": given["begin"][:, :0], "end": given["end"][:, :0]}
    assert attention(**given | none).shape == (2, 4, 0, 8)
    assert not attention(**given | {"k": given["k"][:, :, :0], "v": given["v"][:, :, :0]}).any()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"q": lambda x: x[0]}, InvalidValueError, r"\[B, H, Lq, D\]"),
        ({"k": lambda x: x[:, :, :5]}, InvalidValueError, "transpose or reshape"),
        ({"k": lambda x: x[..., :4], "v": lambda x: x[..., :4]}, InvalidValueError, "transpose or reshape"),
        ({"q": lambda x: x[:, :3]}, InvalidValueError, "multiple of the key heads, got 3 and 2"),
        ({"begin": lambda x: x[:, :2]}, InvalidValueError, r"\[B, Lq\] = \[2, 3\]"),
        ({"end": lambda x: x.long()}, InvalidTypeError, r"int32.*\.int\(\)"),
        ({"q": lambda x: x.bfloat16()}, InvalidTypeError, "share a floating dtype"),
        ({"q": lambda x: x.int(), "k": lambda x: x.int(), "v": lambda x: x.int()}, InvalidTypeError, "share a floating"),
    ],
)
def test_bad_input_is_refused(change, error, text):
    given = inputs()
    with pytest.raises(error, match=text):
        attention(**given | {name: made(given[name]) for name, made in change.items()})


def test_tensors_on_two_devices_are_refused():
    given = inputs()
    with pytest.raises(InvalidValueError, match="one device, got q on cpu and k on meta"):
        attention(**given | {"k": given["k"].to("meta"), "v": given["v"].to("meta")})


def test_importing_the_package_imports_neither_torch_nor_the_operations():
    code = "import sys, dllm_fast; assert not {'torch', 'cupy', 'dllm_fast.ops'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, torch, dllm_fast.ops; torch.ops.dllm_fast.attention; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_device_that_the_kernels_cannot_use_is_said_once(monkeypatch):
    device = torch.device("cuda", 3)
    monkeypatch.setattr(launcher.kernels, "problem", lambda _: ("CuPy is not installed", "pip install 'dllm-fast[cuda13]'"))
    launcher._load.cache_clear()
    launcher._warn.cache_clear()
    with pytest.warns(UserWarning, match=r"CuPy is not installed; pip install 'dllm-fast\[cuda13\]'"):
        assert not launcher.usable(device, "attention")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not launcher.usable(device, "attention")
        assert not launcher.usable(device, "mask_predict"), "the reason is the same"
    launcher._load.cache_clear()
    launcher._warn.cache_clear()


def test_a_module_that_does_not_load_is_no_catastrophe(monkeypatch):
    def prepare(sources, device):
        raise OSError("no cubin")

    monkeypatch.setattr(launcher.kernels, "problem", lambda _: None)
    monkeypatch.setattr(launcher.kernels, "prepare", prepare)
    launcher._load.cache_clear()
    launcher._warn.cache_clear()
    with pytest.warns(UserWarning, match="OSError: no cubin; see `dllm-fast doctor`"):
        assert not launcher.usable(torch.device("cuda", 3), "attention")
    launcher._load.cache_clear()
    launcher._warn.cache_clear()


def a_launch(kernel):
    return launches.Launch("commit", kernel, (1, 1, 1), (1, 1, 1), ())


def test_launches_are_counted_where_they_run(monkeypatch):
    device, ran = torch.device("cpu"), []
    monkeypatch.setattr(launcher, "run", lambda queued, _: ran.extend(queued))
    launcher.launch([a_launch("before")], device)
    with launcher.counted() as outer:
        launcher.launch(iter([a_launch("a"), a_launch("b")]), device)
        with launcher.counted() as inner:
            launcher.launch([a_launch("a")], device)
            thread = threading.Thread(target=launcher.launch, args=([a_launch("c")], device))
            thread.start()
            thread.join()
        launcher.launch([], device)
    launcher.launch([a_launch("after")], device)
    assert inner == {"a": 1, "c": 1}
    assert outer == {"a": 2, "b": 1, "c": 1}
    assert [one.kernel for one in ran] == ["before", "a", "b", "a", "c", "after"]


def test_a_launch_that_fails_is_not_counted(monkeypatch):
    def run(queued, device):
        raise OSError("invalid configuration")

    monkeypatch.setattr(launcher, "run", run)
    with launcher.counted() as counter, pytest.raises(OSError, match="configuration"):
        launcher.launch([a_launch("a")], torch.device("cpu"))
    assert not counter


def test_a_capture_launches_nothing_and_each_replay_all_of_it(monkeypatch):
    monkeypatch.setattr(launcher, "run", lambda *_: None)
    with launcher.counted() as counter:
        with launcher.recorded() as captured:
            launcher.launch([a_launch("a"), a_launch("a"), a_launch("b")], torch.device("cpu"))
        assert captured == {"a": 2, "b": 1}
        assert not counter
        launcher.count(captured)
        launcher.count(captured)
        launcher.launch([a_launch("b")], torch.device("cpu"))
    assert counter == {"a": 4, "b": 3}
