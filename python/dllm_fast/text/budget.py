"""What a rendering without a child process may cost: work, memory, and the depth and weight of its values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import jinja2
from jinja2.runtime import Undefined
from markupsafe import Markup

MOST_WORK = 2_000_000_000
MOST_MADE = 128 << 20  # bytes
DEEPEST_VALUE = 64
HEAVIEST_VALUE = 5_000_000  # characters and items
LARGEST_NUMBER = 1_000_000
MOST_BITS = 10_000
MOST_ODD_NAMES = 1_000  # of a mapping, that are no strings: their hashes can be made to collide
ITEM = 100  # work, and bytes, for each item of a list

VIEWS: tuple[type, ...] = (type({}.items()), type({}.keys()), type({}.values()))


class NotBoundedError(jinja2.TemplateError):
    """Something that would need the limits of a child process."""


def unbounded(what: str) -> NotBoundedError:
    return NotBoundedError(f"without a child process a chat template must not have {what}")


class Once(Iterator[Any]):
    """What a filter yields: it has no length and can be gone through once, as jinja2's generators.

    Whatever goes through it takes `rest` (`Budget.items`), so that all of it is paid for together.
    """

    def __init__(self, items: list[Any]) -> None:
        self.rest = items

    def __next__(self) -> Any:
        raise unbounded("a filter's result in such a place")


class Budget:
    """What one rendering has spent. Work is in units of about a nanosecond, what is made in bytes."""

    def __init__(self) -> None:
        self._work, self._made = 0, 0
        self._weights: dict[int, tuple[Any, int, int]] = {}  # of lists and mappings, which never change and are kept alive

    def spend(self, work: float) -> None:
        """Pays for work.

        Raises:
            NotBoundedError: that is more than is left.
        """
        self._work += int(work)
        if self._work > MOST_WORK:
            raise unbounded("so much work")

    def make(self, size: float) -> None:
        """Pays for bytes of something that is about to be made, or was made out of as many, and for the work of it."""
        self._made += int(size)
        if self._made > MOST_MADE:
            raise unbounded(f"values of more than {MOST_MADE >> 20} MiB together")
        self.spend(size)

    def measure(self, value: Any, level: int = 0) -> tuple[int, int]:
        """How deep a value is nested, and its characters and items written out, however much of it is shared.

        Raises:
            NotBoundedError: it is neither plain data nor bounded.
        """
        if type(value) is str or type(value) is Markup:
            return 0, len(value) + 1
        if value is None or type(value) in (bool, float) or isinstance(value, Undefined):
            return 0, 24
        if type(value) is int:
            if value.bit_length() > MOST_BITS:
                raise unbounded("a whole number of so many digits")
            return 0, 24 + value.bit_length() // 3
        if type(value) is range:
            return 1, 8 * len(value) + 24
        return self._measure_items(value, level)

    def _measure_items(self, value: Any, level: int) -> tuple[int, int]:
        if type(value) is Once:
            value = value.rest
        elif type(value) in VIEWS:
            value = dict(value.mapping)
        if type(value) not in (list, tuple, dict):
            raise unbounded(f"a {type(value).__name__} here")
        known = self._weights.get(id(value))
        if known is not None:
            return known[1:]
        if level > DEEPEST_VALUE:
            raise unbounded(f"a value nested deeper than {DEEPEST_VALUE}")
        self.make(ITEM * (len(value) + 1))
        depth, weight = 0, 4
        parts = (part for item in value.items() for part in item) if type(value) is dict else value
        for part in parts:
            deeper, heavier = self.measure(part, level + 1)
            depth, weight = max(depth, deeper + 1), weight + heavier + 4
            if weight > HEAVIEST_VALUE:
                raise unbounded(f"a value of more than {HEAVIEST_VALUE:,} characters written out")
        if depth > DEEPEST_VALUE:
            raise unbounded(f"a value nested deeper than {DEEPEST_VALUE}")
        if type(value) is dict and sum(type(name) is not str for name in value) > MOST_ODD_NAMES:
            raise unbounded(f"a mapping of more than {MOST_ODD_NAMES:,} names that are no strings")
        self._weights[id(value)] = value, max(depth, 1), weight
        return max(depth, 1), weight

    def weigh(self, *values: Any) -> int:
        """Characters and items of values that are read, paid for."""
        weight = sum(self.measure(value)[1] for value in values)
        self.spend(20 * weight)
        return weight

    def result(self, value: Any) -> Any:
        """A value that an operation made."""
        if not isinstance(value, str):
            self.spend(20 * self.measure(value)[1])
            return value
        if len(value) > HEAVIEST_VALUE:
            raise unbounded(f"a text of more than {HEAVIEST_VALUE:,} characters")
        self.make(sys.getsizeof(value))
        return value

    @staticmethod
    def items(value: Any) -> Any:
        """The same value, or its items where it can be gone through once."""
        if isinstance(value, Once):
            rest, value.rest = value.rest, []
            return iter(rest)
        return value

    @staticmethod
    def bound(number: Any) -> None:
        """Refuses a count or width that is too large."""
        if isinstance(number, int) and abs(number) > LARGEST_NUMBER:
            raise unbounded("a whole number so large as an argument")

    @staticmethod
    def name(value: Any) -> Any:
        """The name of an item in a mapping, which is hashed."""
        if type(value) not in (str, int, bool, float, type(None)) and not isinstance(value, Undefined):
            raise unbounded(f"a {type(value).__name__} as a name in a mapping")
        return value
