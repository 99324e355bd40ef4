"""Rows with rules of their own, some of them editing, beside each other: they join, are asked, answered in parts and cancelled.

Whatever the others do, each writes what the reference writes for it alone, as far as it gets.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import dllm_fast
import strategies
import toys
from driving import edits_of, same
from reference import sampler as reference
from strategies import MASK, VOCABULARY

OTHER_MASK = 5
rules = st.one_of(strategies.settings(annealed=False), strategies.editing())


@st.composite
def rows(draw):
    """A rule, a canvas for it, and what belongs to the row; the mask is one of two ids."""
    config, canvas = draw(rules), draw(strategies.canvases(max_length=9))
    if draw(st.booleans()):
        exchanged = np.arange(VOCABULARY)
        exchanged[[MASK, OTHER_MASK]] = OTHER_MASK, MASK
        canvas = exchanged[canvas]
        config |= {"mask_token_id": OTHER_MASK}
        if "suppress_tokens" in config:
            config["suppress_tokens"] = tuple(t for t in config["suppress_tokens"] if t != OTHER_MASK)
    return SimpleNamespace(
        config=config,
        canvas=canvas,
        seed=draw(strategies.seeds),
        request=draw(st.integers(0, 2**32 - 1)),
        block_start=draw(st.integers(0, 10)),
        answered=0,
        is_cancelled=False,
    )


class RowsMachine(RuleBasedStateMachine):
    """Any order of joining, asking, answering and cancelling."""

    @initialize(
        first=rows(),
        more=st.integers(0, 2),
        data=st.data(),
        seed=st.integers(0, 2**32 - 1),
        kind=st.sampled_from([toys.HashTable, toys.Leftward]),
        score_all=st.booleans(),
        max_rows=st.sampled_from([None, None, 1, 2]),
    )
    def start(self, *, first, more, data, seed, kind, score_all, max_rows):
        self.model = kind(VOCABULARY, seed=seed, grid=1.0)
        self.rows = [first]
        for _ in range(more):
            other = data.draw(rows())
            self.share(other, first.config)
            self.rows.append(other)
        if data.draw(st.booleans()):
            self.rows.clear()
        self.sampler = dllm_fast.Sampler(
            dllm_fast.SamplerConfig(**first.config),
            [row.canvas for row in self.rows],
            seed=[row.seed for row in self.rows],
            request=[row.request for row in self.rows],
            block_start=[row.block_start for row in self.rows],
            score_all=score_all,
            max_rows=max_rows,
        )
        self.shared, self.most = first.config, max_rows or math.inf
        self.waiting = {}
        for row in self.rows:
            self.expect(row)

    @staticmethod
    def share(row, config):
        """Gives a row the rule that the sampler was made with, and its masks."""
        was_open = row.canvas == row.config["mask_token_id"]
        mask = config["mask_token_id"]
        row.canvas = np.where(was_open, mask, np.where(row.canvas == mask, 1, row.canvas))
        row.config = config

    def expect(self, row):
        """What it writes alone, and its canvas after each of its forwards."""
        alone = reference.run(
            self.model.alone, row.canvas, row.config, seed=row.seed, request=row.request, block_start=row.block_start
        )
        row.edits, row.nfe, row.stable = edits_of(alone.trajectory), alone.nfe, alone.stable
        row.given = row.canvas != row.config["mask_token_id"]
        row.canvases = [row.canvas.copy()]
        for step in range(alone.nfe):
            row.canvases.append(row.canvases[-1].copy())
            for edit in row.edits:
                if edit[0] == step:
                    row.canvases[-1][edit[1]] = edit[2]

    def is_done(self, row):
        return row.is_cancelled or row.answered == row.nfe

    @rule(row=rows(), is_shared=st.booleans())
    def join(self, row, is_shared):
        if is_shared:
            self.share(row, self.shared)
        config = None if is_shared else dllm_fast.SamplerConfig(**row.config)
        given = {"seed": row.seed, "request": row.request, "block_start": row.block_start}
        assert self.sampler.add(row.canvas, config, **given) == len(self.rows)
        self.expect(row)
        self.rows.append(row)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def cancel(self, data):
        """Also one that waits, and one that is done, which stays as it is."""
        index = data.draw(st.integers(0, len(self.rows) - 1))
        row = self.rows[index]
        self.sampler.cancel(index)
        self.sampler.cancel(index)
        if not self.is_done(row):
            row.is_cancelled = True
            self.waiting.pop(index, None)

    @rule()
    def ask(self):
        request = self.sampler.next()
        if request is None:
            assert all(map(self.is_done, self.rows))
            assert not self.waiting
            return
        asked = dict(zip(request.rows.tolist(), zip(request.canvases, request.positions, strict=True), strict=True))
        if self.waiting:
            # An unanswered question stays, and nobody moves on before all are answered.
            assert set(asked) == set(self.waiting)
        else:
            going = [index for index, row in enumerate(self.rows) if not self.is_done(row)]
            assert set(asked) == set(going[: int(min(self.most, len(going)))])
        for index, (canvas, positions) in asked.items():
            row = self.rows[index]
            np.testing.assert_array_equal(canvas, row.canvases[row.answered])
            assert not row.given[positions].any()
            if row.config.get("edit_threshold") is None:
                assert (canvas[positions] == row.config["mask_token_id"]).all(), "only masks are asked for"
        self.waiting = asked

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), by_prediction=st.booleans())
    def answer(self, data, by_prediction):
        order = data.draw(st.permutations(sorted(self.waiting)))
        chosen = order[: data.draw(st.integers(1, len(order)))]
        matrix = self.lines(chosen)
        if by_prediction:
            self.sampler.feed(prediction=self.sampler.predict(matrix, rows=chosen), rows=chosen)
        else:
            self.sampler.feed(matrix, rows=chosen)
        for index in chosen:
            self.rows[index].answered += 1
            del self.waiting[index]

    def lines(self, chosen):
        found = []
        for index in chosen:
            canvas, positions = self.waiting[index]
            shifted = self.rows[index].config.get("shift", False)
            found.append(self.model.alone(canvas)[np.maximum(positions - 1, 0) if shifted else positions])
        return np.concatenate(found)

    @precondition(lambda self: any(len(positions) for _, positions in self.waiting.values()))
    @rule(data=st.data())
    def answer_with_a_nan(self, data):
        """Refused whole: nobody has moved, also not the rows whose answer was good."""
        chosen = [index for index, (_, positions) in self.waiting.items() if len(positions)]
        matrix = self.lines(chosen).copy()
        bad = data.draw(st.integers(0, len(matrix) - 1))
        matrix[bad, 0] = np.nan
        owner = np.repeat(chosen, [len(self.waiting[index][1]) for index in chosen])[bad]
        if 0 in self.rows[owner].config.get("suppress_tokens", ()):
            matrix[bad, [t for t in range(VOCABULARY) if t != 0]] = np.nan
        with pytest.raises(dllm_fast.DllmFastError):
            self.sampler.feed(matrix, rows=chosen)

    @precondition(lambda self: len(self.rows) > len(self.waiting))
    @rule(data=st.data())
    def answer_who_was_not_asked(self, data):
        index = data.draw(st.sampled_from([i for i in range(len(self.rows)) if i not in self.waiting]))
        with pytest.raises(dllm_fast.DllmFastError):
            self.sampler.feed(np.zeros((1, VOCABULARY), dtype=np.float32), rows=[index])

    @invariant()
    def each_is_where_it_would_be_alone(self):
        if not hasattr(self, "rows"):
            return
        canvases, trajectories, forwards = self.sampler.canvases, self.sampler.trajectory, self.sampler.nfe_per_row
        assert len(canvases) == len(self.rows)
        everyone = list(range(len(self.rows)))
        for index, (row, count) in enumerate(zip(self.rows, self.sampler.stable(everyone).tolist(), strict=True)):
            np.testing.assert_array_equal(canvases[index], row.canvases[row.answered])
            assert same(edits_of(trajectories[index]), [edit for edit in row.edits if edit[0] < row.answered])
            assert forwards[index] == row.answered
            assert self.sampler.is_done(index) == self.is_done(row)
            new = np.flatnonzero(~row.given)
            last = row.canvases[row.answered if row.is_cancelled else -1]
            np.testing.assert_array_equal(canvases[index][new[:count]], last[new[:count]])
            if row.is_cancelled:
                masked = canvases[index][new] == row.config["mask_token_id"]
                assert count == (int(masked.argmax()) if masked.any() else len(new))
            elif row.answered:
                assert count == row.stable[row.answered - 1]

    def teardown(self):
        """Everybody else is driven to the end."""
        if not hasattr(self, "rows"):
            return
        self.ask()
        while self.waiting:
            chosen = sorted(self.waiting)
            self.sampler.feed(self.lines(chosen), rows=chosen)
            for index in chosen:
                self.rows[index].answered += 1
            self.waiting = {}
            self.ask()
        self.each_is_where_it_would_be_alone()
        assert all(map(self.is_done, self.rows))


TestRowsThatJoin = RowsMachine.TestCase
TestRowsThatJoin.settings = settings(stateful_step_count=30)
