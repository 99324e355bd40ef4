"""Holds Cargo.lock to the review of its crates, .ci/review.toml: python3 .ci/review.py [--write DATABASE]

A crate that is not in the review, or not with this version and checksum, fails, and so does a licence that we do not take,
a build script of which nobody has written what it does, and an advisory without a reason why it does not matter here.

With --write, makes the review anew from Cargo.lock, from the sources of the crates (cargo fetches them) and from a clone of
https://github.com/RustSec/advisory-db in the folder DATABASE. What somebody wrote about a crate stays while its version does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REVIEW = ROOT / ".ci" / "review.toml"
LICENCES = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LLVM-exception", "MIT", "Unicode-3.0", "Zlib"}
REMEDY = "clone https://github.com/RustSec/advisory-db, run `python3 .ci/review.py --write CLONE`, and read what it changed"

HEAD = """\
# Every crate of Cargo.lock, as .ci/review.py wrote it: what it is in (the extension, what builds it, tests, or nothing on this
# platform), lines with `unsafe` in its sources, procedural macros, and all advisories that name the crate at whatever version.
# By hand: `build`, what its build script does, and under `affected` why an advisory that holds for the version does not
# matter here.
"""


def locked() -> dict[tuple[str, str], dict[str, str]]:
    """The packages of Cargo.lock that are not ours."""
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))["package"]
    return {(p["name"], p["version"]): p for p in packages if p["name"] != "dllm-fast"}


def problems(crates: dict[tuple[str, str], dict[str, str]], review: list[dict[str, Any]]) -> list[str]:
    """What is wrong, a sentence each."""
    reviewed = {(entry["name"], entry["version"]): entry for entry in review}
    found = []
    for key, crate in crates.items():
        name = " ".join(key)
        if not crate.get("source", "").startswith("registry+"):
            found.append(f"{name} comes from {crate.get('source', 'a path')}, no registry")
        elif key not in reviewed:
            found.append(f"{name} was not reviewed")
        elif crate["checksum"] != reviewed[key]["checksum"]:
            found.append(f"{name} has another checksum than what was reviewed")
    for key, entry in reviewed.items():
        name = " ".join(key)
        if key not in crates:
            found.append(f"{name} is in the review, and not in Cargo.lock")
        if strange := set(re.findall(r"[\w.-]+", entry["licence"])) - LICENCES - {"AND", "OR", "WITH"}:
            found.append(f"{name} has a licence that we do not take: {', '.join(sorted(strange))}")
        if entry.get("build") == "":
            found.append(f"{name} has a build script; write under `build` what it does")
        for advisory, reason in entry.get("affected", {}).items():
            if not reason:
                found.append(f"{name} is affected by {advisory}; take another version, or write why that does not matter here")
    return found


def parts(version: str) -> tuple[int, ...]:
    """A version as numbers; what stands behind a hyphen or a plus is left out."""
    return (*map(int, re.split("[-+]", version)[0].split(".")), 0, 0)[:3]


def meets(version: str, requirement: str) -> bool:
    """Does a version meet a requirement of Cargo's kind, such as `>= 1.2, < 2` or `^1.2.3`?"""
    mine = parts(version)
    for comparator in requirement.split(","):
        sign, bound = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~|)\s*(\S+)\s*", comparator).groups()
        least = parts(bound)
        if sign in ("", "^"):  # up to the next change of the first number that is not zero
            same = next((i + 1 for i, number in enumerate(least) if number), 3)
            good = mine >= least and mine[:same] == least[:same]
        elif sign == "~":
            good = mine >= least and mine[:2] == least[:2]
        else:
            good = {">=": mine >= least, "<=": mine <= least, ">": mine > least, "<": mine < least, "=": mine == least}[sign]
        if not good:
            return False
    return True


def advisories(database: Path, name: str, version: str) -> tuple[list[str], list[str]]:
    """All advisories that name a crate, and those of them that hold for this version."""
    known, affected = [], []
    for file in sorted((database / "crates" / name).glob("RUSTSEC-*.md")):
        data = tomllib.loads(file.read_text(encoding="utf-8").split("```toml", 1)[1].split("```", 1)[0])
        if "withdrawn" in data["advisory"]:
            continue
        known.append(data["advisory"]["id"])
        if not any(meets(version, r) for r in [*data["versions"]["patched"], *data["versions"].get("unaffected", [])]):
            affected.append(known[-1])
    return known, affected


def places(metadata: dict[str, Any]) -> dict[str, str]:
    """By package id, the first of the places where a crate is: the extension, what builds it, tests."""
    nodes = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    macros = {p["id"] for p in metadata["packages"] if any("proc-macro" in target["kind"] for target in p["targets"])}
    root = metadata["resolve"]["root"]
    found: dict[str, str] = {}
    for place, kinds in (("extension", {None}), ("build", {None, "build"}), ("tests", {None, "build", "dev"})):
        waiting = [root]
        seen = set()
        while waiting:
            at = waiting.pop()
            if at in seen or (place == "extension" and at in macros):
                continue
            seen.add(at)
            found.setdefault(at, place)
            waiting += [d["pkg"] for d in nodes[at] if kinds & {k["kind"] for k in d["dep_kinds"]}]
    return found


def made(database: Path, before: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a new review."""
    command = ["cargo", "metadata", "--format-version=1", "--features=python", "--locked"]
    everywhere = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    host = re.search("host: (.*)", subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout)[1]
    here = subprocess.run([*command, f"--filter-platform={host}"], cwd=ROOT, check=True, capture_output=True).stdout
    place = places(json.loads(here))
    packages = {(p["name"], p["version"]): p for p in everywhere["packages"]}
    entries = []
    for (name, version), crate in sorted(locked().items()):
        package = packages[name, version]
        kinds = {kind for target in package["targets"] for kind in target["kind"]}
        sources = (Path(package["manifest_path"]).parent / "src").rglob("*.rs")
        lines = [line for file in sources for line in file.read_text(encoding="utf-8").splitlines()]
        known, affected = advisories(database, name, version)
        old = before.get((name, version), {})
        entry = {
            "name": name,
            "version": version,
            "licence": package["license"].replace("/", " OR "),
            "in": place.get(package["id"], "nothing here"),
            "unsafe": sum(bool(re.search(r"\bunsafe\b", line.split("//")[0])) for line in lines),
            "macros": "proc-macro" in kinds,
            "advisories": known,
            "affected": {advisory: old.get("affected", {}).get(advisory, "") for advisory in affected},
            "build": old.get("build", "") if "custom-build" in kinds else None,
            "checksum": crate["checksum"],
        }
        entries.append({key: value for key, value in entry.items() if value not in (None, {}, [], False)})
    return entries


def written(value: object) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {written(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    review = tomllib.loads(REVIEW.read_text(encoding="utf-8")) if REVIEW.exists() else {"crates": []}
    if sys.argv[1:2] == ["--write"]:
        database = Path(sys.argv[2])
        log = ["git", "-C", str(database), "log", "-1", "--format=%H %cs"]
        commit, day = subprocess.run(log, check=True, capture_output=True, text=True).stdout.split()
        entries = made(database, {(entry["name"], entry["version"]): entry for entry in review["crates"]})
        crates = "".join(f"  {written(entry)},\n" for entry in entries)
        REVIEW.write_text(
            f'{HEAD}\ndatabase = {{ commit = "{commit}", date = "{day}" }}\n\ncrates = [\n{crates}]\n', encoding="utf-8"
        )
        review = tomllib.loads(REVIEW.read_text(encoding="utf-8"))
    crates, found = locked(), problems(locked(), review["crates"])
    if found:
        sys.exit("\n".join(["Cargo.lock and .ci/review.toml must agree:", *found, REMEDY]))
    print(f"review: {len(crates)} crates of Cargo.lock, advisories up to {review['database']['date']}")


if __name__ == "__main__":
    main()
