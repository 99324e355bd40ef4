"""The events of a run tell the whole of it, whatever its rule, and whoever leaves it early."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
from driving import finite_tables as tables
from strategies import MASK

pytestmark = pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")

rules = st.one_of(strategies.settings(), strategies.editing())
canvases = st.lists(strategies.canvases().filter(len), min_size=1, max_size=4)
# After how many events, which row (or all).
cancels = st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 3)), max_size=3)


def key(edit):
    return repr((edit.step, edit.position, edit.token, edit.probability, edit.kind, edit.time))


def ended(before, after, config):
    """Did an end token end the row?"""
    written = after[before == MASK]
    return bool(config.stop_at_eos) and bool(np.isin(written[written != MASK], config.eos_token_ids).any())


def replay(event, i, canvas):
    """Carries out the edits of one of its rows, which the event tells in all its ways."""
    for edit in event.edits[i]:
        canvas[edit.position] = edit.token
    places = sorted({edit.position for edit in event.edits[i]})
    assert event.canvases[i].tolist() == canvas.tolist()
    assert event.positions[i].tolist() == places
    assert event.tokens[i].tolist() == canvas[places].tolist()
    assert event.open_positions[i].tolist() == np.flatnonzero(canvas == MASK).tolist()


@settings(max_examples=2 * settings().max_examples)
@given(rules, canvases, tables, st.integers(0, 2**32), st.sampled_from([None, 1, 2]), st.booleans(), cancels)
def test_events_replay_to_the_result(rule, rows, model, seed, most, guesses, cancels):  # noqa: PLR0917
    given = rule | {"seed": seed, "max_batch_rows": most}
    whole = dllm_fast.infill(model, rows, **given)
    run = dllm_fast.stream(model, canvas=rows, guesses=guesses, **given)
    now = [row.copy() for row in rows]
    stable, edits, reasons = [0] * len(rows), [[] for _ in rows], [None] * len(rows)
    claims = []
    cancelled = set()
    told = []
    for number, event in enumerate(run):
        told.append((event, event.to_dict() if number % 2 else None))
        for i, row in enumerate(event.rows.tolist()):
            assert reasons[row] is None, "a row that is done takes no further part"
            replay(event, i, now[row])
            edits[row] += event.edits[i]
            # What is stable never falls, and a claim is held against the end.
            assert event.stable_prefix[i] >= stable[row]
            stable[row] = event.stable_prefix[i]
            new = np.flatnonzero(rows[row] == MASK)[: stable[row]]
            assert len(new) == stable[row]
            assert not (now[row][new] == MASK).any()
            claims.append((row, new, now[row][new].copy()))
            reasons[row] = event.finish_reasons[i]
            assert (reasons[row] is not None) == event.is_done[i]
            if guesses and not event.is_done[i]:
                masked = np.flatnonzero(now[row] == MASK)
                assert np.isin(event.guess_positions[i], masked).all()
                assert "block_length" in rule or len(event.guess_positions[i]) == len(masked)
                assert not np.isin(event.guess_tokens[i], [MASK, *rule.get("suppress_tokens", ())]).any()
            else:
                assert guesses or event.guess_positions is event.guess_tokens is None
        for after, row in cancels:
            if after == number and row < len(rows):
                running = {i for i, reason in enumerate(reasons) if reason is None and (rows[i] == MASK).any()}
                cancelled |= running & ({row} if row >= 0 else set(range(len(rows))))
                run.cancel(row if row >= 0 else None)
    result = run.result()
    for row, canvas in enumerate(rows):
        assert result.sequences[row].tolist() == now[row].tolist()
        assert [key(edit) for edit in result.trajectory[row]] == [key(edit) for edit in edits[row]]
        alone = [key(edit) for edit in whole.trajectory[row]]
        assert [key(edit) for edit in edits[row]] == alone[: len(edits[row])], "the others and who left change no token"
        if row in cancelled:
            assert result.finish_reasons[row] == "cancelled"
        else:
            assert len(edits[row]) == len(alone)
            assert result.finish_reasons[row] == ("stop" if ended(canvas, now[row], result.config) else "length")
            assert reasons[row] in (result.finish_reasons[row], None if not (canvas == MASK).any() else "")
            assert stable[row] == (canvas == MASK).sum()
    for row, new, tokens in claims:
        np.testing.assert_array_equal(now[row][new], tokens)
    # Whoever looks later sees the same.
    for event, at_once in told:
        assert at_once in (None, event.to_dict())
        assert dllm_fast.StepEvent.from_dict(event.to_dict()) == event


@given(rules, canvases, tables, st.integers(0, 2**32))
def test_guesses_change_no_token(rule, rows, model, seed):
    silent = dllm_fast.infill(model, rows, seed=seed, **rule)
    watched = dllm_fast.infill(model, rows, seed=seed, on_step=dllm_fast.StepEvent.to_dict, guesses=True, **rule)
    for a, b in zip(silent.trajectory, watched.trajectory, strict=True):
        assert [key(edit) for edit in a] == [key(edit) for edit in b]
    assert silent.finish_reasons == watched.finish_reasons
    assert silent.stats.nfe == watched.stats.nfe
