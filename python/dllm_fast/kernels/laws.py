"""How tokens are drawn at the sites of a prediction, as a table that kernels read: data, like the sites themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.kernels.layout import CHOICES, LAW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """How a token is drawn, and which ids it is not; checked by the caller."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    suppressed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is launched for some laws. All else about them is data, so a graph that was captured stays valid for others.

    Attributes:
        is_mixed: sites say which law is theirs; else the first is that of all.
        is_tempered: some draw at a temperature other than 1, and cut nothing.
        is_cut: some have filters.
        is_counted: some have top-k or top-p.
    """

    is_mixed: bool = False
    is_tempered: bool = False
    is_cut: bool = False
    is_counted: bool = False


def inverse_temperature(temperature: float) -> float:
    """1 / temperature as the kernels take it: within the normal float32 numbers. 1 for temperature 0, where it is not used."""
    tiny, largest = float(_FLOAT32.tiny), float(_FLOAT32.max)
    return 1.0 if temperature == 0 else min(max(1.0 / temperature, tiny), largest)


def table(laws: Sequence[Law], vocabulary: int, bits: Sequence[int]) -> NDArray[Any]:
    """The records of laws for a vocabulary. `bits`: of each, the address of the bits of its suppressed ids, 0 for none."""
    made = np.zeros(len(laws), dtype=LAW.dtype)
    for record, law, address in zip(made, laws, bits, strict=True):
        draws = law.temperature > 0
        top_k = law.top_k if draws and law.top_k is not None and law.top_k < vocabulary else 0
        top_p = law.top_p if draws and law.top_p is not None else 1.0
        min_p = law.min_p if draws and law.min_p is not None else 0.0
        is_cut = top_k > 0 or top_p < 1.0 or min_p > 0.0
        record["suppressed"] = address
        record["top_k"], record["top_p"], record["min_p"] = top_k, top_p, min_p
        record["inverse_temperature"] = inverse_temperature(law.temperature)
        record["choice"] = CHOICES.index("by_filtered_draw" if is_cut else "by_draw" if draws else "argmax")
    return made


def kind_for(laws: Sequence[Law], vocabulary: int) -> Kind:
    """What is launched for laws."""
    return kind_of(table(laws, vocabulary, [0] * len(laws)))


def kind_of(records: NDArray[Any]) -> Kind:
    """What is launched for the laws of a table, of which there is one at least."""
    is_cut = records["choice"] == CHOICES.index("by_filtered_draw")
    draws_plainly = records["choice"] == CHOICES.index("by_draw")
    return Kind(
        is_mixed=len(records) > 1,
        is_tempered=bool((draws_plainly & (records["inverse_temperature"] != 1.0)).any()),
        is_cut=bool(is_cut.any()),
        is_counted=bool((is_cut & ((records["top_k"] > 0) | (records["top_p"] < 1.0))).any()),
    )
