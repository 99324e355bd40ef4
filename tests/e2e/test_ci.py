"""The versions that the tests run with: pins that the project allows, lower bounds that are tried as they are declared, crates
that were reviewed."""

import importlib.util
import re
import shutil
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


def test_what_other_versions_cannot_change_is_there() -> None:
    """A name that is gone would be tried with all versions again, and nobody would notice."""
    lines = (ROOT / ".ci" / "ours").read_text(encoding="utf-8").splitlines()
    named = [line.split("::") for line in lines if line and not line.startswith("#")]
    assert named
    for path, *tests in named:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert all(f"def {test}(" in text for test in tests), path
        assert not re.search(r"^(import|from) (transformers|diffusers|peft|families)", text, re.MULTILINE) or tests, path


@pytest.fixture(scope="module")
def review():
    spec = importlib.util.spec_from_file_location("review", ROOT / ".ci" / "review.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_crate_was_reviewed() -> None:
    ended = subprocess.run([sys.executable, str(ROOT / ".ci" / "review.py")], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


PLANTED = """
[[package]]
name = "left-pad"
version = "1.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "00"
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lock: lock + PLANTED, "left-pad 1.0.0 was not reviewed"),
        (lambda lock: lock.replace('checksum = "2304e', 'checksum = "00000'), "heck 0.5.0 has another checksum"),
        (lambda lock: lock.replace('"heck"\nversion = "0.5.0"', '"heck"\nversion = "0.5.1"'), "heck 0.5.1 was not reviewed"),
        (lambda lock: lock + PLANTED.replace("registry+", "git+"), "left-pad 1.0.0 comes from git+"),
    ],
)
def test_an_unknown_crate_fails_with_the_remedy(change, said: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    before = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    (tmp_path / "Cargo.lock").write_text(change(before), encoding="utf-8")
    assert change(before) != before
    ended = subprocess.run([sys.executable, str(tmp_path / ".ci" / "review.py")], check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "run `python3 .ci/review.py --write CLONE`" in ended.stderr


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"licence": "MIT OR GPL-3.0"}, "has a licence that we do not take: GPL-3.0"),
        ({"build": ""}, "has a build script"),
        ({"affected": {"RUSTSEC-2020-0001": ""}}, "is affected by RUSTSEC-2020-0001"),
    ],
)
def test_a_review_says_all_that_it_must(review, entry: dict[str, object], said: str) -> None:
    crates = {("one", "1.0.0"): {"source": "registry+here", "checksum": "00"}}
    good = {"name": "one", "version": "1.0.0", "licence": "MIT OR Apache-2.0", "checksum": "00"}
    assert review.problems(crates, [good]) == []
    (found,) = review.problems(crates, [good | entry])
    assert said in found


@pytest.mark.parametrize(
    ("version", "requirement", "met"),
    [
        *(("0.8.1", ">= 0.8.1", True), ("0.8.0", ">= 0.8.1", False), ("0.7.5", ">= 0.7.4, < 0.8.0", True)),
        *(("0.8.0", ">=0.7.4,<0.8.0", False), ("1.9.0", "^1.2", True), ("2.0.0", "^1.2", False), ("0.4.2", "^0.4.1", True)),
        *(("0.5.0", "0.4.1", False), ("1.2.9", "~1.2.3", True), ("1.3.0", "~1.2.3", False), ("1.2.3", "= 1.2.3", True)),
    ],
)
def test_versions_meet_requirements_as_cargo_reads_them(review, version: str, requirement: str, met: bool) -> None:
    assert review.meets(version, requirement) is met


def test_an_advisory_holds_for_versions_neither_patched_nor_unaffected(review, tmp_path: Path) -> None:
    (tmp_path / "crates" / "one").mkdir(parents=True)
    text = '# One\n```toml\n[advisory]\nid = "RUSTSEC-2020-0001"\n[versions]\npatched = [">= 2"]\nunaffected = ["< 1"]\n```\n'
    (tmp_path / "crates" / "one" / "RUSTSEC-2020-0001.md").write_text(text, encoding="utf-8")
    for version, affected in (("0.9.0", []), ("1.5.0", ["RUSTSEC-2020-0001"]), ("2.0.0", [])):
        assert review.advisories(tmp_path, "one", version) == (["RUSTSEC-2020-0001"], affected)


def names(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "names.py"), str(folder)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_every_name_of_another_library_is_there() -> None:
    ended = names(ROOT / "python" / "dllm_fast")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout.split()[1]) > 2000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import numpy as np\nnp.newer_than_ours(1)", "a.py:2: numpy.newer_than_ours: no newer_than_ours"),
        ("from json import newer_than_ours", "a.py:0: json.newer_than_ours: no newer_than_ours"),
        ("import shutil\nshutil.rmtree('x', newer=True)", "a.py:2: shutil.rmtree takes no newer"),
        ("from collections import abc\n\nabc.Newer", "a.py:3: collections.abc.Newer: no Newer"),
    ],
)
def test_a_name_that_is_newer_than_the_library_fails(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(line, encoding="utf-8")
    ended = names(tmp_path)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "raise the bound in pyproject.toml" in ended.stderr
