"""The quality bench: its functions on models with known answers, a small run, and what its committed results claim."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

import dllm_fast
from bench import quality, quality_report
from bench.quality import Point, Setting
from dllm_fast import demo

MASK = 9


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((quality.harness.RESULTS / "quality.json").read_text(encoding="utf-8"))


def point(share: float, forwards: float, label: str = "llada") -> Point:
    solved = np.arange(100) < round(100 * share)
    setting = Setting(family="", preset=label)
    return Point(setting=setting, solved=solved, forwards=np.full(100, forwards), cpu_s=0.0)  # type: ignore[arg-type]


def counts_up(ids: torch.Tensor) -> torch.Tensor:
    """Token p % 4 at position p, surely; but 5 at position 2 while position 3 is masked."""
    logits = torch.zeros(*ids.shape, 10)
    places = torch.arange(ids.shape[1])
    logits[:, places, places % 4] = 20.0
    early = ids[:, 3] == MASK
    logits[early, 2] = torch.nn.functional.one_hot(torch.tensor(5), 10) * 2.0
    return logits


def test_measure_takes_any_model_lengths_and_checker() -> None:
    canvases = [np.array([0, MASK, MASK, MASK]), np.array([0, MASK, MASK, MASK, MASK, 1])]
    settings = [Setting(family="", preset="llada"), Setting(family="", preset="llada", over={"steps": 1})]
    common = {"mask_token_id": MASK}
    points = quality.measure(
        counts_up,
        canvases,
        lambda canvas: bool((canvas == np.arange(len(canvas)) % 4).all()),
        settings,
        common=common,
        batch_size=1,
    )
    assert [p.solved.tolist() for p in points] == [[True, True], [False, False]]
    assert [p.forwards.tolist() for p in points] == [[3, 4], [1, 1]]
    assert [p.setting.label for p in points] == ["llada", "llada(steps=1)"]
    at = quality.measure_at(counts_up, canvases, lambda c: c[2] == 2, np.array([3, 1]), preset="llada", common=common)
    assert at.tolist() == [True, False]


def test_intervals() -> None:
    assert quality.wilson(0, 10) == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert quality.wilson(95, 100) == (pytest.approx(0.88825, abs=1e-5), pytest.approx(0.97846, abs=1e-5))
    a, b = np.arange(100) < 60, np.arange(100) < 50
    # By hand: p = 11/102, q = 1/102, radius = 1.95996 sqrt((p + q - (p - q)^2) / 102).
    radius = 1.95996 * math.sqrt((12 / 102 - (10 / 102) ** 2) / 102)
    assert quality.paired_difference(a, b) == pytest.approx((0.1, 10 / 102 - radius, 10 / 102 + radius), abs=1e-5)
    assert quality.mcnemar(a, b) == pytest.approx(2 / 2**10)
    assert quality.mcnemar(a, a) == 1.0


def test_front_and_recommendation() -> None:
    points = [point(0.9, 5), point(0.95, 40), point(0.2, 40), point(0.94, 7), point(0.9, 6), point(0.1, 1)]
    assert [(p.share, p.mean_forwards) for p in quality.pareto(points)] == [(0.1, 1), (0.9, 5), (0.94, 7), (0.95, 40)]
    # One row in a hundred is lost for sure, but the interval reaches from -4 to +2 points.
    assert quality.recommend(points, loss=0.05).mean_forwards == 7
    assert quality.recommend(points, loss=0.01).mean_forwards == 40


def test_a_small_run_shows_that_confidence_beats_random() -> None:
    task = quality.sudoku(5, seed=1)
    model, _ = demo.load()
    settings = [Setting(family="", preset=preset) for preset in ("llada", "llada-random")]
    confident, random = quality.measure(model, task.canvases, task.check, settings, common=task.common)
    assert (confident.forwards == random.forwards).all()
    assert confident.share > random.share + 0.3
    assert quality.mcnemar(confident.solved, random.solved) < 0.05


def test_the_text_task_is_measured_by_the_same_function() -> None:
    task = quality.text(12, seed=1)
    model, _ = demo.load_text()
    setting = Setting(family="", preset="fast-dllm", over={"block_length": None})
    (found,) = quality.measure(model, task.canvases, task.check, [setting], common=task.common)
    assert found.share > 0.6
    assert not any(task.check(canvas) for canvas in task.canvases)


def test_text_is_placed_between_the_markers() -> None:
    begin, end = quality_report.BEGIN, quality_report.END
    assert quality_report.placed(f"a\n{begin}\nold\n{end}\nb", "new\n") == f"a\n{begin}\nnew\n{end}\nb"
    assert quality_report.placed("a", "new") == "a"


# --- the committed results --------------------------------------------------------------------------------------------


def test_results_belong_to_the_models_that_are_shipped(record: dict[str, Any]) -> None:
    for name, digest in record["weights_sha256"].items():
        assert hashlib.sha256((demo.FOLDER / name / "model.safetensors").read_bytes()).hexdigest() == digest
    assert record["uncommitted_changes"] is False
    assert record["confirmation"]["uncommitted_changes"] is False
    assert not any(later["uncommitted_changes"] for later in record.get("added", []))
    assert record["confirmation"]["seed"] != record["seeds"]["puzzles"]


def test_every_preset_of_the_sweep_has_several_settings_on_500_puzzles(record: dict[str, Any]) -> None:
    presets = [p["preset"] for p in record["points"]]
    assert set(presets) <= set(dllm_fast.presets())
    assert min(map(presets.count, presets)) >= 2
    assert [(p["preset"], p["over"]) for p in record["points"]] == [(s.preset, s.over) for s in quality.SETTINGS]
    assert record["n"] >= 500
    assert record["confirmation_n"] >= 500
    for p in record["points"]:
        assert p["n"] == record["n"]
        assert all(part["n"] >= 200 for part in p["classes"].values())
        assert p["solved"] == sum(part["solved"] for part in p["classes"].values())
        assert p["solved"] == int(p["rows_hex"], 16).bit_count()


def test_confidence_beats_random_with_disjoint_intervals(record: dict[str, Any]) -> None:
    points = {p["label"]: p for p in record["points"]}
    compared = [c for c in record["confident_against_blind_order"] if c["b"].startswith("llada-random")]
    assert len(compared) >= 4
    for c in compared:
        assert c["a_forwards"] == c["b_forwards"]
        assert points[c["a"]]["share_95"][0] > points[c["b"]]["share_95"][1]
        assert c["difference_95"][0] > 0


def test_a_sure_threshold_beats_a_fixed_count(record: dict[str, Any]) -> None:
    for name in (quality_report.ON_AVERAGE, quality_report.BY_ROW):
        compared = [c for c in record[name] if c["a"].endswith(("threshold=0.9)", "threshold=0.95)", "threshold=0.99)"))]
        assert len(compared) == 3
        for c in compared:
            assert c["b_forwards"] >= c["a_forwards"]
            assert c["difference_95"][0] > 0


def test_the_front_is_a_front_and_the_recommendation_on_it(record: dict[str, Any]) -> None:
    def dominates(a: dict[str, Any], b: dict[str, Any]) -> bool:
        x, y = (a["forwards"]["mean"], -a["share"]), (b["forwards"]["mean"], -b["share"])
        return x != y and x[0] <= y[0] and x[1] <= y[1]

    points = record["points"]
    undominated = {p["label"] for p in points if not any(dominates(q, p) for q in points)}
    assert set(record["pareto"]) == undominated
    rows = [np.unpackbits(np.frombuffer(bytes.fromhex(p["rows_hex"]), dtype=np.uint8))[: p["n"]].astype(bool) for p in points]
    assert record["best"] == max(points, key=lambda p: (p["share"], -p["forwards"]["mean"]))["label"]
    best = next(solved for p, solved in zip(points, rows, strict=True) if p["label"] == record["best"])
    good = [
        p
        for p, solved in zip(points, rows, strict=True)
        if p["label"] in record["pareto"]
        and (p["label"] == record["best"] or quality.paired_difference(solved, best)[1] >= -0.01)
    ]
    assert record["recommended"] == min(good, key=lambda p: p["forwards"]["mean"])["label"]
    assert record["confirmation_points"][0]["label"] == record["recommended"]


def test_the_documents_carry_the_generated_text(record: dict[str, Any]) -> None:
    wanted = {"README.md": quality_report.section(record), "bench/README.md": quality_report.details(record)}
    for name, block in wanted.items():
        text = (quality.harness.ROOT / name).read_text(encoding="utf-8")
        assert quality_report.placed(text, block) == text, "run `python -m bench.quality --write`"
    assert quality_report.BEGIN in text
    assert "<svg" in (quality.harness.RESULTS / "quality.svg").read_text(encoding="utf-8")


def test_a_picture_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"need matplotlib.*\[bench\]"):
        quality.harness.pyplot()
