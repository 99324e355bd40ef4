"""Calls every public function with odd values, one argument at a time, then two. Run in a process with limits.

Arguments: the seed, the number of calls with one odd value (0: all there are), the number with two, and how many to pass
over. Prints two lines of JSON for each call, the second once it has ended, so that a crash is known by its first.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import random
import sys
import time
import warnings

from doors import Door, doors
from odd_values import EVERYTHING, MINE

from dllm_fast.errors import DllmFastError, EqualSamplesWarning

# Seconds that a call may take before the process is ended with all tracebacks.
_LONGEST = 20


def outcome(door: Door, odd: dict[str, str]) -> str:
    """How a call ended: `refused`, `own` (what the caller's object raised), `accepted`, or what should not be."""
    arguments = door.base() | {name: EVERYTHING[value]() for name, value in odd.items()}
    faulthandler.dump_traceback_later(_LONGEST, exit=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            door.call(**arguments)
    except DllmFastError:
        return "refused"
    except BaseException as error:
        return "own" if error is MINE else f"{type(error).__name__}: {str(error)[:150]}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    caught = [one for one in caught if not issubclass(one.category, EqualSamplesWarning)]  # it says what was meant
    if caught:
        return f"warned: {type(caught[0].message).__name__}: {str(caught[0].message)[:150]}"
    return "accepted"


def cases(seed: int, singles: int, pairs: int) -> list[tuple[str, dict[str, str]]]:
    """Calls, each a door with the names of the odd values."""
    dice = random.Random(seed)
    found = doors()
    one = [(name, {argument: value}) for name, door in found.items() for argument in door.names for value in EVERYTHING]
    if singles:
        one = dice.sample(one, min(singles, len(one)))
    many = [name for name, door in found.items() if len(door.names) > 1]
    two = []
    for _ in range(pairs):
        name = dice.choice(many)
        two.append((name, {argument: dice.choice([*EVERYTHING]) for argument in dice.sample(found[name].names, 2)}))
    return one + two


def main(seed: int, singles: int, pairs: int, start: int = 0) -> None:
    found = doors()
    for number, (name, odd) in itertools.islice(enumerate(cases(seed, singles, pairs)), start, None):
        print(json.dumps([number, name, odd]), flush=True)
        began = time.perf_counter()
        ended = outcome(found[name], odd)
        print(json.dumps([ended, round(time.perf_counter() - began, 4)]), flush=True)
    print(json.dumps("done"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
