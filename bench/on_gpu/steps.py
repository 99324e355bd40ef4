"""One denoise step of a LLaDA-8B-shaped model: begun ahead and waiting, where its time goes, other batches, switches."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from bench.on_gpu import breakdown, floors, model
from bench.on_gpu.floors import LLADA_8B
from bench.on_gpu.model import Run, WaitingRunner
from bench.on_gpu.stage import Json, Stage, must_launch, tried
from dllm_fast import switches
from dllm_fast.loading.model import LoadedModel
from dllm_fast.modules.keep import stepping
from dllm_fast.networks import quantise
from dllm_fast.ops import launcher
from dllm_fast.runners import graphs

#: What a step of the model has to launch, by the beginnings of the names.
KERNELS = (
    "dllm_mask_predict_",
    "dllm_commit",
    "dllm_attention_",
    "dllm_fused_add_norm",
    "dllm_fused_qkv",
    "dllm_fused_swiglu",
)
# Of them, what is not launched where a forward has too many tokens for a graph: the core commits, and torch attends.
_OF_GRAPHS = ("dllm_commit", "dllm_attention_")
_BLOCKS = 2


class NotReplayedError(Exception):
    """The steps were not those of a graph, so their time would be called by a wrong name."""


def llada(stage: Stage) -> LoadedModel:
    """The model, made when it is first needed."""
    return stage.once("model", lambda: model.build(stage))  # type: ignore[no-any-return]


def step(stage: Stage) -> Iterator[Json]:
    """Batch 1 with the dual cache: 32 queries over 768 keys."""
    case: Json = {"what": "LLaDA-8B shape, batch 1, dual cache"}
    with tried(case, "begun ahead"):
        case["begun ahead"] = timed(stage, llada(stage), policy="dual", batch=1)
    yield case
    case = {"what": "LLaDA-8B shape, batch 1, dual cache"}
    with tried(case, "waiting"):
        case["waiting"] = timed(stage, llada(stage), policy="dual", batch=1, runner=WaitingRunner)
    yield case
    yield where_time_goes(stage, 1)


def where_time_goes(stage: Stage, batch: int) -> Json:
    """A kernel table of some steps."""
    case: Json = {"what": f"where its time goes, batch {batch}"}
    with tried(case, "breakdown"):
        case["breakdown"] = broken_down(stage, llada(stage), batch, f"trace-batch{batch}.json.gz")
    return case


def broken_down(stage: Stage, opened: LoadedModel, batch: int, trace: str) -> Json:
    """Some steps in the profiler, behind some that warm up."""
    run = Run(stage, opened, policy="dual", batch=batch, per_step=1)
    with stepping(run.session.hold):
        run.go(seconds=5.0, most=stage.pick(8, 3))
        return breakdown.of_steps(stage, run.step, stage.pick(8, 1), trace)


def batches(stage: Stage) -> Iterator[Json]:
    """What a row more costs: a graph computes the rows that it was made for, filled or not."""
    for batch in stage.pick((8, 9, 16), (2,)):
        case: Json = {"what": f"batch {batch}, dual cache", "batch": batch}
        with tried(case, "begun ahead"):
            case["begun ahead"] = timed(stage, llada(stage), policy="dual", batch=batch)
        yield case


def with_switches(stage: Stage) -> Iterator[Json]:
    """The same step with each switch on; off is the section `step`."""
    for name in switches.SWITCHES:
        case: Json = {"what": f"DLLM_FAST_TRY={name}, batch 1, dual cache", "switch": name}
        with tried(case, "begun ahead"), switched_on(name):
            # An engine of its own: what was captured before knows nothing of the switch.
            opened = model.opened(llada(stage).network, stage)  # type: ignore[arg-type]
            # The steps of a loop come all at once: only their mean is the time of one.
            case["begun ahead"] = timed(stage, opened, policy="dual", batch=1, is_looped=name == "while")
        yield case


def fp8(stage: Stage) -> Iterator[Json]:
    """The same step with weights of 8 bits, beside a floor of its own, and where its time goes."""
    case: Json = {"what": "quantise='fp8', batch 1, dual cache"}
    with tried(case, "begun ahead"):
        quantise.check(torch.bfloat16, stage.device)
        opened = model.in_8_bits(stage)
        case["begun ahead"] = timed(stage, opened, policy="dual", batch=1, is_fp8=True)
        yield case
        case = {"what": "where its time goes, batch 1"}
        case["breakdown"] = broken_down(stage, opened, 1, "trace-fp8.json.gz")
    yield case


@contextlib.contextmanager
def switched_on(name: str) -> Iterator[None]:
    """Inside, one switch is on."""
    before = os.environ.get(switches.VARIABLE)
    os.environ[switches.VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[switches.VARIABLE]
        else:
            os.environ[switches.VARIABLE] = before


def policies(stage: Stage) -> Iterator[Json]:
    """Every cache policy at several batches."""
    for batch in stage.pick((1, 8, 32), (1, 2)):
        for policy in ("dual", "exact_block", "prefix", "none"):
            case: Json = {"what": f"{policy}, batch {batch}", "batch": batch, "policy": policy}
            with tried(case, "step"):
                case["step"] = timed(stage, llada(stage), policy=policy, batch=batch)
            yield case


def timed(
    stage: Stage,
    opened: LoadedModel,
    *,
    batch: int,
    policy: str,
    per_step: int = 1,
    is_fp8: bool = False,
    is_looped: bool = False,
    **given: Any,
) -> Json:
    """Milliseconds of a step over two blocks, beside its floor.

    Raises:
        NotReplayedError: a capture failed, or steps that a graph should have made were not replayed.
        ValueError: a time below its floor, which is no time of a step.
        NotLaunchedError: a step went without one of our kernels.
    """
    prompt, new, block = model.sizes(stage)
    runs = [Run(stage, opened, policy=policy, batch=batch, per_step=per_step, **given) for _ in range(2)]
    # Full forwards, captures and compilations are in the first run.
    for run, seconds in zip(runs, (6.0, 4.0), strict=True):
        with launcher.counted() as launched, stepping(run.session.hold):
            run.go(seconds=seconds, most=_BLOCKS * block // per_step)
    times = runs[1].times
    replays = runs[1].session.forwards.replayed
    widest = {"none": prompt + new, "prefix": new}.get(policy, block)
    eager = 0 if batch * (prompt + new) <= graphs._MOST_TOKENS else _BLOCKS  # the first forward of a block is over all
    # Steps of so many tokens are computed eagerly by design: a graph gains nothing.
    is_eager = batch * widest > graphs._MOST_TOKENS
    _must_replay(opened, replays, len(times) if is_eager else eager, len(times))
    wanted = [name for name in KERNELS if not (is_eager and name in _OF_GRAPHS)]
    must_launch(launched, (*wanted, *(["dllm_quantise_"] if is_fp8 else [])))
    found: Json = {"steps": len(times), "replays": replays, "launched": dict(launched)}
    if stage.dry:
        return {"ran": True} | found
    # The first step fills the cache with the prompt.
    later = [1e3 * t for t in times[1:]] or [1e3 * times[0]]
    found |= {
        "ms": statistics.fmean(later) if is_looped else statistics.median(later),
        "mean_ms": statistics.fmean(later),
        "quartiles": statistics.quantiles(later, n=4)[::2] if len(later) > 1 else [later[0]] * 2,
        "first_ms": 1e3 * times[0],
        "tokens_per_s": batch * per_step * len(times) / sum(times),
    }
    if stage.rates is not None and policy != "prefix":
        queries = prompt + new if policy == "none" else block
        parts = floors.step(
            LLADA_8B, batch=batch, queries=queries, keys=prompt + new, scored=block // 2, weight_bytes=1 if is_fp8 else 2
        )
        found["floor_ms"] = 1e3 * floors.seconds(parts, stage.rates)
        found["of_floor"] = found["floor_ms"] / found["ms"]
        if found["of_floor"] > 1:
            raise ValueError(f"a step must take at least its floor of {found['floor_ms']:.3f} ms, got {found['ms']:.3f} ms")
    return found


def _must_replay(opened: LoadedModel, replays: int, eager: int, steps: int) -> None:
    """Refuses steps that were launched one kernel after the other where a graph should have been replayed."""
    engine = opened.engine
    assert engine is not None
    for trouble in (engine.trouble, engine.loop_trouble):
        if trouble is not None:
            raise NotReplayedError(f"steps must come from a graph, got {trouble}\n{engine.traceback or ''}")
    if replays < steps - eager:
        raise NotReplayedError(f"{steps} steps must come from a graph, but for {eager}, got {replays}")
