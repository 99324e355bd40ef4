"""The bench of all presets: its oracles are exact, equal forwards are equal, and the page says what the rows say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import dllm_fast
from bench import (
    every_preset,
    every_preset_picture,
    every_preset_record,
    every_preset_report,
    oracle,
    preset_control,
    quality,
    verified,
)
from bench import every_preset_claims as claims
from dllm_fast.settings.config import changed
from dllm_fast.settings.presets import PRESETS, Claim, Preset
from reference import noise


def by_definition(answers: NDArray[np.int64], canvas: NDArray[np.int64], slip: float) -> NDArray[np.float64]:
    """Bayes' rule, one answer after the other."""
    vocabulary, mask = int(answers.max()) + 1, int(answers.max()) + 1
    found = np.zeros((len(canvas), vocabulary))
    for position, answer in itertools.product(range(len(canvas)), answers):
        others = [i for i in range(len(canvas)) if i != position and canvas[i] != mask]
        chances = [1 - slip if canvas[i] == answer[i] else slip / (vocabulary - 1) for i in others]
        found[position, answer[position]] += math.prod(chances)
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("slip", [0.2, 1e-6])
def test_an_oracle_is_bayes_rule(slip: float) -> None:
    dice = np.random.default_rng(0)
    for answers in (oracle.orders((0, 0, 1, 2)), oracle.latin_squares(2), oracle.latin_squares(3)):
        model = oracle.Oracle(answers, slip)
        canvases = dice.integers(model.vocabulary + 1, size=(20, answers.shape[1]))
        found = model(torch.from_numpy(canvases)).softmax(2).numpy()
        assert (found[..., model.mask] == 0).all()
        for row, canvas in zip(found, canvases, strict=True):
            np.testing.assert_allclose(row[:, : model.mask], by_definition(answers, canvas, slip), atol=2e-6)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("share", [None, 0.2])
def test_the_oracle_of_noise_is_bayes_rule(share: float | None, own: bool) -> None:
    answers = oracle.orders((0, 1, 1))
    model = oracle.NoisyOracle(answers, share, own=own)
    tokens = range(2 if share is None else 3)
    for canvas in itertools.product(tokens, repeat=3):
        wanted = np.zeros((3, 2))
        for clean, mask, drawn in map(model.marginal, model.TIMES):
            shown = [[mask if a == 2 else clean * (a == b) + drawn / 2 for a in tokens] for b in range(2)]
            for answer, position in itertools.product(answers, range(3)):
                chances = [shown[answer[i]][canvas[i]] for i in range(3) if own or i != position]
                wanted[position, answer[position]] += math.prod(chances)
        wanted /= wanted.sum(1, keepdims=True)
        found = model(torch.tensor([canvas])).softmax(2)[0].numpy()
        np.testing.assert_allclose(found[:, :2], wanted, atol=1e-6)
        assert (found[:, 2:] == 0).all()


def test_the_oracle_knows_the_noise_of_the_rule() -> None:
    """Its marginals are those of which tests/reference says that the core goes through them."""
    for share in (None, 0.2):
        model = oracle.NoisyOracle(oracle.orders((0, 1)), share)
        config = PRESETS["udlm" if share is None else "gidd"].settings
        for time in (0.0, 0.05, 0.5, 1.0):
            assert model.marginal(time) == pytest.approx(noise.marginal(config, time))


def test_a_mistake_in_a_square_is_found_and_one_in_a_list_is_found_twice() -> None:
    """What docs/quality.md says of why revision helps the one and not the other."""
    square = oracle.Oracle(oracle.latin_squares())
    for answer in square.answers[::50]:
        canvas = answer.copy()
        canvas[5] = (canvas[5] + 1) % 4
        chances = square(torch.from_numpy(canvas[None])).softmax(2)[0].numpy()
        assert (chances.argmax(1) == answer).all()
        assert chances.max(1).min() > 0.999
    letters = oracle.Oracle(oracle.orders((0, 0, 1, 1, 2, 2, 3, 4)))
    chances = letters(torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3]])).softmax(2)[0].numpy()
    assert chances[6, 4] > 0.999
    assert chances[7, 4] > 0.999
    assert chances[:6].max() < 0.501


def test_the_answers_are_all_there() -> None:
    assert len(oracle.orders((0, 0, 1, 1, 2, 2, 3, 4))) == math.factorial(8) // 2**3
    assert [len(oracle.latin_squares(n)) for n in (1, 2, 3, 4)] == [1, 2, 12, 576]
    square = oracle.Oracle(oracle.latin_squares(3))
    assert square.check(np.array([0, 1, 2, 1, 2, 0, 2, 0, 1]))
    assert not square.check(np.array([0, 1, 2, 1, 2, 0, 2, 0, 2]))


def test_drawing_side_by_side_is_wrong_as_often_as_probability_says() -> None:
    model, rows = oracle.Oracle(oracle.orders((0, 1, 2, 3))), 4000
    # Two of four letters in each of two steps: they differ in 3/4 and in 1/2 of the draws.
    for steps, share in ((4, 1.0), (2, 3 / 4 * 1 / 2), (1, 24 / 4**4)):
        result = dllm_fast.infill(
            model,
            [np.full(4, model.mask)] * rows,
            preset="llada-random",
            steps=steps,
            temperature=1.0,
            mask_token_id=model.mask,
            seed=list(range(rows)),
        )
        right = sum(map(model.check, result.sequences))
        assert abs(right - share * rows) <= 4 * math.sqrt(rows * share * (1 - share))


@pytest.fixture(scope="module")
def small() -> every_preset.Task:
    return every_preset.tasks(quick=True)["latin"]


@pytest.mark.parametrize("preset", ["llada", "fast-dllm", "local-leap", "entropy-bound", "mdlm"])
def test_knobs_reach_the_forwards_that_are_asked_for(small: every_preset.Task, preset: str) -> None:
    found = every_preset.measure(small, preset)
    for forwards in small.forwards:
        point = found["at"][str(forwards)]
        assert "refused" in point or abs(point["forwards"] - forwards) <= every_preset.TOLERANCE * forwards
    assert any("share" in point for point in found["at"].values())
    assert found["own"]["over"] == {}


def test_rules_of_noise_have_an_oracle_of_their_own(small: every_preset.Task) -> None:
    found = every_preset.measure(small, "diffusion-gemma")
    assert [point["forwards"] for point in found["at"].values()] == list(small.forwards)
    assert found["own"]["share"] > 1 / 4**4
    without = every_preset.measure(dataclasses.replace(small, noisy={}), "diffusion-gemma")
    assert "noise" in without["refused"]


@pytest.mark.parametrize(("preset", "steps", "least"), [("udlm", 400, 0.95), ("gidd", 800, 0.8)])
def test_the_reverse_process_ends_in_answers_where_the_oracle_knows_the_time(preset: str, steps: int, least: float) -> None:
    """Oracle and posterior are of one noise: in many steps hardly anything goes wrong (GIDD's noise goes with the square root
    of the time that is left, so that it needs more)."""
    rows = 200
    model = oracle.NoisyOracle(oracle.orders((0, 0, 1, 2)), PRESETS[preset].settings.noise_share, own=False)
    times = iter(np.arange(steps, 0, -1) / steps)

    def knows(ids: torch.Tensor) -> torch.Tensor:
        model.TIMES = (float(next(times)),)
        return model(ids)

    masks = {} if model.share is None else {"mask_token_id": 3}
    open = [np.ones(4, dtype=bool)] * rows if model.share is None else None
    result = dllm_fast.infill(
        knows,
        [np.full(4, 0 if model.share is None else 3)] * rows,
        preset=preset,
        open=open,
        steps=steps,
        seed=list(range(rows)),
        vocabulary=3 + len(masks),
        **masks,
    )
    assert sum(map(model.check, result.sequences)) > least * rows


def test_a_causal_look_of_an_oracle_is_bayes_rule_to_the_left() -> None:
    model = oracle.Oracle(oracle.orders((0, 0, 1, 2)), 0.2)
    for canvas in itertools.islice(itertools.product(range(3), repeat=4), 0, None, 7):
        found = torch.from_numpy(model.causal(np.array(canvas))).softmax(1).numpy()
        for position in range(4):
            left = np.array([*canvas[:position], *[model.mask] * (4 - position)])
            np.testing.assert_allclose(found[position, :3], by_definition(model.answers, left, 0.2)[position], atol=2e-6)


def test_the_shadow_of_an_oracle_is_what_it_says_behind_a_mask(small: every_preset.Task) -> None:
    model = oracle.Oracle(oracle.orders((0, 0, 1, 2)), 0.2)
    canvas, shadow = torch.tensor([[0, 1, 3, 2], [0, 0, 1, 1]]), torch.tensor([[1, -1, -1], [0, 2, 3]])
    both = model(canvas, shadow=shadow).softmax(2)
    assert (both[:, :4] == model(canvas).softmax(2)).all()
    for row, line, position in ((0, 0, 1), (1, 0, 0), (1, 1, 2), (1, 2, 3)):
        hidden = canvas.clone()
        hidden[row, position] = model.mask
        np.testing.assert_allclose(both[row, 4 + line].numpy(), model(hidden).softmax(2)[row, position].numpy(), atol=2e-6)
    assert every_preset.measure(small, "wino")["own"]["share"] > 0


def test_verified_drafts_of_an_oracle_are_draws_from_left_to_right() -> None:
    model = oracle.Oracle(oracle.orders((0, 0, 1, 2)))
    settings = PRESETS["linear-spec"].settings
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(1200):
        filled, forwards = verified.fill(model, settings, seed)
        counts[tuple(filled.tolist())] = counts.get(tuple(filled.tolist()), 0) + 1
        assert 2 <= forwards <= 8
        if seed < 50:
            canvas, noise = np.zeros(4, dtype=np.int64), verified.gumbel(model, seed)
            for position in range(4):
                canvas[position] = (model.causal(canvas) + noise)[position].argmax()
            assert canvas.tolist() == filled.tolist()
    assert counts.keys() == set(map(tuple, model.answers.tolist()))
    # Twelve answers, each as often: chi-square with 11 degrees of freedom.
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 31.3  # p = 0.001


def test_rules_that_verify_are_measured_where_the_model_has_a_causal_look(small: every_preset.Task) -> None:
    found = every_preset.measure(small, "linear-spec")
    assert found["own"]["share"] == 1.0
    assert found["own"]["forwards"] < 16
    without = every_preset.measure(every_preset.tasks(quick=True)["text"], "linear-spec")
    assert without == {"refused": "verify: the model cannot be read causally"}


def test_a_second_model_alone_draws_every_answer_as_often() -> None:
    model, rows = oracle.Oracle(oracle.orders((0, 0, 1, 2))), 1200
    filled, forwards = verified.mixed(model, changed(PRESETS["apd"].settings, verifier_mixture=0.0), rows)
    found, counts = np.unique(filled, axis=0, return_counts=True)
    assert found.tolist() == sorted(model.answers.tolist())
    assert ((counts - 100) ** 2 / 100).sum() < 31.3  # 11 degrees of freedom, p = 0.001
    assert all(2 <= count <= 8 for count in forwards)


def test_a_rule_of_two_models_is_measured_where_there_is_a_second(small: every_preset.Task) -> None:
    found = every_preset.measure(small, "apd")
    assert found["own"]["share"] > 0.5
    assert found["own"]["forwards"] < 16
    without = every_preset.measure(every_preset.tasks(quick=True)["text"], "apd")
    assert without == {"refused": "verifier: no second model"}


def test_rules_of_lengths_are_measured_where_answers_have_any_length(small: every_preset.Task) -> None:
    text = every_preset.tasks(quick=True)["text"]
    found = every_preset.measure(text, "daedal", None, "own")
    assert found["own"]["share"] > 0.5
    assert found["own"]["forwards"] < 28
    assert every_preset.measure(small, "daedal") == {"refused": "length: the answers of this task have one length"}


def test_what_the_core_refuses_is_written_down(small: every_preset.Task) -> None:
    at = every_preset.measure(small, "first-hitting")["at"]
    assert all("steps" in point["refused"] for point in at.values())


def test_knobs_turn_one_way() -> None:
    for knob in every_preset.KNOBS:
        values = [knob.value(turn) for turn in np.linspace(0, 1, 20)]
        assert values == sorted(values, reverse=knob.name != "threshold")


def test_only_what_is_missing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measure(task: every_preset.Task, preset: str, before: dict[str, Any], part: str) -> dict[str, Any]:
        asked.append(f"{preset} {part}")
        own = {"own": point(np.ones(3, dtype=bool), 1)} if part == "own" else {}
        return {"at": {}, **before, **own} if own else {**before, "at": {**before.get("at", {}), part: {"refused": "a test"}}}

    monkeypatch.setattr(every_preset, "measure", measure)
    monkeypatch.setattr(every_preset, "PRESETS", {name: PRESETS[name] for name in ("llada", "mdlm")})
    path, tasks = tmp_path / "presets.json", every_preset.tasks(quick=True)
    all = [f"{name} {part}" for task in tasks.values() for part in ("own", *task.forwards) for name in ("llada", "mdlm")]
    every_preset.run(path, [], quick=True)
    assert asked == all  # all presets have a part before any has the next
    asked.clear()
    every_preset.run(path, [], quick=True)
    assert not asked
    record = json.loads(path.read_text())
    del record["presets"][0]["text"]["at"]["2"]
    path.write_text(json.dumps(record))
    every_preset.run(path, [], quick=True)
    assert asked == ["llada 2"]
    asked.clear()
    every_preset.run(path, ["mdlm"], quick=True)
    assert asked == [one for one in all if one.startswith("mdlm")]
    with pytest.raises(SystemExit, match="no preset is called nothing"):
        every_preset.run(path, ["nothing"], quick=True)
    assert [found["preset"] for found in json.loads(path.read_text())["presets"]] == ["llada", "mdlm"]


def point(solved: NDArray[np.bool_], forwards: float) -> dict[str, Any]:
    setting = quality.Setting(family="", preset="llada")
    counted = np.full(len(solved), forwards)
    return every_preset.summary(quality.Point(setting=setting, solved=solved, forwards=counted, cpu_s=0.0))


@pytest.mark.parametrize(
    ("kind", "right", "forwards", "word"),
    [
        ("fewer", 80, 5, "holds"),
        ("fewer", 76, 5, "open"),
        ("fewer", 40, 5, "does not hold"),
        ("fewer", 80, 9, "does not hold"),
        ("better", 95, 8, "holds"),
        ("better", 82, 8, "open"),
        ("better", 40, 8, "does not hold"),
        ("better", 80, 8, "the same answers"),
        ("same", 80, 8, "holds"),
        ("same", 40, 8, "does not hold"),
    ],
)
def test_verdicts(monkeypatch: pytest.MonkeyPatch, kind: Any, right: int, forwards: float, word: str) -> None:
    a, b = (point(np.arange(100) < n, f) for n, f in ((right, forwards), (80, 8)))
    of = claiming(monkeypatch, kind, [(a, b)])
    assert claims.verdict(claims.compared(of, "a", "t", [8])) == word
    assert claims.verdict(claims.compared({"a": of["a"]}, "a", "t", [8])) == "not measured"
    # At so many comparisons nothing is decided on a hundred rows, but what is sure on every row.
    assert claims.verdict(claims.compared(of, "a", "t", [8]), 1e3) in {"open", "the same answers", "does not hold", "holds"}


def claiming(monkeypatch: pytest.MonkeyPatch, kind: Any, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Points of two presets on the task t, at 8 forwards and twice as many with each further pair; "a" claims over "b"."""
    base = PRESETS["llada"].settings
    for name, claim in (("a", Claim("words", kind, "b")), ("b", None)):
        monkeypatch.setitem(PRESETS, name, Preset(settings=base, does="A.", claim=claim))
    facts = {"commit": "0", "uncommitted_changes": False}
    return {
        name: {
            "preset": name,
            "t": {"own": pairs[0][i], "at": {str(8 << n): pair[i] for n, pair in enumerate(pairs)}, **facts},
        }
        for i, name in enumerate("ab")
    }


def test_a_claim_is_mixed_where_something_speaks_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    a = [point(np.arange(1000) < n, 8) for n in (900, 480)]
    b = [point(np.arange(1000) < n, 8) for n in (500, 500)]
    found = claims.compared(claiming(monkeypatch, "better", list(zip(a, b, strict=True))), "a", "t", [8, 16])
    assert [claims.verdict(found, z) for z in (quality.Z95, 5.0)] == ["mixed", "mixed"]
    alone = dataclasses.replace(found, pairs=found.pairs[:1])
    assert claims.verdict(alone, 5.0) == "holds"


def test_intervals_of_many_comparisons_are_wide() -> None:
    assert quality.among(1) == pytest.approx(quality.Z95)
    # Two-sided: the tails of all together are a twentieth.
    for n in (2, 40, 250):
        assert math.erfc(quality.among(n) / math.sqrt(2)) * n == pytest.approx(0.05)
    a, b = np.arange(100) < 50, np.arange(100) < 30
    _, low, high = quality.paired_difference(a, b)
    assert quality.paired_difference(a, b, 0.0)[1:] == pytest.approx(((low + high) / 2,) * 2)


def test_hardly_a_verdict_is_wrong_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two presets that are right as often, no claim holds, in any of 40 pairs of them, nearly always."""
    dice = np.random.default_rng(0)
    wrong = {quality.Z95: 0, quality.among(40): 0}
    for _ in range(50):
        pairs = [tuple(point(dice.random(300) < 0.6, 8) for _ in "ab") for _ in range(40)]
        for z in wrong:
            found = (claims.Compared("a", "t", ((8, a, b),), None) for a, b in pairs)
            with monkeypatch.context() as patch:
                claiming(patch, "better", [pairs[0]])
                wrong[z] += any(claims.verdict(one, z) in {"holds", "does not hold"} for one in found)
    assert wrong[quality.Z95] > 25
    assert wrong[quality.among(40)] <= 8


def test_how_many_times_fewer_forwards_has_an_interval() -> None:
    dice = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        a, b = (summed(dice.poisson(mean, 200) + 1) for mean in (4, 9))
        low, high = claims.times(a, b, quality.Z95)
        inside += low <= 10 / 5 <= high
    assert 180 <= inside <= 200
    fixed = point(np.ones(9, dtype=bool), 4)
    assert claims.times(fixed, point(np.ones(9, dtype=bool), 8), quality.Z95) == (2, 2)


def summed(forwards: NDArray[np.int64]) -> dict[str, Any]:
    setting = quality.Setting(family="", preset="llada")
    solved = np.ones(len(forwards), dtype=bool)
    return every_preset.summary(quality.Point(setting=setting, solved=solved, forwards=forwards, cpu_s=0.0))


def test_rows_come_back() -> None:
    solved = np.random.default_rng(0).random(21) < 0.5
    assert (every_preset_record.rows(point(solved, 1)) == solved).all()


def test_what_to_take_is_the_cheapest_that_loses_little() -> None:
    at = {"4": point(np.arange(1000) < 500, 4), "8": point(np.arange(1000) < 940, 8), "9": point(np.arange(1000) < 930, 9)}
    found = {"llada": {"preset": "llada", "t": {"own": point(np.arange(1000) < 950, 40), "at": at}}}
    assert [one["forwards"] for _, one in every_preset_report.front_of(found, "t")] == [4, 8, 40]
    assert every_preset_report.take(found, "t")[1]["forwards"] == 8


# --- the committed results --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return dict(every_preset_record.load())


def test_the_page_has_every_preset_and_a_reason_where_it_has_no_point(record: dict[str, Any]) -> None:
    blocks = every_preset_report.blocks(record)
    of = every_preset_record.by_name(record)
    glance = dict(cells(line) for line in blocks["glance"].splitlines()[2:])
    assert glance.keys() == PRESETS.keys()
    for name, preset in PRESETS.items():
        assert all(glance[name]), name
        if not record["tasks"].keys() <= of.get(name, {}).keys():
            assert f"`{name}`" in blocks["tasks"]
        if preset.claim is not None:
            assert f"| `{name}` | {preset.claim.words} | `{preset.claim.than}` |" in blocks["claims"]
    for block in blocks.values():
        for line in block.splitlines():
            assert not line.startswith("| `") or all(cells(line)[1]), line


def cells(line: str) -> tuple[str, list[str]]:
    """The preset of a line of a table, and its other cells."""
    first, *others = line.strip("| ").split(" | ")
    return first.strip("`"), others


def test_points_are_what_their_rows_say(record: dict[str, Any]) -> None:
    for found in record["presets"]:
        for task, facts in record["tasks"].items():
            for shown in every_preset_record.points(found, task):
                right = int(every_preset_record.rows(shown).sum())
                assert shown["n"] == facts["n"]
                assert right == round(shown["share"] * shown["n"])
                assert shown["share_95"] == [pytest.approx(end, abs=1e-4) for end in quality.wilson(right, shown["n"])]
            for forwards in facts["forwards"]:
                if at := every_preset_record.point(found, task, forwards):
                    assert abs(at["forwards"] - forwards) <= every_preset.TOLERANCE * forwards


def test_the_answer_in_short_is_that_of_the_tables(record: dict[str, Any]) -> None:
    """Looked up once more, by the definitions of the page."""
    blocks, of = every_preset_report.blocks(record), every_preset_record.by_name(record)
    for task in record["tasks"]:
        all = [(name, at) for name in of for at in every_preset_record.points(of[name], task)]
        if not all:
            continue
        beaten = [
            any(y["forwards"] <= x["forwards"] and y["share"] >= x["share"] and y is not x for _, y in all) for _, x in all
        ]
        front = {at["forwards"] for (_, at), lost in zip(all, beaten, strict=True) if not lost}
        shown = {at["forwards"] for _, at in every_preset_report.front_of(of, task)}
        assert front <= shown
        name, at = every_preset_report.take(of, task)
        assert f"| **{every_preset_record.called(name, at)}** | {every_preset_record.share(at)} |" in blocks["short"]
        best = max(at["share"] for _, at in all)
        assert at["share"] >= best - claims.LOSS
    for one in claims.all_repairs(of, record["tasks"]):
        others = [every_preset_record.point(of[name], one.task, one.forwards) for name in of if claims.keeps(name)]
        assert one.best[1]["share"] == max(at["share"] for at in others if at)


def test_the_picture_is_of_the_committed_points(record: dict[str, Any]) -> None:
    assert every_preset_picture.is_of(record), "run `python -m bench --write`"


def test_the_control_of_a_step_is_timed() -> None:
    logits = preset_control.tables(2)
    assert all(
        preset_control.step_seconds(name, 2, logits) > 0 for name in ("fast-dllm", "llada2.1-speed", "mdlm", "diffusion-gemma")
    )


def test_control_costs_at_most_three_times_that_of_a_threshold() -> None:
    cases = preset_control.load()["cases"]
    assert {(case["preset"], case["batch"]) for case in cases} == {(name, n) for name in PRESETS for n in (1, 8, 64)}
    assert all("ratio" in case or case["preset"] == preset_control.BASELINE for case in cases)
    slow = {case["preset"] for case in cases if "ratio" in case and case["ratio"]["median"] > preset_control.MOST}
    assert slow <= preset_control.REASONS.keys()
    assert preset_control.REASONS.keys() <= slow
