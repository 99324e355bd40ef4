"""Which of the names that there are somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable

# Letters of a word that says something by itself.
_TELLING = 4


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names that are spelled or begin like this one, or else share a word with it, the nearest first.

    Case does not count, and - is _. There may be none.
    """
    import difflib  # late: nothing is wrong, most of the time

    folded = {_folded(other): other for other in known}
    wanted = _folded(name)
    close = difflib.get_close_matches(wanted, folded, n=most, cutoff=0.75)
    if len(wanted.strip("_")) >= _TELLING:
        words = {word for word in wanted.split("_") if len(word) >= _TELLING}
        close += [other for other in folded if other.startswith(wanted)]
        close = close or [other for other in folded if words & set(other.split("_"))]
    close = close or difflib.get_close_matches(wanted, folded, n=1, cutoff=0.65)
    return [folded[other] for other in list(dict.fromkeys(close))[:most]]


def _folded(name: str) -> str:
    return name.replace("-", "_").casefold()
