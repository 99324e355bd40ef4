"""Mask prediction on the device that holds the logits: the kernels of `mask_predict.cu`, and what they read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast import _core
from dllm_fast.arrays import integer_array
from dllm_fast.errors import InvalidValueError
from dllm_fast.kernels import launches
from dllm_fast.ops import launcher
from dllm_fast.ops.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_FINE, _NOT_A_NUMBER = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How tokens are drawn, and which ids are not; checked by the caller."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    softcap: float | None = None
    suppressed: tuple[int, ...] = ()


def takes(logits: Tensor) -> bool:
    """Can the kernels read such logits `[N, V]`, where they are? Others go to the core."""
    if logits.layout is not torch.strided or logits.is_nested or logits.is_neg():
        return False
    dtype = str(logits.dtype).removeprefix("torch.")
    fits = logits.dim() == 2 and 0 < logits.shape[1] <= launches.MAX_TILES * launches.TILE and logits.is_contiguous()
    if dtype not in launches.SUFFIXES or not fits:
        return False
    return launcher.usable(logits.device, *launches.mask_predict_sources(dtype))


# --- what the kernels read and write: arrays side by side in one buffer, so that one copy moves all of them

_SITES = {
    "seed": np.uint64,
    "request": np.uint32,
    "position": np.uint32,
    "step": np.uint32,
    "line": np.int32,
    "current": np.int32,
}
_STATISTICS = ("token", "probability", "top1", "top2", "entropy", "logsumexp", "current")


def pack_sites(
    n: int, *, seed: Any, request: Any, position: Any, step: Any, line: Any, current: Any = 0, room: int | None = None
) -> NDArray[np.uint8]:
    """The random numbers' coordinates and the line of logits of n sites, each one number or n, as bytes.

    With `room` there is place for so many; those behind the n repeat the last, so that no kernel reads outside.
    """
    room = n if room is None else room
    packed = np.empty(site_bytes(room), dtype=np.uint8)
    given = {"seed": seed, "request": request, "position": position, "step": step, "line": line, "current": current}
    begin = 0
    for name, dtype in _SITES.items():
        end = begin + room * np.dtype(dtype).itemsize
        array = packed[begin:end].view(dtype)
        array[:n] = np.asarray(given[name], dtype=dtype)
        array[n:] = array[n - 1] if n else 0
        begin = end
    return packed


def site_bytes(n: int) -> int:
    """Size of what `pack_sites` makes of n sites."""
    return n * sum(np.dtype(dtype).itemsize for dtype in _SITES.values())


def steps(sites: Tensor, n: int) -> Tensor:
    """The steps of n sites, int32, in a buffer that holds what `pack_sites` made."""
    begin = site_addresses(sites, n)["step"] - sites.data_ptr()
    return sites[begin : begin + 4 * n].view(torch.int32)


def site_addresses(sites: Tensor, n: int) -> dict[str, int]:
    """Where the arrays of n sites begin in a buffer that holds what `pack_sites` made."""
    found, address = {}, sites.data_ptr()
    for name, dtype in _SITES.items():
        found[name] = address
        address += n * np.dtype(dtype).itemsize
    return found


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
        values = {name: getattr(self, name) for name in (*_STATISTICS, "status")}
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


def result_bytes(n: int) -> int:
    """Size of the buffer of the results of n sites."""
    return n * (8 * len(_STATISTICS) + 4)


def results(packed: Tensor, n: int, *, has_current: bool, room: int | None = None) -> TensorPrediction:
    """The first n of `room` results in a buffer."""
    room = n if room is None else room
    columns = packed[: room * 8 * len(_STATISTICS)].view(torch.float64).view(len(_STATISTICS), room)
    named: dict[str, Any] = {name: columns[i, :n] for i, name in enumerate(_STATISTICS)}
    named["token"] = named["token"].view(torch.int64)
    status = packed[room * 8 * len(_STATISTICS) :].view(torch.int32)[:n]
    current = named.pop("current")
    named["current"] = current if has_current else None
    return TensorPrediction(**named, status=status, _packed=packed, _room=room)


def empty_results(n: int, device: torch.device, *, words: int = 0) -> Tensor:
    """A buffer for `queue`; statistics that no kernel writes are NaN. Behind them is room for 8-byte words."""
    return torch.full((-(-result_bytes(n) // 8) + words,), torch.nan, dtype=torch.float64, device=device).view(torch.uint8)


def result_addresses(packed: Tensor, n: int) -> dict[str, int]:
    """Where the arrays of n results begin in a buffer."""
    found = {name: packed.data_ptr() + 8 * n * i for i, name in enumerate(_STATISTICS)}
    return found | {"status": packed.data_ptr() + 8 * n * len(_STATISTICS)}


_SUPPRESSED = Shared(most=64)


def suppressed_bits(ids: tuple[int, ...], vocabulary: int, device: torch.device) -> Tensor:
    """One bit for each id, lowest first."""

    def make() -> Tensor:
        is_suppressed = np.zeros(vocabulary, dtype=bool)
        is_suppressed[list(ids)] = True
        return launcher.to_device(torch.from_numpy(np.packbits(is_suppressed, bitorder="little")), device)

    return _SUPPRESSED.get((ids, vocabulary), device, make)


def queue(logits: Tensor, sites: Tensor, packed: Tensor, n: int, draw: Draw, *, has_current: bool = False) -> None:
    """Queues the mask prediction of n sites: `sites` from `pack_sites`, `packed` for `results`, both on the device."""
    vocabulary = logits.shape[1]
    device = logits.device
    suppressed = suppressed_bits(draw.suppressed, vocabulary, device) if draw.suppressed else None
    records = torch.empty(n * launches.tiles(vocabulary) * launches.RECORD_BYTES, dtype=torch.uint8, device=device)
    cuts = torch.empty(n * launches.CUT_BYTES, dtype=torch.uint8, device=device)
    dtype = str(logits.dtype).removeprefix("torch.")
    has_bins = draw.temperature > 0 and (draw.top_k is not None or draw.top_p is not None)
    bins_bytes = launches.bins_bytes(dtype=dtype, sites=n, vocabulary=vocabulary) if has_bins else 0
    bins = torch.empty(bins_bytes, dtype=torch.uint8, device=device)
    inputs = site_addresses(sites, n)
    outputs = result_addresses(packed, n)
    current = outputs.pop("current")
    buffers = launches.MaskPredictBuffers(
        logits=logits.data_ptr(),
        index=inputs.pop("line"),
        suppressed=0 if suppressed is None else suppressed.data_ptr(),
        records=records.data_ptr(),
        cuts=cuts.data_ptr(),
        bins=bins.data_ptr(),
        probability_of_current=current if has_current else 0,
        **inputs,
        **outputs,
    )
    launcher.launch(
        launches.mask_predict(
            buffers,
            dtype=dtype,
            sites=n,
            vocabulary=vocabulary,
            stride=logits.stride(0),
            temperature=draw.temperature,
            top_k=draw.top_k,
            top_p=draw.top_p,
            min_p=draw.min_p,
            softcap=draw.softcap,
        ),
        device,
    )


def predict(logits: Tensor, sites: NDArray[np.uint8], n: int, draw: Draw) -> TensorPrediction:
    """The mask prediction of n sites, without waiting for it."""
    packed = empty_results(n, logits.device)
    if n:
        queue(logits, launcher.to_device(torch.from_numpy(sites), logits.device), packed, n, draw)
    return results(packed, n, has_current=False)


def mask_predict(
    logits: Tensor,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
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
    filters: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "softcap": softcap}
    # The size of the vocabulary need not fit into a narrow dtype, and torch does not compare all of those without a sign.
    on_device = {name: x.long() for name, x in on_device.items()}
    places = None if "position" in on_device or positions is None else integer_array(positions, "positions")
    # The core checks the settings, and then what belongs to single rows, on logits that cost nothing.
    checked: dict[str, Any] = {"seed": seed, "request": request, "positions": places, "step": step}
    _core.mask_predict(np.zeros((0, vocabulary), np.float32), **filters, suppress=suppress, **_NO_ROWS)
    _core.mask_predict(np.zeros((n, 1), np.float32), **_NO_FILTERS, **checked)
    ids = 0 if current is None or "current" in on_device else _checked_ids(current, n, vocabulary)
    position = np.arange(n) if places is None else places
    plain = {name: float(x) for name, x in filters.items() if x is not None and name != "top_k"}
    draw = Draw(**plain, top_k=None if top_k is None else int(top_k), suppressed=tuple(sorted({int(i) for i in suppress})))
    packed = empty_results(n, logits.device)
    result = results(packed, n, has_current=current is not None)
    if not n:
        return result
    packed_sites = pack_sites(n, seed=seed, request=request, position=position, step=step, line=np.arange(n), current=ids)
    sites = launcher.to_device(torch.from_numpy(packed_sites), logits.device)
    begins = site_addresses(sites, n)
    for name, x in on_device.items():
        begin = begins[name] - sites.data_ptr()
        # Nobody has looked at these; an id outside would be read outside.
        sites[begin : begin + 4 * n].view(torch.int32).copy_(x.clamp(0, vocabulary - 1) if name == "current" else x)
    queue(logits, sites, packed, n, draw, has_current=current is not None)
    if "current" in on_device and result.current is not None:
        given = on_device["current"]
        result.current.masked_fill_((given < 0) | (given >= vocabulary), torch.nan)
    return result


_NO_ROWS: dict[str, Any] = {"current": None, "seed": 0, "request": 0, "positions": None, "step": 0}
_NO_FILTERS: dict[str, Any] = {
    "temperature": 0.0,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "softcap": None,
    "suppress": np.zeros(0, np.int64),
    "current": None,
}


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
    values = {name: getattr(prediction, name) for name in _STATISTICS}
    tensors = {name: None if x is None else launcher.to_device(torch.from_numpy(x), device) for name, x in values.items()}
    return TensorPrediction(**tensors, status=torch.zeros(len(prediction), dtype=torch.int32, device=device))  # type: ignore[arg-type]
