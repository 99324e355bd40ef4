"""Mask prediction on the device that holds the logits: the kernels of `mask_predict.cu`, and what they read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast import _core
from dllm_fast.arrays import integer_array
from dllm_fast.errors import InvalidValueError
from dllm_fast.kernels import launches, layout
from dllm_fast.kernels.laws import Kind, Law, kind_of, table
from dllm_fast.ops import launcher
from dllm_fast.ops.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_NOT_A_NUMBER = layout.STATUSES.index("not_a_number")
_DTYPES = {"i8": torch.int64, "f8": torch.float64, "i4": torch.int32}


def takes(logits: Tensor) -> bool:
    """Can the kernels read such logits `[N, V]`, where they are? Others go to the core."""
    if logits.layout is not torch.strided or logits.is_nested or logits.is_neg():
        return False
    dtype = str(logits.dtype).removeprefix("torch.")
    fits = logits.dim() == 2 and 0 < logits.shape[1] <= launches.MAX_TILES * launches.TILE and logits.is_contiguous()
    if dtype not in launches.SUFFIXES or not fits:
        return False
    return launcher.usable(logits.device, *launches.mask_predict_sources(dtype))


# --- what the kernels read and write: one buffer each way, so that one copy moves all


@dataclass(frozen=True, slots=True)
class Laws:
    """Laws as the kernels read them, for a vocabulary on a device.

    Attributes:
        records: of each, `layout.LAW`.
        kind: what is launched where sites name any of them.
        bits: of suppressed ids, to which the records point: whoever queues with these holds them until that is done.
    """

    records: NDArray[Any]
    kind: Kind
    bits: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, laws: Sequence[Law], vocabulary: int, device: torch.device) -> Laws:
        """Their table."""
        bits = tuple(suppressed_bits(law.suppressed, vocabulary, device) if law.suppressed else None for law in laws)
        records = table(laws, vocabulary, [0 if one is None else one.data_ptr() for one in bits])
        return cls(records, kind_of(records), bits)


def pack(n: int, laws: Laws, fields: Mapping[str, Any], *, room: int | None = None, laws_room: int = 0) -> NDArray[np.uint8]:
    """What `queue` reads: n sites, by the fields of `layout.SITES`, and behind them the laws that they name.

    There is place for `room` sites and `laws_room` laws, or for those that there are.
    """
    records = np.zeros(max(laws_room, len(laws.records)), dtype=laws.records.dtype)
    records[: len(laws.records)] = laws.records
    return np.concatenate((layout.SITES.pack(n, fields, room=room), records.view(np.uint8)))


def packed_bytes(n: int, laws: int) -> int:
    """Size of what `pack` makes with place for so many sites and laws."""
    return layout.SITES.size(n) + laws * layout.LAW.dtype.itemsize


def steps(sites: Tensor, n: int) -> Tensor:
    """The steps of n sites, int32, in a buffer that holds what `pack` made."""
    begin = layout.SITES.offsets(n)["step"]
    return sites[begin : begin + 4 * n].view(torch.int32)


@dataclass(frozen=True, slots=True)
class TensorPrediction:
    """What `mask_predict` returns for tensors of a device: the fields of `Prediction` as tensors `[N]` there, not waited for.

    A row that holds a NaN, or nothing but -inf, has NaN for its statistics, and is an error in `cpu()`.

    Attributes:
        token: int64; the other fields are float64.
        status: int32; 0 for a row that is fine.
    """

    token: Tensor
    probability: Tensor
    top1: Tensor
    top2: Tensor
    entropy: Tensor
    logsumexp: Tensor
    current: Tensor | None
    status: Tensor
    _packed: Tensor | None = None
    _room: int | None = None

    def __len__(self) -> int:
        return len(self.token)

    def __repr__(self) -> str:
        return f"TensorPrediction of {len(self)} positions on {self.token.device}"

    def cpu(self) -> TensorPrediction:
        """The same on the host. Waits for the device.

        Raises:
            InvalidValueError: a row that has no statistics; names it.
        """
        host = self.on_host()
        bad = np.flatnonzero(host.status.numpy())
        if bad.size:
            raise unusable(int(host.status[bad[0]]), int(host.token[bad[0]]), f"row {bad[0]}")
        return host

    def on_host(self) -> TensorPrediction:
        """As `cpu()`, but rows without statistics are the caller's to find, in `status`."""
        if self._packed is not None:
            return results(self._packed.cpu(), len(self), has_current=self.current is not None, room=self._room)
        return self.each(torch.Tensor.cpu)

    def each(self, change: Callable[[Tensor], Tensor]) -> TensorPrediction:
        """With every field changed."""
        values = {name: getattr(self, name) for name in layout.PREDICTIONS.fields}
        changed: dict[str, Any] = {name: None if value is None else change(value) for name, value in values.items()}
        return TensorPrediction(**changed)


@dataclass(frozen=True, slots=True)
class AwaitedPrediction:
    """Some of the results of a buffer of so many, which is on its way to the host."""

    copy: launcher.HostCopy
    room: int
    places: NDArray[np.int64]

    def on_host(self) -> TensorPrediction:
        """Waits for it. Rows without statistics are the caller's to find, in `status`."""
        places = torch.from_numpy(self.places)
        return results(self.copy.wait(), self.room, has_current=False).each(lambda field: field[places])


def unusable(status: int, token: int, place: str) -> InvalidValueError:
    """The error of a site that has no statistics, in the words of rust/error.rs."""
    if status == _NOT_A_NUMBER:
        return InvalidValueError(
            f"the logits of {place} must not hold NaN, got one at id {token}; look for an overflow in the model (float16?) or "
            "for an uninitialised buffer"
        )
    return InvalidValueError(
        f"the logits of {place} must allow at least one id, got -inf everywhere once the suppressed ids and the mask id are "
        "left out; suppress fewer ids"
    )


def results(packed: Tensor, n: int, *, has_current: bool, room: int | None = None) -> TensorPrediction:
    """The first n of `room` results in a buffer."""
    room = n if room is None else room
    named: dict[str, Any] = {}
    for name, begin in layout.PREDICTIONS.offsets(room).items():
        dtype = _DTYPES[layout.PREDICTIONS.fields[name]]
        named[name] = packed[begin : begin + room * dtype.itemsize].view(dtype)[:n]
    if not has_current:
        named["current"] = None
    return TensorPrediction(**named, _packed=packed, _room=room)


def empty_results(n: int, device: torch.device, *, words: int = 0) -> Tensor:
    """A buffer for `queue`; statistics that no kernel writes are NaN. Behind them is room for 8-byte words."""
    size = -(-layout.PREDICTIONS.size(n) // 8) + words
    return torch.full((size,), torch.nan, dtype=torch.float64, device=device).view(torch.uint8)


_SUPPRESSED = Shared(most=64)


def suppressed_bits(ids: tuple[int, ...], vocabulary: int, device: torch.device) -> Tensor:
    """One bit for each id, lowest first."""

    def make() -> Tensor:
        is_suppressed = np.zeros(vocabulary, dtype=bool)
        is_suppressed[list(ids)] = True
        return launcher.to_device(torch.from_numpy(np.packbits(is_suppressed, bitorder="little")), device)

    return _SUPPRESSED.get((ids, vocabulary), device, make)


def queue(
    logits: Tensor,
    inputs: Tensor,
    packed: Tensor,
    n: int,
    kind: Kind,
    *,
    softcap: float | None = None,
    has_current: bool = False,
) -> None:
    """Queues the mask prediction of n sites: `inputs` from `pack`, `packed` for `results`, both on the device."""
    vocabulary, device = logits.shape[1], logits.device
    records = torch.empty(n * launches.tiles(vocabulary) * launches.RECORD_BYTES, dtype=torch.uint8, device=device)
    cuts = torch.empty(n * launches.CUT_BYTES, dtype=torch.uint8, device=device)
    dtype = str(logits.dtype).removeprefix("torch.")
    bins_bytes = launches.bins_bytes(dtype=dtype, sites=n, vocabulary=vocabulary) if kind.is_counted else 0
    bins = torch.empty(bins_bytes, dtype=torch.uint8, device=device)
    buffers = launches.MaskPredictBuffers(
        logits=logits.data_ptr(),
        sites=inputs.data_ptr(),
        laws=inputs.data_ptr() + layout.SITES.size(n),
        records=records.data_ptr(),
        cuts=cuts.data_ptr(),
        bins=bins.data_ptr(),
        predictions=packed.data_ptr(),
    )
    queued = launches.mask_predict(
        buffers,
        dtype=dtype,
        sites=n,
        vocabulary=vocabulary,
        stride=logits.stride(0),
        kind=kind,
        softcap=softcap,
        has_current=has_current,
    )
    launcher.launch(queued, device)


def predict(logits: Tensor, inputs: NDArray[np.uint8], n: int, kind: Kind, *, has_current: bool = False) -> TensorPrediction:
    """The mask prediction of n sites, `inputs` from `pack`, without waiting for it."""
    packed = empty_results(n, logits.device)
    if n:
        there = launcher.to_device(torch.from_numpy(inputs), logits.device)
        queue(logits, there, packed, n, kind, has_current=has_current)
    return results(packed, n, has_current=has_current)


def mask_predict(
    logits: Tensor,
    *,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    softcap: float | None,
    suppress: NDArray[np.int64],
    current: Any,
    seed: int | Sequence[int],
    request: int | Sequence[int],
    positions: Any,
    step: int | Sequence[int],
) -> TensorPrediction:
    """`dllm_fast.mask_predict` for logits that the kernels take."""
    n, vocabulary = logits.shape
    on_device = {name: x for name, x in (("position", positions), ("current", current)) if _is_there(x, logits)}
    for name, x in on_device.items():
        if x.shape != (n,) or x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
            label = "positions" if name == "position" else name
            raise InvalidValueError(
                f"{label} must hold an integer for each of the {n} rows, got {x.dtype} of shape {list(x.shape)}; check it"
            )
    # The size of the vocabulary need not fit into a narrow dtype, and torch does not compare all of those without a sign.
    on_device = {name: x.long() for name, x in on_device.items()}
    places = None if "position" in on_device or positions is None else integer_array(positions, "positions")
    # The core checks the settings, and then what belongs to single rows, on logits that cost nothing.
    checked: dict[str, Any] = {"seed": seed, "request": request, "positions": places, "step": step}
    distinct, law = _core.row_laws(n, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    _core.mask_predict(np.zeros((0, vocabulary), np.float32), **_GREEDY, softcap=softcap, suppress=suppress, **_NO_ROWS)
    _core.mask_predict(np.zeros((n, 1), np.float32), **_GREEDY, **_NO_FILTERS, **checked)
    ids = 0 if current is None or "current" in on_device else _checked_ids(current, n, vocabulary)
    position = np.arange(n) if places is None else places
    packed = empty_results(n, logits.device)
    result = results(packed, n, has_current=current is not None)
    if not n:
        return result
    suppressed = tuple(sorted({int(i) for i in suppress}))
    rules = [Law(temperature=t, top_k=k, top_p=p, min_p=m, suppressed=suppressed) for t, k, p, m in distinct]
    laws = Laws.of(rules, vocabulary, logits.device)
    coordinates = {"seed": seed, "request": request, "position": position, "step": step}
    fields = {**coordinates, "line": np.arange(n), "law": law, "current": ids}
    inputs = launcher.to_device(torch.from_numpy(pack(n, laws, fields)), logits.device)
    begins = layout.SITES.offsets(n)
    for name, x in on_device.items():
        begin = begins[name]
        # Nobody has looked at these; an id outside would be read outside.
        inputs[begin : begin + 4 * n].view(torch.int32).copy_(x.clamp(0, vocabulary - 1) if name == "current" else x)
    cap = None if softcap is None else float(softcap)
    queue(logits, inputs, packed, n, laws.kind, softcap=cap, has_current=current is not None)
    if "current" in on_device and result.current is not None:
        given = on_device["current"]
        result.current.masked_fill_((given < 0) | (given >= vocabulary), torch.nan)
    return result


_NO_ROWS: dict[str, Any] = {"current": None, "seed": 0, "request": 0, "positions": None, "step": 0}
_GREEDY: dict[str, Any] = {"temperature": 0.0, "top_k": None, "top_p": None, "min_p": None}
_NO_FILTERS: dict[str, Any] = {"softcap": None, "suppress": np.zeros(0, np.int64), "current": None}


def _is_there(x: object, logits: Tensor) -> bool:
    """Is it a tensor on the device of the logits, to be read there?"""
    return isinstance(x, torch.Tensor) and x.device == logits.device and x.device.type != "cpu"


def _checked_ids(current: Any, n: int, vocabulary: int) -> NDArray[np.int64]:
    ids = integer_array(current, "current")
    if ids.shape != (n,):
        raise InvalidValueError(
            f"current must have one entry for each of the {n} rows of logits, got {len(ids)}; check its length"
        )
    bad = ids[(ids < 0) | (ids >= vocabulary)]
    if bad.size:
        raise InvalidValueError(
            f"current must be ids of the vocabulary, got {bad[0]} for {vocabulary} columns; check the tokenizer"
        )
    return ids


def from_host(prediction: _core.Prediction, device: torch.device) -> TensorPrediction:
    """What the core made, as tensors of a device: for devices that the kernels cannot run on."""
    values = {name: getattr(prediction, name) for name in layout.PREDICTIONS.fields if name != "status"}
    tensors = {name: None if x is None else launcher.to_device(torch.from_numpy(x), device) for name, x in values.items()}
    return TensorPrediction(**tensors, status=torch.zeros(len(prediction), dtype=torch.int32, device=device))  # type: ignore[arg-type]
