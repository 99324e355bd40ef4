"""docs/extending.md says what is true: its examples run and print what stands below them, its files are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    said = []
    for example in EXAMPLES:
        exec(compile(example, "docs/extending.md", "exec"), names)
        said.append(capsys.readouterr().out.splitlines())
    assert said[0] == ["[8, 8, 8, 8, 10, 10, 10, 10, 10, 10]"]
    masks = int((names["canvas"] == names["model"].mask_token_id).sum())
    assert said[1][0] == str(masks)
    assert said[1][1].startswith("cache='exact_block' needs a block-causal model")
    assert said[2] == ["[0] [96]", "[32] [96]"] * 2


def test_the_files_that_it_names_are_there() -> None:
    named = set(re.findall(r"`([\w/]+\.(?:py|rs|cu|md))`", PAGE))
    roots = [ROOT, ROOT / "python" / "dllm_fast", ROOT / "tests" / "property"]
    missing = [name for name in sorted(named) if not any((root / name).exists() for root in roots)]
    assert named
    assert not missing
