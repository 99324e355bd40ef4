"""The benches run, and README carries what they found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import fp8, kernels, loops, tables
from bench.__main__ import RESULTS, documents, with_block

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Results of a quick run of every bench that needs no compiler, side by side."""
    folder = tmp_path_factory.mktemp("results")
    names = ("post_logits", "control", "end_to_end", "models", "peers")
    commands = [[sys.executable, "-m", f"bench.{name}", "--quick", "--out", str(folder)] for name in names]
    # One thread each: two that wait for one another on a busy machine take for ever.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(c, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said
    return tables.load(folder)


def test_results_say_where_they_come_from(quick: dict[str, dict]) -> None:
    for name, result in quick.items():
        assert result["bench"] == name
        assert result["command"] == f"python -m bench.{name} --quick"
        assert result["machine"]["cores"] >= 1
        assert {"dllm_fast", "python", "torch", "numpy"} <= result["versions"].keys()
        assert "commit" in result
        assert str(ROOT) not in json.dumps(result)


def test_every_case_has_our_time_and_the_ratio_of_the_others(quick: dict[str, dict]) -> None:
    for case in quick["post_logits"]["cases"] + quick["control"]["cases"]:
        assert case["forms"]["dllm_fast"]["seconds"]["median"] > 0
        others = [form for name, form in case["forms"].items() if name != "dllm_fast"]
        assert others
        assert all("skipped" in form or form["ratio"]["samples"] >= 2 for form in others)
    for case in quick["end_to_end"]["cases"]:
        assert case["tokens"] == "identical"
        assert all("skipped" in form or form["peak_bytes"] > 0 for form in case["forms"].values())


def test_caches_are_compared_with_the_full_forward_loop_and_with_peers(quick: dict[str, dict]) -> None:
    cases = quick["models"]["cases"]
    assert {case["cache"] for case in cases} == {"none", "exact_block"}
    for case in cases + quick["peers"]["cases"]:
        assert case["tokens"] == "identical"
        assert all(form[what]["median"] > 0 for form in case["forms"].values() for what in ("step", "forward"))
    assert all(case["forms"]["dllm_fast"]["ratio"]["step"]["samples"] >= 2 for case in cases)
    assert [case["cache"] for case in quick["peers"]["cases"]] == ["exact_block", "prefix", "dual"]
    for opened in quick["models"]["checkpoints"]:
        assert "skipped" in opened or opened["within_formula"]


def test_tables_are_made_of_them(quick: dict[str, dict]) -> None:
    block = tables.everything(quick)
    for words in ("softmax in own dtype", "top-p 0.95", "| 8 | 32 | threshold 0.9 |", "outside the model", "Fast-dLLM"):
        assert words in block
    for words in (
        "| llada | none |",
        "| sdar | exact_block |",
        "| diffusers, our network | 32 |",
        "| Fast-dLLM, dual cache | 32 |",
    ):
        assert words in block
    assert with_block("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"


def test_readme_and_docs_carry_the_committed_results() -> None:
    for name, blocks in documents(tables.load(RESULTS)).items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for marker, block in blocks.items():
            assert with_block(text, marker, block, name) == text, f"{name}, {marker}: run python -m bench --write"


def test_what_divan_prints_is_read() -> None:
    printed = """Timer precision: 20 ns
fused_pass            fastest       │ slowest       │ median        │ mean          │ samples │ iters
╰─ greedy_f32                       │               │               │               │         │
   ├─ Avx2            353.2 µs      │ 5.586 ms      │ 361.2 µs      │ 768 µs        │ 100     │ 100
   │                  11.45 GB/s    │ 724.4 MB/s    │ 11.2 GB/s     │ 5.268 GB/s    │         │
   ╰─ Portable        31.99 ms      │ 64.02 ms      │ 38.95 ms      │ 42.06 ms      │ 100     │ 100
                      126.4 MB/s    │ 63.2 MB/s     │ 103.8 MB/s    │ 96.19 MB/s    │         │
"""
    first, second = kernels.parse(printed)
    assert (first["function"], first["argument"], first["samples"]) == ("greedy_f32", "Avx2", 100)
    assert first["median_s"] == pytest.approx(361.2e-6)
    assert first["bytes_per_s"] == pytest.approx(11.2e9)
    assert (second["argument"], second["bytes_per_s"]) == ("Portable", pytest.approx(103.8e6))


def test_the_restated_schedule_is_the_published_one() -> None:
    import torch

    assert loops.even_counts(torch.tensor([7, 2]), 3).tolist() == [[3, 2, 2], [1, 1, 0]]


def test_the_quality_of_eight_bits_is_taken_and_shown(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.fp8", "--quick", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    record = json.loads((tmp_path / "fp8.json").read_text(encoding="utf-8"))
    of = {(case["model"], case["form"]): case for case in record["cases"]}
    assert {model for model, _ in of} == {"sudoku", "text"}
    for (model, form), case in of.items():
        assert (case["logits_error"] == 0) == (form == fp8.PLAIN)
        assert case["solved"] <= case["problems"]
        assert case["logits_error"] <= of[model, "fp8, the head too"]["logits_error"] or "matrix" in form
    assert fp8.table(record).count("\n") == 1 + len(record["cases"])
