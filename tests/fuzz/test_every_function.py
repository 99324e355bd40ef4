"""Every public function and method with every odd value: refused by an error of ours, or taken for a reason on a list.

It runs in a process with limits. `FUZZ_CALLS=20000` calls more often; `FUZZ_CALLS=0` passes every value to every argument once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from accepted import ARGUMENTS, DOORS, is_accepted
from doors import BASES, doors, public
from odd_values import EVERYTHING

import limited

CALLS = int(os.environ.get("FUZZ_CALLS", "1500"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
# What a callable of the caller's raises is the caller's: `int` is one that takes no tensor, and no event.
THEIRS = {("model", "int"), ("on_step", "int")}


def test_every_public_name_has_a_door():
    """A new function or method fails here until it is called, and a new argument until somebody says what it takes."""
    found = set(public())
    assert found == set(BASES), found ^ set(BASES)
    known = {*ARGUMENTS, *(argument for _, argument in DOORS)}
    assert {name for door in doors().values() for name in door.names} <= known


def test_every_door_takes_its_own_arguments():
    for name, door in doors().items():
        quiet = (
            "Sampler.feed",
            "Sampler.cancel",
            "Sampler.end",
            "Sampler.current",
            "Run.cancel",
            "Run.close",
            "_core.check_config",
            "_core.set_threads",
            "Request.shadow_of",
        )
        assert door.call(**door.base()) is not None or name in quiet, name


def test_odd_values_are_refused_or_meant():
    calls, pairs = (CALLS, CALLS // 4) if CALLS else (0, 20_000)
    ended = limited.run(
        "import sys; sys.path.insert(0, sys.argv[1]); import every_function as f; f.main(*map(int, sys.argv[2:]))",
        Path(__file__).parent,
        *(SEED, calls, pairs),
        seconds=300 + 0.1 * calls if calls else 7200,
        gigabytes=8,
        environment={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    lines = [json.loads(line) for line in ended.output.splitlines() if line[:1] in '["']
    assert (lines[-1:], ended.code) == (["done"], 0), ended.errors[-2000:]
    faults = []
    for (_, name, odd), (how, _) in zip(lines[:-1:2], lines[1:-1:2], strict=True):
        if how in ("refused", "own") or THEIRS & set(odd.items()):
            continue
        if how != "accepted" or not is_accepted(name, odd):
            faults.append((name, odd, how))
    assert faults == []
    assert len(lines) // 2 >= calls


def test_the_list_of_what_is_accepted_names_values_and_arguments():
    assert {value for values in ARGUMENTS.values() for value in values} <= set(EVERYTHING)
