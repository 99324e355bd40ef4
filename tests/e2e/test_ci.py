"""The versions that the tests run with: pins that the project allows, and lower bounds that are tried as they are declared."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names, versions = zip(*(line.split("==") for line in lines if not line.startswith("#")), strict=True)
    return dict(zip(map(canonicalize_name, names), map(Version, versions), strict=True))


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_constraints_pin_what_is_declared(requirement: Requirement, pins: dict[str, Version]) -> None:
    assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_constraints_hold_what_a_registry_can_serve(pins: dict[str, Version]) -> None:
    assert all(version.local is None for version in pins.values())
    assert "dllm-fast" not in pins


@pytest.mark.parametrize("extras", [[], ["dev"]], ids=str)
def test_the_oldest_versions_are_the_lower_bounds(extras: list[str]) -> None:
    command = [sys.executable, str(ROOT / ".ci" / "bounds.py"), "--oldest", *extras]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    oldest = {line.name: str(line.specifier) for line in map(Requirement, printed)}
    assert oldest
    for requirement in DECLARED:
        if requirement.name in oldest:
            (lower,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
            assert oldest[requirement.name] == f"=={lower}"
