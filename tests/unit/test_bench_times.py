"""The numbers of `bench/gpu.py` are what their names say: no number without the kernel, the graph, the floor of this card."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from types import SimpleNamespace

import pytest
import torch

from bench import sass
from bench.on_gpu import breakdown, compiled, counters, estimate, floors, model, rates, steps, told, worker
from bench.on_gpu.compiled import Code
from bench.on_gpu.cost import attention, card, prediction, step
from bench.on_gpu.floors import LLADA_8B, Rates
from bench.on_gpu.main import AGAIN, DONE
from bench.on_gpu.stage import NotLaunchedError, Stage, tried
from dllm_fast import switches
from dllm_fast.kernels.nvrtc import nvrtc
from dllm_fast.runners import graphs
from emulator import build
from emulator.operations import emulated

needs_compiler = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
H200 = Rates(copy=4.3e12, flops=790e12)


@pytest.fixture
def stage(tmp_path):
    return Stage(device=torch.device("cpu"), dry=True, quick=True, deadline=time.perf_counter() + 600, out=tmp_path)


# --- floors


def test_floors_of_a_step():
    cached = functools.partial(floors.step, LLADA_8B, queries=32, keys=768, scored=16)
    # Weights of 32 layers, the head, keys and values, read once at 4.3 TB/s.
    bytes_read = 32 * 2 * 4096 * (12_288 + 4096 + 24_576 + 12_288) + 2 * 4096 * 126_464 + 32 * 2 * 2 * 32 * 768 * 128
    assert floors.seconds(cached(batch=1), H200) == pytest.approx(bytes_read / 4.3e12, rel=0.02)
    assert floors.seconds(cached(batch=1), Rates(copy=3.0e12, flops=790e12)) == pytest.approx(bytes_read / 3.0e12, rel=0.02)
    # With many rows the products are bound by their operations.
    weights = 32 * 4096 * (12_288 + 4096 + 24_576 + 12_288)
    products = {name: work for name, work in cached(batch=32).items() if name in LLADA_8B.products()}
    assert floors.seconds(products, H200) == pytest.approx(2 * 32 * 32 * weights / 790e12)


def test_floors_of_kernels():
    assert floors.mask_prediction(32, 126_464).seconds(H200) == pytest.approx(32 * 126_464 * 2 / 4.3e12)
    keys = {"batch": 2, "heads": 32, "kv_heads": 8, "queries": 32, "keys": 4096, "head_dim": 128}
    assert floors.attention(**keys).moved == 2 * 2 * 128 * (2 * 8 * 4096 + 2 * 32 * 32)
    met = floors.experts(met=162, tokens=32, chosen=8, width=2048, inner=512)
    assert met.moved == 162 * 3 * 2048 * 512 * 2


def test_the_model_of_the_floors_is_the_one_that_is_timed_and_fits_on_a_card_of_80_gigabytes(tmp_path):
    card = Stage(device=torch.device("cuda"), dry=False, quick=True, deadline=0, out=tmp_path)
    numbers = sum(p.numel() for name, p in model.blank(card).named_parameters() if "norm" not in name)
    assert 2 * numbers == LLADA_8B.weight_bytes()
    lines, slots = 32, 1024
    cache = 2 * 2 * LLADA_8B.layers * lines * LLADA_8B.kv_heads * slots * LLADA_8B.head_dim
    # The largest attention of the bench beside them, with a mask, and logits of 2,048 rows twice.
    others = 2 * 2 * 8 * 32 * 32_768 * 128 + 2 * 2 * 2048 * 262_144
    assert LLADA_8B.weight_bytes() + cache + others < 70e9


def test_rates_come_from_the_same_run():
    cases = [{"copy": {"bytes_per_s": 3e12}}, {"product": {"flops_per_s": 7e14}}]
    assert rates.rates_of(cases) == Rates(copy=3e12, flops=7e14)
    assert rates.rates_of([{"copy": {"ran": True}}, {"product": {"ran": True}}]) is None
    assert rates.rates_of([{"copy": {"error": "x"}}]) is None


def test_a_time_stands_beside_the_floor_of_this_card(stage):
    found = {"ms": 0.1}
    assert "of_floor" not in stage.against(dict(found), floors.mask_prediction(32, 126_464))
    stage.rates = H200
    found = stage.against(found, floors.mask_prediction(512, 126_464), times=2)
    assert found["us"] == pytest.approx(50)
    assert found["of_floor"] == pytest.approx(512 * 126_464 * 2 / 4.3e12 / 50e-6)


# --- no number without its kernel or its graph


def test_a_form_that_launches_nothing_has_no_time(stage):
    row: dict = {}
    with tried(row, "ours"):
        row["ours"] = stage.milliseconds(lambda: None, kernels=("dllm_attention_",))
    assert "NotLaunchedError" in row["ours"]["error"]
    assert "Traceback" in row["ours"]["error"]
    assert told.has_failed({"cases": [row]})
    assert told.lines({"what": "x", **row})[0].startswith("  x: ours FAILED: ")


@needs_compiler
def test_a_step_that_is_not_captured_has_no_time(stage):
    with emulated():
        opened = model.build(stage)

        def refuses(_body):
            raise RuntimeError("planted: no capture")

        opened.engine._capture = refuses
        with (
            pytest.warns(match="without CUDA graphs"),
            pytest.raises(steps.NotReplayedError, match=r"planted(?s:.*)Traceback(?s:.*)in refuses"),
        ):
            steps.timed(stage, opened, policy="dual", batch=1)


@needs_compiler
def test_a_step_by_torch_has_no_time(stage):
    with emulated(["mask_predict", "mask_filter", "commit", "fused"]), pytest.raises(NotLaunchedError, match="dllm_attention_"):
        steps.timed(stage, model.build(stage), policy="dual", batch=1)


@needs_compiler
def test_a_step_that_is_too_wide_for_a_graph_launches_what_is_left(stage, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST_TOKENS", 1)
    with emulated(["mask_predict", "mask_filter", "fused"]):
        assert steps.timed(stage, model.build(stage), policy="none", batch=1)["replays"] == 0
    with emulated(["mask_predict", "mask_filter"]), pytest.raises(NotLaunchedError, match="dllm_fused_"):
        steps.timed(stage, model.build(stage), policy="none", batch=1)


def test_a_switch_is_on_inside_and_off_again(monkeypatch):
    monkeypatch.delenv(switches.VARIABLE, raising=False)
    with steps.switched_on("pdl"):
        assert switches.is_on("pdl")
        assert not switches.is_on("while")
    assert not switches.is_on("pdl")


# --- the kernel table and the waits


def event(name, start, end, kind=torch.autograd.DeviceType.CPU):
    times = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(name=name, time_range=times, device_type=kind)


def test_waits_of_the_profiler_are_not_those_of_the_steps():
    events = [
        event("cudaDeviceSynchronize", 0, 1),
        event(breakdown._MARK, 2, 90),
        event("cudaEventSynchronize", 10, 20),
        event("cudaEventSynchronize", 50, 60),
        event("cudaLaunchKernel", 61, 62),
        event("cudaDeviceSynchronize", 91, 92),
        event("cudaDeviceSynchronize", 93, 99),
    ]
    assert breakdown.waits_inside(events) == {"cudaEventSynchronize": 2}


def test_steps_are_those_that_the_device_made():
    """The first of eight may have been begun before the profile."""
    cuda = torch.autograd.DeviceType.CUDA
    events = [event("dllm_commit", i, i + 1, cuda) for i in range(7)] + [event("dllm_commit", 3, 9), event("nvjet", 3, 9, cuda)]
    assert breakdown.steps_inside(events) == 7


def test_the_table_of_kernels_is_by_name_and_step():
    cuda = torch.autograd.DeviceType.CUDA
    events = [event("dllm_fused_qkv", i, i + 2, cuda) for i in range(0, 40, 10)] + [event("nvjet_tst", 3, 9, cuda)]
    table = breakdown.kernel_table(events, 2)
    assert table == [{"kernel": "dllm_fused_qkv", "count": 2, "us": 4}, {"kernel": "nvjet_tst", "count": 0.5, "us": 3}]
    assert breakdown._by_kind(table) == {"norm, heads, swiglu": 4, "products": 3}
    assert breakdown._span_us(events) == 32
    text = told.as_text(table)
    assert text[1].split() == ["2.0", "4.0", "2.00", "57.1%", "dllm_fused_qkv"]


def test_what_is_told_of_a_number():
    told_of = {
        "5.400 ms (66% of its floor's speed), 185 tokens/s": {"ms": 5.4, "of_floor": 0.66, "tokens_per_s": 185.2},
        "2.81 TB/s, 35.8 us (65% of its floor's speed)": {"ms": 0.29, "us": 35.8, "bytes_per_s": 2.81e12, "of_floor": 0.653},
        "16.0 us (12% of its floor's speed)": {"ms": 0.016, "us": 16.0, "of_floor": 0.12},
        "9.8 us": {"ms": 0.0098},
        "FAILED: ValueError: planted": {"error": "Traceback\n  of\nValueError: planted\n"},
        "Duration 21.3 us, No Eligible 39 %": {"No Eligible": "39 %", "Duration": "21.3 us", "Waves": "1"},
    }
    assert {said: told.number(value) for said, value in told_of.items()} == {said: said for said in told_of}


def test_a_result_becomes_tables():
    card = {"name": "NVIDIA H100", "driver_version": "580.1", "clocks.max.sm": "1980 MHz"}
    result = {
        "card": card,
        "versions": {"torch": "2.11", "cuda": "13.0", "dllm_fast": "0.1"},
        "commit": "a" * 40,
        "taken": "now",
    }
    cases = [{"what": "32 x 126464", "rows": 32, "greedy": {"ms": 0.016}, "T=0.7": {"skipped": "no time"}}]
    result["sections"] = {"mask prediction": {"cases": cases}, "step": {"skipped": "no time was left"}}
    text = told.report(result)
    assert text.startswith("NVIDIA H100, driver 580.1, 1980 MHz at most; torch 2.11")
    assert "| 32 x 126464 | greedy 16.0 us; T=0.7 skipped, no time |" in text
    assert "| the section: no time was left |  |" in text


def test_counters_are_read_from_what_ncu_prints():
    head = '==PROF== Connected\nready\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
    rows = [
        '"0","a_kernel","Issued Warp","","0.61"',
        '"0","a_kernel","L2 Hit Rate","%","12.5"',
        '"1","b(int)","Issued Warp","","1"',
    ]
    again = '"2","a_kernel","Issued Warp","","0.99"'
    found = counters.read(head + "\n".join([*rows, again]))
    assert found == {"a_kernel": {"Issued Warp": "0.61", "L2 Hit Rate": "12.5 %"}, "b": {"Issued Warp": "1"}}
    assert counters.read("==ERROR== permission") == {}


# --- sections


def options(tmp_path, **given):
    plain = {
        "out": tmp_path,
        "dry_run": True,
        "quick": True,
        "full": False,
        "only": "",
        "until": time.time() + 99,
        "after": None,
    }
    return argparse.Namespace(**plain | given)


@pytest.fixture
def sections(monkeypatch):
    """In place of the sections: one that fails behind its first case, and one behind it."""

    def fails(_stage):
        yield {"what": "a", "x": {"ran": True}}
        raise ValueError("planted")

    def works(_stage):
        yield {"what": "b", "x": {"ran": True}}

    made = [worker.Section("card", 0, 9, lambda _: iter(())), worker.Section("bad", 0, 9, fails)]
    monkeypatch.setattr(worker, "SECTIONS", (*made, worker.Section("good", 0, 9, works)))
    monkeypatch.setattr(worker, "doctor", lambda: {})
    monkeypatch.setattr(worker, "_emulated", lambda _stage: worker.contextlib.nullcontext())


@pytest.mark.usefixtures("sections")
def test_behind_a_section_that_failed_another_process_goes_on(tmp_path):
    assert worker.main(options(tmp_path)) == AGAIN
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["sections"]
    assert [case["what"] for case in found["bad"]["cases"]] == ["a"]
    assert found["bad"]["error"].startswith("Traceback")
    assert "good" not in found
    assert worker.main(options(tmp_path, after=AGAIN)) == DONE
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["sections"]
    assert "planted" in found["bad"]["error"]
    assert [case["what"] for case in found["good"]["cases"]] == ["b"]


@pytest.mark.usefixtures("sections")
def test_the_section_that_killed_its_process_is_named(tmp_path):
    left = {
        "sections": {"bad": {"cases": [{"what": "a"}]}, "card": {"cases": []}},
        "running": "bad",
        "notes": [],
        "seconds": 7.0,
    }
    (tmp_path / "gpu.json").write_text(json.dumps(left), encoding="utf-8")
    assert worker.main(options(tmp_path, after=-11)) == DONE
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert "status -11" in result["sections"]["bad"]["error"]
    assert result["sections"]["bad"]["cases"] == [{"what": "a"}]
    assert "good" in result["sections"]
    assert result["seconds"] > 7


@pytest.mark.usefixtures("sections")
def test_no_section_is_begun_without_time(tmp_path):
    assert worker.main(options(tmp_path, until=time.time() - 1)) == DONE
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert result["sections"]["good"] == {"skipped": "no time was left"}
    assert any("good: skipped" in note for note in result["notes"])


# --- estimates


def test_blocks_side_by_side():
    plain = {"instructions": 0, "loop": 0, "read": {}, "opcodes": {}}
    # 64 warps of 32 registers, 24 of 80; 227 KB of shared memory, 1 KB of it for each block.
    assert card.blocks_on_multiprocessor(Code(registers=32, shared_bytes=0, **plain), 256) == 8
    assert card.blocks_on_multiprocessor(Code(registers=79, shared_bytes=0, **plain), 256) == 3
    assert card.blocks_on_multiprocessor(Code(registers=32, shared_bytes=0, **plain), 128, 112 * 1024) == 2


DRAWS = ({}, {"temperature": 0.7}, {"temperature": 1.0, "top_p": 0.9})


@pytest.mark.parametrize("on", [card.H200, card.H100], ids=lambda on: on.name)
def test_no_estimate_is_below_its_floor(on):
    codes = compiled.load()
    found = [one for n in (1, 32, 4096) for d in DRAWS for one in prediction.kernels(on, codes, n, 126_464, **d).values()]
    for seen in (attention.Seen(kv_heads=h, keys=k, batch=b) for h in (8, 32) for k in (128, 768, 100_000) for b in (1, 32)):
        for form in (attention.TODAY, attention.MERGED, attention.WGMMA):
            found += [*attention.kernels(on, codes, seen, form).values(), attention.attention(on, codes, seen, form)]
    found += [step.small(on, name, tokens) for name in step.SMALL for tokens in (32, 9999)] + [step.experts_layer(on)]
    assert all(one.share < 1 for one in found)
    for batch in (1, 8, 9, 32):
        steps = {build: step.llada_step(on, codes, getattr(step, build), batch=batch) for build in ("AS_IT_IS", "ON_PAPER")}
        assert steps["AS_IT_IS"].s > steps["ON_PAPER"].s > steps["ON_PAPER"].floor_s
    today, quantised = (step.llada_step(on, codes, build) for build in (step.AS_IT_IS, step.IN_8_BITS))
    assert today.s > quantised.s > quantised.floor_s
    assert quantised.floor_s < 0.6 * today.floor_s


def test_an_estimate_is_of_the_card():
    codes = compiled.load()
    faster = dataclasses.replace(card.H100, rates=Rates(copy=6e12, flops=790e12))
    long = attention.Seen(keys=100_000)
    assert attention.attention(faster, codes, long).s < 0.6 * attention.attention(card.H100, codes, long).s
    # Where the issue of instructions is the limit, memory changes nothing and the clock everything.
    slow, quick = (
        prediction.kernels(dataclasses.replace(faster, clock=clock), codes, 2048, 126_464)["tiles"] for clock in (1e9, 2e9)
    )
    assert slow.limit == "issue of instructions"
    assert slow.s - card.LAUNCH_S == pytest.approx(2 * (quick.s - card.LAUNCH_S))


def test_every_kernel_that_is_compiled_for_the_model_is_estimated():
    codes = compiled.load()
    printed = estimate.kernels_table([card.H200], codes)
    for name in codes:
        assert f"| {name} |" in printed, name


def test_estimates_are_of_these_kernels():
    """Of first order, as the model is: a kernel that has changed by a quarter has to be read anew."""
    written = json.loads(compiled.PATH.read_text(encoding="utf-8"))
    if sass.disassembler() is None:
        pytest.skip(f"no disassembler: {sass.INSTALL}")
    if written["nvrtc"] != nvrtc().version:
        pytest.skip(f"read from code of NVRTC {written['nvrtc']}, this is {nvrtc().version}, which may give another")
    now = {code["name"]: code for code in compiled.read()["kernels"]}
    anew = "run python -m bench.on_gpu.compiled, then python -m bench --write"
    assert now.keys() == compiled.HOT.keys(), f"a kernel has another name: {compiled.HOT.keys() - now.keys()}"
    for code in written["kernels"]:
        for what in ("registers", "loop"):
            assert now[code["name"]][what] == pytest.approx(code[what], rel=0.25), f"{code['name']}, {what}: {anew}"


def test_tables_are_printed_for_any_card(capsys):
    assert estimate.main(["--copy", "1.85", "--clock", "1.41", "--multiprocessors", "108"]) == 0
    printed = capsys.readouterr().out
    assert "| mask prediction, greedy | 32 x 126,464 | 4.4 us |" in printed
    assert "| **a step begun ahead** |" in printed
