"""WINO (Hong et al., 2507.18578): wide in, narrow out. What a forward lets in freely, the forwards behind it ask again."""

from __future__ import annotations

from types import SimpleNamespace

from reference.schedule import Step

BAR = 0.9
#: Before the first forward of a block as many count as written. Nothing stands there yet, so it says nothing.
BEFORE_THE_FIRST = 30


def fill(row, window) -> None:
    """Fills a block: each forward writes, and takes back of what stood there before."""
    before = BEFORE_THE_FIRST
    masks, index = len(row.masked(window)), 0
    while eligible := row.masked(window):
        written = row.written(window)
        done = SimpleNamespace(picks=[], lost=[])

        step = Step(index, masks, masks, len(eligible))

        def choose(proposals, step=step, written=written, before=before, done=done):
            eligible = row.masked(window)
            floor = min(row.config.min_commit or 1, len(eligible))
            ranked = row.best(eligible, proposals, floor, step)
            done.picks = ranked[: max(most(len(eligible)), floor)]
            if len(done.picks) > 1:
                done.lost = doubted(row.config, {p: proposals[p].current for p in written}, before - 1)
            return done.picks

        row.ask([*eligible, *written], choose, hidden=written)
        row.take_back(done.lost)
        row.conclude(is_finished=not row.masked(window))
        before = len(done.picks)
        index += 1
        row.scheduled += 1


def most(masks: int) -> int:
    """How many a forward writes at most: seven tenths of what is open, but 5 if that is fewer, and 20 if it is more."""
    return min(max(7 * masks // 10, 5), 20)


def doubted(config, probabilities: dict[int, float], count: int) -> list[int]:
    """Of written positions those below the bar where the model does not see them: at most so many, the least probable first."""
    bar = BAR if config.remask_threshold is None else config.remask_threshold
    below = [p for p in probabilities if probabilities[p] < bar]
    return sorted(below, key=lambda p: (probabilities[p], p))[:count]
