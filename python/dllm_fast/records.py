"""Results and settings leave the process: short when shown, equal by value, and as values that JSON can write and read."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import InvalidTypeError, InvalidValueError, cut, shown
from dllm_fast.tensors import is_readable, is_tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Record:
    """What frozen dataclasses with arrays in them share. To be made with `eq=False, repr=False`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return described(self)  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self) if field.compare]  # type: ignore[arg-type]
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Every field as numbers, strings, lists and dictionaries, which `json.dumps` takes.

        JSON has neither nan nor infinity: they become None, "inf" and "-inf".
        """
        return fields(self)  # type: ignore[arg-type]


def _same(a: object, b: object) -> bool:
    if hasattr(a, "tolist") and hasattr(b, "tolist"):
        return bool(a.tolist() == b.tolist())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def described(record: DataclassInstance, usual: Mapping[str, object] | None = None) -> str:
    """The class and its fields, each cut short; never above 2,000 characters. Fields that have their `usual` value are left
    out."""
    names = [field.name for field in dataclasses.fields(record) if field.repr]
    names = [name for name in names if usual is None or getattr(record, name) != usual[name]]
    return cut(f"{type(record).__name__}({', '.join(f'{name}={_SHORT.repr(getattr(record, name))}' for name in names)})")


class _Short(reprlib.Repr):
    """The representation of a field: of many things the first, and how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = 8
        self.maxstring = 160
        self.maxother = 500

    def repr_list(self, x: list[Any], level: int) -> str:
        return self._some(x, level, "[", "]", "")

    def repr_tuple(self, x: tuple[Any, ...], level: int) -> str:
        return self._some(x, level, "(", ")", "," if len(x) == 1 else "")

    def repr_ndarray(self, x: Any, level: int) -> str:
        return self._some(x.tolist(), level, "[", "]", "")

    def _some(self, x: list[Any] | tuple[Any, ...], level: int, left: str, right: str, alone: str) -> str:
        first = ", ".join(self.repr1(item, level - 1) for item in x[: self.maxlist])
        rest = f", ... {len(x)} in all" if len(x) > self.maxlist else alone
        return f"{left}{first}{rest}{right}"


_SHORT = _Short()


def fields(record: DataclassInstance) -> dict[str, Any]:
    """Every field of a dataclass, as plain values."""
    return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries that stand for a value."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def scalar(value: Any) -> Any:
    """A number of NumPy or torch as Python's own; anything else as it is."""
    if value is None or type(value) in (bool, int, float, str):
        return value  # nearly always, many times for each run
    # Who has one has imported its module; another thread may be importing it.
    numpy = sys.modules.get("numpy")
    generic, array = getattr(numpy, "generic", None), getattr(numpy, "ndarray", None)
    if is_tensor(value):
        return value.item() if is_readable(value) and value.ndim == 0 else value
    if numpy is None or generic is None or array is None or not isinstance(value, (generic, array)) or value.shape != ():
        return value
    return value if isinstance(value, numpy.ma.MaskedArray) else value.item()


def number(value: object, name: str) -> float:
    """The float that `plain` made a number, None, "inf" or "-inf" of.

    Raises:
        InvalidTypeError: anything else.
    """
    if value is None:
        return math.nan
    if isinstance(value, str) and value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise InvalidValueError(f"{name} must be a number of float64, got {shown(value)}; pass what to_dict gave") from None
    raise InvalidTypeError(f'{name} must be a number, None, "inf" or "-inf", got {shown(value)}; pass what to_dict gave')


def whole(value: object, name: str) -> int:
    """A whole number from 0.

    Raises:
        InvalidTypeError: anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise InvalidTypeError(f"{name} must be a whole number from 0, got {shown(value)}; pass what to_dict gave")


def count(value: Any, name: str, *, least: int = 1, most: int = 2**32, remedy: str) -> int:
    """A whole number in a range, NumPy's and torch's as Python's own.

    Raises:
        InvalidTypeError: no whole number.
        InvalidValueError: outside of the range.
    """
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name} must be a whole number, got {shown(value)}; {remedy}")
    if value < least:
        raise InvalidValueError(f"{name} must be at least {least}, got {shown(value)}; {remedy}")
    if value > most:
        raise InvalidValueError(f"{name} must be at most {_power(most)}, got {shown(value)}; {remedy}")
    return value


def _power(number: int) -> str:
    """A bound as people write it."""
    exponent = number.bit_length() - 1
    for offset, sign in ((0, ""), (1, " - 1")):
        if exponent >= 10 - offset and (number + offset) & (number + offset - 1) == 0:
            return f"2^{exponent + offset}{sign}"
    return str(number)


def string(value: object, name: str) -> str:
    """A text.

    Raises:
        InvalidTypeError: anything else.
    """
    if isinstance(value, str):
        return value
    raise InvalidTypeError(f"{name} must be a text, got {shown(value)}; pass what to_dict gave")


def strings(value: object, name: str) -> list[str] | None:
    """A list of texts, or None.

    Raises:
        InvalidTypeError: anything else.
    """
    return None if value is None else [string(item, name) for item in rows(value, name)]


def reason(value: object, name: str, texts: object) -> str | None:
    """Why there are no texts, or None.

    Raises:
        InvalidTypeError: neither a text nor None.
        InvalidValueError: a reason although there are texts.
    """
    found = None if value is None else string(value, name)
    if found is not None and texts is not None:
        raise InvalidValueError(f"{name} says why there is no text, got {shown(found)} beside text; pass what to_dict gave")
    return found


def checked(values: object, what: str, names: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """The dictionary that a `from_dict` was given, once its names are those of a class.

    Args:
        values: what was given.
        what: name of the class.
        names: that must be there.
        optional: names that may be there, too.

    Raises:
        InvalidTypeError: no dictionary.
        InvalidValueError: a name too many or too few.
    """
    if not isinstance(values, Mapping):
        raise InvalidTypeError(f"{what}.from_dict takes a dictionary, got {shown(values)}; pass what to_dict gave")
    more = [name for name in values if name not in names and name not in optional]
    less = [name for name in names if name not in values]
    if more or less:
        wrong = " and ".join([f"{shown(name)}" for name in more[:3]] + [f"no {name!r}" for name in less[:3]])
        raise InvalidValueError(
            f"{what}.from_dict takes the names that to_dict gives ({', '.join([*names, *optional])}), got {wrong}; "
            "pass what to_dict gave"
        )
    return dict(values)


def rows(value: object, name: str) -> list[Any]:
    """A list.

    Raises:
        InvalidTypeError: anything else.
    """
    if isinstance(value, list | tuple):
        return list(value)
    raise InvalidTypeError(f"{name} must be a list, got {shown(value)}; pass what to_dict gave")


def counts(values: object) -> list[Any]:
    """The counts of a `TokenFrequencies` from its dictionary; the core calls it."""
    return rows(checked(values, "TokenFrequencies", ("counts",))["counts"], "counts")


def edit(values: object) -> dict[str, Any]:
    """The arguments of an `Edit` from its dictionary; the core calls it."""
    found = checked(values, "Edit", ("step", "position", "token", "probability", "kind", "time"))
    return found | {name: number(found[name], name) for name in ("probability", "time")}
