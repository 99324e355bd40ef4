"""README.md says what is true: its commands are the ones CI runs, its examples run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_ci_runs_the_test_command_as_written() -> None:
    _, tests = (command.strip() for command in COMMANDS[:2])
    assert "pytest" in tests
    # `|| exit 1`: a failure inside an and-list does not end a script by itself.
    assert f"\n{tests} || exit 1\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_example_of_ties_prints_what_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    example, printed = re.search(r"```python\n([^`]*as_published[^`]*)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_every_preset_and_name_is_mentioned() -> None:
    import dllm_fast

    for name in [*dllm_fast.presets(), *dllm_fast.__all__]:
        assert f"`{name}`" in README or name == "__version__", name
