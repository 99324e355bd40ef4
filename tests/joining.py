"""Runs which rows join: `Sampler.add` and `Session.add` are the two halves of that."""

from __future__ import annotations

from dllm_fast.modules.keep import stepping


def carried_out(sampler, session, predictor, waiting) -> list[list[int]]:
    """The canvases of a run to its end.

    Args:
        sampler, session, predictor: of the rows that it begins with.
        waiting: of those that join, in order: before which step; the plan; and what the session is told besides, by its number.
    """
    waiting, step = list(waiting), 0
    with stepping(session.hold):
        while True:
            while waiting and waiting[0][0] <= step:
                _, plan, told = waiting.pop(0)
                row = sampler.add(
                    plan.canvases[0], plan.rule, seed=plan.seeds[0], request=plan.requests[0], block_start=plan.block_starts[0]
                )
                assert session.add(length=len(plan.canvases[0]), start=plan.starts[0], **told(row)) == row
            request = sampler.next()
            if request is None and not waiting:
                break
            if request is None:
                step = waiting[0][0]
                continue
            for rows, forward in session.parts(request):
                logits, lines = forward()
                sampler.feed(prediction=predictor(logits, rows, lines), rows=rows)
            step += 1
        assert session.end() is None
    assert session.forwards.count >= 1
    return [canvas.tolist() for canvas in sampler.canvases]
