"""Values that nobody should pass, each with a name. They are made anew for every call, because a call may use them up."""

# ruff: noqa: PLW0108, each is made when it is called

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

Make = Callable[[], Any]


class MineError(Exception):
    """What a caller's own object raises: it has to come out as the same object, or not at all."""


MINE = MineError("of the caller's object")


def _raise(*_: object, **__: object) -> Any:
    raise MINE


def _hostile(*names: str) -> Make:
    """An object some of whose methods raise."""
    return lambda: type("Hostile", (), dict.fromkeys(names, _raise))()


def _sequence() -> Any:
    """A list whose length lies, and whose items change."""

    class Liar(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[int]:
            return iter((1, 2, 3, 4, 5))

    return Liar([1])


def _quiet(make: Make) -> Make:
    """Without the warnings of torch that it is not finished with such tensors."""

    def made() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return made


NUMBERS: dict[str, Make] = {
    **{str(n): lambda n=n: n for n in (-1, 0, 1, 2, 7, 2**24 + 1, 2**31, 2**32, 10**13, 2**62, 2**63, 2**64, -(2**63), 10**30)},
    "10**5000": lambda: 10**5000,
    **{repr(x): lambda x=x: x for x in (0.0, 0.5, 1.0, -0.5, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"))},
    "True": lambda: True,
    "False": lambda: False,
    "1j": lambda: 1j,
    "Decimal(1)": lambda: Decimal(1),
    "Decimal('nan')": lambda: Decimal("nan"),
    "Fraction(1, 2)": lambda: Fraction(1, 2),
    "np.int64(1)": lambda: np.int64(1),
    "np.int8(-1)": lambda: np.int8(-1),
    "np.uint64(2**64-1)": lambda: np.uint64(2**64 - 1),
    "np.float32(0.5)": lambda: np.float32(0.5),
    "np.float64(nan)": lambda: np.float64("nan"),
    "np.True_": lambda: np.True_,
    "np.datetime64": lambda: np.datetime64("2026-01-01"),
    "torch.tensor(1)": lambda: torch.tensor(1),
    "torch.tensor(0.5)": lambda: torch.tensor(0.5),
    "torch.tensor(True)": lambda: torch.tensor(True),
    "np.array(1)": lambda: np.array(1),
}
THINGS: dict[str, Make] = {
    "None": lambda: None,
    "''": lambda: "",
    "'abc'": lambda: "abc",
    "'1'": lambda: "1",
    "'\\ud800'": lambda: "\ud800",
    "'\\0'": lambda: "\0",
    "'a' * 10**6": lambda: "a" * 10**6,
    "b'ab'": lambda: b"ab",
    "bytearray": lambda: bytearray(b"ab"),
    "memoryview": lambda: memoryview(b"ab"),
    "Path('abc')": lambda: Path("abc"),
    "object()": object,
    "int": lambda: int,
    "print": lambda: print,
    "...": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "module": lambda: np,
    "[]": list,
    "()": tuple,
    "{}": dict,
    "set()": set,
    "{1, 2}": lambda: {1, 2},
    "{1: 2}": lambda: {1: 2},
    "{'input_ids': [1]}": lambda: {"input_ids": [1]},
    "[1]": lambda: [1],
    "(1, 2)": lambda: (1, 2),
    "[1, 2]": lambda: [1, 2],
    "[[1], [1, 2]]": lambda: [[1], [1, 2]],
    "[[[1]]]": lambda: [[[1]]],
    "[[]]": lambda: [[]],
    "[None]": lambda: [None],
    "['abc']": lambda: ["abc"],
    "['abc', 1]": lambda: ["abc", 1],
    "[True]": lambda: [True],
    "[0.5]": lambda: [0.5],
    "[1.0]": lambda: [1.0],
    "[nan]": lambda: [float("nan")],
    "[-1]": lambda: [-1],
    "[2**32]": lambda: [2**32],
    "[2**64]": lambda: [2**64],
    "[10**400]": lambda: [10**400],
    "[b'a']": lambda: [b"a"],
    "[1, [2]]": lambda: [1, [2]],
    "[object()]": lambda: [object()],
    "[[1]] * 3": lambda: [[1]] * 3,
    "range(3)": lambda: range(3),
    "range(10**12)": lambda: range(10**12),
    "iterator": lambda: iter([1, 2]),
    "endless": lambda: itertools.count(),
    "generator": lambda: (i for i in (1, 2)),
    "map": lambda: map(int, "12"),
    "liar": _sequence,
    "exception": lambda: ValueError("x"),
}
ARRAYS: dict[str, Make] = {
    "np [1, 2]": lambda: np.array([1, 2]),
    "np int32": lambda: np.array([1, 2], dtype=np.int32),
    "np uint64 max": lambda: np.array([2**64 - 1], dtype=np.uint64),
    "np [-1]": lambda: np.array([-1]),
    "np empty": lambda: np.array([]),
    "np 0 x 5": lambda: np.zeros((0, 5), dtype=np.float32),
    "np 2 x 0": lambda: np.zeros((2, 0), dtype=np.float32),
    "np 2 x 2": lambda: np.zeros((2, 2), dtype=np.int64),
    "np 3-d": lambda: np.zeros((1, 2, 5), dtype=np.float32),
    "np float32": lambda: np.zeros((2, 5), dtype=np.float32),
    "np float64": lambda: np.zeros((2, 5)),
    "np float64 flat": lambda: np.array([0.5, 0.5]),
    "np whole floats": lambda: np.array([1.0, 2.0]),
    "np longdouble": lambda: np.zeros((2, 5), dtype=np.longdouble),
    "np nan": lambda: np.full((2, 5), np.nan, dtype=np.float32),
    "np bool": lambda: np.array([True, False]),
    "np complex": lambda: np.zeros((2, 5), dtype=np.complex64),
    "np objects": lambda: np.array([1, None], dtype=object),
    "np whole objects": lambda: np.array([1, 2], dtype=object),
    "np text": lambda: np.array(["a", "b"]),
    "np bytes": lambda: np.array([b"a"]),
    "np dates": lambda: np.array(["2026-01-01"], dtype="datetime64[D]"),
    "np spans": lambda: np.array([1, 2], dtype="timedelta64[s]"),
    "np fields": lambda: np.zeros(2, dtype=[("a", int), ("b", float)]),
    "np big-endian": lambda: np.array([1, 2], dtype=">i8"),
    "np big-endian float": lambda: np.zeros((2, 5), dtype=">f4"),
    "np strided": lambda: np.arange(4)[::2],
    "np reversed": lambda: np.array([2, 1])[::-1],
    "np columns": lambda: np.zeros((5, 2), dtype=np.float32).T,
    "np no strides": lambda: np.broadcast_to(np.int64(1), (2,)),
    "np no strides float": lambda: np.broadcast_to(np.float32(0), (2, 5)),
    "np no strides huge": lambda: np.broadcast_to(np.int64(1), (2**40,)),
    "np no strides huge float": lambda: np.broadcast_to(np.float32(0), (2**36, 5)),
    "np read-only": lambda: _frozen(np.array([1, 2])),
    "np unaligned": lambda: np.frombuffer(bytearray(17), dtype=np.uint8)[1:].view(np.int64),
    "np masked": lambda: np.ma.masked_array([1, 2], mask=[False, True]),
    "np masked float": lambda: np.ma.masked_array(np.zeros((2, 5), dtype=np.float32), mask=True),
    "np nothing masked": lambda: np.ma.masked_array([1, 2]),
    "np matrix": _quiet(lambda: np.matrix([[1, 2]])),
    "np recarray": lambda: np.rec.array([(1, 2.0)]),
}
TENSORS: dict[str, Make] = {
    "torch [1, 2]": lambda: torch.tensor([1, 2]),
    "torch int32": lambda: torch.tensor([1, 2], dtype=torch.int32),
    "torch empty": lambda: torch.tensor([]),
    "torch 2 x 2": lambda: torch.zeros((2, 2), dtype=torch.int64),
    "torch float32": lambda: torch.zeros((2, 5)),
    "torch bfloat16": lambda: torch.zeros((2, 5), dtype=torch.bfloat16),
    "torch float64": lambda: torch.zeros((2, 5), dtype=torch.float64),
    "torch float8": lambda: torch.zeros((2, 5)).to(torch.float8_e4m3fn),
    "torch bool": lambda: torch.tensor([True, False]),
    "torch grad": lambda: torch.zeros((2, 5), requires_grad=True),
    "torch parameter": lambda: torch.nn.Parameter(torch.zeros((2, 5))),
    "torch complex": lambda: torch.zeros((2, 5), dtype=torch.complex64),
    "torch conjugate": lambda: torch.zeros((2, 5), dtype=torch.complex64).conj(),
    "torch conjugate real": lambda: torch.view_as_real(torch.zeros((2, 5), dtype=torch.complex64)).select(-1, 0),
    "torch negative": lambda: torch._neg_view(torch.zeros((2, 5))),
    "torch negative ids": lambda: torch._neg_view(torch.tensor([1, 2])),
    "torch negative imaginary": lambda: torch.zeros((2, 5), dtype=torch.complex64).conj().imag,
    "torch meta": lambda: torch.zeros((2, 5), device="meta"),
    "torch meta ids": lambda: torch.zeros(2, dtype=torch.int64, device="meta"),
    "torch meta scalar": lambda: torch.tensor(1, device="meta"),
    "torch sparse": lambda: torch.zeros((2, 5)).to_sparse(),
    "torch sparse ids": lambda: torch.tensor([1, 2]).to_sparse(),
    "torch sparse rows": _quiet(lambda: torch.zeros((2, 5)).to_sparse_csr()),
    "torch nested": _quiet(lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])),
    "torch nested ids": _quiet(lambda: torch.nested.nested_tensor([torch.tensor([1]), torch.tensor([1, 2])])),
    "torch jagged": _quiet(lambda: torch.nested.nested_tensor([torch.tensor([1]), torch.tensor([1, 2])], layout=torch.jagged)),
    "torch quantised": _quiet(lambda: torch.quantize_per_tensor(torch.zeros((2, 5)), 1.0, 0, torch.qint8)),
    "torch quantised ids": _quiet(lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)),
    "torch mkldnn": lambda: torch.zeros((2, 5)).to_mkldnn(),
    "torch columns": lambda: torch.zeros((5, 2)).T,
    "torch strided": lambda: torch.arange(4)[::2],
    "torch no strides": lambda: torch.zeros(1).expand(2, 5),
    "torch no strides huge": lambda: torch.zeros(1).expand(2**36, 5),
    "torch no strides huge ids": lambda: torch.ones(1, dtype=torch.int64).expand(2**40),
    "torch no storage": lambda: _emptied(torch.zeros((2, 5))),
    "torch subclass": lambda: torch.zeros((2, 5)).as_subclass(type("Sub", (torch.Tensor,), {})),
    "torch inference": lambda: _inferred(),
    "torch size": lambda: torch.zeros(2, 5).size(),
    "torch.float32": lambda: torch.float32,
    "torch.device": lambda: torch.device("cpu"),
    "torch storage": _quiet(lambda: torch.zeros(2).untyped_storage()),
    "torch module": lambda: torch.nn.Identity(),
}
HOSTILE: dict[str, Make] = {
    f"raises in {names[0]}": _hostile(*names)
    for names in (
        ("__array__",), ("__array_interface__",), ("__iter__",), ("__iter__", "__len__", "__getitem__"), ("__bool__",),
        ("__repr__", "__str__"), ("__len__",), ("__index__",), ("__int__",), ("__float__",), ("__eq__",), ("__hash__",),
        ("__getattr__",), ("__getattribute__",), ("__getitem__",), ("__call__",), ("__str__",), ("__fspath__",),
        ("__contains__", "__getitem__", "__iter__"), ("__torch_function__",), ("__dlpack__",), ("__format__", "__repr__"),
        ("to_dict", "tolist", "item"), ("shape", "dtype"), ("encode", "decode"),
    )
}  # fmt: skip
EVERYTHING: dict[str, Make] = NUMBERS | THINGS | ARRAYS | TENSORS | HOSTILE


def _frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


def _emptied(tensor: torch.Tensor) -> torch.Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def _inferred() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros((2, 5))
