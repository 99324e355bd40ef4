"""From names of others to settings of ours: each is understood, or answered by an error that says what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllm_fast.errors import InvalidValueError, shown
from dllm_fast.records import scalar
from dllm_fast.settings.aliases import ALIASES, NOTHING


def translate(name: str, value: object, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Settings of ours for a name of the table beside the others that the caller gave, and what to record.

    Raises:
        InvalidValueError: a value that has no counterpart here.
    """
    alias = ALIASES[name]
    key = _key(value)
    if (say := next((say for listed, say in alias.ambiguous.items() if _is(listed, key)), None)) is not None:
        raise InvalidValueError(f"{name} must mean the same to everybody, got {shown(value)}; {say}")
    meant = next((meant for listed, meant in alias.values.items() if _is(listed, key)), None)
    if meant is not None:
        if isinstance(meant, str):
            return {}, meant
        found = dict(meant)
        named = {ALIASES[typed].ours if typed in ALIASES else typed for typed in settings}
        found |= {ours: ready for ours, ready in alias.defaults.get(key, {}).items() if ours not in named}
        return found, ", ".join(ours for ours, given in found.items() if given is not None) or NOTHING
    if alias.idle_beside is not None:
        other, idle = alias.idle_beside
        beside = [given for typed, given in settings.items() if typed == other or is_same(typed, other)]
        if any(_key(given) in idle for given in beside):
            return {}, NOTHING
    if alias.ours is not None and not alias.remedy:
        is_number = isinstance(key, int | float) and not isinstance(key, bool)
        return {alias.ours: key + alias.more if alias.more and is_number else value}, alias.ours  # type: ignore[operator]
    if alias.ours is not None:
        known = ", ".join(str(known) for known in alias.values)
        raise InvalidValueError(f"{name} must be one of {known}, got {shown(value)}; {alias.remedy}")
    raise InvalidValueError(f"{name} is not a setting, got {shown(value)}; {alias.remedy}")


def is_same(name: str, ours: str) -> bool:
    """Is it only another name of a setting?"""
    return name in ALIASES and ALIASES[name].ours == ours and not ALIASES[name].values


def answer(name: str) -> str:
    """What to do about a name of the table, whatever its value."""
    alias = ALIASES[name]
    if alias.ours is None:
        return alias.remedy
    values = [meant for meant in alias.values.values() if not isinstance(meant, str)]
    ours = dict.fromkeys(setting for meant in values for setting, value in meant.items() if value is not None)
    if alias.more:
        return f"use {alias.ours}=, which is their number and {alias.more:g}"
    return f"use {' and '.join(f'{setting}=' for setting in ours or [alias.ours])}"


def _is(listed: object, key: object) -> bool:
    """Equal, but True and False are no numbers."""
    return isinstance(listed, bool) == isinstance(key, bool) and listed == key


def _key(value: object) -> object:
    """A value as the table spells it; one that cannot be in the table becomes a key that is not."""
    value = scalar(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return () if isinstance(value, list | tuple | dict | set) and not value else ...
