"""What the host and the kernels hand to each other: names, types and order of the records, each written once.

From these follow the buffers that are packed and read here, by the operations and by the emulator of the tests, and the header
`dllm/layout.cuh` that every kernel includes. It is made, not kept as a file: compilers get `header()`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast import _core

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: The name under which kernels include what `header` gives.
HEADER = "dllm/layout.cuh"
_CPP = {"u8": "uint64_t", "i8": "int64_t", "f8": "double", "u4": "uint32_t", "i4": "int32_t", "f4": "float"}


@dataclass(frozen=True, slots=True)
class Arrays:
    """Arrays of n entries each, side by side in one buffer, so that one copy moves all of them.

    Attributes:
        name: of the struct in CUDA.
        about: what an entry is about.
        fields: type of each array by its name, wide ones first: then each lies at a multiple of its width for any n.
        is_written: by kernels.
    """

    name: str
    about: str
    fields: Mapping[str, str]
    is_written: bool = False

    def size(self, n: int) -> int:
        """Bytes of a buffer for n entries."""
        return n * sum(np.dtype(kind).itemsize for kind in self.fields.values())

    def offsets(self, n: int) -> dict[str, int]:
        """Where each array begins in a buffer for n entries, in bytes."""
        found, begin = {}, 0
        for name, kind in self.fields.items():
            found[name] = begin
            begin += n * np.dtype(kind).itemsize
        return found

    def views(self, buffer: NDArray[np.uint8], n: int) -> dict[str, NDArray[Any]]:
        """The arrays of n entries in a buffer, in its memory."""
        kinds = {name: np.dtype(kind) for name, kind in self.fields.items()}
        return {name: buffer[at : at + n * kinds[name].itemsize].view(kinds[name]) for name, at in self.offsets(n).items()}

    def pack(self, n: int, values: Mapping[str, Any], *, room: int | None = None) -> NDArray[np.uint8]:
        """A buffer of n entries, each field one value for all or n of them; what is not given is 0.

        With `room` there is place for so many; those behind the n repeat the last, so that no kernel reads outside.
        """
        assert values.keys() <= self.fields.keys()
        room = n if room is None else room
        packed = np.zeros(self.size(room), dtype=np.uint8)
        for name, array in self.views(packed, room).items():
            if name in values:
                array[:n] = np.asarray(values[name], dtype=array.dtype)
                array[n:] = array[n - 1] if n else 0
        return packed

    def cpp(self) -> str:
        """As a struct over a buffer, with a function for each array."""
        const, lines = "" if self.is_written else "const ", []
        for (name, kind), begin in zip(self.fields.items(), self.offsets(1).values(), strict=True):
            word = const + _CPP[kind]
            array = f"reinterpret_cast<{word}*>(buffer + {begin} * int64_t(count))"
            lines.append(f"    __device__ __forceinline__ {word}& {name}(int i) const {{ return {array}[i]; }}")
        return "\n".join(
            (f"// {self.about}", f"struct {self.name} {{", f"    {const}uint8_t* buffer;", "    int count;", *lines, "};")
        )


@dataclass(frozen=True, slots=True)
class Struct:
    """A record whose fields lie side by side.

    Attributes:
        name: of the struct in CUDA.
        about: what it is about.
        fields: type of each by its name; `pointer:T` is an address.
    """

    name: str
    about: str
    fields: Mapping[str, str]

    @property
    def dtype(self) -> np.dtype[Any]:
        """As NumPy has it, laid out as C++ does."""
        kinds = [(name, "u8" if kind.startswith("pointer:") else kind) for name, kind in self.fields.items()]
        return np.dtype(kinds, align=True)

    def cpp(self) -> str:
        """As a struct: the same order, and a size to which the compiler is held."""
        lines = []
        for name, kind in self.fields.items():
            to = kind.removeprefix("pointer:")
            lines.append(f"    const {to}* {name};" if to != kind else f"    {_CPP[kind]} {name};")
        check = f'static_assert(sizeof({self.name}) == {self.dtype.itemsize}, "laid out as the host packs it");'
        return "\n".join((f"// {self.about}", f"struct {self.name} {{", *lines, "};", check))


SITES = Arrays(
    "Sites",
    "Scored positions: coordinates of the random numbers, the row of logits, the law of the draw, and a token whose\n"
    "// probability is wanted as well.",
    {"seed": "u8", "request": "u4", "position": "u4", "step": "u4", "line": "i4", "law": "i4", "current": "i4"},
)
PREDICTIONS = Arrays(
    "Predictions",
    "What is predicted at each site. With STATUS_NOT_A_NUMBER the token is the first id that is NaN; else, where the status\n"
    "// is not fine, nothing but the status is meant to be read.",
    {
        "token": "i8",
        "probability": "f8",
        "top1": "f8",
        "top2": "f8",
        "entropy": "f8",
        "logsumexp": "f8",
        "current": "f8",
        "status": "i4",
    },
    is_written=True,
)
#: What `status` says, and how a token is chosen.
STATUSES = ("fine", "not_a_number", "nothing_allowed")
CHOICES = ("argmax", "by_draw", "by_filtered_draw")
LAW = Struct(
    "Law",
    "How a token is drawn at the sites that name it: 1 / temperature, filters (top_k 0, top_p 1 and min_p 0 keep every id),\n"
    "// and a bit for each id, lowest first, set where it counts as -inf; null where none is.",
    {
        "suppressed": "pointer:uint8_t",
        "top_p": "f8",
        "min_p": "f8",
        "top_k": "i4",
        "inverse_temperature": "f4",
        "choice": "i4",
        "unused": "i4",
    },
)


def _numbers(kind: str, names: Sequence[str]) -> str:
    """The indices of names as an enum."""
    spelled = (f"{kind.upper()}_{name.upper()}".replace("-", "_").replace(" ", "_") for name in names)
    values = "".join(f"    {name} = {i},\n" for i, name in enumerate(spelled))
    return f"enum {kind}Name : int32_t {{\n{values}}};"


@cache
def header() -> str:
    """`dllm/layout.cuh`: these records and names for kernels."""
    # Names of rules stand in the core; their places are their numbers.
    rules = _core.names()
    names = {"Status": STATUSES, "Choice": CHOICES, "Order": rules["order"], "Cut": rules["cut"]}
    parts = (*itertools.starmap(_numbers, names.items()), *(record.cpp() for record in (SITES, PREDICTIONS, LAW)))
    about = "// Made by python/dllm_fast/kernels/layout.py, which describes what is here."
    return "\n\n".join(
        (about + '\n#pragma once\n\n#include "dllm/platform.cuh"', "namespace dllm {", *parts, "}  // namespace dllm\n")
    )
