"""The checks of `first.py`, in the order in which they begin: what takes longest begins early. Needs no torch.

Each is a function of a `Stage` that raises where something is not as it must be, and returns what is worth keeping.
"""

from __future__ import annotations

from bench.on_gpu.driver import Check

_HERE = "bench.on_gpu.checks"

CHECKS = (
    Check("loading", f"{_HERE}.loading:load", 90, is_first=True),
    Check("registers", f"{_HERE}.loading:registers", 60),
    Check("memcheck", f"{_HERE}.tools:memcheck", 200),
    Check("racecheck", f"{_HERE}.tools:racecheck", 200),
    Check("synccheck", f"{_HERE}.tools:synccheck", 200),
    Check("mask prediction", f"{_HERE}.equalities:mask_prediction", 120),
    Check("commit", f"{_HERE}.equalities:commit", 60),
    Check("attention", f"{_HERE}.equalities:attention", 60),
    Check("draws", f"{_HERE}.equalities:draws", 90),
    Check("sampling", f"{_HERE}.equalities:sampling", 90),
    Check("attention variants", f"{_HERE}.attention:variants", 90),
    Check("fused", f"{_HERE}.fused:fused", 60),
    Check("experts", f"{_HERE}.products:experts", 60),
    Check("eight bits", f"{_HERE}.products:eight_bits", 60),
    Check("loop", f"{_HERE}.loops:loop", 60),
    Check("graphs, heads of 64", f"{_HERE}.models:heads_of_64", 120),
    Check("graphs, heads of 128", f"{_HERE}.models:heads_of_128", 120),
    Check("graphs, experts", f"{_HERE}.models:experts", 120),
    Check("graphs, in memory", f"{_HERE}.in_memory:in_memory", 120),
    Check("graphs, switches", f"{_HERE}.models:tried", 120),
    Check("rules", f"{_HERE}.rules:rules", 150),
    Check("tests", f"{_HERE}.tools:tests", 120),
)
