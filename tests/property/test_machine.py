"""Any order of questions and answers to a sampler under settings of every axis, with statistics that no model would give.

Against the reference, which replays what was answered; and what must be refused is, and changes nothing.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import dllm_fast
import every_axis
import strategies
from driving import edits_of, same
from reference import sampler as reference
from strategies import MASK, VOCABULARY


class Exhausted(Exception):  # noqa: N818  # not an error: the script ends here
    """The recorded answers are used up."""


@dataclass(frozen=True)
class Answer:
    """What was said about a position."""

    token: int
    probability: float
    top1: float
    top2: float
    entropy: float
    current: float = math.nan
    argmax: int = -1


NOT_ASKED = Answer(-1, math.nan, math.nan, math.nan, math.nan)
STATISTICS = ("probability", "top1", "top2", "entropy")


def is_drawn_over_noise(config) -> bool:
    return config.order == "ancestral" and config.noise != "mask"


def is_blind(c) -> bool:
    """Are positions chosen without looking at the answers? Then only the chosen ones are asked for, as they are committed."""
    cuts = ("threshold", "factor", "entropy_bound", "entropy_threshold", "run_threshold", "gap_stop", "credit")
    has_cut = any(getattr(c, name) is not None for name in cuts) or c.eos_policy == "delay"
    if is_drawn_over_noise(c) or c.remask == "confidence-drop":
        return False
    return c.order == "ancestral" or (c.order in ("random", "left-to-right", "ranks") and not has_cut)


class ScriptedRow(reference.Row):
    """The reference sampler, fed with recorded answers instead of a model."""

    script: list

    def propose(self, positions, hidden=()):
        if not self.script:
            raise Exhausted
        self.kind, answers = self.script.pop(0)
        assert {*answers} == {*positions} or (is_blind(self.config) and {*answers} < {*positions})
        if self.kind != "logits":
            return {p: answers.get(p, NOT_ASKED) for p in positions}
        matrix = np.zeros((len(self.canvas), VOCABULARY), dtype=np.float32)
        for p, line in answers.items():
            matrix[p] = line
        self.model = lambda canvas: matrix
        return super().propose(positions)

    def best(self, eligible, proposals, floor, step):
        if self.kind != "choice" or is_blind(self.config):
            return super().best(eligible, proposals, floor, step)
        # A score stands for key and confidence alike.
        kept = self.config
        self.config = reference.SimpleNamespace(**(vars(kept) | {"order": "confidence", "order_temperature": 0.0}))
        picks = super().best(eligible, proposals, floor, step)
        self.config = kept
        return picks


class VerifiedRow:
    """The rule of verified drafts, fed with recorded answers: a draft of what is open in the block, then a look at it, which
    is written up to the first token that differs. One position needs no draft."""

    def __init__(self, start, config, script):
        self.canvas, self.trajectory, self.nfe, drafts = start.canvas.copy(), [], 0, None
        is_open = start.is_open.copy()
        windows = reference.windows(len(self.canvas), config.block_length, start.block_start)
        for kind, answers in script:
            block = next(window for window in windows if is_open[window.start : window.stop].any())
            places = [p for p in block if is_open[p]]
            assert sorted(answers) == places
            tokens = {p: self.greedy(answers[p], config) if kind == "logits" else answers[p].token for p in places}
            if drafts is None and len(places) > 1:
                drafts = tokens
            else:
                for p in places:
                    self.canvas[p], is_open[p] = tokens[p], False
                    self.trajectory.append((self.nfe, p, tokens[p], "commit"))
                    if drafts is not None and tokens[p] != drafts[p]:
                        break
                drafts = None
                self.end(start, is_open, config)
            self.nfe += 1

    @staticmethod
    def greedy(line, config):
        line = np.array(line)
        line[[*([] if config.mask_token_id is None else [config.mask_token_id]), *config.suppress_tokens]] = -np.inf
        return int(line.argmax())

    def end(self, start, is_open, config):
        """Fills what follows an end token that was written, with nothing open before it."""
        ends = [] if config.eos_token_id is None else np.atleast_1d(config.eos_token_id).tolist()
        first_open = int(np.argmax(is_open)) if is_open.any() else len(is_open)
        found = [p for p in range(first_open) if start.is_open[p] and self.canvas[p] in ends]
        if not config.stop_at_eos or not found:
            return
        for p in range(found[0] + 1, len(is_open)):
            if start.is_open[p] and (is_open[p] or self.canvas[p] != ends[0]):
                self.trajectory.append((self.nfe, p, ends[0], "pad"))
                self.canvas[p], is_open[p] = ends[0], False


values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 0.5, 0.5, 0.9, 1e-320, 1 - 2**-53]),
    st.floats(0, 1),
    st.sampled_from([math.inf, -math.inf, 7.0, -3.0]),
)
entropies = values.map(abs)


def answers_of(tokens):
    """A token and statistics, those of no distribution."""
    token = st.sampled_from(tokens)
    return st.builds(Answer, token, values, values, values, entropies, current=values, argmax=token)


class SamplerMachine(RuleBasedStateMachine):
    """Rows of one rule, and whatever is said of them."""

    # Rows whose length changes ask where the end would be, which the answers here do not say; `test_lengths.py` has those.
    @initialize(batch=every_axis.batches(tuple(rule for rule in every_axis.RULES if rule != "growing")))
    def start(self, batch):
        chosen, self.starts = batch
        if chosen.get("verify"):  # an end that is a sequence, or comes too early, is the other rules' matter
            for name in ("stop", "min_new_tokens", "eos_policy", "eos_penalty"):
                chosen.pop(name, None)
        self.before = [start.canvas for start in self.starts]
        # Lines are fed for positions, so that nothing is shifted here.
        names = reference.DEFAULTS | {"verify": False} | chosen | {"shift": False}
        self.config = reference.SimpleNamespace(**names)
        self.says_what_may_change()
        self.sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**chosen), self.before, **every_axis.together(self.starts))
        self.scripts = [[] for _ in self.before]
        self.waiting = {}
        self.ask()

    def says_what_may_change(self):
        """What the rule asks of an answer, and what it takes for one."""
        c = self.config
        self.revises = c.edit_threshold is not None or c.remask is not None
        self.looks_back = self.revises or c.gap_start is not None
        self.is_causal = c.verify
        self.remembers = c.kl_threshold is not None or c.credit is not None
        self.asks_current = is_drawn_over_noise(c) or c.remask in ("planner", "confidence-drop", "verify")
        beyond = (c.entropy_bound, c.entropy_threshold, c.gap_stop)
        says_more = self.remembers or self.asks_current or c.drafts or c.order in ("certainty-prior", "calibrated")
        self.takes_scores = not says_more and beyond == (None,) * 3
        self.excluded = [*([] if c.mask_token_id is None else [c.mask_token_id]), *c.suppress_tokens]
        ends = {} if c.eos_token_id is None else {*np.atleast_1d(c.eos_token_id).tolist()}
        enders = {*ends, *(stop for stop in c.stop if isinstance(stop, int))}
        may_bar = c.min_new_tokens > 0 or c.eos_policy in ("suffix", "penalise")
        self.allowed = sorted({*range(VOCABULARY)} - {*self.excluded} - (enders if may_bar else set()))

    @rule()
    def ask(self):
        request = self.sampler.next()
        again = self.sampler.next()
        assert (request is None) == (again is None)
        assert (request is None) == (not any(flags.any() for flags in self.sampler.open)) or (request and self.revises)
        if request is None:
            assert not self.waiting
            return
        assert request.rows.tolist() == again.rows.tolist()
        asked = {row: p.tolist() for row, p in zip(request.rows.tolist(), request.positions, strict=True)}
        assert asked == {row: p.tolist() for row, p in zip(again.rows.tolist(), again.positions, strict=True)}
        for row, canvas in zip(request.rows.tolist(), request.canvases, strict=True):
            np.testing.assert_array_equal(canvas, self.sampler.canvases[row])
            once = sorted({*asked[row]})
            assert asked[row] == once or (is_blind(self.config) and sorted(asked[row]) == once)
            assert np.all(self.starts[row].is_open[asked[row]]), "nothing given is asked for"
            assert self.looks_back or np.all(self.sampler.open[row][asked[row]]), "only open positions are asked for"
        for row, positions in self.waiting.items():
            assert asked[row] == positions, "an unanswered question stays"
        self.waiting = asked

    def some_rows(self, data):
        rows = data.draw(st.permutations(sorted(self.waiting)), label="rows")
        return rows[: data.draw(st.integers(1, len(rows)), label="how many")]

    def snapshot(self):
        return [edits_of(t) for t in self.sampler.trajectory], [c.tolist() for c in self.sampler.canvases]

    def assert_refused(self, **answer):
        trajectories, canvases = self.snapshot()
        with pytest.raises(dllm_fast.DllmFastError):
            self.sampler.feed(**answer)
        self.assert_unchanged(trajectories, canvases)

    def assert_unchanged(self, trajectories, canvases):
        now = self.snapshot()
        assert all(same(a, b) for a, b in zip(trajectories, now[0], strict=True))
        assert canvases == now[1]

    def answered(self, rows, kind, answers):
        for row in rows:
            positions = self.waiting.pop(row)
            self.scripts[row].append((kind, {p: answers.pop(0) for p in positions}))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def feed_statistics(self, data):
        rows = self.some_rows(data)
        n = sum(len(self.waiting[row]) for row in rows)
        one = answers_of(self.allowed)
        answers = [data.draw(one)] * n if data.draw(st.booleans()) else [data.draw(one) for _ in range(n)]
        prediction = self.prediction(answers)
        if self.remembers and n:
            self.assert_refused(prediction=prediction, rows=rows)
            return
        trajectories, canvases = self.snapshot()
        try:
            self.sampler.feed(prediction=prediction, rows=rows)
        except dllm_fast.DllmFastError:
            # Infinities may be refused, whole.
            asked = (*STATISTICS, "current") if self.asks_current else STATISTICS
            assert any(math.isinf(getattr(answer, name)) for answer in answers for name in asked)
            self.assert_unchanged(trajectories, canvases)
        else:
            self.answered(rows, "statistics", answers)

    @staticmethod
    def prediction(answers):
        columns = {name: np.array([getattr(a, name) for a in answers], dtype=np.float64) for name in (*STATISTICS, "current")}
        ids = {name: np.array([getattr(a, name) for a in answers], dtype=np.int64) for name in ("token", "argmax")}
        return dllm_fast.Prediction(**ids, **columns)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def feed_choice(self, data):
        rows = self.some_rows(data)
        n = sum(len(self.waiting[row]) for row in rows)
        tokens = [data.draw(st.sampled_from(self.allowed)) for _ in range(n)]
        scores = [data.draw(values) for _ in range(n)]
        if not self.takes_scores:
            self.assert_refused(tokens=tokens, scores=scores, rows=rows)
            return
        self.sampler.feed(tokens=tokens, scores=scores, rows=rows)
        self.answered(rows, "choice", [Answer(t, s, s, 0.0, 0.0) for t, s in zip(tokens, scores, strict=True)])

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), is_predicted=st.booleans())
    def feed_logits(self, data, is_predicted):
        rows = self.some_rows(data)
        n = sum(len(self.waiting[row]) for row in rows)
        rng = data.draw(strategies.generators)
        kinds = data.draw(st.lists(st.sampled_from(["coarse", "all_equal", "infinite"]), min_size=n, max_size=n))
        matrix = np.array([strategies.row(rng, kind, VOCABULARY) for kind in kinds], dtype=np.float32).reshape(-1, VOCABULARY)
        matrix[~np.isfinite(matrix[:, self.allowed]).any(axis=1)] = 0
        if is_predicted:
            self.sampler.feed(prediction=self.sampler.predict(matrix, rows=rows), rows=rows)
        else:
            self.sampler.feed(matrix, rows=rows)
        self.answered(rows, "logits", list(matrix))

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def feed_nan(self, data):
        rows = [row for row in self.waiting if self.waiting[row]]
        n = sum(len(self.waiting[row]) for row in rows)
        bad = data.draw(st.integers(0, n - 1))
        matrix = np.zeros((n, VOCABULARY), dtype=np.float32)
        matrix[bad, self.allowed[0]] = np.nan
        self.assert_refused(logits=matrix, rows=rows)
        for name in STATISTICS:
            answers = [Answer(self.allowed[0], 0.5, 0.5, 0.5, 0.5, 0.5, self.allowed[0]) for _ in range(n)]
            answers[bad] = replace(answers[bad], **{name: math.nan})
            self.assert_refused(prediction=self.prediction(answers), rows=rows)
        scores = np.zeros(n)
        scores[bad] = np.nan
        self.assert_refused(tokens=[self.allowed[0]] * n, scores=scores, rows=rows)

    @precondition(lambda self: any(self.waiting.values()) and self.excluded)
    @rule(data=st.data())
    def feed_what_may_not_be_written(self, data):
        rows = [row for row in self.waiting if self.waiting[row]]
        n = sum(len(self.waiting[row]) for row in rows)
        tokens = [self.allowed[0]] * n
        tokens[data.draw(st.integers(0, n - 1))] = data.draw(st.sampled_from(self.excluded))
        self.assert_refused(tokens=tokens, scores=np.zeros(n), rows=rows)
        matrix = np.full((n, VOCABULARY), -np.inf, dtype=np.float32)
        matrix[:, self.excluded] = 0
        self.assert_refused(logits=matrix, rows=rows)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def feed_what_does_not_fit(self, data):
        rows = self.some_rows(data)
        n = sum(len(self.waiting[row]) for row in rows)
        self.assert_refused(logits=np.zeros((n + 1, VOCABULARY), dtype=np.float32), rows=rows)
        if self.config.mask_token_id is not None:
            self.assert_refused(logits=np.zeros((n, MASK), dtype=np.float32), rows=rows)
        self.assert_refused(tokens=[self.allowed[0]] * (n + 1), scores=np.zeros(n + 1), rows=rows)
        self.assert_refused(tokens=[self.allowed[0]] * n, scores=np.zeros(n + 1), rows=rows)
        self.assert_refused(logits=np.zeros((2 * n, VOCABULARY), dtype=np.float32), rows=[*rows, *rows])
        self.assert_refused(logits=np.zeros((n, VOCABULARY), dtype=np.float32), rows=rows, index=[n] * (n or 1))
        self.assert_refused(rows=rows)

    @rule()
    def feed_who_did_not_ask(self):
        for row in {*range(len(self.before) + 1)} - {*self.waiting}:
            self.assert_refused(logits=np.zeros((1, VOCABULARY), dtype=np.float32), rows=[row])

    @invariant()
    def equals_the_reference(self):
        if not hasattr(self, "sampler"):
            return
        for i, start in enumerate(self.starts):
            if self.is_causal:
                row = VerifiedRow(start, self.config, self.scripts[i])
                ours = [(e.step, e.position, e.token, e.kind) for e in self.sampler.trajectory[i]]
                assert ours == row.trajectory
            else:
                row = self.replayed(start, self.scripts[i])
                assert same(edits_of(self.sampler.trajectory[i]), edits_of(row.trajectory))
            np.testing.assert_array_equal(self.sampler.canvases[i], row.canvas)
            assert self.sampler.nfe_per_row[i] == row.nfe == len(self.scripts[i])

    def replayed(self, start, script):
        row = ScriptedRow(
            None,
            reference.SimpleNamespace(**vars(self.config)),
            start.canvas.copy(),
            (start.seed, start.request),
            start.block_start,
            start.more.get("order"),
            start.more.get("eligible_after", {}),
            start.more.get("open"),
        )
        row.script = list(script)
        with contextlib.suppress(Exhausted):
            reference.fill_all(row, start.block_start)
        return row


SamplerMachine.TestCase.settings = settings(max_examples=4 * settings().max_examples, stateful_step_count=25)
TestSamplerMachine = SamplerMachine.TestCase
