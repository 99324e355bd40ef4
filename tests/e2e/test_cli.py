"""The command line as a person or a script meets it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import dllm_fast
from dllm_fast import cli

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ANSWER = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dllm_fast.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_demo_fills_a_puzzle_line_by_line_where_nobody_watches() -> None:
    done = run("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    blanks = done.stdout.splitlines()[0].count(".")
    assert 1 < len(steps) < blanks / 2
    assert f"filled {blanks}/{blanks}" in steps[-1]
    assert "\x1b" not in done.stdout
    assert "solved: every row" in done.stdout
    for said in ("forwards", "tokens per forward", "ms in the model", "ms in the sampler", "seed 0"):
        assert said in done.stdout


def test_demo_solves_a_puzzle_given_by_hand() -> None:
    done = run("demo", "--puzzle", PUZZLE.replace(".", "0"), "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0
    assert said["answer"] == ANSWER
    assert said["puzzle"] == PUZZLE
    assert said["solved"] is True
    assert said["tokens_per_forward"] == pytest.approx(PUZZLE.count(".") / said["nfe"], abs=1e-3)
    assert said["model_ms"] > 0
    assert said["sampler_ms"] > 0
    assert (said["preset"], said["settings"], said["seed"]) == (cli.DEFAULT_PRESET, cli.DEFAULT_SETTINGS, 0)


def test_the_default_is_the_setting_that_the_quality_bench_recommends() -> None:
    record = json.loads((Path(__file__).parents[2] / "bench" / "results" / "quality.json").read_text(encoding="utf-8"))
    chosen = next(point for point in record["points"] if point["label"] == record["recommended"])
    assert (chosen["preset"], chosen["over"]) == (cli.DEFAULT_PRESET, cli.DEFAULT_SETTINGS)


def test_nothing_is_shown_of_a_preset_that_cannot_run() -> None:
    done = run("demo", "--preset", "udlm")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is for models that never saw a mask" in done.stderr


def test_a_preset_is_taken_as_it_is() -> None:
    said = json.loads(run("demo", "--puzzle", PUZZLE, "--preset", "llada", "--json").stdout)
    assert said["answer"] == ANSWER
    assert said["nfe"] == PUZZLE.count(".")
    assert (said["preset"], said["settings"]) == ("llada", {})


def test_a_puzzle_without_blanks_is_checked() -> None:
    done = run("demo", "--puzzle", ANSWER)
    assert done.returncode == 0
    assert "nothing to fill: the puzzle has no blanks\n\nanswer" in done.stdout
    assert "solved: every row" in done.stdout


def test_status_is_1_when_the_answer_is_wrong() -> None:
    done = run("demo", "--puzzle", "." * 81, "--preset", "mdlm", "--json")
    assert json.loads(done.stdout)["solved"] is False
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--puzzle", "123"], "must have 81 characters, got 3"),
        (["--puzzle", "x" * 81], "got 'x'"),
        (["--puzzle", "11" + "." * 79], "got 1 twice: row 1 column 1 and row 1 column 2"),
        (["--preset", "fast-dlm"], "did you mean 'fast-dllm' or 'fast-dllm-v2'?"),
        (["--seed", "-1"], "--seed must lie in [0, 2^64), got -1"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], says: str) -> None:
    done = run("demo", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("genrate", "dllm-fast: genrate is not a command; did you mean generate?"),
        ("expl", "dllm-fast: expl is not a command; did you mean explain?"),
        ("xyz", "dllm-fast: xyz is not a command; there are demo, generate, infill, explain, "),
        ("kernels complie", "dllm-fast kernels: complie is not a command; did you mean compile?"),
        ("kernels", "dllm-fast kernels: the following arguments are required: action;"),
        ("--verion", "dllm-fast: --verion is not an option; did you mean --version?"),
        ("demo --sede 3", "dllm-fast demo: --sede is not an option; did you mean --seed?"),
        ("demo --see 3", "dllm-fast demo: --see is not an option; did you mean --seed?"),
        ("demo --seed three", "dllm-fast demo: argument --seed: must be a whole number or random, got 'three';"),
        ("doctor --jsn", "dllm-fast doctor: --jsn is not an option; did you mean --json?"),
        ("infill here --txt [MASK]", "dllm-fast infill: --txt is not an option; did you mean --text?"),
        # The option that does not exist is named, not what it leaves missing or takes for the folder.
        ("generate here --promt hi", "dllm-fast generate: --promt is not an option; did you mean --prompt?"),
        ("generate --max-new-token 3 here -p hi", "--max-new-token is not an option; did you mean --max-new-tokens?"),
        ("generate here --gen-length=3 -p hi", "--gen-length is not an option; did you mean --max-new-tokens?"),
        ("generate here -p hi --confidence-threshold .9", "--confidence-threshold is not an option; did you mean --threshold?"),
        (
            "generate here -p hi --num-return-sequences 2",
            "--num-return-sequences is not an option; did you mean --num-samples?",
        ),
        *(
            (f"generate here -p hi {option}", f"{option.split()[0]} is not an option; {says}")
            for option, says in {
                "--eos 3": "did you mean --eos-token-id?",
                "--alg entropy": "did you mean --order?",
                "--remasking random": "did you mean --order?",
                "--model llada": "the folder is the argument behind the command;",
                "--tokenizer there": "the tokenizer.json of the folder is taken;",
                "--stream": "in Python, iterate over dllm_fast.stream(...), or use on_step=",
                "--on-step f": "in Python, dllm_fast.sample takes on_step=;",
                "--guidance-scale 2": "use --guidance, which is their number and -1;",
                "--guidance-scal 2": "if --guidance-scale is meant, use --guidance, which is their number and -1",
                "--cfg-scale 2": "did you mean --guidance?",
                "--num-steps 8": "use --steps for the total or --steps-per-block for each block;",
                "--text hi": "did you mean --prompt?",
                "--system-prompt hi": "did you mean --system?",
                "--torch-dtype float32": "did you mean --dtype?",
                "--oder random": "did you mean --order?",
            }.items()
        ),
        ("generate here -p hi --verbose", "--verbose is not an option; see dllm-fast generate --help"),
        ("infill here --prompt hi", "--prompt is not an option; did you mean --text?"),
        ("infill here --text hi --chat", "--chat is not an option; it is one of dllm-fast generate;"),
        (
            "infill here --text hi --gen-length 3",
            "--gen-length is not an option; --max-new-tokens is one of dllm-fast generate;",
        ),
        ("doctor --stop x", "--stop is not an option; see dllm-fast doctor --help"),
        ("generate here -p hi --device-map auto", "--device-map is not an option; did you mean --device?"),
        ("generate here -p hi -q", "dllm-fast generate: -q is not an option;"),
        ("generate here -p hi there", "there must be no further argument, got 'there'; put a text with spaces into quotes;"),
        ("generate here -p hi --xyzzy", "dllm-fast generate: --xyzzy is not an option; see dllm-fast generate --help"),
    ],
)
def test_what_is_mistyped_gets_one_line_with_the_nearest_and_status_2(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments.split())
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert says in said.err
    assert said.err.endswith(" --help\n")
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("text", ["--- a text", "--a=b or c"])
def test_a_text_may_begin_with_dashes(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "./nowhere", "-p", text]) == 2
    assert "got './nowhere'" in capsys.readouterr().err


def test_an_option_behind_two_dashes_is_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "--", "--no-such-folder"]) == 2
    assert "got '--no-such-folder'" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error() -> None:
    """`dllm-fast demo | head -1`: no traceback, and the status that a shell gives for it."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "dllm_fast.cli", "demo", "--preset", "llada"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.stderr, done.returncode) == ("", 141)


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dllm_fast, "stream", interrupted)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "dllm-fast: interrupted\n"


def test_without_a_command_it_explains_itself() -> None:
    done = run()
    assert done.returncode == 2
    assert "dllm-fast demo" in done.stdout


def watch(**environment: str) -> str:
    """What the demo writes to a terminal."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "dllm_fast.cli", "demo", "--preset", "fast-dllm"]
    process = subprocess.Popen(command, stdout=terminal, env=os.environ | {"TERM": "xterm"} | environment)
    os.close(terminal)
    seen = b""
    while True:
        try:
            chunk = os.read(controller, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    process.wait()
    os.close(controller)
    return seen.decode()


def test_on_a_terminal_the_grid_is_redrawn_in_place() -> None:
    seen = watch()
    assert "+-------+-------+-------+" in seen
    assert "\x1b[14A" in seen
    assert "\x1b[1;32m" in seen


def test_no_color_is_respected() -> None:
    seen = watch(NO_COLOR="1")
    assert "\x1b[14A" in seen
    assert "\x1b[1;32m" not in seen


def test_the_module_is_the_command():
    said = subprocess.run([sys.executable, "-m", "dllm_fast", "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"dllm-fast {dllm_fast.__version__}\n"
